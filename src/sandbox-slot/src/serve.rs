//! Process 1: the last steps of the set-up, then one run after the other until the supervisor closes its end.

use crate::keeper::INSIDE_ID;
use crate::landlock::Outside;
use crate::root::Built;
use crate::run::Slot;
use crate::spawn::{ExecSpawner, Spawner};
use crate::wire::{Hello, Isolation, Report, Run, STOP, Setup};
use crate::{Context, Result, SlotError, filter, jail, landlock, limits, net, outside, privilege, wait};
use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Runs as process 1 of a built slot, until the supervisor closes its end or the socket breaks.
///
/// # Errors
/// A step of the set-up failed; the caller tells the supervisor.
pub fn process_one(setup: &Setup, socket: RawFd, built: Built, net_namespace: bool) -> Result<()> {
    privilege::give_up(Some(INSIDE_ID))?;
    privilege::wake_early();
    let hello = Hello {
        net_namespace,
        proc_mounted: built.proc_mounted,
        can_observe: built.proc.is_some(),
        processes_scoped: nproc_is_scoped(),
        ..Hello::default()
    };
    become_slot(setup, socket, built, None, &hello)
}

/// Runs as the process that stands in for process 1 where there are no namespaces, in `root`.
///
/// # Errors
/// As [`process_one`].
pub fn outside(
    setup: &Setup,
    socket: RawFd,
    (built, rules): (Built, Option<Outside>),
    root: String,
) -> Result<()> {
    let parent = nix::unistd::getppid();
    privilege::give_up(nix::unistd::geteuid().is_root().then_some(setup.run_as))?;
    // SAFETY: a plain call. Orphans of compilers come to us.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } != 0 {
        return Err(SlotError(format!("PR_SET_CHILD_SUBREAPER: {}", nix::errno::Errno::last())));
    }
    if nix::unistd::getppid() != parent {
        return Err(SlotError("the keeper ended".into())); // before we could ask to be told
    }
    privilege::wake_early();
    let hello = Hello {
        can_observe: built.proc.is_some(),
        isolation: setup.isolation,
        landlock: rules.as_ref().map_or(0, |r| r.abi),
        root,
        ..Hello::default()
    };
    become_slot(setup, socket, built, rules, &hello)
}

/// The lane that the set-up asks for.
fn become_slot(
    setup: &Setup,
    socket: RawFd,
    built: Built,
    rules: Option<Outside>,
    hello: &Hello,
) -> Result<()> {
    if !setup.zygote_argv.is_empty() {
        return Err(become_interpreter(setup, socket, &built, rules.as_ref(), hello));
    }
    let Built { writable, prog, proc, .. } = built;
    let slot = Slot {
        writable,
        prog,
        proc,
        processes_scoped: hello.processes_scoped,
        namespaces: hello.isolation == Isolation::Namespaces,
        program: 0,
        socket,
        source: None,
        child_signal: wait::child_signal(),
    };
    quiet_stdio()?;
    let hello = lock(&slot, rules.map(|r| (r.process_one, r.programs)), hello)?;
    // Once the slot serves, an error means that nobody understands us: leaving is the clearest answer.
    let _ = serve(socket, slot, &hello, &mut ExecSpawner::default());
    Ok(())
}

/// Takes on what holds for process 1 and all its programs, and gets ready what each of these takes on besides. The hello
/// then is true.
fn lock(slot: &Slot, rules: Option<(OwnedFd, OwnedFd)>, hello: &Hello) -> Result<Hello> {
    let mut hello = hello.clone();
    if hello.isolation == Isolation::Namespaces {
        hello.landlock = landlock::restrict(slot)?;
    } else {
        outside::set_root(&hello.root)?;
        let programs = match rules {
            Some((own, programs)) => {
                let refused = |e| SlotError(format!("Landlock: restricting process 1: {e}"));
                landlock::enforce(own.as_raw_fd()).map_err(refused)?;
                Some(programs)
            }
            None => None,
        };
        jail::set(hello.isolation, programs, hello.landlock);
    }
    filter::install()?;
    Ok(hello)
}

/// Descriptors of a slot in the interpreter that becomes process 1: the socket, then `/tmp`, `/work`, `/dev/shm`,
/// `/prog`, `/proc` where there is one, and two sets of Landlock rules outside of namespaces. High, so that none is in the
/// way of another.
const INHERITED: RawFd = 100;
/// Tells the interpreter, outside of namespaces, where the slot's directory is.
const ROOT: &str = "BESSEMER_ROOT";

/// Execs the interpreter, which calls [`serve_inherited`] when it is warm. Returns only the reason why it did not.
fn become_interpreter(
    setup: &Setup,
    socket: RawFd,
    built: &Built,
    rules: Option<&Outside>,
    hello: &Hello,
) -> SlotError {
    let rules = rules.into_iter().flat_map(|r| [&r.process_one, &r.programs]);
    let dirs = built.writable.iter().chain([&built.prog]).chain(&built.proc).chain(rules);
    let dirs = dirs.map(AsRawFd::as_raw_fd);
    for (target, fd) in (INHERITED..).zip([socket].into_iter().chain(dirs)) {
        // SAFETY: dup2 onto a number that nothing in this small process has reached.
        if unsafe { libc::dup2(fd, target) } < 0 {
            return SlotError(format!("dup2: {}", nix::errno::Errno::last()));
        }
    }
    if let Err(e) = quiet_stdio() {
        return e;
    }
    let hex: String = hello.encode().iter().map(|b| format!("{b:02x}")).collect();
    let strings = |of: &[Vec<u8>]| {
        of.iter().map(|a| CString::new(a.as_slice())).collect::<std::result::Result<Vec<_>, _>>()
    };
    let mut env = setup.zygote_env.clone();
    if !hello.root.is_empty() {
        env.iter_mut().for_each(|v| *v = outside::rooted_variable(v, &hello.root));
        env.push(format!("{ROOT}={}", hello.root).into_bytes());
    }
    let (Ok(mut argv), Ok(env)) = (strings(&setup.zygote_argv), strings(&env)) else {
        return SlotError("a NUL byte in the interpreter's command".into());
    };
    argv.push(CString::new(hex).expect("hexadecimal digits have no NUL"));
    privilege::fixed_addresses(true);
    match nix::unistd::execve(&argv[0], &argv, &env) {
        Ok(never) => match never {},
        Err(e) => SlotError(format!("exec {}: {e}", argv[0].to_string_lossy())),
    }
}

/// Serves as process 1 that has become an interpreter: takes over the descriptors, closes itself to its children,
/// installs the filter, and says hello. Returns when the supervisor is gone.
///
/// # Errors
/// A descriptor is missing, or the kernel refused a step.
pub fn serve_inherited(hello: &Hello, mut spawner: Box<dyn Spawner>) -> Result<()> {
    let ruled = hello.isolation == Isolation::Landlock;
    let number = 5 + i32::from(hello.can_observe) + 2 * i32::from(ruled);
    let mut fds = Vec::new();
    for fd in INHERITED..INHERITED + number {
        // SAFETY: these were left open for us by become_interpreter, and nothing else in the process knows them.
        unsafe {
            if libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) != 0 {
                return Err(SlotError(format!("descriptor {fd} of the slot is missing")));
            }
            fds.push(OwnedFd::from_raw_fd(fd));
        }
    }
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| SlotError("a descriptor of the slot is missing".into()));
    let socket = next()?;
    let slot = Slot {
        writable: [next()?, next()?, next()?],
        prog: next()?,
        proc: if hello.can_observe { Some(next()?) } else { None },
        processes_scoped: hello.processes_scoped,
        namespaces: hello.isolation == Isolation::Namespaces,
        program: 0,
        source: None,
        child_signal: wait::child_signal(),
        socket: socket.as_raw_fd(),
    };
    let rules = if ruled { Some((next()?, next()?)) } else { None };
    privilege::undumpable()?;
    let hello = lock(&slot, rules, hello)?;
    let _ = serve(socket.as_raw_fd(), slot, &hello, spawner.as_mut()); // as in the exec lane
    Ok(())
}

/// The serve loop of either lane.
///
/// # Errors
/// The socket broke, or the supervisor sent something malformed; process 1 ends then, and the slot with it.
pub fn serve(socket: RawFd, mut slot: Slot, hello: &Hello, spawner: &mut dyn Spawner) -> Result<()> {
    wait::block_signals();
    limits::apply(&limits::SAME_FOR_ALL)
        .map_err(|e| SlotError(format!("setrlimit: {}", nix::errno::Errno::from_raw(e))))?;
    net::send(socket, &hello.encode(), &[]).context(|| "hello".into())?;
    let mut buf = Vec::new();
    while let Some((mut body, mut fds)) =
        net::receive(socket, &mut buf).context(|| "receiving a run".into())?
    {
        if body == STOP {
            continue; // for a run that was over by then
        }
        let mut run = Run::decode(&body).context(|| "run".into())?;
        // See Slot::prepare. Only what was written: each page that we touch between two forks is copied for us.
        let written = buf.len().min(body.len() + 1);
        body.fill(0);
        buf[..written].fill(0);
        let report: Report = slot.run(&mut run, &mut fds, spawner);
        net::answer(socket, &report.encode(), fds.get(3 + run.how.descriptors()))
            .context(|| "reporting".into())?;
    }
    Ok(())
}

/// Standard streams of process 1 lead nowhere: it must hold nothing of the host.
fn quiet_stdio() -> Result<()> {
    let null = nix::fcntl::open("/dev/null", nix::fcntl::OFlag::O_RDWR, nix::sys::stat::Mode::empty())
        .context(|| "opening /dev/null".into())?;
    for target in 0..3 {
        // SAFETY: replaces the standard descriptors, which nothing in this process reads or writes.
        if unsafe { libc::dup2(null.as_raw_fd(), target) } < 0 {
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
