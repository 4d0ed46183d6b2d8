//! The mode `function`: a program's function is called, and what it returns is compared here.
//!
//! What is expected never leaves this process. Calls are asked for several at a time, since nearly all of a call's time would
//! go into waking each other up; they are answered one by one, and an answer counts by its number.

use crate::calls::{Brief, Heard, Part, Session, frame};
use crate::compare::Comparator;
use crate::job::{Call, Grade, Job, JobResult, TestResult, Verdict};
use crate::judge::Judge;
use crate::judge_calls::{
    Loaded, PART_COMES, as_text, charge, death, exception, items, load, not_ready, outcome, too_large,
};
use crate::value::Value;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::time::{Duration, Instant};

/// Calls that are asked for together.
const TOGETHER: usize = 32;
/// All of them but the first, in bytes: what is not read yet has to fit into a socket, or both sides would wait for each other.
const TOGETHER_BYTES: usize = 4000;

impl Judge<'_> {
    pub(crate) fn function(
        &mut self,
        job: &Job,
        entry: &str,
        tests: &[Call],
        result: &mut JobResult,
    ) -> io::Result<()> {
        result.grade = Grade::Call;
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
            let mut calls = Calls {
                entry: Value::Str(entry.as_bytes().to_vec()),
                first: i128::from(RandomState::new().hash_one(0) >> 34),
                tolerance: if let Comparator::Float { tolerance } = job.comparator { tolerance } else { 0.0 },
                wait: Duration::from_secs_f64(job.limits.wall_s.clamp(0.0, 1e6)),
                stop: job.stop_on_first_failure,
                session: s,
            };
            let alive = calls.ask_all(left, &mut result.tests);
            let s = calls.session;
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
            if job.stop_on_first_failure && result.tests.last().is_some_and(|t| t.verdict != Verdict::Pass) {
                break;
            }
        }
        Ok(())
    }
}

/// Calls of one process.
struct Calls<'a> {
    session: Session<'a>,
    entry: Value,
    /// Number of the first call, from which the others count. The program does not know it before it is asked.
    first: i128,
    tolerance: f64,
    /// For each.
    wait: Duration,
    /// Stop at the first failure.
    stop: bool,
}

impl Calls<'_> {
    /// Asks for one call after the other; false: the process cannot be asked again. A verdict `unscored` at the end waits
    /// for the process' report.
    fn ask_all(&mut self, tests: &[Call], results: &mut Vec<TestResult>) -> bool {
        let mut next = 0;
        while next < tests.len() {
            let mut since = Instant::now();
            if self.session.has_more() {
                let why = "the program answered before it was asked".to_owned();
                results.push(outcome(Verdict::RuntimeError, Some(why), since));
                return false;
            }
            let (frames, until) = self.requests(tests, next);
            if !self.session.say_frames(&frames, self.wait) {
                results.push(outcome(Verdict::Unscored, None, since));
                return false;
            }
            // Answers that came in one reading: nobody here knows which of them took how long.
            let (mut together, mut reading) = (results.len(), self.session.readings());
            for (number, test) in (next..).zip(&tests[next..until]) {
                let (answer, goes_on) = self.answer(self.number(number), test, since);
                let failed = answer.verdict != Verdict::Pass;
                results.push(answer);
                since = Instant::now();
                if self.session.readings() == reading {
                    share_time(&mut results[together..]);
                } else {
                    (together, reading) = (results.len() - 1, self.session.readings());
                }
                if !goes_on || failed && self.stop {
                    return goes_on;
                }
            }
            next = until;
        }
        true
    }

    fn number(&self, test: usize) -> i128 {
        self.first + i128::try_from(test).unwrap_or(i128::MAX / 2)
    }

    /// Frames of the calls from `next` on that are asked for together, and the number of the call behind them.
    fn requests(&self, tests: &[Call], next: usize) -> (Vec<u8>, usize) {
        let request = |n: usize| {
            let args = Value::List(tests[n].args.clone());
            let parts = [
                Value::Int(self.number(n)),
                Value::Int(0),
                self.entry.clone(),
                args,
                Value::Dict(Vec::new()),
            ];
            frame(&Value::List(parts.into()).encode())
        };
        let mut frames = request(next);
        let first = frames.len();
        let mut until = next + 1;
        while until < tests.len().min(next + TOGETHER) {
            let another = request(until);
            if frames.len() - first + another.len() > TOGETHER_BYTES {
                break;
            }
            frames.extend(another);
            until += 1;
        }
        (frames, until)
    }

    /// The answer to a call; false: the process cannot be asked again.
    fn answer(&mut self, number: i128, test: &Call, since: Instant) -> (TestResult, bool) {
        let deadline = since + self.wait;
        let left = || deadline.saturating_duration_since(Instant::now());
        let end = |verdict, why: Option<String>| (outcome(verdict, why, since), false);
        let unheard = |heard: &Heard<()>| match heard {
            Heard::Late => end(Verdict::TimeLimit, Some("time limit".into())),
            Heard::TooLarge => end(Verdict::OutputLimit, Some(too_large("the value that it returned"))),
            _ => end(Verdict::Unscored, None),
        };
        let broke = || end(Verdict::RuntimeError, Some("the program broke its channel".into()));
        let mut long = Long::new(&test.expected, self.tolerance);
        let reply = loop {
            let reply = match self.session.hear_soon(left()) {
                Heard::Value(v) => v,
                other => return unheard(&other.drop_value()),
            };
            let parts = items(&reply);
            if parts.first() != Some(&Value::Int(number)) {
                let why = "the program answered another question".to_owned();
                return end(Verdict::RuntimeError, Some(why));
            }
            if as_text(parts.get(1)) != PART_COMES {
                break reply;
            }
            let Some(Value::Int(at)) = parts.get(2) else { return broke() };
            match self.session.hear_part(left(), Value::decode_shared) {
                Heard::Value(part) if long.take(*at, &part) => {}
                Heard::Value(_) => return broke(),
                other => return unheard(&other.drop_value()),
            }
        };
        let matches = |yes: bool| {
            let verdict = if yes { Verdict::Pass } else { Verdict::WrongAnswer };
            TestResult { matched: Some(yes), ..outcome(verdict, None, since) }
        };
        let parts = items(&reply);
        let judged = match (as_text(parts.get(1)).as_str(), parts.get(2)) {
            ("value", Some(got)) => matches(got.matches(&test.expected, self.tolerance)),
            ("whole", _) => matches(long.matched()),
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
}

/// A long list or tuple that comes in parts. Each is compared and dropped: it may be larger than what we want to hold.
struct Long<'a> {
    /// `None`: something else is expected.
    expected: Option<&'a [Value]>,
    tolerance: f64,
    wrong: bool,
    heard: usize,
}

impl<'a> Long<'a> {
    fn new(expected: &'a Value, tolerance: f64) -> Self {
        let expected = match expected {
            Value::List(items) | Value::Tuple(items) => Some(items.as_slice()),
            _ => None,
        };
        Self { expected, tolerance, wrong: false, heard: 0 }
    }

    /// False: it is no part that belongs here. One that starts at 0 takes back what came before.
    fn take(&mut self, at: i128, part: &Value) -> bool {
        let (Value::List(part) | Value::Tuple(part)) = part else { return false };
        if at == 0 {
            (self.heard, self.wrong) = (0, false);
        }
        if at != self.heard as i128 {
            return false;
        }
        let end = self.heard.saturating_add(part.len());
        let expected = self.expected.and_then(|e| e.get(self.heard..end));
        self.wrong |= expected.is_none_or(|e| part.iter().zip(e).any(|(x, y)| !x.matches(y, self.tolerance)));
        self.heard = end;
        true
    }

    fn matched(&self) -> bool {
        !self.wrong && self.expected.is_some_and(|e| e.len() == self.heard)
    }
}

/// Gives each of these the mean of their times.
fn share_time(of: &mut [TestResult]) {
    #[allow(clippy::cast_precision_loss, reason = "a number of tests")]
    let mean = of.iter().map(|t| t.wall_ms).sum::<f64>() / of.len() as f64;
    of.iter_mut().for_each(|t| t.wall_ms = mean);
}
