//! Where everything lies. One place, so that planner, supervisor and worker cannot disagree.
//!
//! ```text
//! runs/<sweep>/
//!   job.yaml  site.yaml  plan.json  identity     what was asked for; frozen at submit
//!   tasks/<key>/
//!     attempt-<n>/
//!       task.json  job.sh                        written by the planner before the intent
//!       started.json                             claim: written once (link) by the supervisor, first thing
//!       outcome.json  events.jsonl  ckpt/        written by the worker
//!       record.json                              written by the supervisor, last thing
//!       log.txt  sched/                          worker's and scheduler's output
//!       out/                                     the outputs
//!     result.json                                written once: which attempt's outputs count
//!     service.json  token                        services only
//! ```

use crate::key::ContentKey;
use std::path::{Path, PathBuf};

/// Directory of one task.
#[must_use]
pub fn task_dir(run_dir: &Path, key: &ContentKey) -> PathBuf {
    run_dir.join("tasks").join(key.as_str())
}

/// Directory of one attempt; attempts count from 1.
#[must_use]
pub fn attempt_dir(task_dir: &Path, attempt: u32) -> PathBuf {
    task_dir.join(format!("attempt-{attempt}"))
}

/// Attempts that have a directory, ascending.
///
/// # Errors
/// I/O errors of listing; a missing directory is an empty list.
pub fn attempts(task_dir: &Path) -> std::io::Result<Vec<u32>> {
    let entries = match std::fs::read_dir(task_dir) {
        Ok(e) => e,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found: Vec<u32> = entries
        .filter_map(Result::ok)
        .filter_map(|e| e.file_name().to_str()?.strip_prefix("attempt-")?.parse().ok())
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// In the run directory: frozen at submit.
pub const JOB: &str = "job.yaml";
pub const SITE: &str = "site.yaml";
pub const PLAN: &str = "plan.json";
pub const IDENTITY: &str = "identity";

pub const TASK: &str = "task.json";
pub const SCRIPT: &str = "job.sh";
pub const STARTED: &str = "started.json";
pub const OUTCOME: &str = "outcome.json";
pub const EVENTS: &str = "events.jsonl";
pub const RECORD: &str = "record.json";
pub const LOG: &str = "log.txt";
pub const SCHED: &str = "sched";
pub const OUT: &str = "out";
/// Below [`OUT`] of an evaluation: one [`crate::metric::ProblemScores`] a line.
pub const SCORES: &str = "scores.jsonl";
pub const CKPT: &str = "ckpt";
/// In the task directory, not the attempt's.
pub const RESULT: &str = "result.json";
pub const SERVICE: &str = "service.json";
pub const SERVICE_TOKEN: &str = "token";
