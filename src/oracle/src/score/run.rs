//! The loop: a batch of rows, every oracle on it, its rows written, the next batch.

use super::ScoreRow;
use super::output::{Output, OutputError};
use super::row::{BadRow, Problems, Row};
use crate::credit::{Execution, TestRun};
use crate::execute::Runner;
use crate::ledger::LedgerRow;
use crate::panel::{Judged, Panel, Subject};
use crate::verdict::Verdict;
use record::key::sha256_hex;
use sandbox::{Job, JobResult, Mode, TestResult, Verdict as Ran};
use std::collections::BTreeMap;
use std::io::{self, BufRead};

/// How much is in memory at a time.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Rows of a batch.
    pub rows: usize,
    /// Bytes of a batch's lines; at least one row is taken.
    pub bytes: usize,
    /// A line longer than this is a bad row.
    pub line: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { rows: 512, bytes: 64 << 20, line: 256 << 20 }
    }
}

/// Why scoring stopped before the end. What was written stays, and a later run goes on behind it.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error("cannot read {file}: {source}")]
    Input { file: String, source: io::Error },
    /// A server is away: asking about the next rows makes no sense now.
    #[error("{0}; run the same command again to go on behind the {1} rows that are done")]
    Away(String, usize),
}

/// Verdicts of one oracle.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tally {
    pub pass: u64,
    pub fail: u64,
    pub unscored: u64,
    /// Sum of the scores; over `pass + fail` it is their mean.
    pub sum: f64,
    /// Milliseconds.
    pub ms: f64,
}

impl Tally {
    fn add(&mut self, scored: &crate::verdict::Scored) {
        match scored.verdict {
            Verdict::Pass => self.pass += 1,
            Verdict::Fail => self.fail += 1,
            Verdict::Unscored => self.unscored += 1,
        }
        self.sum += scored.score.unwrap_or(0.0);
        self.ms += scored.ms;
    }

    /// Mean score of what was scored.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        let n = self.pass + self.fail;
        (n > 0).then(|| self.sum / n as f64)
    }
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Summary {
    /// Rows written.
    pub scored: usize,
    /// Rows that an earlier run had done.
    pub skipped: usize,
    /// The first bad lines, and how many there are.
    pub bad: Vec<BadRow>,
    pub bad_total: usize,
    /// By oracle, and the reward under `reward`.
    pub tallies: BTreeMap<String, Tally>,
    /// What looks broken.
    pub alarms: Vec<String>,
}

/// Bad lines that are kept for the summary.
const BAD_KEPT: usize = 20;

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Lines read.
    pub lines: usize,
    pub scored: usize,
    pub skipped: usize,
    pub unscored: u64,
    /// Bytes of the input read.
    pub bytes: u64,
}

/// Scores every row of `input` that `out` does not hold yet.
///
/// # Errors
/// See [`ScoreError`]; bad lines are no error but stand in the summary.
#[allow(clippy::too_many_arguments, reason = "each is one thing, and there is one caller of each kind")]
pub fn run(
    file: &str,
    input: impl BufRead,
    out: &mut Output,
    panel: &mut Panel,
    runner: Option<&dyn Runner>,
    problems: &Problems,
    scorer: &str,
    bounds: &Bounds,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Summary, ScoreError> {
    let mut lines = Lines { input, number: 0, bytes: 0, most: bounds.line };
    let mut summary = Summary::default();
    let mut ended = false;
    let executes = panel.executes();
    while !ended {
        let mut batch: Vec<Row> = Vec::new();
        let begun = lines.bytes;
        while batch.len() < bounds.rows && (lines.bytes - begun) < bounds.bytes as u64 {
            let line = lines.next().map_err(|source| ScoreError::Input { file: file.to_owned(), source })?;
            let row = match line {
                None => {
                    ended = true;
                    break;
                }
                Some(Err(why)) => Err(why),
                Some(Ok(line)) if line.iter().all(u8::is_ascii_whitespace) => continue,
                Some(Ok(line)) => match resumed(&line, out) {
                    true => {
                        summary.skipped += 1;
                        continue;
                    }
                    false => Row::read(&line, problems, executes),
                },
            };
            let row = row.and_then(|row| {
                if out.begin(&row.id) { Ok(row) } else { Err(format!("id {:?} stands there twice", row.id)) }
            });
            match row {
                Ok(row) => batch.push(row),
                Err(why) => {
                    summary.bad_total += 1;
                    if summary.bad.len() < BAD_KEPT {
                        summary.bad.push(BadRow { file: file.to_owned(), line: lines.number, why });
                    }
                }
            }
        }
        if batch.is_empty() {
            continue;
        }
        let judged = judge(panel, runner, &batch);
        if let Some(why) = panel.away() {
            return Err(ScoreError::Away(why, summary.scored + out.resumed()));
        }
        let rows: Vec<ScoreRow> = batch.iter().zip(judged).map(|(r, j)| line_of(r, j, scorer)).collect();
        out.push(&rows)?;
        summary.scored += rows.len();
        for row in &rows {
            for oracle in &row.row.oracles {
                summary.tallies.entry(oracle.oracle.clone()).or_default().add(oracle);
            }
            summary.tallies.entry("reward".into()).or_default().add(&crate::Scored {
                oracle: "reward".into(),
                verdict: row.verdict,
                score: row.row.reward,
                reason: String::new(),
                ms: row.ms,
                facts: None,
            });
        }
        progress(&Progress {
            lines: lines.number,
            scored: summary.scored,
            skipped: summary.skipped,
            unscored: summary.tallies.get("reward").map_or(0, |t| t.unscored),
            bytes: lines.bytes,
        });
    }
    summary.alarms = panel.alarms();
    Ok(summary)
}

/// Whether an earlier run has this row; only its id is read.
fn resumed(line: &[u8], out: &Output) -> bool {
    #[derive(serde::Deserialize)]
    struct Id {
        id: String,
    }
    out.resumed() > 0 && serde_json::from_slice::<Id>(line).is_ok_and(|row| out.was_done(&row.id))
}

fn judge(panel: &mut Panel, runner: Option<&dyn Runner>, batch: &[Row]) -> Vec<Judged> {
    let every = panel.needs_every_test();
    let subjects: Vec<Subject<'_>> = batch
        .iter()
        .map(|r| Subject {
            response: r.response.as_deref(),
            program: r.program.as_ref().map(|p| p.code.as_str()),
            prompt: r.prompt.as_deref(),
            other: r.other.as_deref(),
        })
        .collect();
    let mut execute = |wanted: &[usize]| -> Vec<Result<Execution, String>> {
        let mut jobs: Vec<Job> = Vec::new();
        for &i in wanted {
            if let Ok(Some(job)) = &batch[i].job {
                let stop = job.stop_on_first_failure && !every;
                jobs.push(Job { stop_on_first_failure: stop, ..(**job).clone() });
            }
        }
        let results = runner.map(|r| r.run(&jobs)).unwrap_or_default();
        let mut ran = jobs.iter().zip(&results);
        wanted
            .iter()
            .map(|&i| match &batch[i].job {
                Err(why) => Err(why.clone()),
                // an answer without a program is a failed one, and that is the answer's fault
                Ok(None) => Ok(Execution::invalid()),
                Ok(Some(_)) => match ran.next() {
                    Some((job, result)) => execution_of(job, result),
                    None => Err("there is no sandbox".to_owned()),
                },
            })
            .collect()
    };
    panel.judge(&subjects, &mut execute)
}

fn line_of(row: &Row, judged: Judged, scorer: &str) -> ScoreRow {
    ScoreRow {
        id: row.id.clone(),
        row: LedgerRow {
            step: 0,
            problem: row.problem.clone(),
            sample: row.sample,
            program: row.program.as_ref().map(|p| sha256_hex(p.code.as_bytes())),
            reward: judged.reward.score,
            oracles: judged.oracles,
        },
        verdict: judged.reward.verdict,
        reason: judged.reward.reason,
        ms: judged.reward.ms,
        scorer: scorer.to_owned(),
    }
}

/// What a job of any mode shows of its program. Calls and test functions print nothing that counts: one that came back
/// with a wrong value stands on the rung of wrong output.
///
/// # Errors
/// The reason why it shows nothing.
pub(crate) fn execution_of(job: &Job, result: &JobResult) -> Result<Execution, String> {
    let unscored = |t: Option<&TestResult>| {
        let why = t.and_then(|t| t.reason.clone()).or_else(|| result.reason.clone());
        why.unwrap_or_else(|| "the sandbox gave no reason".to_owned())
    };
    if let Some(test) = result.tests.iter().find(|t| t.verdict == Ran::Unscored) {
        return Err(unscored(Some(test)));
    }
    let no_compile = |v: Ran| v == Ran::CompileError;
    if no_compile(result.verdict) || result.tests.iter().any(|t| no_compile(t.verdict)) {
        return Ok(Execution::invalid());
    }
    if result.verdict == Ran::Unscored {
        return Err(unscored(None));
    }
    let stdio = matches!(job.mode, Mode::Stdio { .. } | Mode::Parse);
    let mut tests: Vec<TestRun> = result.tests.iter().map(|t| test_run(t, stdio)).collect();
    let ms = result.tests.iter().map(|t| t.wall_ms).sum();
    let total = result.total.max(tests.len());
    if tests.is_empty() {
        return Err("no test was run".to_owned());
    }
    // a program that would not load, or whose first failure ended the run, has failed what was left
    let rest = tests.last().filter(|t| !t.passed()).copied();
    match rest {
        Some(last) => tests.resize(total, last),
        None if tests.len() < total => {
            return Err(format!("{} of {total} tests were run", tests.len()));
        }
        None => {}
    }
    Ok(Execution { parses: true, tests, constant: false, run_ms: ms })
}

fn test_run(t: &TestResult, stdio: bool) -> TestRun {
    if stdio {
        return crate::execute::test_run(t);
    }
    let answered = matches!(t.verdict, Ran::Pass | Ran::WrongAnswer);
    TestRun { exit_ok: answered, printed: answered, matched: t.verdict == Ran::Pass }
}

/// Lines of bounded length, counted.
struct Lines<R> {
    input: R,
    number: usize,
    bytes: u64,
    most: usize,
}

impl<R: BufRead> Lines<R> {
    /// The next line without its break; `Err` inside: it is too long, and was passed over.
    #[allow(clippy::type_complexity, reason = "end, input error, bad line, line")]
    fn next(&mut self) -> io::Result<Option<Result<Vec<u8>, String>>> {
        let mut line = Vec::new();
        let mut long = false;
        let mut any = false;
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                break;
            }
            any = true;
            let (part, used, end) = match buffer.iter().position(|b| *b == b'\n') {
                Some(at) => (&buffer[..at], at + 1, true),
                None => (buffer, buffer.len(), false),
            };
            if line.len() + part.len() <= self.most {
                line.extend_from_slice(part);
            } else {
                long = true;
                line = Vec::new();
            }
            self.bytes += used as u64;
            self.input.consume(used);
            if end {
                break;
            }
        }
        if !any {
            return Ok(None);
        }
        self.number += 1;
        Ok(Some(if long {
            Err(format!("the line is longer than {} MiB", self.most >> 20))
        } else {
            Ok(line)
        }))
    }
}
