//! The modes that call a program: `function`, `pytest`, `script`.
//!
//! What is expected stays here (function mode), or in a process that has never seen the program (the others). An answer
//! that does not come, that comes twice, or that is no value of a builtin type is not a pass.

use crate::bytes::Bytes;
use crate::calls::{Brief, FRAME_MAX, Heard, Part, Session};
use crate::compare::Comparator;
use crate::job::{Call, Grade, Job, JobResult, Profile, TestResult, Verdict};
use crate::judge::{Judge, measured};
use crate::slot_handle::Outcome;
use crate::value::Value;
use slot::wire::End;
use std::io;
use std::time::{Duration, Instant};

fn text(s: &str) -> Value {
    Value::Str(s.as_bytes().to_vec())
}

fn as_text(v: Option<&Value>) -> String {
    match v {
        Some(Value::Str(s)) => String::from_utf8_lossy(s).into_owned(),
        other => format!("{other:?}"),
    }
}

fn items(v: &Value) -> &[Value] {
    match v {
        Value::List(items) | Value::Tuple(items) => items,
        _ => &[],
    }
}

/// `[type, base, text]` of an exception.
fn exception(v: Option<&Value>) -> String {
    let parts = v.map(items).unwrap_or_default();
    format!("{}: {}", as_text(parts.first()), as_text(parts.get(2)))
}

fn outcome(verdict: Verdict, reason: Option<String>, since: Instant) -> TestResult {
    TestResult {
        name: None,
        verdict,
        reason,
        matched: None,
        exit_code: None,
        signal: None,
        wall_ms: since.elapsed().as_secs_f64() * 1000.0,
        cpu_ms: 0.0,
        memory_peak_mb: 0.0,
        stdout: Bytes::default(),
        stderr: Bytes::default(),
        truncated: false,
    }
}

/// What the process as a whole used goes with its last test.
fn charge(result: &mut JobResult, out: Outcome) {
    if let Some(last) = result.tests.last_mut() {
        let whole = measured(out);
        last.cpu_ms = whole.cpu_ms;
        last.memory_peak_mb = whole.memory_peak_mb;
        (last.stdout, last.stderr, last.truncated) = (whole.stdout, whole.stderr, whole.truncated);
    }
}

/// How a test is judged whose process has ended without an answer.
fn death(out: &Outcome) -> (Verdict, String) {
    match &out.report.end {
        End::Exited(n) => {
            (Verdict::RuntimeError, format!("the program left with status {n} instead of answering"))
        }
        End::Signaled(n) => (Verdict::RuntimeError, format!("the program died of signal {n}")),
        End::Wall | End::Cpu => (Verdict::TimeLimit, "time limit".into()),
        End::Memory => (Verdict::MemoryLimit, "memory limit".into()),
        End::Output => (Verdict::OutputLimit, "output limit".into()),
        End::Processes => (Verdict::RuntimeError, "too many processes".into()),
        End::Failed(why) => (Verdict::Unscored, why.clone()),
    }
}

/// How the tests of a program are judged that did not get ready: by what it said, else by its end.
fn not_ready(loaded: Option<Loaded>, out: &Outcome) -> (Verdict, String) {
    match loaded {
        Some(Loaded::Not(verdict, why)) => (verdict, why),
        _ => death(out),
    }
}

fn too_large(what: &str) -> String {
    format!("{what} is larger than {} MiB, the most that may cross the border", FRAME_MAX >> 20)
}

/// What loading the program gave.
enum Loaded {
    /// Its names, each with "callable" or "value".
    Ready(Value),
    /// It cannot be called; the verdict of every test.
    Not(Verdict, String),
}

fn load(session: &mut Session<'_>, wait: Duration) -> Option<Loaded> {
    match session.hear(wait) {
        Heard::Value(v) => {
            let parts = items(&v);
            Some(match (as_text(parts.first()).as_str(), parts.get(1)) {
                ("loaded", Some(names)) => Loaded::Ready(names.clone()),
                ("syntax", why) => Loaded::Not(Verdict::CompileError, as_text(why)),
                ("failed", why) => {
                    let why = exception(why);
                    let memory = why.starts_with("MemoryError");
                    Loaded::Not(if memory { Verdict::MemoryLimit } else { Verdict::RuntimeError }, why)
                }
                _ => Loaded::Not(Verdict::RuntimeError, "the program broke its channel".into()),
            })
        }
        Heard::Late => Some(Loaded::Not(Verdict::TimeLimit, "loading the program took too long".into())),
        Heard::TooLarge => Some(Loaded::Not(Verdict::OutputLimit, too_large("the list of its names"))),
        Heard::Gone => None,
    }
}

impl Judge<'_> {
    pub(crate) fn function(
        &mut self,
        job: &Job,
        entry: &str,
        tests: &[Call],
        result: &mut JobResult,
    ) -> io::Result<()> {
        result.grade = Grade::Call;
        let tolerance = if let Comparator::Float { tolerance } = job.comparator { tolerance } else { 0.0 };
        let wait = Duration::from_secs_f64(job.limits.wall_s.clamp(0.0, 1e6));
        // After a crash or a time-out a new process goes on with the next test.
        while result.tests.len() < tests.len() && !self.cancel.is_cancelled() {
            let left = &tests[result.tests.len()..];
            let brief = Brief { part: Part::Calls, source: &job.code, tests: left.len() };
            let mut s = Session::open(self.slot, job, self.language, self.toolchain, &brief)?;
            let since = Instant::now();
            let loaded = load(&mut s, Session::load_time(&job.limits));
            if !matches!(loaded, Some(Loaded::Ready(_))) {
                let out = s.close(loaded.is_some())?;
                let (verdict, why) = not_ready(loaded, &out);
                // It would not load for the other tests either.
                result.tests.push(outcome(verdict, Some(why), since));
                charge(result, out);
                return Ok(());
            }
            let mut alive = true;
            for (number, test) in (1..).zip(left) {
                let (answer, goes_on) = one_call(&mut s, entry, number, test, tolerance, wait);
                let failed = answer.verdict != Verdict::Pass;
                result.tests.push(answer);
                if failed && job.stop_on_first_failure {
                    let out = s.close(true)?;
                    charge(result, out);
                    return Ok(());
                }
                if !goes_on {
                    alive = false;
                    break;
                }
            }
            let unasked = alive && s.has_more();
            // One that has not ended by itself, and waits for us or goes on.
            let hangs = |t: &TestResult| matches!(t.verdict, Verdict::TimeLimit | Verdict::OutputLimit);
            let out = s.close(alive || result.tests.last().is_some_and(hangs))?;
            if let Some(last) = result.tests.last_mut() {
                if unasked && last.verdict == Verdict::Pass {
                    (last.verdict, last.reason) =
                        (Verdict::RuntimeError, Some("the program answered more than it was asked".into()));
                } else if last.verdict == Verdict::Unscored {
                    let (verdict, why) = death(&out);
                    (last.verdict, last.reason) = (verdict, Some(why));
                }
            }
            charge(result, out);
        }
        Ok(())
    }

    /// The program in one slot, its tests in another, and us in between.
    pub(crate) fn tests(
        &mut self,
        job: &Job,
        test_code: &[u8],
        script: bool,
        result: &mut JobResult,
    ) -> io::Result<()> {
        result.grade = Grade::Program;
        let Some(tester) = self.tester.as_deref_mut() else {
            result.reason = Some("no slot for the tests".into());
            return Ok(());
        };
        let (language, toolchain) = (self.language, self.toolchain);
        const AT_MOST: usize = 1000; // tests that the processes' own limits are meant for
        let since = Instant::now();
        let part = match job.profile {
            _ if script => Part::Script,
            Profile::Pytest => Part::Pytest,
            _ => Part::Tests,
        };
        let wait = Session::load_time(&job.limits);
        // Both at once: the tests get ready while the program loads.
        let brief = Brief { part: Part::Calls, source: &job.code, tests: AT_MOST };
        let mut program = Session::open(self.slot, job, language, toolchain, &brief)?;
        let brief = Brief { part, source: test_code, tests: AT_MOST };
        let mut tests = Session::open(tester, job, language, toolchain, &brief)?;
        let loaded = load(&mut program, wait);
        let Some(Loaded::Ready(names)) = loaded else {
            tests.dismiss(true)?;
            let out = program.close(loaded.is_some())?;
            tests.dismissed()?;
            let (verdict, why) = not_ready(loaded, &out);
            result.tests.push(outcome(verdict, Some(why), since));
            charge(result, out);
            return Ok(());
        };
        // Where they do not listen, what they said before tells why, or their end does.
        let _ = tests.say(&names, wait);
        let end = relay(job, &mut program, &mut tests, result);
        tests.dismiss(true)?;
        program.dismiss(!matches!(end, Relayed::ProgramDied))?;
        let ended = tests.dismissed();
        let out = program.dismissed()?;
        let _ = ended?;
        match end {
            Relayed::Complete => {}
            Relayed::ProgramDied => {
                let (verdict, why) = death(&out);
                result.tests.push(outcome(verdict, Some(why), since));
            }
            Relayed::Late => result.tests.push(outcome(Verdict::TimeLimit, Some("time limit".into()), since)),
            Relayed::Judged(verdict, why) => result.tests.push(outcome(verdict, Some(why), since)),
        }
        charge(result, out);
        result.total = result.total.max(result.tests.len());
        Ok(())
    }
}

/// One call; false: the process cannot be asked again. A verdict `unscored` here waits for the process' report.
fn one_call(
    s: &mut Session<'_>,
    entry: &str,
    number: i128,
    test: &Call,
    tolerance: f64,
    wait: Duration,
) -> (TestResult, bool) {
    let since = Instant::now();
    if s.has_more() {
        let why = "the program answered before it was asked".to_owned();
        return (outcome(Verdict::RuntimeError, Some(why), since), false);
    }
    let request = Value::List(vec![
        Value::Int(number),
        Value::Int(0),
        text(entry),
        Value::List(test.args.clone()),
        Value::Dict(Vec::new()),
    ]);
    if !s.say(&request, wait) {
        return (outcome(Verdict::Unscored, None, since), false);
    }
    let reply = match s.hear_soon(wait) {
        Heard::Value(v) => v,
        Heard::Late => return (outcome(Verdict::TimeLimit, Some("time limit".into()), since), false),
        Heard::TooLarge => {
            return (
                outcome(Verdict::OutputLimit, Some(too_large("the value that it returned")), since),
                false,
            );
        }
        Heard::Gone => return (outcome(Verdict::Unscored, None, since), false),
    };
    let parts = items(&reply);
    if parts.first() != Some(&Value::Int(number)) {
        let why = "the program answered another question".to_owned();
        return (outcome(Verdict::RuntimeError, Some(why), since), false);
    }
    let judged = match (as_text(parts.get(1)).as_str(), parts.get(2)) {
        ("value", Some(got)) if got.matches(&test.expected, tolerance) => {
            TestResult { matched: Some(true), ..outcome(Verdict::Pass, None, since) }
        }
        ("value", Some(_)) => {
            TestResult { matched: Some(false), ..outcome(Verdict::WrongAnswer, None, since) }
        }
        ("object", kind) => {
            let name = as_text(kind.map(items).unwrap_or_default().get(1));
            let why = format!("it returned an object of type {name}, which is no builtin value");
            outcome(Verdict::WrongAnswer, Some(why), since)
        }
        ("raised", error) => {
            let why = exception(error);
            let memory = why.starts_with("MemoryError");
            outcome(if memory { Verdict::MemoryLimit } else { Verdict::RuntimeError }, Some(why), since)
        }
        _ => outcome(Verdict::RuntimeError, Some("the program broke its channel".into()), since),
    };
    (judged, true)
}

/// How a relay ended.
enum Relayed {
    /// Every collected test has its verdict.
    Complete,
    /// The program's process ended in the middle of a test.
    ProgramDied,
    /// A test took too long.
    Late,
    /// Ended early for this reason.
    Judged(Verdict, String),
}

/// Passes calls of the tests to the program, and its answers back, decoding both: only builtin values get through.
fn relay(job: &Job, program: &mut Session<'_>, tests: &mut Session<'_>, result: &mut JobResult) -> Relayed {
    let wait = Duration::from_secs_f64(job.limits.wall_s.clamp(0.0, 1e6));
    let mut deadline = Instant::now() + Session::load_time(&job.limits);
    let mut since = Instant::now();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let message = match tests.hear_soon(left) {
            Heard::Value(v) => v,
            Heard::Late => return Relayed::Late,
            Heard::TooLarge => {
                return Relayed::Judged(Verdict::Unscored, too_large("what the tests pass on"));
            }
            Heard::Gone => {
                return Relayed::Judged(
                    Verdict::Unscored,
                    "the process that runs the tests ended early".into(),
                );
            }
        };
        let parts = items(&message);
        match as_text(parts.first()).as_str() {
            "collected" => {
                result.total = parts.get(1).map(items).unwrap_or_default().len();
                since = Instant::now();
                deadline = since + wait;
            }
            "call" if parts.len() == 6 => {
                if program.has_more() {
                    let why = "the program answered before it was asked".to_owned();
                    return Relayed::Judged(Verdict::RuntimeError, why);
                }
                let left = deadline.saturating_duration_since(Instant::now());
                if !program.say(&Value::List(parts[1..].to_vec()), left) {
                    return Relayed::ProgramDied;
                }
                match program.hear_soon(deadline.saturating_duration_since(Instant::now())) {
                    Heard::Value(reply) if items(&reply).first() == parts.get(1) => {
                        if !tests.say(&reply, wait) {
                            return Relayed::Judged(Verdict::Unscored, "the tests do not listen".into());
                        }
                    }
                    Heard::Value(_) => {
                        let why = "the program answered another question".to_owned();
                        return Relayed::Judged(Verdict::RuntimeError, why);
                    }
                    Heard::Late => return Relayed::Late,
                    Heard::TooLarge => {
                        let why = too_large("the value that the program returned");
                        return Relayed::Judged(Verdict::OutputLimit, why);
                    }
                    Heard::Gone => return Relayed::ProgramDied,
                }
            }
            "test" => {
                let why = as_text(parts.get(3));
                let verdict = match as_text(parts.get(2)).as_str() {
                    "passed" => Verdict::Pass,
                    "failed" => Verdict::WrongAnswer,
                    _ => Verdict::Unscored, // skipped, or more than values can carry
                };
                let reason = (verdict != Verdict::Pass).then_some(why);
                let name = Some(as_text(parts.get(1)));
                result.tests.push(TestResult { name, ..outcome(verdict, reason, since) });
                if verdict != Verdict::Pass && job.stop_on_first_failure {
                    return Relayed::Complete;
                }
                since = Instant::now();
                deadline = since + wait;
            }
            "end" => return Relayed::Complete,
            "broken" => return broken(parts.get(1), parts.get(2).is_some()),
            _ => return Relayed::Judged(Verdict::Unscored, "the tests broke their channel".into()),
        }
    }
}

/// The tests' module itself raised: because of the program, or because the tests are no good (`theirs`).
fn broken(error: Option<&Value>, theirs: bool) -> Relayed {
    let base = as_text(error.map(items).unwrap_or_default().get(1));
    let why = format!("the tests' module raised {}", exception(error));
    match base.as_str() {
        _ if theirs => Relayed::Judged(Verdict::Unscored, why),
        "AssertionError" => Relayed::Judged(Verdict::WrongAnswer, why),
        _ => Relayed::Judged(Verdict::RuntimeError, why),
    }
}
