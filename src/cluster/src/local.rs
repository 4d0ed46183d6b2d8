//! No scheduler: this machine, with slots by CPU, memory and GPU, the same scripts and the same records.
//!
//! A job is a bash in a session of its own that carries its token and its share of the machine in its environment. That
//! is all the state there is: any later process of the same user finds running jobs, and what they hold, in /proc.

mod machine;
mod proc;

use crate::backend::{Backend, JobRef, JobState, Limits, Query, Seen, Snapshot, Submission, Submitted};
use crate::site::Site;
use machine::{Machine, Share};
use record::Token;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, setsid};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The machine as a batch system.
pub struct Local {
    machine: Machine,
    grace: Duration,
    pool: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Jobs that this process started.
    ours: BTreeMap<Token, Job>,
    /// Jobs that others started (another sweep, a planner that was killed): what they hold, and their processes.
    others: BTreeMap<String, (Share, Vec<i32>)>,
    looked: Option<Instant>,
}

struct Job {
    child: Child,
    id: String,
    share: Share,
    start_s: i64,
    ended: Option<ExitStatus>,
    cancelled: bool,
}

/// How old a look at other planners' jobs may be when a slot is given out.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Local {
    #[must_use]
    pub fn new(site: &Site) -> Self {
        Self {
            machine: Machine::of(&site.local),
            grace: site.local.grace.duration(),
            pool: site.local.pool.to_string(),
            state: Mutex::new(State::default()),
        }
    }

    /// The tokens of jobs; of one that is named by its id alone, the token that its process carries. A job that is gone
    /// has none, and needs no cancelling.
    fn tokens(&self, jobs: &[JobRef]) -> Vec<String> {
        let mut tokens: Vec<String> =
            jobs.iter().filter(|j| !j.token.as_str().is_empty()).map(|j| j.token.to_string()).collect();
        let nameless: Vec<&str> =
            jobs.iter().filter(|j| j.token.as_str().is_empty()).map(|j| j.id.as_str()).collect();
        if !nameless.is_empty() {
            let procs = proc::all();
            tokens.extend(
                procs.into_iter().filter(|p| nameless.contains(&p.id().as_str())).filter_map(|p| p.token),
            );
        }
        tokens
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Collects the exit status of jobs that ended, and ends what they left behind.
    fn reap(&mut self) {
        let mut strays = Vec::new();
        for (token, job) in self.ours.iter_mut().filter(|(_, j)| j.ended.is_none()) {
            if let Ok(Some(status)) = job.child.try_wait() {
                job.ended = Some(status);
                // A clean end leaves nothing (the supervisor sees to it); anything else may have.
                if status.signal().is_some() {
                    strays.push(token.clone());
                }
            }
        }
        for token in strays {
            kill_family(token.as_str(), Signal::KILL);
        }
    }

    /// What others hold of the pool.
    fn look(&mut self, pool: &str) {
        let procs = proc::all();
        self.others = proc::by_token(&procs)
            .into_iter()
            .filter(|(token, _)| !self.ours.contains_key(&Token(token.clone())))
            .filter(|(_, members)| members.iter().any(|p| p.pool.as_deref() == Some(pool)))
            .map(|(token, members)| {
                let share =
                    members.first().and_then(|p| p.holds.as_deref()).map(Share::parse).unwrap_or_default();
                (token, (share, members.iter().map(|p| p.pid).collect()))
            })
            .collect();
        self.looked = Some(Instant::now());
    }

    fn held(&self) -> Vec<Share> {
        let ours = self.ours.values().filter(|j| j.ended.is_none()).map(|j| j.share.clone());
        ours.chain(self.others.values().map(|(share, _)| share.clone())).collect()
    }
}

impl Backend for Local {
    fn submit(&self, s: &Submission) -> Submitted {
        if s.array.is_some() {
            return Submitted::Refused("a local site has no job arrays: hand in single jobs".into());
        }
        let mut state = self.state();
        state.reap();
        if state.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            state.look(&self.pool);
        }
        if state.others.contains_key(s.token.as_str()) || state.ours.contains_key(&s.token) {
            return Submitted::Uncertain(format!("a job named {} is running here already", s.token));
        }
        let share = match self.machine.place(&s.resources, &state.held()) {
            Ok(share) => share,
            Err(true) => {
                return Submitted::Refused(format!(
                    "it asks for {} CPUs, {} MB and {} GPUs; this machine has {}: change `resources` in the job file \
                     or `local` in the site file",
                    s.resources.cpus, s.resources.memory_mb, s.resources.gpus, self.machine
                ));
            }
            Err(false) => return Submitted::Limit("no free slot".into()),
        };
        match start(s, &share, &self.pool, self.grace) {
            Ok(job) => {
                let job_ref = JobRef { id: job.id.clone(), cluster: None, token: s.token.clone() };
                state.ours.insert(s.token.clone(), job);
                Submitted::Accepted(job_ref)
            }
            Err(e) if matches!(e.raw_os_error(), Some(11 | 12)) => {
                Submitted::Limit(format!("this machine is out of processes or memory: {e}"))
            }
            Err(e) => Submitted::Unavailable(format!("cannot start bash for {}: {e}", s.script.display())),
        }
    }

    fn query(&self, q: &Query) -> Result<Snapshot, String> {
        let mut state = self.state();
        state.reap();
        let mut snap = Snapshot { queue_ok: true, ..Snapshot::default() };
        let foreign: BTreeSet<&Token> =
            q.jobs.iter().map(|(t, _)| t).filter(|t| !state.ours.contains_key(*t)).collect();
        for (token, _) in &q.jobs {
            if let Some(job) = state.ours.get(token) {
                snap.jobs.insert(token.clone(), vec![seen_ours(token, job)]);
            }
        }
        if !foreign.is_empty() {
            let jobs = proc::by_token(&proc::all());
            for (token, known) in q.jobs.iter().filter(|(t, _)| foreign.contains(t)) {
                let Some(oldest) = jobs.get(token.as_str()).and_then(|m| m.first()) else { continue };
                let stopped = oldest.state == 'T' || oldest.state == 't';
                let state = if stopped { JobState::Suspended } else { JobState::Running };
                // While anything carries the token the job is not over, though its script may have been killed: a second
                // attempt must not run beside what it left behind.
                let id = known.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| oldest.id());
                snap.jobs.insert(token.clone(), vec![seen(token, id, state, "running", None, None)]);
            }
        }
        Ok(snap)
    }

    /// TERM goes to the job script alone, which hands it to its supervisor: a worker must be asked for a checkpoint, not
    /// shot together with its sandboxes. What is left after the grace is killed with everything it has started.
    fn cancel(&self, jobs: &[JobRef]) -> Result<(), String> {
        let tokens = self.tokens(jobs);
        for token in &tokens {
            if let Some(ours) = self.state().ours.get_mut(&Token(token.clone())).filter(|j| j.ended.is_none())
            {
                ours.cancelled = true;
            }
        }
        let leader =
            |p: &&proc::Proc| p.pid == p.session && p.token.as_ref().is_some_and(|t| tokens.contains(t));
        for pid in proc::all().iter().filter(leader).filter_map(|p| Pid::from_raw(p.pid)) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let end = Instant::now() + self.grace;
        while Instant::now() < end && alive(&tokens, &self.state) {
            std::thread::sleep(Duration::from_millis(20));
        }
        // What starts a process while it is being killed needs another round.
        for _ in 0..50 {
            for token in &tokens {
                kill_family(token, Signal::KILL);
            }
            if !alive(&tokens, &self.state) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("processes of {} survive SIGKILL (see `ps`)", tokens.join(", ")))
    }

    /// Only a planner that died between fork and exec leaves a doubt, for a moment.
    fn uncertain_grace_s(&self) -> u64 {
        5
    }

    fn calls(&self) -> u64 {
        0
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// `true` also for what will never fit: `submit` says so.
    fn has_room(&self, resources: &record::Resources) -> bool {
        let mut state = self.state();
        state.reap();
        if state.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            state.look(&self.pool);
        }
        !matches!(self.machine.place(resources, &state.held()), Err(false))
    }

    fn needs_driver(&self) -> bool {
        true
    }

    fn wait(&self, at_most: Duration) {
        // Whose end needs a look around: of our own jobs we know what they held.
        let (pids, ours) = {
            let state = self.state();
            let ours = state.ours.values().filter(|j| j.ended.is_none());
            let mut pids: Vec<i32> = ours.filter_map(|j| i32::try_from(j.child.id()).ok()).collect();
            let ours = pids.len();
            pids.extend(state.others.values().flat_map(|(_, pids)| pids.iter().copied()));
            (pids, ours)
        };
        let open = |pid: &i32| pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok();
        let fds: Vec<_> = pids.iter().filter_map(open).collect();
        if fds.len() < pids.len() {
            self.state().looked = None; // one is gone already: look again
            return;
        }
        if fds.is_empty() {
            return std::thread::sleep(at_most);
        }
        let mut poll_fds: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let timeout = Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: at_most.subsec_nanos().into(),
        };
        let ready = poll(&mut poll_fds, Some(&timeout));
        if ready.is_err() || poll_fds[ours..].iter().any(|fd| !fd.revents().is_empty()) {
            self.state().looked = None;
        }
    }

    fn ping(&self) -> Result<String, String> {
        Ok(format!("this machine: {}", self.machine))
    }
}

/// Starts a job in a session of its own: it outlives this process, and no Ctrl-C of the terminal reaches it.
fn start(s: &Submission, share: &Share, pool: &str, grace: Duration) -> std::io::Result<Job> {
    let log = std::fs::File::options().create(true).append(true).open(s.dir.join("local.out"))?;
    let mut command = Command::new("bash");
    command
        .arg(&s.script)
        .current_dir(&s.dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .env(proc::TOKEN, s.token.as_str())
        .env(proc::HOLDS, share.to_string())
        .env(proc::POOL, pool)
        // the supervisor has to be through, its record written, before we kill
        .env("BESSEMER_TERM_GRACE_S", (grace.as_secs() * 3 / 4).to_string())
        .env("CUDA_VISIBLE_DEVICES", share.gpus.join(","));
    // SAFETY: setsid(2) is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| setsid().map(|_| ()).map_err(Into::into));
    }
    let child = command.spawn()?;
    // the child is not reaped yet, so its entry is there
    let start = i32::try_from(child.id()).ok().and_then(proc::read).map_or(0, |p| p.start);
    let id = format!("{}-{start}", child.id());
    let start_s = record::now_ms() / 1000;
    Ok(Job { child, id, share: share.clone(), start_s, ended: None, cancelled: false })
}

fn seen_ours(token: &Token, job: &Job) -> Seen {
    let (state, raw, exit) = match job.ended {
        None => (JobState::Running, "running".to_owned(), None),
        Some(status) => {
            let exit = (status.code().unwrap_or(0), status.signal().unwrap_or(0));
            let state = match exit {
                _ if job.cancelled => JobState::Cancelled,
                (0, 0) => JobState::Completed,
                _ => JobState::Failed,
            };
            (state, status.to_string(), Some(exit))
        }
    };
    seen(token, job.id.clone(), state, &raw, exit, Some(job.start_s))
}

fn seen(
    token: &Token,
    id: String,
    state: JobState,
    raw: &str,
    exit: Option<(i32, i32)>,
    start_s: Option<i64>,
) -> Seen {
    let job = JobRef { id, cluster: None, token: token.clone() };
    Seen { job, state, raw: raw.to_owned(), exit, nodes: vec![], start_s, source: "local" }
}

fn kill_family(token: &str, signal: Signal) {
    for pid in proc::family(&proc::all(), token) {
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = kill_process(pid, signal);
        }
    }
}

fn alive(tokens: &[String], state: &Mutex<State>) -> bool {
    state.lock().unwrap_or_else(PoisonError::into_inner).reap();
    let procs = proc::all();
    procs.iter().any(|p| p.token.as_ref().is_some_and(|t| tokens.contains(t)))
}

#[cfg(test)]
mod tests;
