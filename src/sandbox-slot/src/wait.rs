//! Waiting for a run: reap, watch the limits, kill, and prove that nothing is left.

use crate::clean::Scratch;
use crate::observe::{self, Whose};
use crate::wire::{End, RunLimits};
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// First look at a run's memory and output, and the time between looks: short runs are never looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What the watch needs to know of the slot.
pub struct Watch<'a> {
    /// `/proc` that shows every process.
    pub proc: Option<&'a OwnedFd>,
    /// stdout and stderr of the run.
    pub outputs: &'a [OwnedFd],
    /// Whose processes those of the run are.
    pub whose: Whose,
    /// Scratch, and the bytes in use before the run.
    pub scratch: (Scratch<'a>, u64),
    /// `RLIMIT_NPROC` does not hold, so processes are counted at each look.
    pub count_processes: bool,
    /// See [`child_signal`].
    pub child_signal: Option<&'a OwnedFd>,
    /// Anything that arrives here during a run means "stop".
    pub socket: RawFd,
}

/// What was seen of a run.
#[derive(Debug)]
pub struct Seen {
    /// How it ended.
    pub end: End,
    /// Wall-clock time until the main process' end.
    pub wall: Duration,
    /// CPU time of every process, microseconds.
    pub cpu_us: u64,
    /// Peak memory in KiB.
    pub peak_kb: u64,
    /// Processes that the main one left behind.
    pub leftovers: u32,
}

/// Blocks every signal in process 1 for good: SIGCHLD, so that [`run`] can wait for it with a time-out, and all others,
/// because the kernel keeps programs' signals from process 1 only where it has no handler, and an interpreter has one
/// for SIGINT. (Once run, that handler would interrupt every later fork.) Children unblock them, and inherit none that
/// are pending.
pub fn block_signals() {
    // SAFETY: the set lives on our stack through the calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// A descriptor that becomes readable when a child ends: for runs that the supervisor may stop at any moment, which have
/// to wait for its word and for their end at once.
#[must_use]
pub fn child_signal() -> Option<OwnedFd> {
    // SAFETY: the set lives on our stack; a new descriptor is ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    }
}

/// Waits for the end of a child, a word of the supervisor, or the time; true when the supervisor has said something or is
/// gone. The word itself is read after the report.
fn wait_either(signal: &OwnedFd, socket: RawFd, timeout: Duration) -> bool {
    let wish = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut fds = [wish(signal.as_raw_fd()), wish(socket)];
    let ms = i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    // SAFETY: the array lives on our stack. Any result is fine: the caller looks for children itself.
    unsafe { libc::poll(fds.as_mut_ptr(), 2, ms) };
    if fds[0].revents != 0 {
        take_signal(signal);
    }
    fds[1].revents != 0
}

/// Takes a SIGCHLD, if there is one: what stays pending would end the next wait at once.
fn take_signal(signal: &OwnedFd) {
    let mut taken = [0_u8; size_of::<libc::signalfd_siginfo>()];
    // SAFETY: the buffer lives on our stack; the descriptor does not block.
    unsafe { libc::read(signal.as_raw_fd(), taken.as_mut_ptr().cast(), taken.len()) };
}

fn wait_sigchld(timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: set and time-out live on our stack through the call. Any result is fine: the caller looks itself.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const timeout);
    }
}

struct Reaper {
    main: libc::pid_t,
    status: Option<i32>,
    cpu_us: u64,
    peak_kb: u64,
    others: u32,
}

enum Reaped {
    Some,
    NothingYet,
    NoChildren,
}

impl Reaper {
    fn one(&mut self, flags: i32) -> Reaped {
        // SAFETY: both out-parameters live on our stack; all zeroes is a valid rusage.
        let (pid, status, usage) = unsafe {
            let mut status = 0;
            let mut usage: libc::rusage = std::mem::zeroed();
            (libc::wait4(-1, &raw mut status, flags | libc::__WALL, &raw mut usage), status, usage)
        };
        match pid {
            0 => Reaped::NothingYet,
            -1 if Errno::last() == Errno::ECHILD => Reaped::NoChildren,
            -1 => Reaped::NothingYet,
            pid => {
                let us = |t: libc::timeval| {
                    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(t.tv_usec).unwrap_or(0)
                };
                self.cpu_us += us(usage.ru_utime) + us(usage.ru_stime);
                self.peak_kb = self.peak_kb.max(u64::try_from(usage.ru_maxrss).unwrap_or(0));
                if pid == self.main {
                    self.status = Some(status);
                } else {
                    self.others += 1;
                }
                Reaped::Some
            }
        }
    }
}

/// Waits for the main process, enforces the limits, then kills and reaps every process of the run: it returns only
/// when the kernel says that no child exists.
pub fn run(main: libc::pid_t, started: Instant, limits: &RunLimits, watch: &Watch<'_>) -> Seen {
    let mut reaper = Reaper { main, status: None, cpu_us: 0, peak_kb: 0, others: 0 };
    let deadline = started + Duration::from_micros(limits.wall_us);
    let mut next_look = started + LOOK_EVERY;
    let mut peak_sum_kb = 0;
    let mut killed = None;
    let mut no_children = false;
    while killed.is_none() {
        loop {
            match reaper.one(libc::WNOHANG) {
                Reaped::Some => {}
                Reaped::NothingYet => break,
                Reaped::NoChildren => {
                    no_children = true;
                    break;
                }
            }
        }
        if reaper.status.is_some() || no_children {
            break;
        }
        let now = Instant::now();
        if now >= deadline {
            killed = Some(End::Wall);
        } else if now >= next_look {
            killed = look(limits, watch, &reaper, &mut peak_sum_kb);
            // Near the limit memory can pass it by far between two looks.
            let near = peak_sum_kb * 1024 > limits.memory.min(limits.file) / 4;
            next_look = Instant::now() + if near { LOOK_EVERY / 5 } else { LOOK_EVERY };
        } else {
            let left = deadline.min(next_look) - now;
            match watch.child_signal {
                Some(signal) => {
                    if wait_either(signal, watch.socket, left) {
                        killed = Some(End::Wall);
                    }
                }
                None => wait_sigchld(left),
            }
        }
    }
    let wall = started.elapsed();
    let before = reaper.others;
    while !no_children {
        kill_all(&reaper, watch);
        loop {
            match reaper.one(0) {
                // Its children are ours now, and live.
                Reaped::Some if watch.whose == Whose::Ours => break,
                Reaped::Some => {}
                Reaped::NothingYet => break,
                Reaped::NoChildren => {
                    no_children = true;
                    break;
                }
            }
        }
    }
    watch.child_signal.map(take_signal);
    let leftovers = reaper.others - before;
    let end = killed.unwrap_or_else(|| natural_end(&reaper, limits, watch));
    Seen { end, wall, cpu_us: reaper.cpu_us, peak_kb: reaper.peak_kb.max(peak_sum_kb), leftovers }
}

/// Kills what is left of a run.
fn kill_all(reaper: &Reaper, watch: &Watch<'_>) {
    match watch.whose {
        // Process 1 is not among its own targets, and a fork in flight is cancelled by the pending kill.
        // SAFETY: in this pid namespace there is nobody but this run.
        Whose::Namespace => unsafe {
            libc::kill(-1, libc::SIGKILL);
        },
        // Only numbers that cannot be anybody else's: children that have not been waited for. A program has no others; a
        // compiler's come to us as their parents die.
        Whose::Ours => {
            let main = reaper.status.is_none().then_some(reaper.main);
            let others = watch.proc.map(observe::own_children).unwrap_or_default();
            let others = others.into_iter().filter_map(|pid| libc::pid_t::try_from(pid).ok());
            for pid in main.into_iter().chain(others) {
                // SAFETY: a plain call.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
    }
}

fn natural_end(reaper: &Reaper, limits: &RunLimits, watch: &Watch<'_>) -> End {
    let status = reaper.status.unwrap_or(0);
    let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
    if over_output(limits, watch.outputs) {
        return End::Output;
    }
    match signal {
        Some(libc::SIGXCPU) => End::Cpu,
        Some(libc::SIGKILL) if reaper.cpu_us >= limits.cpu_us => End::Cpu,
        _ if reaper.cpu_us > limits.cpu_us => End::Cpu,
        Some(n) => End::Signaled(u8::try_from(n).unwrap_or(u8::MAX)),
        None if reaper.status.is_some() => {
            End::Exited(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX))
        }
        None => End::Failed("the main process is not ours".into()),
    }
}

fn size(fd: BorrowedFd<'_>) -> u64 {
    nix::sys::stat::fstat(fd).map_or(0, |s| u64::try_from(s.st_size).unwrap_or(0))
}

fn held(fd: BorrowedFd<'_>) -> u64 {
    nix::sys::stat::fstat(fd).map_or(0, |s| u64::try_from(s.st_blocks).unwrap_or(0) * 512)
}

fn over_output(limits: &RunLimits, outputs: &[OwnedFd]) -> bool {
    outputs.iter().any(|o| size(o.as_fd()) > limits.output)
}

/// Whether the supervisor has said something, or is gone. The word itself is read after the report.
fn told_to_stop(socket: RawFd) -> bool {
    let mut poll = libc::pollfd { fd: socket, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd on our stack; returns at once.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}

fn look(limits: &RunLimits, watch: &Watch<'_>, reaper: &Reaper, peak_kb: &mut u64) -> Option<End> {
    if told_to_stop(watch.socket) {
        return Some(End::Wall);
    }
    if over_output(limits, watch.outputs) {
        return Some(End::Output);
    }
    let proc = watch.proc?;
    let usage = observe::usage(proc, watch.whose);
    if reaper.cpu_us + usage.cpu_us > limits.cpu_us {
        return Some(End::Cpu);
    }
    if watch.count_processes && usage.threads > limits.processes {
        return Some(End::Processes);
    }
    let files = watch.scratch.0.in_use().map_or(0, |(_, bytes)| bytes.saturating_sub(watch.scratch.1));
    // On a file system of the host's nothing else holds the sum of them.
    if matches!(watch.scratch.0, Scratch::Directories(_)) && files > limits.file {
        return Some(End::Output);
    }
    let fixed = files.saturating_add(watch.outputs.iter().map(|o| held(o.as_fd())).sum::<u64>());
    let mut memory = usage.memory.saturating_add(fixed);
    if memory > limits.memory {
        memory = observe::exact_memory(proc, watch.whose, usage.memory).saturating_add(fixed);
    }
    *peak_kb = (*peak_kb).max(memory / 1024);
    (memory > limits.memory).then_some(End::Memory)
}
