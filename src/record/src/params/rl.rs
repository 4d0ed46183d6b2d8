//! Parameters of reinforcement learning.

use super::reward::RewardSpec;
use super::tuning::{LoraParams, Precision, Quantization};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Policy-gradient method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Value head, GAE, clipped ratio.
    #[default]
    Ppo,
    /// Group baseline, no value head.
    Grpo,
}

/// How tests become the functional reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RewardMode {
    /// 1 if every test passes, else 0.
    Binary,
    /// Staged: parses, runs, prints, passes k of T.
    #[default]
    PartialCredit,
}

/// Which reading of a published recipe (specs name the defects).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    #[default]
    Corrected,
    AsPublished,
}

/// Reinforcement learning of a policy against executed tests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RlParams {
    /// Seed of every random choice of this task.
    pub seed: u64,
    /// Policy-gradient method.
    pub algorithm: Algorithm,
    /// Which reading of the published recipe.
    pub profile: Profile,
    /// `binary` or `partial-credit` for executed tests alone, or a mapping: oracles and their combination.
    pub reward: RewardSpec,
    /// Adapter to train; `null` trains every weight.
    pub lora: Option<LoraParams>,
    /// Number format of weights and activations.
    pub precision: Precision,
    /// How the frozen weights under the adapter are stored; anything but `none` needs `lora`.
    pub quantization: Quantization,
    /// Keep only the layers' inputs and compute the rest again in the backward pass: less memory, about a third more time.
    pub recompute: bool,
    /// Rounds of rollouts and updates.
    #[schemars(range(min = 1))]
    pub episodes: u32,
    /// Prompts per episode.
    #[schemars(range(min = 1))]
    pub prompts: u32,
    /// Rollouts per prompt.
    #[schemars(range(min = 1))]
    pub rollouts: u32,
    /// Rollouts decoded together.
    #[schemars(range(min = 1))]
    pub max_batch: u32,
    /// Most bytes of keys and values of rollouts; 0 is no limit. Where they run out, rollouts wait, and the youngest are computed again later.
    pub kv_bytes: u64,
    /// Rollouts per optimizer step.
    #[schemars(range(min = 1))]
    pub minibatch: u32,
    /// Passes over the episode's rollouts.
    #[schemars(range(min = 1))]
    pub epochs: u32,
    /// Peak learning rate of AdamW.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Episodes of linear warm-up.
    pub warmup_episodes: u32,
    /// Range of the clipped probability ratio: 1 - clip to 1 + clip.
    #[schemars(range(min = 0.0))]
    pub clip: f64,
    /// Weight of the KL divergence to the reference policy.
    #[schemars(range(min = 0.0))]
    pub kl_coef: f64,
    /// Leave the episode's remaining passes when the mean KL to the rollout policy exceeds this; 0 is off.
    #[schemars(range(min = 0.0))]
    pub target_kl: f64,
    /// Weight of the value loss (PPO).
    #[schemars(range(min = 0.0))]
    pub value_coef: f64,
    /// Weight of the entropy bonus.
    #[schemars(range(min = 0.0))]
    pub entropy_coef: f64,
    /// Discount per token.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub gamma: f64,
    /// Lambda of generalised advantage estimation (PPO).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub gae_lambda: f64,
    /// Gradients are scaled down to this norm.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub max_grad_norm: f64,
    /// Of the rollouts.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub temperature: f64,
    /// Share of the probability mass to draw rollouts from; 1 is off.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: f64,
    /// 0 is off.
    pub top_k: u32,
    /// Longest answer in tokens.
    #[schemars(range(min = 1))]
    pub max_new_tokens: u32,
    /// Measure the validation split every so many episodes and keep the best by it; 0 is off.
    pub validate_every: u32,
    /// Episodes between checkpoints; 0 writes one only when told to stop.
    pub checkpoint_every: u32,
}

impl Default for RlParams {
    fn default() -> Self {
        Self {
            seed: 0,
            algorithm: Algorithm::Ppo,
            profile: Profile::Corrected,
            reward: RewardSpec::default(),
            lora: Some(LoraParams::default()),
            precision: Precision::Fp32,
            quantization: Quantization::None,
            recompute: false,
            episodes: 30,
            prompts: 16,
            rollouts: 8,
            max_batch: 256,
            kv_bytes: 0,
            minibatch: 32,
            epochs: 2,
            learning_rate: 1e-3,
            warmup_episodes: 2,
            clip: 0.2,
            kl_coef: 0.02,
            target_kl: 0.2,
            value_coef: 0.5,
            entropy_coef: 0.0,
            gamma: 1.0,
            gae_lambda: 0.95,
            max_grad_norm: 1.0,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            max_new_tokens: 96,
            validate_every: 10,
            checkpoint_every: 5,
        }
    }
}
