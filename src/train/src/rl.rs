//! Reinforcement learning of a policy against an oracle: PPO with a value head, and GRPO.
//!
//! What the published recipe got wrong and this does otherwise (profile `corrected`): generated ids are kept, never
//! re-encoded; old log-probabilities come from the same forward pass as the new ones; ratios are per token; the KL term
//! (k3) is against the model before RL; advantages have a floor on their spread; an answer that could not be judged
//! takes no part.

pub mod advantage;
mod batch;
#[cfg(test)]
mod parity;
mod run;

pub use run::{Job, Prompts, Summary, run};

use generate::Finish;

/// One answer of the policy, as the oracle sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// Index into the prompts that the trainer was given.
    pub prompt: usize,
    /// Decoded answer, without special tokens and stop text.
    pub text: String,
    /// Generated ids, end-of-sequence included if it was drawn.
    pub tokens: Vec<u32>,
    pub finish: Finish,
}

/// Why a batch got no rewards, in the oracle's words.
pub type RewardError = Box<dyn std::error::Error + Send + Sync>;

/// Where rewards come from.
pub trait Reward {
    /// One value per rollout of episode `episode`, in their order. `None` is "could not be judged": that rollout takes no
    /// part in the update; it is never counted as 0.
    ///
    /// # Errors
    /// Judging as a whole failed (too many unjudged, a ledger that cannot be written).
    fn score(&mut self, episode: u64, batch: &[Rollout]) -> Result<Vec<Option<f64>>, RewardError>;
}
