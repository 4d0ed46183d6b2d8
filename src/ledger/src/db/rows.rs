//! Rows of the ledger as structs, and the statements that read them. No decisions here.

use crate::db::Db;
use crate::error::{Error, Result};
use crate::host::Process;
use crate::retry::class_from;
use crate::state::{AttemptState, Hint};
use crate::submission::SubmissionState;
use cluster::backend::JobRef;
use record::{ContentKey, Token};
use rusqlite::{Row, params};
use std::path::PathBuf;

/// One sweep of the state file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepRow {
    pub id: i64,
    pub name: String,
    pub run_dir: PathBuf,
    pub site: String,
    pub nonce: String,
    pub job_sha256: String,
    pub graph_sha256: String,
    pub created_ms: i64,
    /// Scheduler commands run for it so far.
    pub calls: u64,
}

/// One task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRow {
    pub id: i64,
    pub key: ContentKey,
    pub current: bool,
    pub phase: String,
    pub kind: String,
    /// JSON object.
    pub labels: String,
    pub service: bool,
    /// Why its result does not hold any more; empty: nothing is known against it.
    pub damaged: String,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRow {
    pub id: i64,
    pub task: i64,
    /// The task's key: names the directory.
    pub key: ContentKey,
    pub n: u32,
    pub token: Token,
    pub submission: Option<i64>,
    pub element: Option<u32>,
    pub state: AttemptState,
    pub since_ms: i64,
    pub class: Option<String>,
    /// The scheduler's id even where the state does not carry it any more.
    pub job_id: Option<String>,
    /// The name under which the scheduler has it: the array's token for an element.
    pub job_name: Option<Token>,
    pub reason: String,
    pub message: String,
    /// Somebody wants it to end: the user, or (`superseded`) the engine, since a task before it is tried again.
    pub cancel_asked: bool,
    pub superseded: bool,
    pub memory_mb: u64,
    pub next_try_ms: i64,
    pub host: String,
    pub started_ms: Option<i64>,
    pub ended_ms: Option<i64>,
    pub checkpoint_step: Option<u64>,
    pub wall_s: f64,
    pub cpu_s: f64,
    pub gpu_s: f64,
    pub peak_rss_mb: f64,
    pub events_offset: u64,
    /// JSON of [`crate::view::Progress`]; may be empty.
    pub progress: String,
    /// Why the scheduler does not start it, if waiting alone may not help: empty, or one of [`stuck`].
    pub stuck: String,
    /// First look that showed it waiting for what is not there; 0 otherwise.
    pub stuck_since_ms: i64,
}

/// Values of [`AttemptRow::stuck`].
pub mod stuck {
    /// A reason that no waiting cures.
    pub const HOPELESS: &str = "hopeless";
    /// A dependency that can never be satisfied.
    pub const NEVER_SATISFIED: &str = "never-satisfied";
    /// Nodes or a partition that are not there now.
    pub const UNAVAILABLE: &str = "unavailable";
    /// The same, for longer than the site's `limits.unavailable`.
    pub const TOO_LONG: &str = "unavailable-too-long";
}

/// One submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubmissionRow {
    pub id: i64,
    pub token: Token,
    pub array: Option<u32>,
    pub script: PathBuf,
    pub state: SubmissionState,
    pub intent_ms: i64,
    pub submitter: Process,
}

impl Db {
    /// All sweeps, oldest first.
    ///
    /// # Errors
    /// SQLite's.
    pub fn sweeps(&self) -> Result<Vec<SweepRow>> {
        self.guard(|c| {
            c.prepare_cached(&format!("SELECT {SWEEP} FROM sweep ORDER BY id"))?
                .query_map([], sweep)?
                .collect()
        })
    }

    /// The sweep with this name, or with this run directory.
    ///
    /// # Errors
    /// [`Error::NoSweep`], [`Error::Ambiguous`], SQLite's.
    pub fn find_sweep(&self, name_or_dir: &str) -> Result<SweepRow> {
        let dir = std::fs::canonicalize(name_or_dir).ok();
        let all = self.sweeps()?;
        let known = all.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
        let mut found: Vec<SweepRow> = all
            .into_iter()
            .filter(|s| s.name == name_or_dir || dir.as_ref().is_some_and(|d| *d == s.run_dir))
            .collect();
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(Error::NoSweep {
                name: name_or_dir.to_owned(),
                path: self.path().to_owned(),
                known: if known.is_empty() { "none yet".into() } else { known },
            }),
            count => Err(Error::Ambiguous {
                name: name_or_dir.to_owned(),
                count,
                dirs: found.iter().map(|s| s.run_dir.display().to_string()).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Tasks of a sweep in topological order; `all`: also those that left the job file.
    ///
    /// # Errors
    /// SQLite's.
    pub fn tasks(&self, sweep: i64, all: bool) -> Result<Vec<TaskRow>> {
        self.guard(|c| {
            c.prepare_cached(
                "SELECT id, key, current, phase, kind, labels, service, damaged FROM task
                 WHERE sweep = ?1 AND (current = 1 OR ?2) ORDER BY current DESC, ord",
            )?
            .query_map(params![sweep, all], |r| {
                Ok(TaskRow {
                    id: r.get(0)?,
                    key: ContentKey(r.get(1)?),
                    current: r.get(2)?,
                    phase: r.get(3)?,
                    kind: r.get(4)?,
                    labels: r.get(5)?,
                    service: r.get(6)?,
                    damaged: r.get(7)?,
                })
            })?
            .collect()
        })
    }

    /// Edges among the tasks of a sweep: (task, upstream, service).
    ///
    /// # Errors
    /// SQLite's.
    pub fn edges(&self, sweep: i64) -> Result<Vec<(i64, i64, bool)>> {
        self.guard(|c| {
            c.prepare_cached(
                "SELECT e.task, e.upstream, e.service FROM edge e JOIN task t ON t.id = e.task
                 WHERE t.sweep = ?1 AND t.current = 1",
            )?
            .query_map([sweep], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
            .collect()
        })
    }

    /// The newest attempt of every task of a sweep that has one.
    ///
    /// # Errors
    /// SQLite's.
    pub fn newest_attempts(&self, sweep: i64) -> Result<Vec<AttemptRow>> {
        self.attempts_where(sweep, "a.n = (SELECT max(n) FROM attempt b WHERE b.task = a.task)")
    }

    /// All attempts of a sweep, by task and number.
    ///
    /// # Errors
    /// SQLite's.
    pub fn all_attempts(&self, sweep: i64) -> Result<Vec<AttemptRow>> {
        self.attempts_where(sweep, "1")
    }

    /// Attempts that the scheduler holds or may hold.
    ///
    /// # Errors
    /// SQLite's.
    pub fn live_attempts(&self, sweep: i64) -> Result<Vec<AttemptRow>> {
        self.attempts_where(
            sweep,
            "a.state IN ('submitting', 'submitted', 'running', 'finished-unconfirmed')",
        )
    }

    /// Attempts by their row ids.
    ///
    /// # Errors
    /// SQLite's.
    pub fn attempts_by_id(&self, ids: &[i64]) -> Result<Vec<AttemptRow>> {
        self.guard(|c| {
            let mut one = c.prepare_cached(&format!(
                "SELECT {ATTEMPT} FROM attempt a JOIN task t ON t.id = a.task WHERE a.id = ?1"
            ))?;
            ids.iter().map(|id| one.query_row([id], attempt)).collect()
        })
    }

    /// Attempts of a task, oldest first.
    ///
    /// # Errors
    /// SQLite's.
    pub fn attempts_of(&self, task: i64) -> Result<Vec<AttemptRow>> {
        self.guard(|c| {
            c.prepare_cached(&format!(
                "SELECT {ATTEMPT} FROM attempt a JOIN task t ON t.id = a.task WHERE a.task = ?1 ORDER BY a.n"
            ))?
            .query_map([task], attempt)?
            .collect()
        })
    }

    /// Oldest intent behind a live attempt of the sweep, milliseconds since the epoch.
    ///
    /// # Errors
    /// SQLite's.
    pub fn oldest_live_intent(&self, sweep: i64) -> Result<Option<i64>> {
        self.guard(|c| {
            c.query_row(
                "SELECT min(s.intent_ms) FROM attempt a JOIN submission s ON s.id = a.submission
                 WHERE s.sweep = ?1 AND a.state IN ('submitting', 'submitted', 'running', 'finished-unconfirmed')",
                [sweep],
                |r| r.get(0),
            )
        })
    }

    fn attempts_where(&self, sweep: i64, condition: &str) -> Result<Vec<AttemptRow>> {
        self.guard(|c| {
            c.prepare_cached(&format!(
                "SELECT {ATTEMPT} FROM attempt a JOIN task t ON t.id = a.task
                 WHERE t.sweep = ?1 AND {condition} ORDER BY t.ord, a.task, a.n"
            ))?
            .query_map([sweep], attempt)?
            .collect()
        })
    }

    /// Submissions whose fate is open.
    ///
    /// # Errors
    /// SQLite's.
    pub fn open_submissions(&self, sweep: i64) -> Result<Vec<SubmissionRow>> {
        self.guard(|c| {
            c.prepare_cached(
                "SELECT id, token, array, script, intent_ms, absent_ms, host, boot_id, pid, pid_start FROM submission
                 WHERE sweep = ?1 AND state = 'open' ORDER BY id",
            )?
            .query_map([sweep], |r| {
                let intent_ms = r.get(4)?;
                Ok(SubmissionRow {
                    id: r.get(0)?,
                    token: Token(r.get(1)?),
                    array: r.get(2)?,
                    script: PathBuf::from(r.get::<_, String>(3)?),
                    state: SubmissionState::Open { since_ms: intent_ms, absent_since_ms: r.get(5)? },
                    intent_ms,
                    submitter: Process {
                        host: r.get(6)?,
                        boot_id: r.get(7)?,
                        pid: r.get(8)?,
                        pid_start: unsigned(r.get(9)?),
                    },
                })
            })?
            .collect()
        })
    }

    /// Earlier attempts and their transitions are history; this is one attempt's, oldest first: (at, was, is, why).
    ///
    /// # Errors
    /// SQLite's.
    pub fn transitions(&self, attempt: i64) -> Result<Vec<(i64, String, String, String)>> {
        self.guard(|c| {
            c.prepare_cached("SELECT at_ms, was, is_now, why FROM transition WHERE attempt = ?1 ORDER BY id")?
                .query_map([attempt], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))?
                .collect()
        })
    }

    /// Nodes of a site whose recent suspicions weigh at least `threshold` together; older than `since_ms` is forgotten.
    ///
    /// # Errors
    /// SQLite's.
    pub fn unfit_nodes(&self, site: &str, since_ms: i64, threshold: u32) -> Result<Vec<String>> {
        self.guard(|c| {
            c.prepare_cached(
                "SELECT node FROM node_suspicion WHERE site = ?1 AND at_ms >= ?2
                 GROUP BY node HAVING sum(weight) >= ?3 ORDER BY node",
            )?
            .query_map(params![site, since_ms, threshold], |r| r.get(0))?
            .collect()
        })
    }
}

const SWEEP: &str = "id, name, run_dir, site, nonce, job_sha256, graph_sha256, created_ms, calls";

fn sweep(r: &Row) -> rusqlite::Result<SweepRow> {
    Ok(SweepRow {
        id: r.get(0)?,
        name: r.get(1)?,
        run_dir: PathBuf::from(r.get::<_, String>(2)?),
        site: r.get(3)?,
        nonce: r.get(4)?,
        job_sha256: r.get(5)?,
        graph_sha256: r.get(6)?,
        created_ms: r.get(7)?,
        calls: unsigned(r.get(8)?),
    })
}

pub(super) const ATTEMPT: &str = "a.id, a.task, a.n, a.token, a.submission, a.element, a.state, a.since_ms, a.job_id, a.cluster, \
     a.job_name, a.class, a.hint_exit, a.reason, a.message, a.cancel_asked, a.memory_mb, a.next_try_ms, a.host, \
     a.started_ms, a.ended_ms, a.checkpoint_step, a.wall_s, a.cpu_s, a.gpu_s, a.peak_rss_mb, a.events_offset, a.progress, \
     a.stuck, t.key, a.stuck_since_ms";

pub(super) fn attempt(r: &Row) -> rusqlite::Result<AttemptRow> {
    let token = Token(r.get(3)?);
    let since_ms: i64 = r.get(7)?;
    let job_id: Option<String> = r.get(8)?;
    let class: Option<String> = r.get(11)?;
    let job = || -> rusqlite::Result<JobRef> {
        Ok(JobRef {
            id: job_id.clone().unwrap_or_default(),
            cluster: r.get(9)?,
            token: r.get::<_, Option<String>>(10)?.map_or_else(|| token.clone(), Token),
        })
    };
    let state_name: String = r.get(6)?;
    let state = match state_name.as_str() {
        "submitting" => AttemptState::Submitting,
        "deferred" => AttemptState::Deferred,
        "submitted" => AttemptState::Submitted { job: job()? },
        "running" => AttemptState::Running { job: job()? },
        "finished-unconfirmed" => AttemptState::FinishedUnconfirmed {
            job: job()?,
            since_ms,
            hint: match (&class, r.get::<_, Option<i32>>(12)?) {
                (Some(c), _) => Hint::Class(class_from(c)),
                (None, Some(code)) => Hint::Exit(code),
                (None, None) => Hint::Gone,
            },
        },
        "succeeded" => AttemptState::Succeeded,
        "checkpointed" => AttemptState::Checkpointed,
        "cancelled" => AttemptState::Cancelled,
        "failed" => AttemptState::Failed { class: class_from(class.as_deref().unwrap_or("error")) },
        // `lost`, and any state of a newer program: nothing may be concluded from it
        _ => AttemptState::Lost,
    };
    Ok(AttemptRow {
        id: r.get(0)?,
        task: r.get(1)?,
        n: r.get(2)?,
        submission: r.get(4)?,
        element: r.get(5)?,
        state,
        since_ms,
        class,
        reason: r.get(13)?,
        message: r.get(14)?,
        cancel_asked: r.get::<_, i64>(15)? > 0,
        superseded: r.get::<_, i64>(15)? == 2,
        memory_mb: unsigned(r.get(16)?),
        next_try_ms: r.get(17)?,
        host: r.get(18)?,
        started_ms: r.get(19)?,
        ended_ms: r.get(20)?,
        checkpoint_step: r.get::<_, Option<i64>>(21)?.map(unsigned),
        wall_s: r.get(22)?,
        cpu_s: r.get(23)?,
        gpu_s: r.get(24)?,
        peak_rss_mb: r.get(25)?,
        events_offset: unsigned(r.get(26)?),
        progress: r.get(27)?,
        stuck: r.get(28)?,
        key: ContentKey(r.get(29)?),
        stuck_since_ms: r.get(30)?,
        job_id,
        job_name: r.get::<_, Option<String>>(10)?.map(Token),
        token,
    })
}

/// SQLite stores signed integers only; ours are counts and sizes far below 2^63.
pub(super) fn signed(v: u64) -> i64 {
    i64::try_from(v).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(v: i64) -> u64 {
    u64::try_from(v).unwrap_or(0)
}
