//! The modes whose tests call a program: `pytest`, `script`; and what they share with `function`.
//!
//! What is expected is in a process that has never seen the program. An answer that does not come, that comes twice, or
//! that is no value of a builtin type is not a pass.

use crate::bytes::Bytes;
use crate::calls::{Brief, FRAME_MAX, Heard, Part, Session, frame};
use crate::job::{Grade, Job, JobResult, Profile, TestResult, Verdict};
use crate::judge::{Judge, measured};
use crate::slot_handle::Outcome;
use crate::value::Value;
use slot::wire::End;
use std::io;
use std::time::{Duration, Instant};

pub(crate) fn as_text(v: Option<&Value>) -> String {
    match v {
        Some(Value::Str(s)) => String::from_utf8_lossy(s).into_owned(),
        other => format!("{other:?}"),
    }
}

pub(crate) fn items(v: &Value) -> &[Value] {
    match v {
        Value::List(items) | Value::Tuple(items) => items,
        _ => &[],
    }
}

/// `[type, base, text]` of an exception.
pub(crate) fn exception(v: Option<&Value>) -> String {
    let parts = v.map(items).unwrap_or_default();
    format!("{}: {}", as_text(parts.first()), as_text(parts.get(2)))
}

pub(crate) fn outcome(verdict: Verdict, reason: Option<String>, since: Instant) -> TestResult {
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
pub(crate) fn charge(result: &mut JobResult, out: Outcome) {
    if let Some(last) = result.tests.last_mut() {
        let whole = measured(out);
        last.cpu_ms = whole.cpu_ms;
        last.memory_peak_mb = whole.memory_peak_mb;
        (last.stdout, last.stderr, last.truncated) = (whole.stdout, whole.stderr, whole.truncated);
    }
}

/// How a test is judged whose process has ended without an answer.
pub(crate) fn death(out: &Outcome) -> (Verdict, String) {
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
pub(crate) fn not_ready(loaded: Option<Loaded>, out: &Outcome) -> (Verdict, String) {
    match loaded {
        Some(Loaded::Not(verdict, why)) => (verdict, why),
        _ => death(out),
    }
}

/// Kind of an answer that a part of a long list or tuple follows; `whole` ends these.
pub(crate) const PART_COMES: &str = "part";

pub(crate) fn too_large(what: &str) -> String {
    format!("{what} is larger than {} MiB, the most that may cross the border", FRAME_MAX >> 20)
}

/// What loading the program gave.
pub(crate) enum Loaded {
    /// Its names, each with "callable" or "value".
    Ready(Value),
    /// It cannot be called; the verdict of every test.
    Not(Verdict, String),
}

pub(crate) fn load(session: &mut Session<'_>, wait: Duration) -> Option<Loaded> {
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
                if let Some(end) = relay_answer(program, tests, parts.get(1), deadline, wait) {
                    return end;
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

/// Passes an answer on, in parts where it comes in parts; tells where the relay ends by it.
fn relay_answer(
    program: &mut Session<'_>,
    tests: &mut Session<'_>,
    number: Option<&Value>,
    deadline: Instant,
    wait: Duration,
) -> Option<Relayed> {
    let left = || deadline.saturating_duration_since(Instant::now());
    let deaf = || Some(Relayed::Judged(Verdict::Unscored, "the tests do not listen".into()));
    let broke = || Some(Relayed::Judged(Verdict::RuntimeError, "the program broke its channel".into()));
    let large = || {
        let why = too_large("the value that the program returned");
        Some(Relayed::Judged(Verdict::OutputLimit, why))
    };
    loop {
        let reply = match program.hear_soon(left()) {
            Heard::Value(reply) => reply,
            Heard::Late => return Some(Relayed::Late),
            Heard::TooLarge => return large(),
            Heard::Gone => return Some(Relayed::ProgramDied),
        };
        let parts = items(&reply);
        if parts.first() != number {
            let why = "the program answered another question".to_owned();
            return Some(Relayed::Judged(Verdict::RuntimeError, why));
        }
        let is_part = as_text(parts.get(1)) == PART_COMES;
        if is_part && !matches!(parts.get(2), Some(Value::Int(0..))) {
            return broke();
        }
        if !tests.say(&reply, wait) {
            return deaf();
        }
        if !is_part {
            return None;
        }
        let items_only = |bytes: &[u8]| Value::check_shared(bytes).map(|()| frame(bytes));
        match program.hear_part(left(), items_only) {
            Heard::Value(part) if tests.say_frames(&part, wait) => {}
            Heard::Value(_) => return deaf(),
            Heard::Late => return Some(Relayed::Late),
            Heard::TooLarge => return large(),
            Heard::Gone => return broke(),
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
