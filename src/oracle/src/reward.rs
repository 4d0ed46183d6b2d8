//! Grading batches of answers to problems of a corpus: by executed tests, and by a declared panel where there is one. RL
//! takes its rewards from here (with a ledger row for each answer), and evaluation its scores.

use crate::credit::Execution;
use crate::execute::{CacheError, Item, Judgement, Scoring, TestsOracle, program_of};
use crate::ledger::{LedgerRow, RewardLedger};
use crate::panel::{Judged, Panel, Subject};
use crate::verdict::Scored;
use corpus::Problem;
use std::collections::BTreeSet;
use std::io;

/// One answer of a rollout batch.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub problem: &'a Problem,
    /// Which of the answers to this problem.
    pub sample: u32,
    pub text: &'a str,
}

/// Why a batch got no rewards.
#[derive(Debug, thiserror::Error)]
pub enum RewardError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("cannot write the reward ledger: {0}")]
    Ledger(io::Error),
    /// Nothing is wrong with the answers: try the task again later.
    #[error("{0}")]
    Away(String),
    /// Learning from the remainder would learn from whatever happens to survive.
    #[error(
        "{unscored} of {answers} answers could not be judged, more than a quarter; the last reason: {reason}"
    )]
    TooManyUnscored { unscored: usize, answers: usize, reason: String },
}

/// What came of one answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Graded {
    /// By the tests, whatever the declaration says of them: stages and rates are reported in any case.
    pub tests: Judgement,
    /// By the declaration, where there is one.
    pub declared: Option<Judged>,
}

impl Graded {
    /// What the learner is given.
    #[must_use]
    pub fn reward(&self) -> &Scored {
        self.declared.as_ref().map_or(&self.tests.scored, |d| &d.reward)
    }
}

/// Runs every answer's program, and asks the panel.
pub struct Grader {
    tests: TestsOracle,
    scoring: Scoring,
    panel: Option<Panel>,
    warned: BTreeSet<String>,
}

impl Grader {
    #[must_use]
    pub fn new(tests: TestsOracle, scoring: Scoring, panel: Option<Panel>) -> Self {
        Self { tests, scoring, panel, warned: BTreeSet::new() }
    }

    /// Grades a batch, in order.
    ///
    /// # Errors
    /// [`RewardError::Cache`], [`RewardError::Away`].
    pub fn grade(&mut self, items: &[Item<'_>]) -> Result<Vec<Graded>, RewardError> {
        let judged = self.tests.judge(items, self.scoring)?;
        let Some(panel) = &mut self.panel else {
            return Ok(judged.into_iter().map(|tests| Graded { tests, declared: None }).collect());
        };
        let programs: Vec<Option<String>> = items.iter().map(|i| program_of(i.answer)).collect();
        let subjects: Vec<Subject<'_>> = items
            .iter()
            .zip(&programs)
            .map(|(item, program)| Subject {
                response: Some(item.answer),
                program: program.as_deref(),
                prompt: Some(&item.problem.prompt),
                other: None,
            })
            .collect();
        let mut execute = |wanted: &[usize]| -> Vec<Result<Execution, String>> {
            wanted
                .iter()
                .map(|&i| judged[i].execution.clone().ok_or_else(|| judged[i].scored.reason.clone()))
                .collect()
        };
        let declared = panel.judge(&subjects, &mut execute);
        match panel.away() {
            Some(why) => Err(RewardError::Away(why)),
            None => Ok(judged
                .into_iter()
                .zip(declared)
                .map(|(tests, declared)| Graded { tests, declared: Some(declared) })
                .collect()),
        }
    }

    /// Sentences about oracles that look broken since the last call; each is said once.
    pub fn alarms(&mut self) -> Vec<String> {
        let said = self.panel.as_mut().map(Panel::alarms).unwrap_or_default();
        said.into_iter().filter(|text| self.warned.insert(text.clone())).collect()
    }
}

/// Judges rollouts and keeps the ledger.
pub struct Reward {
    grader: Grader,
    ledger: Option<RewardLedger>,
}

/// A share of unscored answers above which a batch is an error.
const TOO_MANY: f64 = 0.25;

impl Reward {
    #[must_use]
    pub fn new(grader: Grader, ledger: Option<RewardLedger>) -> Self {
        Self { grader, ledger }
    }

    /// Judges one batch; a reward without a score could not be judged: leave that answer out of the update, it is not a
    /// zero.
    ///
    /// # Errors
    /// See [`RewardError`].
    pub fn judge(&mut self, step: u64, answers: &[Answer<'_>]) -> Result<Vec<Graded>, RewardError> {
        let items: Vec<Item<'_>> =
            answers.iter().map(|a| Item { problem: a.problem, answer: a.text }).collect();
        let graded = self.grader.grade(&items)?;
        if let Some(ledger) = &mut self.ledger {
            let rows: Vec<LedgerRow> = answers
                .iter()
                .zip(&graded)
                .map(|(answer, g)| LedgerRow {
                    step,
                    problem: answer.problem.id.clone(),
                    sample: answer.sample,
                    program: g.tests.program.clone(),
                    oracles: match &g.declared {
                        Some(declared) => declared.oracles.clone(),
                        None => vec![g.tests.scored.clone()],
                    },
                    reward: g.reward().score,
                })
                .collect();
            ledger.push(&rows).map_err(RewardError::Ledger)?;
        }
        let unscored: Vec<&Graded> = graded.iter().filter(|g| g.reward().score.is_none()).collect();
        if unscored.len() as f64 > TOO_MANY * answers.len() as f64 {
            let last = unscored.last();
            let mut reason = last.map(|g| g.reward().reason.clone()).unwrap_or_default();
            if last.is_some_and(|g| g.tests.scored.score.is_none()) {
                reason += "; `bessemer doctor` checks the sandbox";
            }
            return Err(RewardError::TooManyUnscored {
                unscored: unscored.len(),
                answers: answers.len(),
                reason,
            });
        }
        Ok(graded)
    }

    /// As [`Grader::alarms`].
    pub fn alarms(&mut self) -> Vec<String> {
        self.grader.alarms()
    }
}
