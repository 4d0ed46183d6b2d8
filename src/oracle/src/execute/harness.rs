//! The quick lane: one interpreter per program instead of one per test.
//!
//! An interpreter's start costs more than most programs; a forked child for each test costs a tenth of it. The tests of
//! one program share a sandbox run, so a program can at worst spoil its own verdict, and expected outputs stay out here.
//! Any run that is not plain (a limit, a missing reply, much output) is judged again test by test.

use crate::credit::{Execution, TestRun};
use corpus::Problem;
use sandbox::{Comparator, Job, JobResult, Limits, Verdict};
use serde::Deserialize;

const HARNESS: &str = include_str!("harness.py");

/// Bytes of one test's output beyond which the slow lane decides.
const CAP: u64 = 256 << 10;

/// The job that runs a program on all tests of a problem.
pub(crate) fn job(key: &str, problem: &Problem, program: &str, limits: &Limits) -> Job {
    let tests = problem.tests.len().max(1) as f64;
    let payload = serde_json::json!({
        "code": program,
        "tests": problem.tests.iter().map(|t| t.stdin.as_str()).collect::<Vec<_>>(),
        // whole seconds: what setrlimit takes
        "cpu_s": limits.cpu_s.ceil() as u64,
        "wall_s": limits.wall_s,
        "cap": CAP,
    });
    Job {
        limits: Limits {
            cpu_s: 2.0 + limits.cpu_s * tests,
            wall_s: 5.0 + limits.wall_s * tests,
            output_bytes: (1 << 16) + 2 * CAP * problem.tests.len() as u64,
            ..*limits
        },
        ..Job::python(key, HARNESS).input(payload.to_string())
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Syntax { syntax: bool },
    Done { done: usize },
    Test { exit: Option<i32>, timeout: bool, full: bool, out: String },
}

/// What the harness reports, if that is everything and nothing is out of the ordinary.
pub(crate) fn read(result: &JobResult, problem: &Problem) -> Option<Execution> {
    let test = match (result.verdict, &result.tests[..]) {
        (Verdict::Pass, [test]) if !test.truncated => test,
        _ => return None,
    };
    let mut lines: Vec<Line> = std::str::from_utf8(&test.stdout)
        .ok()?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .ok()?;
    if let [Line::Syntax { syntax: true }] = lines[..] {
        return Some(Execution::invalid());
    }
    match lines.pop()? {
        Line::Done { done } if done == problem.tests.len() && lines.len() == done => {}
        _ => return None,
    }
    let mut tests = Vec::with_capacity(lines.len());
    let mut outputs = Vec::with_capacity(lines.len());
    for (line, test) in lines.into_iter().zip(&problem.tests) {
        let Line::Test { exit, timeout: false, full: false, out } = line else { return None };
        let out = unhex(&out)?;
        tests.push(TestRun {
            exit_ok: exit == Some(0),
            printed: out.iter().any(|b| !b.is_ascii_whitespace()),
            matched: Comparator::default().matches(&out, test.expected.as_bytes()),
        });
        outputs.push(out);
    }
    let constant = super::run::is_constant(outputs.iter().map(Vec::as_slice), problem);
    Some(Execution { parses: true, tests, constant, run_ms: test.wall_ms })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    text.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}
