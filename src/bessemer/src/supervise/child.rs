//! The worker as a process: started in its own group, asked to leave, made to leave, cleaned up after.
//!
//! The supervisor has one thread. All signals it cares about are blocked and read from a signalfd, so that nothing
//! can arrive between a look and a wait. It is the "subreaper" of its descendants: a process that leaves the group
//! (setsid, double fork) comes back to us when its parent dies, and is found.

use super::deadline::{Deadline, Elapsed};
use super::memory;
use super::signals::Signals;
use super::verdict::Stop;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::unistd::Pid;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// What came of running the worker.
#[derive(Debug, Default)]
pub struct Ended {
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub stop: Option<Stop>,
    pub killed: bool,
    pub wall_s: f64,
    pub cpu_s: f64,
    /// Largest resident set of one process, bytes.
    pub peak_rss: u64,
    /// Largest sum over the process tree that was seen, bytes.
    pub peak_tree: u64,
    pub oom_kills: u64,
    /// Processes that had to be killed after the worker had left.
    pub leftovers: usize,
}

/// How long to wait for whom.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub deadline: Deadline,
    /// Time that had passed of the walltime before we started.
    pub already: Duration,
    /// From TERM to our SIGKILL: shorter than the scheduler's own, so that the record can still be written.
    pub term_grace: Duration,
    /// Time between two looks at the claim.
    pub fence: Duration,
}

/// What the supervisor listens to. To be blocked before anything is claimed: a TERM must not kill us between claim and
/// record.
const OURS: [Signal; 6] =
    [Signal::SIGCHLD, Signal::SIGUSR2, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

/// Blocks our signals and makes us the one to whom orphaned descendants come back.
///
/// # Errors
/// Of the system calls; none is expected on Linux.
pub fn listen() -> io::Result<Signals> {
    prctl::set_child_subreaper(true)?;
    Signals::block(&OURS)
}

/// Starts `command` and sees it through. `ours` is asked now and then whether the attempt is still this process' to work
/// on: a copy that was cut off and has been requeued elsewhere must not go on writing beside its successor.
///
/// # Errors
/// The worker could not be started (`NotFound`, `PermissionDenied`, ...), or a system call failed that never should.
pub fn run(
    mut command: Command,
    signals: &Signals,
    patience: Patience,
    ours: &dyn Fn() -> bool,
) -> io::Result<Ended> {
    let us = std::process::id();
    command.process_group(0);
    // SAFETY: only async-signal-safe calls (sigprocmask, prctl, getppid) between fork and exec; no allocation.
    unsafe {
        command.pre_exec(move || {
            SigSet::empty().thread_set_mask()?;
            // should we be killed with SIGKILL, the worker must not go on without anybody to record it
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            if std::os::unix::process::parent_id() == us {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::ESRCH))
            }
        });
    }
    let oom_before = memory::oom_kills().unwrap_or(0);
    let started = Instant::now();
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let mut watch = Watch {
        worker: Pid::from_raw(pid),
        elapsed: Elapsed::new(patience.already, Duration::ZERO),
        patience,
        kill_at: None,
        sampler: Sampler::new(),
        asked: started,
        ended: Ended::default(),
    };
    let mut sleep = Duration::ZERO;
    loop {
        let arrived = signals.wait(sleep)?;
        watch.elapsed.tick(started.elapsed(), sleep);
        for s in arrived {
            match s {
                Signal::SIGUSR2 => watch.ask(Stop::Requested),
                Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP => watch.ask(Stop::Terminated),
                Signal::SIGQUIT => watch.kill_now(),
                _ => {}
            }
        }
        if watch.reap()?.worker {
            break;
        }
        watch.timers();
        watch.fence(ours);
        watch.sampler.look(&mut watch.ended);
        sleep = watch.next_wake();
    }
    watch.ended.wall_s = started.elapsed().as_secs_f64();
    watch.sweep(signals)?;
    watch.ended.oom_kills = memory::oom_kills().unwrap_or(0).saturating_sub(oom_before);
    Ok(watch.ended)
}

struct Watch {
    worker: Pid,
    elapsed: Elapsed,
    patience: Patience,
    /// Elapsed time at which the group is killed.
    kill_at: Option<Duration>,
    sampler: Sampler,
    /// When the claim was last looked at.
    asked: Instant,
    ended: Ended,
}

impl Watch {
    /// Asks the worker for a checkpoint. Only the worker itself: its helpers (compilers, sandboxes) would die of USR2.
    fn ask(&mut self, why: Stop) {
        let mut kill_at = self.patience.deadline.kill;
        if why == Stop::Terminated {
            kill_at = kill_at.min(self.elapsed.total() + self.patience.term_grace);
        }
        self.kill_at = Some(self.kill_at.map_or(kill_at, |k| k.min(kill_at)));
        // USR2 then TERM is the usual sequence at a time limit: the first reason is the true one, and a worker that
        // is already writing its checkpoint needs no second request
        if self.ended.stop.is_none() {
            self.ended.stop = Some(why);
            super::say(&format!("asking the worker for a checkpoint ({})", reason(why)));
            let _ = kill(self.worker, Signal::SIGUSR2);
        }
    }

    /// No checkpoint, no waiting: the second Ctrl-C of `bessemer run`.
    fn kill_now(&mut self) {
        self.ended.stop = Some(Stop::Killed);
        self.kill_at = Some(Duration::ZERO);
    }

    fn timers(&mut self) {
        let now = self.elapsed.total();
        if self.ended.stop.is_none() && now >= self.patience.deadline.ask {
            self.ask(Stop::Deadline);
        }
        if self.kill_at.is_some_and(|k| now >= k) && !self.ended.killed {
            self.ended.killed = true;
            super::say(match self.ended.stop {
                Some(Stop::Killed) => "killing the worker (QUIT)",
                _ => "the worker did not leave in time: killing it",
            });
            let _ = killpg(self.worker, Signal::SIGKILL);
        }
    }

    fn fence(&mut self, ours: &dyn Fn() -> bool) {
        if self.ended.killed || self.asked.elapsed() < self.patience.fence {
            return;
        }
        self.asked = Instant::now();
        if !ours() {
            super::say("another run of this job has taken over: stopping the worker");
            self.ended.stop = Some(Stop::Killed);
            self.ended.killed = true;
            let _ = killpg(self.worker, Signal::SIGKILL);
        }
    }

    fn next_wake(&self) -> Duration {
        let now = self.elapsed.total();
        let mut wake = self.sampler.interval().min(self.patience.fence);
        if self.ended.stop.is_none() {
            wake = wake.min(self.patience.deadline.ask.saturating_sub(now));
        }
        if let Some(k) = self.kill_at.filter(|_| !self.ended.killed) {
            wake = wake.min(k.saturating_sub(now));
        }
        // never zero: a timer that is due has been served
        wake.max(Duration::from_millis(1))
    }

    /// Collects every child that has ended.
    fn reap(&mut self) -> io::Result<Reaped> {
        let mut reaped = Reaped::default();
        loop {
            match wait4_any()? {
                Waited::Ended(pid, status, usage) => {
                    self.count(&usage);
                    if pid == self.worker.as_raw() {
                        reaped.worker = true;
                        if libc::WIFEXITED(status) {
                            self.ended.exit_code = Some(libc::WEXITSTATUS(status));
                        } else if libc::WIFSIGNALED(status) {
                            self.ended.signal = Some(libc::WTERMSIG(status));
                        }
                    }
                }
                Waited::Running => return Ok(reaped),
                Waited::Childless => return Ok(Reaped { all: true, ..reaped }),
            }
        }
    }

    fn count(&mut self, usage: &libc::rusage) {
        #[allow(clippy::cast_precision_loss)]
        let s = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
        self.ended.cpu_s += s(usage.ru_utime) + s(usage.ru_stime);
        // kilobytes (1024) on Linux
        let rss = u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024;
        self.ended.peak_rss = self.ended.peak_rss.max(rss);
        self.ended.peak_tree = self.ended.peak_tree.max(rss);
    }

    /// Kills whatever the worker has left behind, in its group or out of it, until nothing is left. A process stuck in
    /// the kernel (dead disk or GPU) cannot be waited for for ever: after ten seconds it is only reported.
    fn sweep(&mut self, signals: &Signals) -> io::Result<()> {
        let begun = Instant::now();
        let us = std::process::id();
        let mut killed = std::collections::BTreeSet::new();
        loop {
            let _ = killpg(self.worker, Signal::SIGKILL);
            // As their subreaper we are the parent of whatever is left at the top: without a child nothing is left.
            if self.reap()?.all {
                break;
            }
            let (_, alive) = memory::descendants(us);
            for pid in alive.iter().filter_map(|p| i32::try_from(*p).ok()) {
                killed.insert(pid);
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            if self.reap()?.all {
                break;
            }
            if begun.elapsed() > Duration::from_secs(10) {
                super::say(&format!("warning: processes {alive:?} of the worker cannot be killed"));
                break;
            }
            signals.wait(Duration::from_millis(50))?;
        }
        self.ended.leftovers = killed.len();
        Ok(())
    }
}

fn reason(why: Stop) -> &'static str {
    match why {
        Stop::Deadline => "the walltime ends soon",
        Stop::Requested => "USR2",
        Stop::Terminated => "TERM",
        Stop::Killed => "QUIT",
    }
}

/// What a look at the children brought.
#[derive(Default)]
struct Reaped {
    /// The worker has ended.
    worker: bool,
    /// There is no child left.
    all: bool,
}

enum Waited {
    /// A child's pid, status and resources.
    Ended(i32, i32, libc::rusage),
    Running,
    /// There is no child at all.
    Childless,
}

/// wait4(-1, WNOHANG): the only call that gives the resources of each child.
fn wait4_any() -> io::Result<Waited> {
    let mut status = 0;
    // SAFETY: rusage is plain old data, for which all zeros is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for writes during the call.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
    match pid {
        0 => Ok(Waited::Running),
        -1 => {
            let e = io::Error::last_os_error();
            if e.raw_os_error() == Some(libc::ECHILD) { Ok(Waited::Childless) } else { Err(e) }
        }
        pid => Ok(Waited::Ended(pid, status, usage)),
    }
}

/// Samples the memory of the process tree: wait4 knows only the largest single process, limits count them all. Costs
/// at most half a percent of a core, however many processes the node has.
struct Sampler {
    last: Option<Instant>,
    cost: Duration,
}

impl Sampler {
    fn new() -> Self {
        Self { last: None, cost: Duration::ZERO }
    }

    fn interval(&self) -> Duration {
        (self.cost * 200).clamp(Duration::from_secs(2), Duration::from_secs(60))
    }

    fn look(&mut self, ended: &mut Ended) {
        let now = Instant::now();
        if self.last.is_some_and(|l| now - l < self.interval()) {
            return;
        }
        let (bytes, _) = memory::descendants(std::process::id());
        ended.peak_tree = ended.peak_tree.max(bytes);
        self.last = Some(now);
        self.cost = now.elapsed();
    }
}
