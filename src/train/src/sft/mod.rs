//! Supervised training: fine-tuning on completions, and training from scratch.

mod layout;
mod memory;
mod run;

pub use layout::steps_per_epoch;
pub use memory::is_out_of_memory;

use crate::rows::Encoded;
use crate::{End, Error, Host, Result};
use model::Model;
use record::checkpoint::Store;
use record::params::Schedule;
use serde::{Deserialize, Serialize};

/// A supervised run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub seed: u64,
    /// Optimizer steps in all.
    pub steps: u64,
    /// Rows per pass through the model when they are padded; a step has `batch * accumulation` rows either way.
    pub batch: usize,
    /// Passes per optimizer step when they are padded.
    pub accumulation: usize,
    /// Rows one after the other without padding: the same rows per step and the same loss, in fewer tokens.
    pub packing: bool,
    /// Most tokens of a pass, padding included; a longer row goes alone.
    pub pass_tokens: usize,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub warmup_steps: u64,
    pub schedule: Schedule,
    pub max_grad_norm: f64,
    /// Steps between checkpoints; 0 writes them only when the run is stopped.
    pub checkpoint_every: u64,
    /// Steps between measurements on the validation rows; 0 measures at the end of each epoch. The last step always does.
    pub evaluate_every: u64,
    /// Measurements in a row without a new best after which the run ends; 0 never ends it.
    pub patience: u32,
    /// Recompute activations in the backward pass.
    pub recompute: bool,
    /// Positions per piece of the output head.
    pub chunk: i64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            seed: 0,
            steps: 1,
            batch: 4,
            accumulation: 1,
            packing: true,
            pass_tokens: usize::MAX,
            learning_rate: 2e-4,
            weight_decay: 0.01,
            warmup_steps: 0,
            schedule: Schedule::Constant,
            max_grad_norm: 1.0,
            checkpoint_every: 0,
            evaluate_every: 0,
            patience: 0,
            recompute: false,
            chunk: crate::loss::CHUNK,
        }
    }
}

/// What a finished run says of itself. With validation rows the model holds the weights of the best measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub steps: u64,
    /// Mean loss per trained token over the last steps (at most 20).
    pub loss: f64,
    /// Best loss per token on the validation rows, and the step that it was measured after.
    pub best: Option<(f64, u64)>,
    /// Ended by `patience`.
    pub early: bool,
    /// Tokens that carried loss.
    pub tokens: u64,
    /// Steps skipped because fp16 gradients overflowed.
    pub skipped_steps: u64,
    /// Tokens of a pass after memory ran out, if it did.
    pub pass_tokens: Option<u64>,
}

/// Trains `model` (its adapter if it has one, else every weight) on `rows`; continues from the task's newest checkpoint.
///
/// The loss of a step is the mean over all its trained tokens, however they are spread over passes: accumulation 4 x 1
/// equals 1 x 4, and packed equals padded. When a pass runs out of memory, the step is done again in passes of half the
/// size, and so are those after it.
///
/// # Errors
/// I/O errors, a run that diverged, parameters that make no sense, a single row that does not fit into memory.
pub fn train(
    model: &Model,
    rows: &[Encoded],
    validation: &[Encoded],
    plan: &Plan,
    store: &Store,
    host: &mut dyn Host,
) -> Result<End<Summary>> {
    if [plan.batch, plan.accumulation, plan.pass_tokens, rows.len()].contains(&0) || plan.steps == 0 {
        return Err(Error::Invalid(
            "batch, accumulation, tokens per pass, rows and the number of steps must be at least 1".into(),
        ));
    }
    run::Run::new(model, rows, validation, plan).run(store, host)
}
