//! The sandbox as the oracle sees it, and its results in the oracle's words.

use crate::credit::{Execution, TestRun};
use corpus::Problem;
use sandbox::{Job, JobResult, Sandbox, TestResult, Verdict};

/// Something that runs jobs: the sandbox, or a stand-in of a test.
pub trait Runner: Send + Sync {
    /// Part of every cached verdict's key: another interpreter may give other verdicts.
    fn identity(&self) -> String;

    /// One result per job, in order.
    fn run(&self, jobs: &[Job]) -> Vec<JobResult>;
}

impl Runner for Sandbox {
    fn identity(&self) -> String {
        let python = self.languages().into_iter().find(|(name, _)| *name == "python");
        let version = python.and_then(|(_, found)| found.ok()).unwrap_or_else(|| "no python".to_owned());
        format!("sandbox {} {version} tier {}", env!("CARGO_PKG_VERSION"), self.tier())
    }

    fn run(&self, jobs: &[Job]) -> Vec<JobResult> {
        self.run_batch(jobs)
    }
}

/// What a job's result says about the program.
///
/// # Errors
/// The reason why it says nothing: the sandbox failed on some test, or did not run every test.
pub fn execution(result: &JobResult, problem: &Problem) -> Result<Execution, String> {
    if let Some(test) = result.tests.iter().find(|t| t.verdict == Verdict::Unscored) {
        return Err(test.reason.clone().unwrap_or_else(|| "the sandbox gave no reason".to_owned()));
    }
    if result.verdict == Verdict::CompileError
        || result.tests.iter().any(|t| t.verdict == Verdict::CompileError)
    {
        return Ok(Execution::invalid());
    }
    if result.tests.len() != problem.tests.len() {
        let why = result.reason.clone().unwrap_or_default();
        return Err(format!("{} of {} tests were run {why}", result.tests.len(), problem.tests.len()));
    }
    Ok(Execution {
        parses: true,
        tests: result.tests.iter().map(test_run).collect(),
        constant: is_constant(result.tests.iter().map(|t| &t.stdout[..]), problem),
        run_ms: result.tests.iter().map(|t| t.wall_ms).sum(),
    })
}

/// What one run from stdin to stdout showed.
pub(crate) fn test_run(t: &TestResult) -> TestRun {
    let stopped = matches!(t.verdict, Verdict::TimeLimit | Verdict::MemoryLimit | Verdict::OutputLimit);
    TestRun {
        exit_ok: !stopped && t.exit_code == Some(0),
        printed: t.verdict != Verdict::TimeLimit && t.stdout.iter().any(|b| !b.is_ascii_whitespace()),
        matched: !stopped && t.matched == Some(true),
    }
}

/// The same non-blank output in every test of a problem whose expected outputs differ.
pub(crate) fn is_constant<'a>(mut outputs: impl Iterator<Item = &'a [u8]>, problem: &Problem) -> bool {
    let Some(first) = outputs.next() else { return false };
    let answers_differ = problem.tests.iter().any(|t| t.expected.trim() != problem.tests[0].expected.trim());
    answers_differ && first.iter().any(|b| !b.is_ascii_whitespace()) && outputs.all(|o| o == first)
}

/// Whether the same program would be judged the same next time: a run that was stopped for time may end on a quieter
/// machine, so it is not remembered beyond this process.
pub(crate) fn is_repeatable(result: &JobResult) -> bool {
    result.tests.iter().all(|t| t.verdict != Verdict::TimeLimit)
}
