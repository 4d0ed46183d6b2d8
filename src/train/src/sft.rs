//! Supervised training: fine-tuning on completions, and training from scratch.

use crate::optimizer::{AdamW, Scaler};
use crate::rows::{Encoded, collate, trained_tokens};
use crate::{End, Error, Host, Result, loss, schedule, state};
use model::sampler::{bits, permutation};
use model::{Model, Pass};
use record::checkpoint::Store;
use record::params::Schedule;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// A supervised run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub seed: u64,
    /// Optimizer steps in all.
    pub steps: u64,
    /// Rows per pass through the model.
    pub batch: usize,
    /// Passes per optimizer step.
    pub accumulation: usize,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub warmup_steps: u64,
    pub schedule: Schedule,
    pub max_grad_norm: f64,
    /// Steps between checkpoints; 0 writes them only when the run is stopped.
    pub checkpoint_every: u64,
    /// Recompute activations in the backward pass.
    pub recompute: bool,
    /// Positions per piece of the output head.
    pub chunk: i64,
}

/// What a finished run says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub steps: u64,
    /// Mean loss per trained token over the last steps (at most 20).
    pub loss: f64,
    /// Tokens that carried loss.
    pub tokens: u64,
    /// Steps skipped because fp16 gradients overflowed.
    pub skipped_steps: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Own {
    losses: Vec<f64>,
    tokens: u64,
    skipped: u64,
}

/// Steps of `epochs` passes over `rows` rows; the last step of an epoch may be smaller.
#[must_use]
pub fn steps_per_epoch(rows: usize, batch: usize, accumulation: usize) -> u64 {
    rows.div_ceil((batch * accumulation).max(1)) as u64
}

/// Rows of step `step`: each epoch is a new permutation, a pure function of seed and epoch.
fn rows_of_step(plan: &Plan, rows: usize, step: u64) -> Vec<usize> {
    let per_epoch = steps_per_epoch(rows, plan.batch, plan.accumulation);
    let (epoch, at) = (step / per_epoch, (step % per_epoch) as usize);
    let order = permutation(rows, bits(plan.seed, epoch));
    let size = plan.batch * plan.accumulation;
    order[at * size..rows.min((at + 1) * size)].to_vec()
}

/// Trains `model` (its adapter if it has one, else every weight) on `rows`; continues from the task's newest checkpoint.
///
/// The loss of a step is the mean over all its trained tokens, however they are spread over passes: accumulation 4 x 1
/// equals 1 x 4.
///
/// # Errors
/// I/O errors, a run that diverged, parameters that make no sense.
pub fn train(
    model: &Model,
    rows: &[Encoded],
    plan: &Plan,
    store: &Store,
    host: &mut dyn Host,
) -> Result<End<Summary>> {
    if plan.batch == 0 || plan.accumulation == 0 || plan.steps == 0 {
        return Err(Error::Invalid("batch, accumulation and the number of steps must be at least 1".into()));
    }
    let decoder = &model.decoder;
    let mut optimizer =
        AdamW::new(decoder.trainable(), plan.weight_decay, plan.max_grad_norm, Scaler::new(decoder.kind));
    let mut own = Own::default();
    let mut step = 0;
    // whatever has drawn numbers before us, dropout starts from the seed; a checkpoint puts its own state in place
    tch::manual_seed((bits(plan.seed, u64::MAX) >> 1) as i64);
    if let Some(resumed) = state::load::<Own>(store, &mut optimizer)? {
        (step, own) = (resumed.step, resumed.own);
        host.note(&format!("continuing from step {step} of attempt {}", resumed.attempt))?;
    }
    while step < plan.steps {
        let began = Instant::now();
        let mut chosen: Vec<&Encoded> =
            rows_of_step(plan, rows.len(), step).into_iter().map(|i| &rows[i]).collect();
        let tokens: usize = chosen.iter().map(|r| trained_tokens(r)).sum();
        let seen: usize = chosen.iter().map(|r| r.ids.len()).sum();
        // equal lengths side by side: less padding, and the sum over the step does not care
        chosen.sort_by_key(|r| std::cmp::Reverse(r.ids.len()));
        let mut total = 0.0;
        for part in chosen.chunks(plan.batch) {
            let batch = collate(part, model.pad, decoder.device);
            let pass = Pass { adapter: true, train: true, recompute: plan.recompute };
            let hidden = decoder.trunk(&batch.ids, None, pass)?.index_select(0, &batch.at);
            let weight = 1.0 / tokens.max(1) as f64;
            total += loss::cross_entropy_backward(
                decoder,
                &hidden,
                &batch.labels,
                weight,
                optimizer.scaler.scale,
                plan.chunk,
            )?;
        }
        let rate = plan.learning_rate * schedule::share(plan.schedule, step, plan.warmup_steps, plan.steps);
        let norm = optimizer.step(rate)?;
        own.skipped += u64::from(norm.is_none());
        own.tokens += tokens as u64;
        own.losses.push(total);
        if own.losses.len() > 20 {
            own.losses.remove(0);
        }
        step += 1;
        host.step(
            step,
            plan.steps,
            &[
                ("loss", total),
                ("learning_rate", rate),
                ("grad_norm", norm.unwrap_or(f64::NAN)),
                ("tokens_per_s", seen as f64 / began.elapsed().as_secs_f64()),
            ]
            .into_iter()
            .filter(|(_, v)| v.is_finite())
            .collect::<Vec<_>>(),
        )?;
        let stop = if step < plan.steps { host.stop() } else { None };
        let due = plan.checkpoint_every > 0 && step % plan.checkpoint_every == 0 && step < plan.steps;
        if stop.is_some() || due {
            state::save(store, step, &optimizer, &[], &own)?;
        }
        if let Some(reason) = stop {
            return Ok(End::Stopped { step, reason });
        }
    }
    Ok(End::Finished(Summary {
        steps: step,
        loss: own.losses.iter().sum::<f64>() / own.losses.len().max(1) as f64,
        tokens: own.tokens,
        skipped_steps: own.skipped,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_sees_every_row_once_in_another_order() {
        let plan = Plan {
            seed: 3,
            steps: 6,
            batch: 2,
            accumulation: 2,
            learning_rate: 0.0,
            weight_decay: 0.0,
            warmup_steps: 0,
            schedule: Schedule::Constant,
            max_grad_norm: 0.0,
            checkpoint_every: 0,
            recompute: false,
            chunk: 16,
        };
        let epoch =
            |e: u64| -> Vec<usize> { (0..3).flat_map(|s| rows_of_step(&plan, 10, 3 * e + s)).collect() };
        assert_ne!(epoch(0), epoch(1));
        for e in [0, 1] {
            let mut rows = epoch(e);
            rows.sort_unstable();
            assert_eq!(rows, (0..10).collect::<Vec<_>>());
        }
    }
}
