//! Parameters of training from scratch and of supervised fine-tuning.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Number format of weights and activations. LoRA weights and optimizer states are always fp32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    Fp32,
    /// With dynamic loss scaling; what a V100 wants.
    Fp16,
    Bf16,
}

/// How the frozen weights under an adapter are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// As numbers of `precision`.
    #[default]
    None,
    /// The layers' linear weights in 4 bits (QLoRA): 4.5 bits per weight, unpacked for each product.
    Nf4,
}

/// Learning-rate schedule after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    Constant,
    #[default]
    Linear,
    Cosine,
    /// Reflected exponential: stays high for long, then falls to 0.
    Rex,
}

/// A tokenizer and a Llama-shaped decoder, trained from scratch on the corpus' demonstrations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BaseParams {
    /// Seed of every random choice of this task.
    pub seed: u64,
    /// Tokens of the tokenizer, special ones included.
    #[schemars(range(min = 1))]
    pub vocab_size: u32,
    /// Width of the residual stream.
    #[schemars(range(min = 1))]
    pub hidden: u32,
    /// Transformer blocks.
    #[schemars(range(min = 1))]
    pub layers: u32,
    /// Attention heads; must divide `hidden`.
    #[schemars(range(min = 1))]
    pub heads: u32,
    /// Key and value heads; must divide `heads`.
    #[schemars(range(min = 1))]
    pub kv_heads: u32,
    /// Width of the feed-forward layer.
    #[schemars(range(min = 1))]
    pub intermediate: u32,
    /// Longest sequence in tokens.
    #[schemars(range(min = 1))]
    pub context: u32,
    /// Optimizer steps.
    #[schemars(range(min = 1))]
    pub steps: u32,
    /// Sequences per step.
    #[schemars(range(min = 1))]
    pub batch: u32,
    /// Peak learning rate of AdamW.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u32,
    /// Steps between checkpoints; 0 writes one only when told to stop.
    pub checkpoint_every: u32,
}

impl Default for BaseParams {
    fn default() -> Self {
        Self {
            seed: 0,
            vocab_size: 400,
            hidden: 128,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            intermediate: 352,
            context: 256,
            steps: 150,
            batch: 64,
            learning_rate: 3e-3,
            warmup_steps: 15,
            checkpoint_every: 50,
        }
    }
}

/// Low-rank adapters; `None` in the job file (`lora: null`) is full fine-tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraParams {
    /// Rank of the adapters.
    #[schemars(range(min = 1))]
    pub r: u32,
    /// Scale: an adapter's output is multiplied by alpha / r.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub alpha: f64,
    /// Share of the adapter's inputs that is dropped in training.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub dropout: f64,
    /// Linear layers that get an adapter.
    pub targets: Vec<String>,
}

impl Default for LoraParams {
    fn default() -> Self {
        Self {
            r: 16,
            alpha: 32.0,
            dropout: 0.0,
            targets: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
                .map(str::to_owned)
                .to_vec(),
        }
    }
}

/// Which columns of a data set hold a training row.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// Column with the prompt: text, or a list of messages. `a.b` is the field `b` of column `a`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Column with the answer: text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion: Option<String>,
    /// Column with whole conversations: a list of `{role, content}`; excludes the other two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<String>,
}

/// Supervised fine-tuning on `{prompt, completion}` rows (the loss counts completion tokens) or `{messages: [{role, content, train}]}` rows (it counts assistant turns, less those with `train: false`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SftParams {
    /// Seed of every random choice of this task.
    pub seed: u64,
    /// Adapter to train; `null` trains every weight.
    pub lora: Option<LoraParams>,
    /// Number format of weights and activations.
    pub precision: Precision,
    /// How the frozen weights under the adapter are stored; anything but `none` needs `lora`.
    pub quantization: Quantization,
    /// Columns of the data, where they are not `messages`, or `prompt` and `completion`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    /// Passes over the data.
    #[schemars(range(min = 1))]
    pub epochs: u32,
    /// Stop after this many optimizer steps; 0 is `epochs` alone.
    pub max_steps: u32,
    /// Sequences per micro-batch.
    #[schemars(range(min = 1))]
    pub batch: u32,
    /// Micro-batches per optimizer step: a step has `batch` x `accumulation` rows.
    #[schemars(range(min = 1))]
    pub accumulation: u32,
    /// Lay rows one after the other without padding, attention kept within each: the same rows per step and the same loss, computed in fewer tokens.
    pub packing: bool,
    /// Most tokens of one pass through the model, padding included; 0 is `batch` x `max_tokens`. Less needs less memory and changes no result. After running out of memory it is halved.
    pub pass_tokens: u32,
    /// Keep only the layers' inputs and compute the rest again in the backward pass: less memory, about a third more time.
    pub recompute: bool,
    /// Peak learning rate of AdamW.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Decoupled weight decay of AdamW.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Share of the steps that warm up.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub warmup: f64,
    /// What the learning rate does after the warm-up.
    pub schedule: Schedule,
    /// Gradients are scaled down to this norm.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub max_grad_norm: f64,
    /// Longer rows are cut: the end of the answer, or of the longest user turn if too little room were left for the answer.
    #[schemars(range(min = 1))]
    pub max_tokens: u32,
    /// Share of the rows that is held out to measure the loss on; with it the weights of the best measurement are kept.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub validation: f64,
    /// Steps between measurements; 0 measures after each epoch. The last step always does.
    pub evaluate_every: u32,
    /// End after this many measurements in a row without a new best; 0 never does.
    pub patience: u32,
    /// Optimizer steps between checkpoints; 0 writes one only when told to stop.
    pub checkpoint_every: u32,
}

impl Default for SftParams {
    fn default() -> Self {
        Self {
            seed: 0,
            lora: Some(LoraParams::default()),
            precision: Precision::Fp32,
            quantization: Quantization::None,
            columns: None,
            epochs: 3,
            max_steps: 0,
            batch: 4,
            accumulation: 4,
            packing: true,
            pass_tokens: 0,
            recompute: false,
            learning_rate: 2e-4,
            weight_decay: 0.01,
            warmup: 0.1,
            schedule: Schedule::Linear,
            max_grad_norm: 1.0,
            max_tokens: 2048,
            validation: 0.0,
            evaluate_every: 0,
            patience: 0,
            checkpoint_every: 50,
        }
    }
}
