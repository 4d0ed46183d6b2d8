//! The reward of reinforcement learning: a batch of answers in, numbers (or nothing) out, a ledger row for each.

use crate::execute::{CacheError, Item, Judgement, Scoring, TestsOracle};
use crate::ledger::{LedgerRow, RewardLedger};
use corpus::Problem;
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
    /// Learning from the remainder would learn from whatever happens to survive.
    #[error(
        "{unscored} of {answers} answers could not be judged, more than a quarter; the last reason: {reason}; \
         `bessemer doctor` checks the sandbox"
    )]
    TooManyUnscored { unscored: usize, answers: usize, reason: String },
}

/// Judges rollouts and keeps the ledger.
pub struct Reward {
    tests: TestsOracle,
    scoring: Scoring,
    ledger: Option<RewardLedger>,
}

/// A share of unscored answers above which a batch is an error.
const TOO_MANY: f64 = 0.25;

impl Reward {
    #[must_use]
    pub fn new(tests: TestsOracle, scoring: Scoring, ledger: Option<RewardLedger>) -> Self {
        Self { tests, scoring, ledger }
    }

    /// Judges one batch: `None` where an answer could not be judged (leave it out of the update; it is not a zero).
    ///
    /// # Errors
    /// See [`RewardError`].
    pub fn judge(&mut self, step: u64, answers: &[Answer<'_>]) -> Result<Vec<Judgement>, RewardError> {
        let items: Vec<Item<'_>> =
            answers.iter().map(|a| Item { problem: a.problem, answer: a.text }).collect();
        let judged = self.tests.judge(&items, self.scoring)?;
        if let Some(ledger) = &mut self.ledger {
            let rows: Vec<LedgerRow> = answers
                .iter()
                .zip(&judged)
                .map(|(answer, j)| LedgerRow {
                    step,
                    problem: answer.problem.id.clone(),
                    sample: answer.sample,
                    program: j.program.clone(),
                    oracles: vec![j.scored.clone()],
                    reward: j.scored.score,
                })
                .collect();
            ledger.push(&rows).map_err(RewardError::Ledger)?;
        }
        let unscored: Vec<&Judgement> = judged.iter().filter(|j| j.scored.score.is_none()).collect();
        if unscored.len() as f64 > TOO_MANY * answers.len() as f64 {
            let reason = unscored.last().map(|j| j.scored.reason.clone()).unwrap_or_default();
            return Err(RewardError::TooManyUnscored {
                unscored: unscored.len(),
                answers: answers.len(),
                reason,
            });
        }
        Ok(judged)
    }
}
