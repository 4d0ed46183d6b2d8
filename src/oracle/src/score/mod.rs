//! Scoring a file of answers: rows in, reward-ledger rows out, in batches of bounded size, resumable.

mod output;
mod row;
mod run;

pub use output::{Output, OutputError};
pub use row::{BadRow, Problems, Row};
pub use run::{Bounds, Progress, ScoreError, Summary, Tally, run};

use crate::ledger::LedgerRow;
use crate::verdict::Verdict;
use serde::{Deserialize, Serialize};

/// One line of the output: a row of the reward ledger with the id of its input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreRow {
    /// The input row's.
    pub id: String,
    #[serde(flatten)]
    pub row: LedgerRow,
    /// What the reward amounts to; `unscored` where it is null.
    pub verdict: Verdict,
    /// Why, for people.
    pub reason: String,
    /// Milliseconds of all oracles together.
    pub ms: f64,
    /// Hash of the declaration, the tools' versions and the sandbox: equal in rows that can be compared.
    pub scorer: String,
}
