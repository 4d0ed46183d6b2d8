//! Metrics with confidence intervals and paired tests.
//!
//! The unit of sampling is the problem: answers to one problem are not independent, so every interval resamples
//! problems, never answers. What no oracle could judge is left out of a rate and counted apart; it is never a pass and
//! never a failure.

mod bootstrap;
mod metrics;
mod paired;
mod pass_at_k;
mod run;

pub use bootstrap::{Interval, mean_interval};
pub use metrics::{Sample, headline, metrics, problem_scores};
pub use oracle::Stage;
pub use paired::{Difference, mcnemar, paired_difference};
pub use pass_at_k::{pass_at_k, pass_at_k_of};
pub use run::{Drawing, Row, RunError, answer, prompt, seed_of};
