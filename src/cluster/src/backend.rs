//! What a batch system can do for us, and what it may answer. One implementation per scheduler.

use record::Token;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A job as the scheduler knows it. The id alone is ambiguous (ids are reused, clusters differ; specs: F39), so the
/// token travels with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct JobRef {
    /// `4711`, `4711_3` (Slurm array element), `12.server` (PBS), `PID-STARTTIME` (local). Empty where it is not known
    /// (an uncertain submission): then only the token says which job is meant.
    pub id: String,
    /// Slurm's cluster name, where it was told.
    pub cluster: Option<String>,
    pub token: Token,
}

/// One job to hand in: one task, or an array of equal-shaped ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// Job name. For an array: the array's own token; element k runs `elements[k]`.
    pub token: Token,
    /// Absolute path of the rendered script.
    pub script: PathBuf,
    /// Place for the scheduler's own output (`ScriptInput::sched_dir`); exists already.
    pub dir: PathBuf,
    /// `Some(n)`: array of n elements, indices 0..n. Only for backends whose [`Limits::max_array`] is above 1. The jobs
    /// of an array all carry *this* token as their name, and ids `ARRAY_k`; a whole array is `ARRAY`.
    pub array: Option<u32>,
    /// Job ids that must have *succeeded*; only ids that are not known to be finished (specs: F8).
    pub after_ok: Vec<JobRef>,
    /// Job ids that must have *started* (services).
    pub after_start: Vec<JobRef>,
    /// Not before this many seconds from now (retry back-off).
    pub delay_s: u64,
    /// Nodes that have proved unfit.
    pub exclude_nodes: Vec<String>,
    pub resources: record::Resources,
    /// For people: `rl variant=binary seed=1` (Slurm `--comment`).
    pub comment: String,
}

/// What became of a submission. The three-way split is the point: see specs F2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// Accepted under this id.
    Accepted(JobRef),
    /// Certainly not accepted, and asking again is useless until something is changed.
    Refused(String),
    /// Certainly not accepted because a limit is reached: wait (back-pressure), nothing is wrong.
    Limit(String),
    /// Certainly not accepted because the scheduler is unreachable.
    Unavailable(String),
    /// Nobody knows: look it up by token before anything else happens.
    Uncertain(String),
}

/// A job's state, reduced to what decides something. Scheduler-specific spelling is kept in [`Seen::raw`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    Waiting,
    /// Waiting for nodes or a partition that are not there now: it may pass, or last for ever (specs: F11).
    Unavailable,
    /// Held by somebody, or waiting for a reason that never goes away: tell the user (specs: F11).
    Hopeless,
    /// Its dependency can never be satisfied (specs: F9).
    NeverSatisfied,
    Starting,
    Running,
    Suspended,
    /// Over, by the scheduler's account; the record decides whether it succeeded.
    Completed,
    Failed,
    TimedOut,
    OutOfMemory,
    Preempted,
    /// Node failure, boot failure, launch failure.
    NodeFailed,
    Cancelled,
    /// A spelling nobody knows: shown verbatim, never decides anything.
    Unknown,
}

impl JobRef {
    /// Whether this names the job that a listing shows under `id` and `name`; see [`Backend::cancel`].
    #[must_use]
    pub fn names(&self, id: &str, name: &str) -> bool {
        if self.id.is_empty() && self.token.as_str().is_empty() {
            return false;
        }
        let whole_array = || id.split_once('_').is_some_and(|(array, _)| array == self.id);
        (self.token.as_str().is_empty() || self.token.as_str() == name)
            && (self.id.is_empty() || self.id == id || whole_array())
    }
}

impl JobState {
    /// Whether the scheduler still holds the job.
    #[must_use]
    pub fn is_live(self) -> bool {
        use JobState as S;
        matches!(
            self,
            S::Waiting
                | S::Unavailable
                | S::Hopeless
                | S::NeverSatisfied
                | S::Starting
                | S::Running
                | S::Suspended
                | S::Unknown
        )
    }
}

/// One row about one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub job: JobRef,
    pub state: JobState,
    /// State, reason and exit code as the scheduler spells them, for people.
    pub raw: String,
    /// Exit code and signal where known.
    pub exit: Option<(i32, i32)>,
    pub nodes: Vec<String>,
    /// Seconds since the epoch, for display only (specs: F38).
    pub start_s: Option<i64>,
    /// Which command said so (`squeue`, `sacct`, `qstat`, `local`).
    pub source: &'static str,
}

/// What one look at the scheduler showed. A job that is in `jobs` was seen; one that is not was *not seen*, which by
/// itself proves nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// By token; several rows for one token are possible (a double submission that must be cleaned up).
    pub jobs: BTreeMap<Token, Vec<Seen>>,
    /// Whether the live queue was read: without it absence proves nothing at all.
    pub queue_ok: bool,
    /// Whether the accounting was read (`false` where there is none).
    pub accounting_ok: bool,
    /// What could not be read, for people.
    pub warnings: Vec<String>,
}

/// What to look at: tokens of all attempts that are not over, with their ids where known.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Query {
    pub jobs: Vec<(Token, Option<String>)>,
    /// Oldest intent, seconds since the epoch: bound for the accounting look-up.
    pub since_s: i64,
    /// Ask the accounting as well (only wanted when some job is missing from the queue).
    pub accounting: bool,
}

/// A batch system. Every call is bounded in time and never blocks longer than the site's time-outs.
pub trait Backend: Send + Sync {
    /// Hands in one script. Exactly one submit call to the scheduler; never retries by itself.
    fn submit(&self, s: &Submission) -> Submitted;

    /// One look for the whole sweep: at most one queue command, and at most one accounting command if asked.
    ///
    /// # Errors
    /// Only when nothing at all could be read; partial knowledge is a [`Snapshot`] with warnings.
    fn query(&self, q: &Query) -> Result<Snapshot, String>;

    /// Cancels jobs by identity: with id and token, that job if it still carries that name (ids are reused; specs: F39);
    /// with an empty id, everything of that name (an uncertain submission, its doubles); with an empty token, that id
    /// unchecked. An id `ARRAY` means all its elements. Cancelling what is gone is a success (specs: F32).
    ///
    /// # Errors
    /// The scheduler's own words when it could not be reached or refused.
    fn cancel(&self, jobs: &[JobRef]) -> Result<(), String>;

    /// How long after an uncertain submission the absence of the token in the queue proves that it was never accepted
    /// (specs: F3): 180 s for Slurm.
    fn uncertain_grace_s(&self) -> u64;

    /// Scheduler commands run so far, for `-v` and the benchmarks.
    fn calls(&self) -> u64;

    /// What one may ask of it.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// `true` where nothing happens unless somebody keeps calling (local: there is no queue, so a submission that finds
    /// no free slot is `Submitted::Limit` and has to be tried again, and `after_ok`/`after_start` are not looked at: hand
    /// in tasks that are ready). `false` where the scheduler itself starts what was handed in.
    fn needs_driver(&self) -> bool {
        false
    }

    /// Whether a submission of this size would find a place now. Only where [`Backend::needs_driver`] can the answer be
    /// "no": it saves the intent of a submission that would be `Submitted::Limit` anyway.
    fn has_room(&self, resources: &record::Resources) -> bool {
        let _ = resources;
        true
    }

    /// Returns when something may have changed, at the latest after `at_most`. Local: as soon as a job of ours ends.
    /// Others can only let the time pass.
    fn wait(&self, at_most: Duration) {
        std::thread::sleep(at_most);
    }

    /// Is it there? A fast probe (`scontrol ping`, `qstat --version` and the server's answer), for `doctor` and before
    /// many submissions. `Ok` is a line for people ("slurm 22.05.8, controller up").
    ///
    /// # Errors
    /// A sentence: which command said what.
    fn ping(&self) -> Result<String, String> {
        Ok(String::new())
    }
}

/// What a batch system lets one user do, as far as the site file says or a probe found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most elements of one array (Slurm's `MaxArraySize`, which also caps the index); 1: no arrays.
    pub max_array: u32,
    /// Most jobs in the queue at one time, every array element counted; `None`: not known.
    pub max_submit: Option<u32>,
    /// Least seconds between two looks at the queue by anything that repeats by itself (specs: F14).
    pub min_poll_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_array: 1, max_submit: None, min_poll_s: 0 }
    }
}
