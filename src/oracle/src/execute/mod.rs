//! The `tests` oracle: every program is run in the sandbox against the problem's hidden tests.

mod cache;
mod harness;
mod run;

pub use cache::{CacheError, VerdictCache};
pub(crate) use run::test_run;
pub use run::{Runner, execution};

use crate::credit::{Execution, Stage, functional};
use crate::verdict::{Scored, Verdict};
use corpus::Problem;
use corpus::extract::{self, Given, Shape};
use record::params::{Profile, RewardMode};
use sandbox::{Job, Limits};
use std::collections::HashMap;

/// Name of this oracle in ledgers and combinations.
pub const NAME: &str = "tests";

/// How executions become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scoring {
    pub profile: Profile,
    pub mode: RewardMode,
}

/// One answer to judge.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    pub problem: &'a Problem,
    /// As the model gave it; the program is extracted here.
    pub answer: &'a str,
}

/// What the oracle says, with what it saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    pub scored: Scored,
    /// `None` where the answer could not be judged.
    pub execution: Option<Execution>,
    /// SHA-256 of the extracted program; `None` where the answer holds none.
    pub program: Option<String>,
    /// The program does nothing at all.
    pub stub: bool,
}

impl Judgement {
    #[must_use]
    pub fn stage(&self) -> Option<Stage> {
        self.execution.as_ref().map(Execution::stage)
    }

    #[must_use]
    pub fn passed_all(&self) -> bool {
        self.stage() == Some(Stage::PassesAll)
    }
}

/// Runs programs and remembers what it saw. One for each process; shared by its threads.
pub struct TestsOracle {
    runner: Box<dyn Runner>,
    cache: VerdictCache,
    limits: Limits,
    identity: String,
}

impl TestsOracle {
    /// An oracle over a sandbox (or anything that runs jobs as one).
    #[must_use]
    pub fn new(runner: Box<dyn Runner>, cache: VerdictCache) -> Self {
        // CPU time decides: wall time depends on who else uses the node, and a verdict must not
        let limits = Limits { wall_s: 20.0, cpu_s: 4.0, ..Limits::default() };
        let identity = format!("{}; {limits:?}", runner.identity());
        Self { runner, cache, limits, identity }
    }

    /// Judges a batch; one judgement per item, in order. Equal programs for the same problem run once.
    ///
    /// # Errors
    /// Only of the cache's file; what the sandbox cannot run is an unscored judgement.
    pub fn judge(&mut self, items: &[Item<'_>], scoring: Scoring) -> Result<Vec<Judgement>, CacheError> {
        let programs: Vec<Option<String>> = items.iter().map(|item| program_of(item.answer)).collect();
        self.cache.refresh()?;
        let keys: Vec<Option<String>> =
            items.iter().zip(&programs).map(|(item, p)| Some(self.key(item.problem, p.as_ref()?))).collect();
        let mut jobs: Vec<Wanted<'_>> = Vec::new();
        let mut asked: HashMap<&str, usize> = HashMap::new();
        let mut origin: Vec<usize> = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            let (Some(key), Some(program)) = (key, &programs[i]) else { continue };
            if self.cache.get(key).is_none() && !asked.contains_key(key.as_str()) {
                asked.insert(key, jobs.len());
                origin.push(i);
                jobs.push(Wanted { key, program });
            }
        }
        let fresh = self.execute(&jobs, &origin.iter().map(|i| items[*i].problem).collect::<Vec<_>>());
        self.cache.flush()?;
        let judge = |i: usize| -> Judgement {
            let (Some(key), Some(program)) = (&keys[i], &programs[i]) else {
                return no_program();
            };
            let seen = match asked.get(key.as_str()) {
                Some(&at) => fresh[at].clone(),
                None => self.cache.get(key).cloned().ok_or_else(|| "its verdict was lost".to_owned()),
            };
            judgement(seen, program, asked.contains_key(key.as_str()), scoring)
        };
        Ok((0..items.len()).map(judge).collect())
    }

    /// Runs programs: all in the quick lane, then those that it could not settle test by test.
    fn execute(&mut self, wanted: &[Wanted<'_>], problems: &[&Problem]) -> Vec<Result<Execution, String>> {
        let quick: Vec<Job> = wanted
            .iter()
            .zip(problems)
            .map(|(w, p)| harness::job(w.key, p, w.program, &self.limits))
            .collect();
        let mut settled: Vec<Option<Execution>> =
            self.runner.run(&quick).iter().zip(problems).map(|(r, p)| harness::read(r, p)).collect();
        let open: Vec<usize> = (0..wanted.len()).filter(|i| settled[*i].is_none()).collect();
        let slow: Vec<Job> =
            open.iter().map(|&i| self.job(wanted[i].key, problems[i], wanted[i].program)).collect();
        let results = if slow.is_empty() { Vec::new() } else { self.runner.run(&slow) };
        let mut unsettled: HashMap<usize, String> = HashMap::new();
        for (&i, result) in open.iter().zip(&results) {
            match execution(result, problems[i]) {
                Ok(run) => {
                    self.cache.put(wanted[i].key, &run, run::is_repeatable(result));
                    settled[i] = Some(run);
                }
                Err(why) => {
                    unsettled.insert(i, why);
                }
            }
        }
        for (i, run) in settled.iter().enumerate().filter(|(i, _)| !open.contains(i)) {
            if let Some(run) = run {
                self.cache.put(wanted[i].key, run, true);
            }
        }
        let lost = || "the sandbox gave no result".to_owned();
        settled
            .into_iter()
            .enumerate()
            .map(|(i, run)| run.ok_or_else(|| unsettled.remove(&i).unwrap_or_else(lost)))
            .collect()
    }

    /// What decides an execution: the program, the tests, the limits and the sandbox.
    fn key(&self, problem: &Problem, program: &str) -> String {
        let tests = serde_json::to_string(&problem.tests).unwrap_or_default();
        record::key::sha256_hex(format!("{}\n{tests}\n{program}", self.identity).as_bytes())
    }

    fn job(&self, key: &str, problem: &Problem, program: &str) -> Job {
        let job = Job { limits: self.limits, ..Job::python(key, program) };
        problem.tests.iter().fold(job, |job, t| job.test(t.stdin.as_str(), t.expected.as_str()))
    }
}

/// The program of an answer to a problem of a corpus: Python, by the shared rules.
#[must_use]
pub fn program_of(answer: &str) -> Option<String> {
    let shape = Shape { language: Some("python"), ..Shape::default() };
    extract::assemble(Given::Response(answer), &shape).map(|p| p.code)
}

/// A program that nobody has run yet.
struct Wanted<'a> {
    key: &'a str,
    program: &'a str,
}

/// An answer without a program is a failed one: there was nothing to run, and that is the answer's fault.
fn no_program() -> Judgement {
    Judgement {
        scored: Scored::of(NAME, 0.0, "the answer holds no program"),
        execution: Some(Execution::invalid()),
        program: None,
        stub: false,
    }
}

fn judgement(seen: Result<Execution, String>, program: &str, ran: bool, scoring: Scoring) -> Judgement {
    let hash = Some(record::key::sha256_hex(program.as_bytes()));
    let stub = extract::is_stub(program);
    let run = match seen {
        Ok(run) => run,
        Err(why) => {
            return Judgement { scored: Scored::unscored(NAME, why), execution: None, program: hash, stub };
        }
    };
    let scored = match functional(scoring.profile, scoring.mode, &run) {
        None => Scored::unscored(NAME, "the problem has no tests"),
        Some(score) => {
            let verdict = if run.stage() == Stage::PassesAll { Verdict::Pass } else { Verdict::Fail };
            let reason = if run.parses {
                format!("{} of {} tests pass, stage {}", run.passed(), run.tests.len(), run.stage().name())
            } else {
                "it does not parse".to_owned()
            };
            let ms = if ran { run.run_ms } else { 0.0 };
            Scored { verdict, ms, ..Scored::of(NAME, score, reason) }
        }
    };
    let execution = (scored.verdict != Verdict::Unscored).then_some(run);
    Judgement { scored, execution, program: hash, stub }
}
