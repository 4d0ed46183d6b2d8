//! SandboxFusion's `/run_code`, `/run_jupyter`, `/submit` and what belongs to it, field for field, so that its clients (verl,
//! PurpCode) can talk to us unchanged.
//!
//! Differences on purpose: `SandboxError` also stands for a language that is not here; the network, the host's files and
//! its environment are not reachable; a memory limit of -1 means [`DEFAULT_MEMORY_MB`]; output beyond [`OUTPUT_BYTES`] ends the
//! program instead of being cut in silence.

mod jupyter;
mod prompts;
mod submit;

pub use jupyter::{CellResult, RunJupyter, RunJupyterResponse};
pub use prompts::{GetPromptById, GetPrompts, Prompt};
pub use submit::{EvalResult, EvalTestCase, StdioCase, Submission, Submit, TestConfig};

use crate::bytes::Bytes;
use crate::job::{File, Job, JobResult, Limits, Mode, TestResult, Verdict};
use crate::judge::NO_TESTS;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a program may use when the request names no limit, MiB.
pub const DEFAULT_MEMORY_MB: u64 = 1024;
/// What a program may print, bytes per stream.
pub const OUTPUT_BYTES: u64 = 8 << 20;

/// Body of `POST /run_code`.
#[derive(Debug, Clone, Deserialize)]
pub struct RunCode {
    /// Source text.
    pub code: String,
    /// SandboxFusion's name of the language.
    pub language: String,
    /// What the program reads.
    #[serde(default)]
    pub stdin: Option<String>,
    /// Seconds.
    #[serde(default = "ten")]
    pub compile_timeout: f64,
    /// Seconds.
    #[serde(default = "ten")]
    pub run_timeout: f64,
    /// MiB; -1: none given.
    #[serde(default = "none_given", rename = "memory_limit_MB")]
    pub memory_limit_mb: i64,
    /// Path to content in base64; null is an empty file.
    #[serde(default)]
    pub files: BTreeMap<String, Option<Bytes>>,
    /// Paths that are wanted back.
    #[serde(default)]
    pub fetch_files: Vec<String>,
    /// Arguments for pytest: refused rather than ignored, see [`RunCode::refusal`].
    #[serde(default)]
    pub args: Vec<String>,
}

/// What every program may use, beside what the request says.
fn default_limits() -> Limits {
    Limits { memory_mb: DEFAULT_MEMORY_MB, output_bytes: OUTPUT_BYTES, ..Limits::default() }
}

fn ten() -> f64 {
    10.0
}

fn none_given() -> i64 {
    -1
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum CommandStatus {
    /// By itself, with whatever status.
    Finished,
    /// It could not be run to its end.
    Error,
    /// Killed at its time limit.
    TimeLimitExceeded,
}

/// One command: the compiler or the program.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CommandResult {
    /// How it ended.
    pub status: CommandStatus,
    /// Seconds.
    pub execution_time: Option<f64>,
    /// Exit status; 128 + n or -n is a shell's habit, ours is -n for signal n, as Python's `subprocess` says it.
    pub return_code: Option<i32>,
    /// What it printed, as text.
    pub stdout: Option<String>,
    /// What it printed on stderr, as text.
    pub stderr: Option<String>,
}

/// The whole answer's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum RunStatus {
    /// Everything exited with status 0.
    Success,
    /// A non-zero status, or a limit.
    Failed,
    /// Our own fault, or a request that we cannot serve.
    SandboxError,
}

/// Answer of `POST /run_code`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunCodeResponse {
    /// See [`RunStatus`].
    pub status: RunStatus,
    /// What went wrong, with `SandboxError`.
    pub message: String,
    /// The compiler, if the language has one.
    pub compile_result: Option<CommandResult>,
    /// The program, if it was run.
    pub run_result: Option<CommandResult>,
    /// Always null: there are no pods.
    pub executor_pod_name: Option<String>,
    /// Path to content in base64, for those that were there.
    pub files: BTreeMap<String, Bytes>,
}

impl RunCode {
    /// Why it cannot be served, if it asks for something that we would have to ignore.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let asked = self.language == "pytest" && !self.args.is_empty();
        asked.then(|| "args: pytest's command-line arguments are not supported; leave them out".into())
    }

    /// The job that does what the request asks for.
    #[must_use]
    pub fn into_job(self) -> Job {
        let memory_mb =
            u64::try_from(self.memory_limit_mb).ok().filter(|n| *n > 0).unwrap_or(DEFAULT_MEMORY_MB);
        let limits =
            Limits { wall_s: self.run_timeout, cpu_s: self.run_timeout, memory_mb, ..default_limits() };
        let files = self
            .files
            .into_iter()
            .map(|(path, data)| File { path, data: data.unwrap_or_default() })
            .collect();
        let job = if self.language == "pytest" {
            // Solution and tests come glued together there, so the tests' process runs both.
            Job { mode: Mode::Pytest { test_code: self.code.into() }, ..Job::python("run_code", "") }
        } else {
            Job::stdio("run_code", self.language, self.code).input(self.stdin.unwrap_or_default())
        };
        Job { limits, compile_wall_s: self.compile_timeout, files, fetch: self.fetch_files, ..job }
    }
}

fn command(t: &TestResult) -> CommandResult {
    let status = match t.verdict {
        Verdict::TimeLimit => CommandStatus::TimeLimitExceeded,
        Verdict::MemoryLimit | Verdict::OutputLimit if t.exit_code.is_none() => CommandStatus::Error,
        _ => CommandStatus::Finished,
    };
    CommandResult {
        status,
        execution_time: Some(t.wall_ms / 1000.0),
        return_code: t.exit_code.or(t.signal.map(|n| -n)),
        stdout: Some(t.stdout.lossy().into_owned()),
        stderr: Some(t.stderr.lossy().into_owned()),
    }
}

/// Several tests (pytest) as the one command that SandboxFusion would have run.
fn summary(r: &JobResult) -> CommandResult {
    let mut text = String::new();
    for t in &r.tests {
        let word = if t.verdict == Verdict::Pass { "PASSED" } else { "FAILED" };
        let name = t.name.as_deref().unwrap_or("tests");
        text.push_str(&format!("{name} {word} {}\n", t.reason.as_deref().unwrap_or_default()));
    }
    text.push_str(&format!("{} passed of {}\n", r.passed, r.total));
    let late = r.tests.iter().any(|t| t.verdict == Verdict::TimeLimit);
    CommandResult {
        status: if late { CommandStatus::TimeLimitExceeded } else { CommandStatus::Finished },
        execution_time: Some(r.tests.iter().map(|t| t.wall_ms).sum::<f64>() / 1000.0),
        // pytest's own: 1 tests failed, 5 no tests were collected
        return_code: (!late)
            .then_some(i32::from(r.verdict != Verdict::Pass) * if r.total == 0 { 5 } else { 1 }),
        stdout: Some(text),
        stderr: Some(String::new()),
    }
}

impl RunCodeResponse {
    /// A failure of ours.
    #[must_use]
    pub fn error(message: String) -> Self {
        Self {
            status: RunStatus::SandboxError,
            message,
            compile_result: None,
            run_result: None,
            executor_pod_name: None,
            files: BTreeMap::new(),
        }
    }

    /// From what came of the job.
    #[must_use]
    pub fn new(r: &JobResult, pytest: bool) -> Self {
        // In a glued pytest file the program itself can end the tests' process: that is its failure, not ours.
        let judged = pytest && (!r.tests.is_empty() || r.total == 0 && r.reason.as_deref() == Some(NO_TESTS));
        if r.verdict == Verdict::Unscored && !judged {
            return Self::error(r.reason.clone().unwrap_or_default());
        }
        if !pytest {
            return Self::of_test(r, r.tests.first());
        }
        Self::of_commands(r, Some(summary(r)))
    }

    /// Of one test of a job: what a request of its own for that test would have given.
    pub(crate) fn of_test(r: &JobResult, test: Option<&TestResult>) -> Self {
        Self::of_commands(r, test.map(command))
    }

    fn of_commands(r: &JobResult, run_result: Option<CommandResult>) -> Self {
        let compile_result = r.compile.as_ref().map(|c| CommandResult {
            status: match c.exit_code {
                Some(_) => CommandStatus::Finished,
                None => CommandStatus::TimeLimitExceeded,
            },
            execution_time: Some(c.wall_ms / 1000.0),
            return_code: c.exit_code,
            stdout: Some(String::new()),
            stderr: Some(c.output.lossy().into_owned()),
        });
        let well = |c: &CommandResult| c.status == CommandStatus::Finished && c.return_code == Some(0);
        let success = compile_result.as_ref().is_none_or(well) && run_result.as_ref().is_some_and(well);
        Self {
            status: if success { RunStatus::Success } else { RunStatus::Failed },
            message: String::new(),
            compile_result,
            run_result,
            executor_pod_name: None,
            files: r.files.iter().filter_map(|f| Some((f.path.clone(), f.data.clone()?))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_verl_is_read_and_its_limits_hold() {
        let body = r#"{"code":"print(1)","stdin":"x","compile_timeout":5,"run_timeout":2.5,"memory_limit_MB":512,
            "language":"python","files":{},"fetch_files":[]}"#;
        let job = serde_json::from_str::<RunCode>(body).expect("a request").into_job();
        assert_eq!((job.limits.wall_s, job.limits.memory_mb, job.compile_wall_s), (2.5, 512, 5.0));
        assert!(matches!(job.mode, Mode::Stdio { ref tests } if tests[0].expected.is_none()));
        let least: RunCode =
            serde_json::from_str(r#"{"code":"","language":"cpp","timeout":3}"#).expect("a request");
        assert_eq!((least.run_timeout, least.memory_limit_mb), (10.0, -1));
    }

    #[test]
    fn an_answer_has_the_fields_that_clients_look_at() {
        let v = serde_json::to_value(RunCodeResponse::error("x".into())).expect("JSON");
        let keys: Vec<_> = v.as_object().expect("an object").keys().cloned().collect();
        assert_eq!(keys, ["status", "message", "compile_result", "run_result", "executor_pod_name", "files"]);
        assert_eq!(v["status"], "SandboxError");
    }
}
