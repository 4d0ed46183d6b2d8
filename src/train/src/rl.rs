//! Reinforcement learning of a policy against an oracle.

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

/// Where rewards come from.
pub trait Reward {
    /// One value per rollout, in their order. `None` is "could not be judged": that rollout takes no part in the
    /// update; it is never counted as 0.
    fn score(&mut self, batch: &[Rollout]) -> Vec<Option<f64>>;
}
