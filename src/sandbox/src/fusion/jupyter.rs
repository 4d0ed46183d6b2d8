//! SandboxFusion's `/run_jupyter`: cells that share one namespace.
//!
//! Differences on purpose: there is no Jupyter kernel, so a cell is plain Python (no `%magic`, no `!command`, no plots);
//! `cell_timeout` holds (it is ignored there); cells that ended before a time-out come back.

use super::{CommandResult, CommandStatus, DEFAULT_MEMORY_MB, RunStatus, command, default_limits};
use crate::bytes::Bytes;
use crate::job::{File, Job, JobResult, Limits, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// What runs the cells.
const DRIVER: &str = include_str!("notebook.py");

/// The one kernel.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub enum Kernel {
    /// The sandbox's Python.
    #[default]
    #[serde(rename = "python3")]
    Python3,
}

/// Body of `POST /run_jupyter`.
#[derive(Debug, Clone, Deserialize)]
pub struct RunJupyter {
    /// Source texts.
    pub cells: Vec<String>,
    /// Seconds for each cell; 0: none but the total.
    #[serde(default)]
    pub cell_timeout: f64,
    /// Seconds for all cells.
    #[serde(default = "total")]
    pub total_timeout: f64,
    /// MiB; -1: none given.
    #[serde(default = "super::none_given", rename = "memory_limit_MB")]
    pub memory_limit_mb: i64,
    /// `python3`.
    #[serde(default)]
    pub kernel: Kernel,
    /// Path to content in base64; null is an empty file.
    #[serde(default)]
    pub files: BTreeMap<String, Option<Bytes>>,
    /// Paths that are wanted back.
    #[serde(default)]
    pub fetch_files: Vec<String>,
}

fn total() -> f64 {
    45.0
}

/// What came of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellResult {
    /// What it printed.
    pub stdout: String,
    /// What it printed on stderr.
    pub stderr: String,
    /// What it displayed: media type to data.
    pub display: Vec<BTreeMap<String, Json>>,
    /// `ename`, `evalue` and `traceback` of the exception that ended it.
    pub error: Vec<BTreeMap<String, Json>>,
}

/// Answer of `POST /run_jupyter`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunJupyterResponse {
    /// `Success`: every cell was run, whatever came of it.
    pub status: RunStatus,
    /// What went wrong, with `SandboxError`.
    pub message: String,
    /// The process that ran the cells.
    pub driver: Option<CommandResult>,
    /// One for each cell that ended.
    pub cells: Vec<CellResult>,
    /// Always null: there are no pods.
    pub executor_pod_name: Option<String>,
    /// Path to content in base64, for those that were there.
    pub files: BTreeMap<String, Bytes>,
}

impl RunJupyter {
    /// The job that runs the cells, and how many there are.
    #[must_use]
    pub fn into_job(self) -> (Job, usize) {
        let memory_mb =
            u64::try_from(self.memory_limit_mb).ok().filter(|n| *n > 0).unwrap_or(DEFAULT_MEMORY_MB);
        let s = self.total_timeout;
        let limits = Limits { wall_s: s, cpu_s: s, memory_mb, ..default_limits() };
        let count = self.cells.len();
        let input = serde_json::json!({"cells": self.cells, "cell_timeout": self.cell_timeout.max(0.0)});
        let files = self.files.into_iter();
        let files = files.map(|(path, data)| File { path, data: data.unwrap_or_default() }).collect();
        let job = Job::python("run_jupyter", DRIVER).input(input.to_string());
        (Job { limits, files, fetch: self.fetch_files, ..job }, count)
    }
}

impl RunJupyterResponse {
    /// From what came of the job with this many cells.
    #[must_use]
    pub fn new(r: &JobResult, count: usize) -> Self {
        let Some(test) = r.tests.first().filter(|_| r.verdict != Verdict::Unscored) else {
            return Self {
                status: RunStatus::SandboxError,
                message: r.reason.clone().unwrap_or_default(),
                driver: None,
                cells: Vec::new(),
                executor_pod_name: None,
                files: BTreeMap::new(),
            };
        };
        // A cell can write anything to this stream: what is no report is no cell, and then some are missing.
        let lines = test.stdout.split(|b| *b == b'\n').filter(|l| !l.is_empty());
        let cells: Vec<CellResult> =
            lines.map_while(|l| serde_json::from_slice(l).ok()).take(count).collect();
        let driver = CommandResult { stdout: Some(String::new()), ..command(test) };
        let all = cells.len() == count && driver.status == CommandStatus::Finished;
        Self {
            status: if all { RunStatus::Success } else { RunStatus::Failed },
            message: String::new(),
            driver: Some(driver),
            cells,
            executor_pod_name: None,
            files: r.files.iter().filter_map(|f| Some((f.path.clone(), f.data.clone()?))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_defaults_of_sandbox_fusion_and_other_kernels_are_refused() {
        let read = |text: &str| serde_json::from_str::<RunJupyter>(text);
        let (job, count) = read(r#"{"cells":["a = 1","a"]}"#).expect("a request").into_job();
        assert_eq!((count, job.limits.wall_s, job.limits.memory_mb), (2, 45.0, DEFAULT_MEMORY_MB));
        assert!(read(r#"{"cells":[],"kernel":"ir"}"#).is_err());
        assert!(read(r#"{"kernel":"python3"}"#).is_err());
    }
}
