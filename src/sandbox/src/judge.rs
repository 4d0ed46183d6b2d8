//! From a job to runs, and from what came of them to verdicts.

use crate::bytes::Bytes;
use crate::calls::{KIND_MAIN, KIND_PARSE};
use crate::checker::{self, Ruling};
use crate::compile::compile;
use crate::compile_cache::CompileCache;
use crate::config::Tier;
use crate::job::{FetchedFile, Grade, Job, JobResult, Limits, Mode, Profile, StdioTest, TestResult, Verdict};
use crate::lang::{self, Language, Toolchain};
use crate::pool::Cancel;
use crate::slot_handle::{Outcome, SlotHandle};
use slot::wire::{End, Fetched, How, PlacedFile, Run, RunLimits};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// The most that all fetched files of a job may have together.
pub(crate) const FETCH_MAX: u64 = 64 << 20;
/// Reason of a job that had no tests.
pub(crate) const NO_TESTS: &str = "no tests, so nothing to judge by";
/// Reason of a job that was not run, or not to its end, because its batch was cancelled.
pub(crate) const CANCELLED: &str = "the batch was cancelled";
/// More than this many seconds is "no limit" to nobody: 12 days.
const LONGEST_S: f64 = 1e6;

/// A number for each program that is put into `/prog` of a slot.
pub(crate) fn next_program() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

pub(crate) fn micros(seconds: f64) -> u64 {
    let seconds = if seconds.is_nan() { 0.0 } else { seconds.clamp(0.0, LONGEST_S) };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..1e12")]
    {
        (seconds * 1e6) as u64
    }
}

pub(crate) fn run_limits(l: &Limits, language: &Language, profile: Profile) -> RunLimits {
    let mib = |n: u64| n.saturating_mul(1 << 20);
    let processes = match profile {
        Profile::Multi | Profile::Numpy | Profile::Pytest => l.processes.max(1),
        Profile::Solo => 1,
    };
    RunLimits {
        wall_us: micros(l.wall_s).max(1),
        cpu_us: micros(l.cpu_s).max(1),
        memory: mib(l.memory_mb),
        address_space: mib(l.memory_mb.saturating_add(language.reserve_mb)),
        output: l.output_bytes,
        file: mib(l.scratch_mb),
        processes,
        stack: mib(language.stack_mb.min(l.memory_mb)),
    }
}

pub(crate) fn exec(argv: &[String], toolchain: &Toolchain, more_env: &[&str]) -> How {
    let env = lang::BASE_ENV.iter().copied().chain(more_env.iter().copied()).map(str::to_owned);
    How::Exec {
        argv: argv.iter().map(|a| a.clone().into_bytes()).collect(),
        env: env.chain(toolchain.env.iter().cloned()).map(String::into_bytes).collect(),
    }
}

pub(crate) fn work_files(job: &Job) -> Vec<PlacedFile> {
    job.files
        .iter()
        .map(|f| PlacedFile { path: f.path.clone(), executable: false, data: f.data.0.clone() })
        .collect()
}

/// Runs one job on one slot. An error means that the slot has failed and must be replaced.
pub(crate) struct Judge<'a> {
    pub slot: &'a mut SlotHandle,
    /// The slot for tests, in the modes that need one.
    pub tester: Option<&'a mut SlotHandle>,
    pub tier: Tier,
    pub language: &'static Language,
    pub toolchain: &'a Toolchain,
    /// That of the job's checker.
    pub checker: Option<(&'static Language, &'a Toolchain)>,
    pub cache: Option<&'a CompileCache>,
    /// The batch is over: tests that have not begun do not begin.
    pub cancel: &'a Cancel,
}

impl Judge<'_> {
    pub fn job(&mut self, job: &Job) -> JobResult {
        let mut result = JobResult {
            id: job.id.clone(),
            verdict: Verdict::Unscored,
            reason: None,
            passed: 0,
            total: job.total(),
            tier: self.tier,
            grade: Grade::Test,
            compile: None,
            tests: Vec::new(),
            files: Vec::new(),
        };
        let end = match &job.mode {
            Mode::Stdio { tests } => self.stdio(job, tests, &mut result),
            Mode::Parse => self.parse(job, &mut result),
            Mode::Function { .. } | Mode::Pytest { .. } | Mode::Script { .. }
                if self.language.name != "python" =>
            {
                result.reason = Some(format!("{} has the mode stdio only", self.language.name));
                Ok(())
            }
            Mode::Function { entry, tests } => self.function(job, entry, tests, &mut result),
            Mode::Pytest { test_code } => self.tests(job, test_code, false, &mut result),
            Mode::Script { test_code } => self.tests(job, test_code, true, &mut result),
        };
        if self.cancel.is_cancelled() {
            return JobResult::unscored(job, self.tier, CANCELLED.into()); // what was cut short is no verdict
        }
        if let Err(e) = end {
            result.reason = Some(format!("the sandbox slot failed: {e}"));
            return result; // verdict: unscored, whatever had come before
        }
        settle(&mut result);
        result
    }

    fn stdio(&mut self, job: &Job, tests: &[StdioTest], result: &mut JobResult) -> io::Result<()> {
        let source =
            PlacedFile { path: self.language.source.to_owned(), executable: false, data: job.code.0.clone() };
        let program_files = match &self.toolchain.compile {
            None => vec![source],
            Some(argv) => match self.compile(job, source, argv, result)? {
                Some(binary) => {
                    vec![PlacedFile { path: lang::PROGRAM.to_owned(), executable: true, data: binary }]
                }
                None => return Ok(()),
            },
        };
        // Made ready by the first output that it is to judge.
        let mut checker: Option<Result<checker::Ready<'_>, String>> = None;
        let mut tester = self.tester.take();
        let mut run = Run {
            how: self.how(KIND_MAIN, &self.toolchain.run),
            limits: run_limits(&job.limits, self.language, job.profile),
            channel: false,
            spawns: false,
            program: next_program(),
            program_files,
            work_files: work_files(job),
            fetch: Vec::new(),
            fetch_max: FETCH_MAX,
        };
        let mut shared = self.in_one_process(job, tests, &run)?;
        if shared.iter().any(Option::is_some) {
            result.grade = Grade::Program;
        }
        for (i, test) in tests.iter().enumerate() {
            if let Some(passed) = shared.get_mut(i).and_then(Option::take) {
                result.tests.push(passed);
                continue;
            }
            if i + 1 == tests.len() {
                run.fetch.clone_from(&job.fetch);
            }
            if self.cancel.is_cancelled() {
                break;
            }
            let outcome = self.slot.run(&run, &test.stdin)?;
            let mut judged = measured_stdio(outcome, &mut result.files, &run.fetch);
            if let Some(expected) = output_to_judge(&judged, test) {
                match checker::of(job) {
                    None => judged.matched = Some(job.comparator.matches(&judged.stdout, expected)),
                    Some(c) => {
                        let ready = checker.get_or_insert_with(|| {
                            let slot = tester.take().ok_or("no slot for the checker")?;
                            let tools = self.checker.ok_or("nothing runs the checker's language")?;
                            checker::Ready::new(c, slot, tools, self.cache, job.compile_wall_s)
                        });
                        hold_by_checker(&mut judged, ready, test, expected);
                    }
                }
            }
            settle_test(&mut judged, self.language);
            let failed = judged.verdict != Verdict::Pass;
            result.tests.push(judged);
            if failed && job.stop_on_first_failure {
                break;
            }
        }
        Ok(())
    }

    /// A fork of the warm interpreter for Python, if there is one; else a program of its own.
    fn how(&self, kind: u32, argv: &[String]) -> How {
        if self.language.name == "python" && !self.slot.hello.interpreter.is_empty() {
            How::Python { kind }
        } else {
            exec(argv, self.toolchain, &[])
        }
    }

    fn compile(
        &mut self,
        job: &Job,
        source: PlacedFile,
        argv: &[String],
        result: &mut JobResult,
    ) -> io::Result<Option<Vec<u8>>> {
        let (language, tools) = (self.language, self.toolchain);
        let beside = work_files(job);
        let built =
            compile(self.slot, self.cache, language, tools, argv, source, beside, job.compile_wall_s)?;
        result.reason = built.why;
        if built.binary.is_none() && !built.failed {
            result.verdict = Verdict::CompileError;
        }
        result.compile = Some(built.compile);
        Ok(built.binary)
    }

    fn parse(&mut self, job: &Job, result: &mut JobResult) -> io::Result<()> {
        let mut argv = self.toolchain.run.clone();
        argv.pop(); // the program's path
        argv.extend(["-I", "-S", "-c", lang::PARSE_SCRIPT].map(str::to_owned));
        let run = Run {
            how: self.how(KIND_PARSE, &argv),
            limits: run_limits(&job.limits, self.language, Profile::Solo),
            channel: false,
            spawns: false,
            program: 0,
            program_files: Vec::new(),
            work_files: Vec::new(),
            fetch: Vec::new(),
            fetch_max: 0,
        };
        let outcome = self.slot.run(&run, &job.code)?;
        let mut test = measured(outcome);
        // Status 1 is the script's own word. A crash of the compiler itself on this text also means "not compilable".
        test.verdict = match test.verdict {
            Verdict::Pass => Verdict::Pass,
            Verdict::RuntimeError | Verdict::MemoryLimit => Verdict::CompileError,
            other => other,
        };
        result.tests.push(test);
        Ok(())
    }
}

pub(crate) fn ms(us: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "microseconds of a run stay far below 2^52")]
    {
        us as f64 / 1000.0
    }
}

/// A result with the verdict that the end of the run alone gives.
pub(crate) fn measured(out: Outcome) -> TestResult {
    let report = out.report;
    let (verdict, exit_code, signal, reason) = match report.end {
        End::Exited(0) => (Verdict::Pass, Some(0), None, None),
        End::Exited(n) => (Verdict::RuntimeError, Some(i32::from(n)), None, None),
        End::Signaled(n) => (Verdict::RuntimeError, None, Some(i32::from(n)), None),
        End::Wall | End::Cpu => (Verdict::TimeLimit, None, None, None),
        End::Memory => (Verdict::MemoryLimit, None, None, None),
        End::Output => (Verdict::OutputLimit, None, None, None),
        // A fork bomb where the kernel cannot refuse the fork itself.
        End::Processes => (Verdict::RuntimeError, None, Some(libc::SIGKILL), None),
        End::Failed(why) => (Verdict::Unscored, None, None, Some(why)),
    };
    #[allow(clippy::cast_precision_loss, reason = "kibibytes of a run stay far below 2^52")]
    let memory_peak_mb = report.peak_kb as f64 / 1024.0;
    TestResult {
        name: None,
        verdict,
        reason,
        matched: None,
        exit_code,
        signal,
        wall_ms: ms(report.wall_us),
        cpu_ms: ms(report.cpu_us),
        memory_peak_mb,
        stdout: Bytes(out.stdout),
        stderr: Bytes(out.stderr),
        truncated: out.truncated,
    }
}

/// What the run gave, without a judgement of its output.
fn measured_stdio(mut out: Outcome, files: &mut Vec<FetchedFile>, asked: &[String]) -> TestResult {
    for (path, got) in asked.iter().zip(std::mem::take(&mut out.report.fetched)) {
        let (data, error) = match got {
            Fetched::Data(d) => (Some(Bytes(d)), None),
            Fetched::Refused(why) => (None, Some(why)),
        };
        files.push(FetchedFile { path: path.clone(), data, error });
    }
    measured(out)
}

/// What the output is to be held against: nothing where the program was killed at a limit.
fn output_to_judge<'a>(t: &TestResult, test: &'a StdioTest) -> Option<&'a [u8]> {
    let ended = matches!(t.verdict, Verdict::Pass | Verdict::RuntimeError);
    test.expected.as_deref().filter(|_| ended && !t.truncated)
}

/// A checker that does not judge leaves a program that ended well unscored, and one that failed as it is.
fn hold_by_checker(
    t: &mut TestResult,
    checker: &mut Result<checker::Ready<'_>, String>,
    test: &StdioTest,
    expected: &[u8],
) {
    let ruling = match checker {
        Ok(ready) => ready.ask(test, &t.stdout, expected),
        Err(why) => Ruling::None(why.clone()),
    };
    match ruling {
        Ruling::Right => t.matched = Some(true),
        Ruling::Wrong(said) => {
            t.matched = Some(false);
            t.reason = (!said.is_empty()).then(|| format!("the checker: {said}"));
        }
        Ruling::None(why) => {
            if t.verdict == Verdict::Pass {
                t.verdict = Verdict::Unscored;
            }
            t.reason = Some(why);
        }
    }
}

/// The verdict from the end and the match.
fn settle_test(t: &mut TestResult, language: &Language) {
    match t.verdict {
        Verdict::Pass if t.matched == Some(false) => t.verdict = Verdict::WrongAnswer,
        Verdict::RuntimeError if language.name == "python" => t.verdict = python_failure(t),
        _ => {}
    }
}

/// A refused allocation is an exception in Python, so the kernel's limit shows as an ordinary traceback.
fn python_failure(t: &TestResult) -> Verdict {
    if t.exit_code != Some(1) {
        return Verdict::RuntimeError;
    }
    let tail = &t.stderr[t.stderr.len().saturating_sub(4096)..];
    let text = String::from_utf8_lossy(tail);
    let last = text.trim_end().lines().last().unwrap_or_default();
    if last == "MemoryError" || last.starts_with("MemoryError:") {
        Verdict::MemoryLimit
    } else if lang::is_syntax_error(tail) {
        Verdict::CompileError
    } else {
        Verdict::RuntimeError
    }
}

/// The verdict of the whole job from those of its tests.
fn settle(result: &mut JobResult) {
    result.passed = result.tests.iter().filter(|t| t.verdict == Verdict::Pass).count();
    if result.verdict == Verdict::CompileError || result.reason.is_some() {
        return;
    }
    match result.tests.iter().find(|t| t.verdict != Verdict::Pass) {
        Some(first) => {
            result.verdict = first.verdict;
            result.reason.clone_from(&first.reason);
        }
        None if result.total == 0 => result.reason = Some(NO_TESTS.into()),
        None if result.passed == result.total => result.verdict = Verdict::Pass,
        None => result.reason = Some("not every test was run".into()),
    }
}
