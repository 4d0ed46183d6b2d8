//! Parameters of the kinds that make, draw and measure data.

use super::reward::Declared;
use super::tuning::{Precision, Quantization};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which part of a problem set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    Train,
    Validation,
    /// Families and values that training never saw.
    HeldOut,
}

/// The project's own problem set: small stdin programs in families, from a seeded generator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CorpusParams {
    /// Seed of the generator; same seed, same problems.
    pub seed: u64,
    /// Problems in the training split.
    pub train: u32,
    /// Problems in the validation split.
    pub validation: u32,
    /// Problems in the held-out split (half new values of known families, half families never trained on).
    pub held_out: u32,
    /// Hidden tests per problem.
    #[schemars(range(min = 1))]
    pub tests: u32,
    /// Share of the demonstrations that are plausible but wrong programs: it leaves RL something true to improve.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub wrong_demonstrations: f64,
}

impl Default for CorpusParams {
    fn default() -> Self {
        Self { seed: 17, train: 324, validation: 60, held_out: 120, tests: 6, wrong_demonstrations: 0.5 }
    }
}

/// Number format of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KvPrecision {
    /// fp32 in the kernels that run Llama, Qwen2 and Mistral on processors, else that of `precision`.
    #[default]
    Auto,
    /// In those kernels too.
    Bf16,
}

/// An OpenAI-compatible server over a model of the sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServeParams {
    /// Number format of weights and activations.
    pub precision: Precision,
    /// How the layers' linear weights are stored.
    pub quantization: Quantization,
    /// Sequences decoded together.
    #[schemars(range(min = 1))]
    pub max_batch: u32,
    /// Requests waiting beyond that are answered 429.
    pub queue: u32,
    /// Stop after this long without a request, so that a forgotten server cannot outlive its sweep.
    #[schemars(range(min = 1))]
    pub idle_timeout_s: u64,
    /// Most new tokens of one answer, whatever a request asks.
    #[schemars(range(min = 1))]
    pub max_new_tokens: u32,
    /// Most bytes of keys and values of running answers and kept beginnings together; 0 is no limit. Where they run out, requests wait, and the youngest answers are computed again later.
    pub kv_bytes: u64,
    /// Number format of keys and values. `auto` is that of `precision`, but fp32 where a processor runs Llama, Qwen2 or Mistral; `bf16` (with `precision: bf16`) halves them there too.
    pub kv_precision: KvPrecision,
    /// Prompt tokens of one step while answers are being written: less keeps their streams smooth, more reads prompts sooner.
    #[schemars(range(min = 1))]
    pub prefill_chunk: u32,
}

impl Default for ServeParams {
    fn default() -> Self {
        Self {
            precision: Precision::Fp32,
            quantization: Quantization::None,
            max_batch: 32,
            queue: 1024,
            idle_timeout_s: 1800,
            max_new_tokens: 1024,
            kv_bytes: 0,
            kv_precision: KvPrecision::Auto,
            prefill_chunk: 256,
        }
    }
}

/// Which sampled answers go into the data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// Only answers that pass every test.
    Verified,
    /// The best answer of each problem by partial credit, if it ran at all.
    Best,
    All,
}

/// Rejection sampling through a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SampleParams {
    /// Seed of every random choice of this task.
    pub seed: u64,
    /// Problems to answer.
    pub split: Split,
    /// Answers per problem.
    #[schemars(range(min = 1))]
    pub n: u32,
    /// 0 is greedy.
    #[schemars(range(min = 0.0))]
    pub temperature: f64,
    /// Share of the probability mass to draw from; 1 is off.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: f64,
    /// Longest answer in tokens.
    #[schemars(range(min = 1))]
    pub max_new_tokens: u32,
    /// Which answers go into the data set.
    pub keep: Keep,
    /// Kept answers per problem at the most (different programs).
    #[schemars(range(min = 1))]
    pub max_per_problem: u32,
    /// Requests in flight.
    #[schemars(range(min = 1))]
    pub concurrency: u32,
    /// Problems to use; 0 is all.
    pub limit: u32,
}

impl Default for SampleParams {
    fn default() -> Self {
        Self {
            seed: 0,
            split: Split::Train,
            n: 8,
            temperature: 1.0,
            top_p: 1.0,
            max_new_tokens: 96,
            keep: Keep::Verified,
            max_per_problem: 2,
            concurrency: 8,
            limit: 0,
        }
    }
}

/// Measuring a model: every problem, several samples, every program executed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalParams {
    /// Seed of every random choice of this task.
    pub seed: u64,
    /// Number format of weights and activations.
    pub precision: Precision,
    /// How the layers' linear weights are stored.
    pub quantization: Quantization,
    /// Answers decoded together.
    #[schemars(range(min = 1))]
    pub max_batch: u32,
    /// Most bytes of keys and values; 0 is no limit. Where they run out, answers wait, and the youngest are computed again later.
    pub kv_bytes: u64,
    /// Problems to answer.
    pub split: Split,
    /// Answers per problem.
    #[schemars(range(min = 1))]
    pub samples: u32,
    /// 0 is greedy.
    #[schemars(range(min = 0.0))]
    pub temperature: f64,
    /// Share of the probability mass to draw from; 1 is off.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: f64,
    /// 0 is off.
    pub top_k: u32,
    /// Longest answer in tokens.
    #[schemars(range(min = 1))]
    pub max_new_tokens: u32,
    /// Resamples of the percentile bootstrap over problems.
    pub bootstrap: u32,
    /// Also score by a declaration (oracles and their combination), as metric `reward`; `null` is off.
    pub reward: Option<Declared>,
    /// Problems to use; 0 is all.
    pub limit: u32,
}

impl Default for EvalParams {
    fn default() -> Self {
        Self {
            seed: 42,
            precision: Precision::Fp32,
            quantization: Quantization::None,
            max_batch: 64,
            kv_bytes: 0,
            split: Split::HeldOut,
            samples: 4,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            max_new_tokens: 96,
            bootstrap: 10_000,
            reward: None,
            limit: 0,
        }
    }
}

/// A program of the user's. It runs in the attempt's `out/` directory; every file it leaves there is an output.
/// Inputs are in `BESSEMER_INPUT_<ROLE>` (the upstream's output directory). A service is found in `BESSEMER_SERVICE_<ROLE>`, the
/// service's directory: once it is up, `service.json` there has its `url`, and the file `token` its bearer token.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandParams {
    /// Program and arguments; no shell.
    #[schemars(length(min = 1))]
    pub argv: Vec<String>,
    /// Environment variables added to those of the job.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files that must exist in the end, relative to the working directory.
    #[serde(default)]
    pub outputs: Vec<String>,
}
