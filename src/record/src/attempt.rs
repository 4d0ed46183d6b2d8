//! What an attempt leaves behind: claim, outcome, record, result pointer.

use crate::key::{ContentKey, Token};
use crate::metric::MetricRow;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `started.json`: written once by the supervisor before anything else. The strongest proof that a submission whose
/// fate was unknown has run (specs: F3), and the fence against a second copy (F5): who cannot create it, does not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRecord {
    pub format: u32,
    pub token: Token,
    pub key: ContentKey,
    pub attempt: u32,
    /// As the scheduler calls it (`SLURM_JOB_ID`, `PBS_JOBID`, or `ARRAY_INDEX` form for array elements); empty locally.
    pub job_id: String,
    /// Slurm's requeue count: a requeued copy of the same job may take over a claim of a smaller count.
    pub restart: u32,
    pub host: String,
    /// Process id of the supervisor and its start time in clock ticks since boot (field 22 of /proc/PID/stat): together
    /// they identify a process even when pids are reused.
    pub pid: u32,
    pub pid_start: u64,
    pub boot_id: String,
    pub at_ms: i64,
    /// UUIDs of the GPUs that were visible.
    #[serde(default)]
    pub gpus: Vec<String>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Done, outputs written.
    Ok,
    /// Stopped with a checkpoint; to be continued.
    Checkpointed,
    Failed,
}

/// Why an attempt failed; decides whether and how it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// Wrong input: stop and say so.
    UserError,
    /// Out of memory: more memory, bounded.
    OutOfMemory,
    /// Time limit before the task could checkpoint: continue from the last checkpoint.
    Timeout,
    /// Preempted by another job: always retried, free of charge.
    Preempted,
    /// This node is unfit (GPU, preflight, launch failure): retried elsewhere.
    NodeUnfit,
    /// An input's record is missing or wrong.
    UpstreamMissing,
    /// Something said "not now" (a service not up yet).
    TryAgain,
    /// The site's set-up lines or the programs failed.
    Setup,
    /// Cancelled by the user or an administrator.
    Cancelled,
    /// Died without a record and nothing explains it.
    Lost,
    /// Ended with an error that no other class names.
    Error,
}

/// `outcome.json`: the worker's own last word, before the supervisor has checked anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub format: u32,
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<FailureClass>,
    /// One or two sentences for people; for a failure: what happened, where, what to do.
    #[serde(default)]
    pub message: String,
    /// Results of an evaluation.
    #[serde(default)]
    pub metrics: Vec<MetricRow>,
    /// Facts worth keeping that are no metrics: tokens seen, samples kept, versions, device, precision, seeds.
    #[serde(default)]
    pub facts: BTreeMap<String, serde_json::Value>,
}

/// A file below `out/`, relative, with what is needed to notice a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
}

/// What the attempt cost, measured by the supervisor over all its processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    pub wall_s: f64,
    /// User plus system time of the worker and its waited-for descendants.
    pub cpu_s: f64,
    /// Largest resident set of one process, in MB (10^6 bytes).
    pub peak_rss_mb: f64,
    /// GPUs held times wall time.
    pub gpu_s: f64,
}

/// `record.json`: how the attempt ended, written last. A task has succeeded when a record says `Ok` *and* the outputs
/// still verify, whatever the scheduler says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    pub format: u32,
    pub token: Token,
    pub key: ContentKey,
    pub attempt: u32,
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<FailureClass>,
    pub message: String,
    /// Exit code of the worker, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Signal that ended the worker, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    pub job_id: String,
    pub restart: u32,
    pub host: String,
    #[serde(default)]
    pub gpus: Vec<String>,
    pub started_ms: i64,
    pub ended_ms: i64,
    pub usage: Usage,
    pub outputs: Vec<OutputFile>,
    pub metrics: Vec<MetricRow>,
    pub facts: BTreeMap<String, serde_json::Value>,
    /// Largest step with a whole checkpoint, if any: progress, which retries count instead of attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_step: Option<u64>,
    /// Version of the program that wrote this.
    pub program: String,
}

/// `result.json` in the task directory: the attempt whose outputs count. Published once: of two copies that both
/// finish, the first wins and the other's outputs are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultPointer {
    pub format: u32,
    pub key: ContentKey,
    pub attempt: u32,
    pub token: Token,
    /// SHA-256 of the attempt's `record.json`.
    pub record_sha256: String,
}
