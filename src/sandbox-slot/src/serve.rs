//! Process 1: the last steps of the set-up, then one run after the other until the supervisor closes its end.

use crate::root::Built;
use crate::run::Slot;
use crate::spawn::{ExecSpawner, Spawner};
use crate::wire::{Hello, Report, Run, STOP, Setup};
use crate::{Context, Result, SlotError, filter, net, privilege, wait};
use std::os::fd::RawFd;

/// Runs as process 1 of a built slot, until the supervisor closes its end or the socket breaks.
///
/// # Errors
/// A step of the set-up failed; the caller tells the supervisor.
pub fn process_one(setup: &Setup, socket: RawFd, built: Built, net_namespace: bool) -> Result<()> {
    privilege::give_up()?;
    let processes_scoped = nproc_is_scoped();
    let hello = Hello {
        error: String::new(),
        net_namespace,
        proc_mounted: built.proc_mounted,
        can_observe: built.proc.is_some(),
        processes_scoped,
        landlock: 0,
        interpreter: String::new(),
    };
    let slot = Slot {
        writable: built.writable,
        prog: built.prog,
        proc: built.proc,
        processes_scoped,
        program: 0,
        socket,
    };
    if !setup.zygote_argv.is_empty() {
        return Err(SlotError("this build has no warm interpreter".into()));
    }
    quiet_stdio()?;
    filter::install()?;
    // Once the slot serves, an error means that nobody understands us: leaving is the clearest answer.
    let _ = serve(socket, slot, &hello, &mut ExecSpawner::default());
    Ok(())
}

/// The serve loop of either lane.
///
/// # Errors
/// The socket broke, or the supervisor sent something malformed; process 1 ends then, and the slot with it.
pub fn serve(socket: RawFd, mut slot: Slot, hello: &Hello, spawner: &mut dyn Spawner) -> Result<()> {
    wait::block_sigchld();
    net::send(socket, &hello.encode(), &[]).context(|| "hello".into())?;
    let mut buf = Vec::new();
    while let Some((body, mut fds)) = net::receive(socket, &mut buf).context(|| "receiving a run".into())? {
        if body == STOP {
            continue; // for a run that was over by then
        }
        let run = Run::decode(&body).context(|| "run".into())?;
        let report: Report = slot.run(&run, &mut fds, spawner);
        net::answer(socket, &report.encode(), fds.get(3)).context(|| "reporting".into())?;
    }
    Ok(())
}

/// Standard streams of process 1 lead nowhere: it must hold nothing of the host.
fn quiet_stdio() -> Result<()> {
    let null = nix::fcntl::open("/dev/null", nix::fcntl::OFlag::O_RDWR, nix::sys::stat::Mode::empty())
        .context(|| "opening /dev/null".into())?;
    for target in 0..3 {
        // SAFETY: replaces the standard descriptors, which nothing in this process reads or writes.
        if unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), target) } < 0 {
            return Err(SlotError(format!("dup2: {}", nix::errno::Errno::last())));
        }
    }
    Ok(())
}

/// Whether the process limit counts this user namespace only (kernels from 5.14, and never for the host's uid 0):
/// with room for one more a fork must work, with no room it must not.
fn nproc_is_scoped() -> bool {
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain system calls with a struct on our stack.
    if unsafe { libc::getrlimit64(libc::RLIMIT_NPROC, &raw mut old) } != 0 {
        return false;
    }
    let fork_works_at = |soft: u64| -> Option<bool> {
        let value = libc::rlimit64 { rlim_cur: soft, rlim_max: old.rlim_max };
        // SAFETY: the limit lives on our stack; the child leaves at once without touching anything.
        unsafe {
            if libc::setrlimit64(libc::RLIMIT_NPROC, &raw const value) != 0 {
                return None;
            }
            let pid = libc::fork();
            if pid == 0 {
                libc::_exit(0);
            }
            Some(pid > 0 && libc::waitpid(pid, std::ptr::null_mut(), 0) == pid)
        }
    };
    let scoped = fork_works_at(2) == Some(true) && fork_works_at(1) == Some(false);
    // SAFETY: as above. Raising the soft limit back to what it was is always allowed.
    unsafe { libc::setrlimit64(libc::RLIMIT_NPROC, &raw const old) };
    scoped
}
