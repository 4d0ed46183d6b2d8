//! Starting a program: `clone(CLONE_VM | CLONE_VFORK)` + exec, as cheap as a spawn outside.

use crate::limits::Rlimit;
use crate::wire::Run;
use crate::{Result, SlotError, jail, outside};
use nix::errno::Errno;
use std::ffi::CString;
use std::os::fd::RawFd;
use std::ptr;

/// Makes the main process of a run. The Python lane forks instead of exec'ing, so this is a trait.
pub trait Spawner {
    /// Starts the main process with these descriptors as 0, 1, 2 and, when there is one more, 3.
    ///
    /// # Errors
    /// It could not be started: the sandbox's failure.
    fn spawn(&mut self, run: &Run, fds: &[RawFd], limits: &[Rlimit]) -> Result<libc::pid_t>;

    /// errno with which the last main process failed before it became the program; 0: it became it.
    fn failure(&self) -> i32 {
        0
    }
}

/// What every main process does to itself first, whichever way it was made. Only async-signal-safe calls. `spawns`: it is a
/// compiler ([`Run::spawns`]).
///
/// # Errors
/// errno of the call that failed.
pub fn prepare_child(fds: &[RawFd], limits: &[Rlimit], spawns: bool) -> std::result::Result<(), i32> {
    jail::restrict()?;
    // SAFETY: plain system calls with plain numbers and static strings; the set lives on our stack.
    unsafe {
        // Its own process group. A session of its own would cost more, and process 1 has one without a terminal.
        libc::setpgid(0, 0);
        for (target, fd) in (0..).zip(fds) {
            // dup2 onto itself would leave close-on-exec set.
            if libc::dup2(*fd, target) < 0 || (*fd == target && libc::fcntl(target, libc::F_SETFD, 0) != 0) {
                return Err(Errno::last_raw());
            }
        }
        // All of ours close on exec; this is for the lane without exec, and a second lock for the other.
        if libc::syscall(libc::SYS_close_range, fds.len(), u32::MAX, 0) != 0 {
            for fd in i32::try_from(fds.len()).unwrap_or(0)..1024 {
                libc::close(fd); // before Linux 5.9
            }
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
        libc::umask(0o022);
        if libc::chdir(outside::work().as_ptr()) != 0 {
            return Err(Errno::last_raw());
        }
    }
    crate::limits::apply(limits)?;
    jail::lock(spawns)
}

/// Spawner of the exec lane.
pub struct ExecSpawner {
    stack: Vec<u8>,
}

/// Enough for a few system calls and the unwinder's absence.
const STACK: usize = 256 * 1024;

impl Default for ExecSpawner {
    fn default() -> Self {
        Self { stack: vec![0; STACK] }
    }
}

struct Plan {
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    fds: Vec<RawFd>,
    limits: Vec<Rlimit>,
    spawns: bool,
    error: i32,
}

extern "C" fn child(arg: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `arg` is the Plan of the parent, which is suspended (CLONE_VFORK) until we exec or leave.
    let plan = unsafe { &mut *arg.cast::<Plan>() };
    if let Err(e) = prepare_child(&plan.fds, &plan.limits, plan.spawns) {
        plan.error = e;
        return 127;
    }
    crate::privilege::fixed_addresses(false);
    // SAFETY: both arrays are NULL-terminated and live in the suspended parent. Python and Rust ignore SIGPIPE, Python
    // SIGXFSZ too; what is ignored stays so over exec, and programs must start with the defaults.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::signal(libc::SIGXFSZ, libc::SIG_DFL);
        libc::execve(plan.argv[0], plan.argv.as_ptr(), plan.env.as_ptr());
    }
    plan.error = Errno::last_raw();
    127
}

fn strings(of: &[Vec<u8>]) -> Result<Vec<CString>> {
    of.iter()
        .map(|a| CString::new(a.as_slice()).map_err(|_| SlotError("an argument with a NUL byte".into())))
        .collect()
}

fn pointers(of: &[CString]) -> Vec<*const libc::c_char> {
    of.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

impl ExecSpawner {
    /// Starts `argv` with `env`.
    ///
    /// # Errors
    /// clone or exec failed.
    pub fn exec(
        &mut self,
        argv: &[Vec<u8>],
        env: &[Vec<u8>],
        fds: &[RawFd],
        limits: &[Rlimit],
        spawns: bool,
    ) -> Result<libc::pid_t> {
        if argv.is_empty() {
            return Err(SlotError("an empty command".into()));
        }
        let (argv, env) = (strings(argv)?, strings(env)?);
        let mut plan = Plan {
            argv: pointers(&argv),
            env: pointers(&env),
            fds: fds.to_vec(),
            limits: limits.to_vec(),
            spawns,
            error: 0,
        };
        let top = self.stack.as_mut_ptr_range().end;
        // The ABI wants the stack on a 16-byte border.
        let top = top.wrapping_sub(top as usize % 16);
        // SAFETY: the child runs `child` on our spare stack while this thread, the only one, is suspended; it
        // touches nothing but `plan` and ends in exec or _exit.
        let pid = unsafe {
            libc::clone(
                child,
                top.cast(),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
                (&raw mut plan).cast(),
            )
        };
        if pid < 0 {
            return Err(SlotError(format!("clone: {}", Errno::last())));
        }
        // SAFETY: the child wrote through a pointer that the compiler cannot see; it has finished with it.
        let error = unsafe { ptr::read_volatile(&raw const plan.error) };
        if error != 0 {
            // SAFETY: our own child, which has left.
            unsafe { libc::waitpid(pid, ptr::null_mut(), libc::__WALL) };
            return Err(SlotError(format!("exec {}: {}", argv[0].to_string_lossy(), Errno::from_raw(error))));
        }
        Ok(pid)
    }
}

impl Spawner for ExecSpawner {
    fn spawn(&mut self, run: &Run, fds: &[RawFd], limits: &[Rlimit]) -> Result<libc::pid_t> {
        match &run.how {
            crate::wire::How::Exec { argv, env } => self.exec(argv, env, fds, limits, run.spawns),
            crate::wire::How::Python { .. } | crate::wire::How::Tests { .. } => {
                Err(SlotError("this slot has no warm interpreter".into()))
            }
        }
    }
}
