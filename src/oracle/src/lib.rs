//! What scores an answer: tests, partial credit, format; reward as a declared combination.

pub mod analyzer;
pub mod combine;
pub mod credit;
pub mod execute;
pub mod format;
pub mod judge;
pub mod ledger;
pub mod reward;
pub mod verdict;

pub use combine::Combination;
pub use credit::{Execution, Stage};
pub use execute::{Item, Judgement, Runner, Scoring, TestsOracle, VerdictCache};
pub use ledger::{LedgerRow, RewardLedger};
pub use reward::{Answer, Reward, RewardError};
pub use verdict::{Scored, Verdict};
