//! Training: optimizer, schedules, checkpoints, supervised fine-tuning, PPO and GRPO.
//!
//! A run is a function of its inputs: every random choice is either a pure function of (seed, counter) or drawn from
//! libtorch's generator, whose state is part of every checkpoint. Cut anywhere and resumed, it ends with the same bits
//! as if it had not been cut (same machine type, same number of threads).

pub mod loss;
pub mod optimizer;
pub mod rl;
pub mod rows;
pub mod schedule;
pub mod sft;
pub mod state;

use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Model(#[from] model::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A data file's row is not what it should be.
    #[error("{path}:{line}: {what}")]
    Row { path: PathBuf, line: usize, what: String },
    /// Parameters or data that make no sense together.
    #[error("{0}")]
    Invalid(String),
    /// Numbers ran away.
    #[error("{0}")]
    Diverged(String),
    #[error("the reward: {0}")]
    Reward(#[source] rl::RewardError),
    #[error("the engine: {0}")]
    Engine(#[from] generate::EngineError),
}

impl From<tch::TchError> for Error {
    fn from(e: tch::TchError) -> Self {
        Self::Model(e.into())
    }
}

/// Who runs a training: hears of its progress and may end it between two steps.
pub trait Host {
    /// `step` steps of `of` are done.
    ///
    /// # Errors
    /// The progress could not be written down.
    fn step(&mut self, step: u64, of: u64, values: &[(&str, f64)]) -> Result<()>;

    /// A line for people.
    ///
    /// # Errors
    /// As [`Self::step`].
    fn note(&mut self, text: &str) -> Result<()>;

    /// Asked after each step: the reason if the run is to checkpoint and leave.
    fn stop(&mut self) -> Option<String>;
}

/// How a training ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End<T> {
    Finished(T),
    /// Left with a checkpoint after `step` steps.
    Stopped {
        step: u64,
        reason: String,
    },
}
