//! The keeper: makes process 1 in new namespaces, and ends it when the supervisor is gone.

use crate::outside::{self, Place};
use crate::wire::{Hello, Isolation, Setup};
use crate::{Context, Result, SlotError, net, root, serve};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The uid and gid that programs see themselves under.
pub const INSIDE_ID: u32 = 1000;

/// Runs the keeper with the supervisor's socket as stdin; returns when process 1 has ended.
///
/// # Errors
/// The socket is unusable. Failures of the set-up itself are told to the supervisor in [`Hello`].
pub fn main() -> Result<()> {
    default_signals();
    let socket = only_socket()?;
    let mut buf = Vec::new();
    let Some((body, _)) =
        net::receive(socket.as_raw_fd(), &mut buf).context(|| "receiving the set-up".into())?
    else {
        return Ok(());
    };
    let setup = Setup::decode(&body).context(|| "set-up".into())?;
    match start(&setup, &socket) {
        Ok((child, place)) => {
            drop(socket); // only process 1 may hold it, or its end would never be seen
            watch(child, setup.supervisor);
            drop(place); // when nothing runs in it any more
            Ok(())
        }
        Err(e) => {
            let hello = Hello { error: e.to_string(), ..Hello::default() };
            net::send(socket.as_raw_fd(), &hello.encode(), &[]).context(|| "telling the failure".into())
        }
    }
}

/// Moves the socket from stdin to descriptor 3 and closes everything above: descriptors that our parent, or its
/// parent, forgot to mark close-on-exec must not get near a program.
fn only_socket() -> Result<OwnedFd> {
    // SAFETY: plain calls on descriptor numbers; nothing in this process has opened any yet, so none is owned.
    unsafe {
        if libc::dup3(0, 3, libc::O_CLOEXEC) != 3 {
            return Err(SlotError(format!("stdin is no socket: {}", Errno::last())));
        }
        if libc::syscall(libc::SYS_close_range, 4, u32::MAX, 0) != 0 {
            // Before 5.9: one by one, up to what may be open.
            let most = libc::sysconf(libc::_SC_OPEN_MAX).clamp(256, 1 << 20);
            for fd in 4..i32::try_from(most).unwrap_or(1 << 20) {
                libc::close(fd);
            }
        }
        Ok(OwnedFd::from_raw_fd(3))
    }
}

/// Signals as a login would have them: what the supervisor ignores or blocks (under nohup, in a background job) would
/// else be inherited over exec by every program.
fn default_signals() {
    // SAFETY: no handler is installed, only defaults; the set lives on our stack.
    unsafe {
        for n in 1..=libc::SIGRTMAX() {
            if n != libc::SIGKILL && n != libc::SIGSTOP {
                libc::signal(n, libc::SIG_DFL); // the two numbers that libc keeps for itself are refused
            }
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Makes process 1, and outside of namespaces its directory.
fn start(setup: &Setup, socket: &OwnedFd) -> Result<(libc::pid_t, Option<Place>)> {
    if setup.isolation == Isolation::Namespaces {
        return Ok((start_in_namespaces(setup, socket)?, None));
    }
    let place = Place::make(&setup.directory)?;
    match fork_with(libc::SIGCHLD).context(|| "fork".into())? {
        0 => {
            // SAFETY: a plain call. No terminal of the supervisor's may be that of programs.
            unsafe { libc::setsid() };
            let root = place.path().to_string_lossy().into_owned();
            let done = outside::build(setup, place.path())
                .and_then(|built| serve::outside(setup, socket.as_raw_fd(), built, root));
            // The directory and its lock are the keeper's.
            std::mem::forget(place);
            leave(done, socket.as_raw_fd())
        }
        child => Ok((child, Some(place))),
    }
}

/// Clones process 1 and writes its id maps.
fn start_in_namespaces(setup: &Setup, socket: &OwnedFd) -> Result<libc::pid_t> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context(|| "pipe".into())?;
    let base = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::SIGCHLD;
    let mut attempts = Vec::new();
    if setup.want_net_namespace {
        attempts.push(base | libc::CLONE_NEWCGROUP | libc::CLONE_NEWNET);
        attempts.push(base | libc::CLONE_NEWNET);
    }
    attempts.push(base | libc::CLONE_NEWCGROUP);
    attempts.push(base);
    let mut refused = Errno::UnknownErrno;
    for flags in attempts {
        match fork_with(flags) {
            Ok(0) => {
                drop(write);
                let net = flags & libc::CLONE_NEWNET != 0;
                process_one(setup, socket.as_raw_fd(), &read, net);
            }
            Ok(child) => {
                drop(read);
                if let Err(e) = write_maps(child, setup.run_as) {
                    kill_and_reap(child);
                    return Err(e);
                }
                nix::unistd::write(&write, b"m").context(|| "releasing process 1".into())?;
                return Ok(child);
            }
            Err(e) => refused = e,
        }
    }
    let refused = match refused {
        // Its text speaks of a device.
        Errno::ENOSPC => "ENOSPC: their limit is 0, or reached".to_owned(),
        other => other.to_string(),
    };
    Err(SlotError(format!(
        "user namespaces are refused by the kernel ({refused}); look at `sysctl user.max_user_namespaces \
         kernel.unprivileged_userns_clone kernel.apparmor_restrict_unprivileged_userns`, and at the container's \
         seccomp profile"
    )))
}

fn fork_with(flags: i32) -> std::result::Result<libc::pid_t, Errno> {
    // SAFETY: a fork-like clone (no stack, no shared memory) of a single-threaded process; the child goes on
    // with a copy of everything. `flags` has no CLONE_VM.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0_usize, 0_usize, 0_usize, 0_usize)
    };
    match pid {
        -1 => Err(Errno::last()),
        pid => Ok(libc::pid_t::try_from(pid).map_err(|_| Errno::EOVERFLOW)?),
    }
}

fn process_one(setup: &Setup, socket: RawFd, go: &OwnedFd, net: bool) -> ! {
    // SAFETY: a plain call. No terminal of the supervisor's may be that of programs.
    unsafe { libc::setsid() };
    let mut byte = [0_u8];
    match nix::unistd::read(go, &mut byte) {
        Ok(1) => {
            leave(root::build(setup).and_then(|built| serve::process_one(setup, socket, built, net)), socket)
        }
        _ => std::process::exit(1), // the keeper died
    }
}

/// The end of process 1, which tells the supervisor where it was a failure.
fn leave(done: Result<()>, socket: RawFd) -> ! {
    let Err(e) = done else { std::process::exit(0) };
    let hello = Hello { error: e.to_string(), ..Hello::default() };
    // When even this cannot be sent, the closing socket tells the supervisor enough.
    let _ = net::send(socket, &hello.encode(), &[]);
    std::process::exit(1)
}

/// Two ids when we are root (0 for building the root, an unprivileged host id for programs), else our own single id.
fn write_maps(child: libc::pid_t, run_as: u32) -> Result<()> {
    let proc = |name: &str| format!("/proc/{child}/{name}");
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if uid.is_root() && run_as != 0 {
        let map = format!("0 0 1\n{INSIDE_ID} {run_as} 1\n");
        if std::fs::write(proc("uid_map"), &map).is_ok() {
            return std::fs::write(proc("gid_map"), &map).context(|| format!("gid_map with {run_as}"));
        } // not the host's root (a rootless container): go on as an ordinary user
    }
    std::fs::write(proc("setgroups"), "deny").context(|| "setgroups".into())?;
    std::fs::write(proc("gid_map"), format!("{INSIDE_ID} {gid} 1\n")).context(|| "gid_map".into())?;
    std::fs::write(proc("uid_map"), format!("{INSIDE_ID} {uid} 1\n")).context(|| "uid_map".into())
}

fn kill_and_reap(child: libc::pid_t) {
    // SAFETY: plain system calls on our own child.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), libc::__WALL);
    }
}

fn pidfd(pid: libc::pid_t) -> Option<OwnedFd> {
    // SAFETY: the call makes a new descriptor or fails.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: it is new and ours.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until process 1 ends or the supervisor does; kills process 1 (and with it its whole pid namespace) then.
fn watch(child: libc::pid_t, supervisor: u32) {
    let supervisor = libc::pid_t::try_from(supervisor).unwrap_or(0);
    // The thread that started us may end before its process does, so PR_SET_PDEATHSIG (which is per thread) is no use.
    let fds = (pidfd(child), pidfd(supervisor));
    let raw = |fd: &Option<OwnedFd>| fd.as_ref().map_or(-1, AsRawFd::as_raw_fd);
    let mut poll = [
        libc::pollfd { fd: raw(&fds.0), events: libc::POLLIN, revents: 0 },
        libc::pollfd { fd: raw(&fds.1), events: libc::POLLIN, revents: 0 },
    ];
    // Without pidfds (kernels before 5.3) look twice a second.
    let timeout = if fds.0.is_some() && fds.1.is_some() { -1 } else { 500 };
    loop {
        // SAFETY: plain system calls; `poll` outlives the call.
        let (done, parent) = unsafe {
            libc::poll(poll.as_mut_ptr(), 2, timeout);
            (libc::waitpid(child, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL), libc::getppid())
        };
        if done == child || done == -1 {
            return;
        }
        if poll[1].revents != 0 || parent != supervisor {
            kill_and_reap(child);
            return;
        }
    }
}
