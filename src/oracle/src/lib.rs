//! What scores an answer: tests, partial credit, format; reward as a declared combination.

pub mod analyzer;
pub mod combine;
pub mod credit;
pub mod execute;
pub mod format;
pub mod judge;
pub mod ledger;
pub mod panel;
pub mod reward;
pub mod score;
pub mod verdict;

pub use combine::{Combination, combine};
pub use credit::{Execution, Stage};
pub use execute::{Item, Judgement, Runner, Scoring, TestsOracle, VerdictCache};
pub use ledger::{LedgerRow, RewardLedger};
pub use panel::{Panel, Subject};
pub use reward::{Answer, Graded, Grader, Reward, RewardError};
pub use verdict::{Scored, Verdict};
