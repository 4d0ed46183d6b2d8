//! Jobs and their results. Field names are those of `bessemer sandbox batch`.

use crate::bytes::Bytes;
use crate::checker;
use crate::compare::Comparator;
use crate::config::Tier;
use crate::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// One program with everything to try on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The caller's name for it; comes back in the result.
    pub id: String,
    /// A name of [`crate::lang::names`].
    pub language: String,
    /// Source text.
    pub code: Bytes,
    /// What is done with it.
    pub mode: Mode,
    /// How an output is held against the expected one.
    pub comparator: Comparator,
    /// For each test.
    pub limits: Limits,
    /// Wall-clock seconds that a compiler may take; its other limits are fixed.
    pub compile_wall_s: f64,
    /// Files in the working directory.
    pub files: Vec<File>,
    /// Files of the working directory that are wanted back, after the last test.
    pub fetch: Vec<String>,
    /// Do not run the tests behind the first that fails; they are missing from the result, `total` counts them.
    pub stop_on_first_failure: bool,
    /// What the program is allowed.
    pub profile: Profile,
    /// How fresh the process of each test has to be, in mode `stdio`: `Test`, or `Program` where several tests may share
    /// one (Python with expected outputs; whatever does not plainly pass there is run again in a process of its own).
    pub grade: Grade,
}

/// What is done with a program.
#[derive(Debug, Clone, PartialEq)]
pub enum Mode {
    /// Runs it once for each test.
    Stdio {
        /// The tests, in order.
        tests: Vec<StdioTest>,
    },
    /// Calls a function of it with values and compares the values that come back (Python only).
    Function {
        /// Name of the function.
        entry: String,
        /// The calls, in order.
        tests: Vec<Call>,
    },
    /// Runs tests for it in the manner of pytest, in a process of their own: `test_*` functions, `Test*` classes,
    /// `unittest` cases. The program's names are there, and reach it by value (Python only).
    Pytest {
        /// Source of the tests.
        test_code: Bytes,
    },
    /// As `Pytest`, where the whole text is one test, which passes when its end is reached (Python only).
    Script {
        /// Source of the test.
        test_code: Bytes,
    },
    /// Only compiles it: does the text parse and compile? One test comes back.
    Parse,
}

/// stdin and what stdout must be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StdioTest {
    /// What the program reads.
    pub stdin: Bytes,
    /// What it must print; `None`: nothing is compared, exit status 0 passes.
    pub expected: Option<Bytes>,
}

/// Arguments of a call and what must come back.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Positional arguments.
    pub args: Vec<Value>,
    /// The value it must return; see [`Value::matches`].
    pub expected: Value,
}

/// A file of the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Relative path of plain names.
    pub path: String,
    /// Content.
    pub data: Bytes,
}

/// What one test may use.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Wall-clock seconds.
    pub wall_s: f64,
    /// CPU seconds of all processes together.
    pub cpu_s: f64,
    /// MiB of all processes and scratch files together.
    pub memory_mb: u64,
    /// Bytes on stdout, and as many on stderr.
    pub output_bytes: u64,
    /// MiB of all scratch files together; the slot's own size (`Config::scratch_mb`) is the most.
    pub scratch_mb: u64,
    /// Processes and threads.
    pub processes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { wall_s: 5.0, cpu_s: 5.0, memory_mb: 256, output_bytes: 1 << 20, scratch_mb: 64, processes: 32 }
    }
}

impl Limits {
    /// What is wrong with them: a limit of nothing would fail every program, and that would be no verdict on it.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn check(&self) -> Result<(), String> {
        for (name, seconds) in [("wall_s", self.wall_s), ("cpu_s", self.cpu_s)] {
            if !(seconds.is_finite() && seconds > 0.0) {
                return Err(format!("{name} is {seconds}; it must be a number of seconds above 0"));
            }
        }
        let wholes =
            [("memory_mb", self.memory_mb), ("scratch_mb", self.scratch_mb), ("processes", self.processes)];
        match wholes.into_iter().find(|(_, n)| *n == 0) {
            Some((name, _)) => Err(format!("{name} is 0; it must be at least 1")),
            None if self.output_bytes > OUTPUT_MOST => {
                Err(format!("output_bytes is {}; the most is {OUTPUT_MOST}", self.output_bytes))
            }
            None => Ok(()),
        }
    }
}

/// The most of a stream that one test can hand back: it is held in memory here.
const OUTPUT_MOST: u64 = 1 << 30;

/// What a program is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Processes up to the limit, memory summed over them.
    #[default]
    Multi,
    /// One process with one thread; its memory is exact.
    Solo,
    /// As `Multi`, with numpy imported beforehand, from an interpreter that the site names (Python only).
    Numpy,
    /// As `Multi`; tests are run by the real pytest, imported beforehand, from an interpreter that the site names
    /// (mode `pytest` only).
    Pytest,
}

/// How fresh the process of each test is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// A process of its own for each test.
    Test,
    /// One process for the program, all tests in it.
    Program,
    /// One process for the program, which answers calls.
    Call,
}

/// What came of a test or a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Ended inside every limit with status 0, and the output is right.
    Pass,
    /// Ended well, but the output is wrong.
    WrongAnswer,
    /// Non-zero exit status, or a signal of its own doing.
    RuntimeError,
    /// Wall-clock or CPU limit.
    TimeLimit,
    /// Memory limit.
    MemoryLimit,
    /// Output limit.
    OutputLimit,
    /// Did not compile, or does not parse.
    CompileError,
    /// The sandbox failed, or there was nothing to judge by. Never a success, never the program's fault.
    Unscored,
}

/// What came of one test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestResult {
    /// Name of the test, where tests have names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The judgement.
    pub verdict: Verdict,
    /// Why: always when the verdict is `unscored`; in the modes that call the program, also the exception or the
    /// difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether stdout is the expected output, whatever the exit status; `None` when nothing was expected or the
    /// program was killed at a limit.
    #[serde(default)]
    pub matched: Option<bool>,
    /// Exit status, when it left by itself.
    pub exit_code: Option<i32>,
    /// Signal, when it died of one of its own doing.
    pub signal: Option<i32>,
    /// Wall-clock milliseconds of the run itself: waiting for a slot is not in it.
    pub wall_ms: f64,
    /// CPU milliseconds of all its processes.
    pub cpu_ms: f64,
    /// Peak memory, MiB.
    pub memory_peak_mb: f64,
    /// The first `output_bytes` of stdout.
    #[serde(rename = "stdout_b64")]
    pub stdout: Bytes,
    /// The first `output_bytes` of stderr.
    #[serde(rename = "stderr_b64")]
    pub stderr: Bytes,
    /// More was written than came back.
    pub truncated: bool,
}

/// What came of the compiler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compile {
    /// It produced a program.
    pub ok: bool,
    /// Its exit status.
    pub exit_code: Option<i32>,
    /// Its messages.
    #[serde(rename = "output_b64")]
    pub output: Bytes,
    /// The program came from the cache.
    pub cached: bool,
    /// Wall-clock milliseconds.
    pub wall_ms: f64,
}

/// A file that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedFile {
    /// As asked for.
    pub path: String,
    /// Its content, when it was a plain file in the working directory.
    #[serde(rename = "data_b64", default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Bytes>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What came of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// The job's.
    pub id: String,
    /// `pass` when every test passed, and there was one; else the verdict of the first that did not.
    pub verdict: Verdict,
    /// Why, when the verdict is `unscored`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Tests that passed.
    pub passed: usize,
    /// Tests of the job, run or not.
    pub total: usize,
    /// How well the program was isolated.
    pub tier: Tier,
    /// How fresh the process of each test was.
    pub grade: Grade,
    /// The compilation, for languages that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compile: Option<Compile>,
    /// The tests that were run, in order.
    pub tests: Vec<TestResult>,
    /// Files that were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FetchedFile>,
}

impl JobResult {
    /// Every test passed, and there was at least one.
    #[must_use]
    pub fn passed_all(&self) -> bool {
        self.verdict == Verdict::Pass
    }

    pub(crate) fn unscored(job: &Job, tier: Tier, reason: String) -> Self {
        Self {
            id: job.id.clone(),
            verdict: Verdict::Unscored,
            reason: Some(reason),
            passed: 0,
            total: job.total(),
            tier,
            grade: Grade::Test,
            compile: None,
            tests: Vec::new(),
            files: Vec::new(),
        }
    }
}

impl Job {
    /// A Python program, to be run once per test; add tests with [`Job::test`].
    #[must_use]
    pub fn python(id: impl Into<String>, code: impl Into<Bytes>) -> Self {
        Self::stdio(id, "python", code)
    }

    /// A program in any language, to be run once per test.
    #[must_use]
    pub fn stdio(id: impl Into<String>, language: impl Into<String>, code: impl Into<Bytes>) -> Self {
        Self {
            id: id.into(),
            language: language.into(),
            code: code.into(),
            mode: Mode::Stdio { tests: Vec::new() },
            comparator: Comparator::default(),
            limits: Limits::default(),
            compile_wall_s: 60.0,
            files: Vec::new(),
            fetch: Vec::new(),
            stop_on_first_failure: false,
            profile: Profile::default(),
            grade: Grade::Test,
        }
    }

    /// "Does this Python text parse and compile?": verdict `pass` or `compile-error`.
    #[must_use]
    pub fn parses(id: impl Into<String>, code: impl Into<Bytes>) -> Self {
        Self { mode: Mode::Parse, ..Self::python(id, code) }
    }

    /// A Python function called with values; add calls with [`Job::call`].
    #[must_use]
    pub fn function(id: impl Into<String>, code: impl Into<Bytes>, entry: impl Into<String>) -> Self {
        Self { mode: Mode::Function { entry: entry.into(), tests: Vec::new() }, ..Self::python(id, code) }
    }

    /// A Python program and tests for it in the manner of pytest.
    #[must_use]
    pub fn pytest(id: impl Into<String>, code: impl Into<Bytes>, test_code: impl Into<Bytes>) -> Self {
        Self { mode: Mode::Pytest { test_code: test_code.into() }, ..Self::python(id, code) }
    }

    /// Adds a call with the value that it must return. Jobs of another mode are left as they are.
    #[must_use]
    pub fn call(mut self, args: Vec<Value>, expected: impl Into<Value>) -> Self {
        if let Mode::Function { tests, .. } = &mut self.mode {
            tests.push(Call { args, expected: expected.into() });
        }
        self
    }

    /// Adds a test with an expected output.
    #[must_use]
    pub fn test(self, stdin: impl Into<Bytes>, expected: impl Into<Bytes>) -> Self {
        self.with(StdioTest { stdin: stdin.into(), expected: Some(expected.into()) })
    }

    /// Adds a test whose output is only handed back.
    #[must_use]
    pub fn input(self, stdin: impl Into<Bytes>) -> Self {
        self.with(StdioTest { stdin: stdin.into(), expected: None })
    }

    fn with(mut self, test: StdioTest) -> Self {
        match &mut self.mode {
            Mode::Stdio { tests } => tests.push(test),
            other => *other = Mode::Stdio { tests: vec![test] },
        }
        self
    }

    /// It runs a second process that holds the tests, or judges outputs.
    pub(crate) fn needs_tester(&self) -> bool {
        matches!(self.mode, Mode::Pytest { .. } | Mode::Script { .. }) || checker::of(self).is_some()
    }

    /// What makes it impossible to run as it is, found before anything runs.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn check(&self) -> Result<(), String> {
        self.limits.check().map_err(|e| format!("limits: {e}"))?;
        if !(self.compile_wall_s.is_finite() && self.compile_wall_s > 0.0) {
            let s = self.compile_wall_s;
            return Err(format!("compile_wall_s is {s}; it must be a number of seconds above 0"));
        }
        let mut paths = BTreeSet::new();
        for (i, file) in self.files.iter().enumerate() {
            if slot::clean::plain_parts(&file.path).is_none() {
                return Err(format!("files[{i}]: path {:?} is no relative path of plain names", file.path));
            }
            if !paths.insert(&file.path) {
                return Err(format!("files[{i}]: path {:?} is there twice", file.path));
            }
        }
        if let Some(c) = checker::of(self) {
            if !matches!(self.mode, Mode::Stdio { .. }) {
                return Err("comparator: a checker judges stdio tests only".into());
            }
            c.limits.check().map_err(|e| format!("comparator: checker: limits: {e}"))?;
        }
        if let Comparator::Validator(v) = self.comparator {
            v.check().map_err(|e| format!("comparator: validator: {e}"))?;
        }
        if let Comparator::Float { tolerance } = self.comparator
            && !(tolerance.is_finite() && tolerance >= 0.0)
        {
            return Err(format!("comparator: tolerance is {tolerance}; it must be a number from 0 up"));
        }
        Ok(())
    }

    /// Number of tests, as far as it can be known before the run.
    #[must_use]
    pub fn total(&self) -> usize {
        match &self.mode {
            Mode::Stdio { tests } => tests.len(),
            Mode::Function { tests, .. } => tests.len(),
            Mode::Pytest { .. } => 0, // known when they have been collected
            Mode::Parse | Mode::Script { .. } => 1,
        }
    }
}
