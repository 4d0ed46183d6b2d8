//! The loop: passes, steps, measurements, checkpoints, memory.

use super::layout::{passes, rows_of_step, size, steps_per_epoch};
use super::memory::within_memory;
use super::{Plan, Summary};
use crate::optimizer::{AdamW, Scaler};
use crate::rows::{Batch, Encoded, collate, pack};
use crate::{End, Error, Host, Result, loss, schedule, state};
use model::sampler::bits;
use model::{Model, Pass, shim};
use record::checkpoint::Store;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;
use tch::Tensor;

/// Counters that a checkpoint carries.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Own {
    losses: Vec<f64>,
    tokens: u64,
    skipped: u64,
    /// Best validation loss and its step.
    best: Option<(f64, u64)>,
    /// Measurements since then.
    without: u32,
    /// Tokens of a pass, once memory ran out.
    pass_tokens: Option<u64>,
}

pub(super) struct Run<'a> {
    model: &'a Model,
    rows: &'a [Encoded],
    validation: &'a [Encoded],
    plan: &'a Plan,
    optimizer: AdamW,
    own: Own,
    /// Trained weights of the best measurement so far.
    best: Vec<(String, Tensor)>,
}

impl<'a> Run<'a> {
    pub fn new(model: &'a Model, rows: &'a [Encoded], validation: &'a [Encoded], plan: &'a Plan) -> Self {
        let d = &model.decoder;
        let optimizer = AdamW::new(d.trainable(), plan.weight_decay, plan.max_grad_norm, Scaler::new(d.kind));
        Self { model, rows, validation, plan, optimizer, own: Own::default(), best: Vec::new() }
    }

    pub fn run(mut self, store: &Store, host: &mut dyn Host) -> Result<End<Summary>> {
        let plan = self.plan;
        let mut step = 0;
        // whatever has drawn numbers before us, dropout starts from the seed; a checkpoint puts its own state in place
        tch::manual_seed((bits(plan.seed, u64::MAX) >> 1) as i64);
        if let Some(resumed) = state::load::<Own>(store, &mut self.optimizer)? {
            (step, self.own) = (resumed.step, resumed.own);
            self.best = resumed.extra.into_iter().collect();
            host.note(&format!("continuing from step {step} of attempt {}", resumed.attempt))?;
        }
        let per_epoch = steps_per_epoch(self.rows.len(), plan.batch, plan.accumulation);
        while step < plan.steps && !self.exhausted() {
            let began = Instant::now();
            let mut values = self.step(step, host)?;
            step += 1;
            let seconds = began.elapsed().as_secs_f64();
            values.iter_mut().filter(|(n, _)| *n == "tokens_per_s").for_each(|(_, v)| *v /= seconds);
            values.push(("epoch", step as f64 / per_epoch as f64));
            let every = if plan.evaluate_every > 0 { plan.evaluate_every } else { per_epoch };
            if !self.validation.is_empty() && (step % every == 0 || step == plan.steps) {
                let loss = self.measure(host)?;
                values.push(("validation_loss", loss));
                self.consider(step, loss);
            }
            values.retain(|(_, v)| v.is_finite());
            host.step(step, plan.steps, &values)?;
            let more = step < plan.steps && !self.exhausted();
            let stop = if more { host.stop() } else { None };
            let due = plan.checkpoint_every > 0 && step % plan.checkpoint_every == 0 && more;
            if stop.is_some() || due {
                state::save(store, step, &self.optimizer, &self.best, &self.own)?;
            }
            if let Some(reason) = stop {
                return Ok(End::Stopped { step, reason });
            }
        }
        if self.exhausted() && step < plan.steps {
            host.note(&format!(
                "ended early at step {step} of {}: {} measurements without a loss below that of step {}",
                plan.steps,
                self.own.without,
                self.own.best.map_or(0, |b| b.1)
            ))?;
        }
        self.take_best();
        Ok(End::Finished(Summary {
            steps: step,
            loss: self.own.losses.iter().sum::<f64>() / self.own.losses.len().max(1) as f64,
            best: self.own.best,
            early: step < plan.steps,
            tokens: self.own.tokens,
            skipped_steps: self.own.skipped,
            pass_tokens: self.own.pass_tokens,
        }))
    }

    fn exhausted(&self) -> bool {
        self.plan.patience > 0 && self.own.without >= self.plan.patience
    }

    fn budget(&self) -> usize {
        self.own.pass_tokens.map_or(self.plan.pass_tokens, |n| (n as usize).min(self.plan.pass_tokens))
    }

    fn passes<'r>(&self, rows: &[&'r Encoded]) -> Vec<Vec<&'r Encoded>> {
        let lengths: Vec<usize> = rows.iter().map(|r| r.ids.len()).collect();
        let passes = passes(&lengths, self.plan.batch, self.budget(), self.plan.packing);
        passes.into_iter().map(|p| p.into_iter().map(|i| rows[i]).collect()).collect()
    }

    fn batch(&self, rows: &[&Encoded]) -> Batch {
        let device = self.model.decoder.device;
        if self.plan.packing { pack(rows, device) } else { collate(rows, self.model.pad, device) }
    }

    /// Runs `f` until it fits into memory: after each failure in passes of half the size, from the same state of the
    /// generator.
    fn fitting<T>(
        &mut self,
        rows: &[&Encoded],
        host: &mut dyn Host,
        f: impl Fn(&Self) -> Result<T>,
    ) -> Result<T> {
        let rng = shim::rng_state()?;
        loop {
            if let Some(value) = within_memory(|| f(self))? {
                return Ok(value);
            }
            // the failed pass' graph is gone; so are its gradients, and the pieces that the allocator kept
            self.optimizer.zero_grad()?;
            if self.model.decoder.device.is_cuda() {
                shim::empty_cache()?;
            } else {
                model::runtime::trim();
            }
            shim::set_rng_state(&rng)?;
            let lengths: Vec<usize> = rows.iter().map(|r| r.ids.len()).collect();
            let layout = passes(&lengths, self.plan.batch, self.budget(), self.plan.packing);
            let largest = layout.iter().map(|p| size(p, &lengths, self.plan.packing)).max().unwrap_or(0);
            let longest = lengths.iter().copied().max().unwrap_or(0);
            if largest <= longest {
                return Err(Error::Invalid(format!(
                    "out of memory in a pass of one row of {longest} tokens: lower max_tokens, set recompute: true, or \
                     ask for more memory"
                )));
            }
            let smaller = (largest / 2).max(longest);
            self.own.pass_tokens = Some(smaller as u64);
            host.note(&format!(
                "out of memory: passes of {smaller} tokens from here on instead of {largest}; the {} rows of a step and \
                 its loss stay the same",
                self.plan.batch * self.plan.accumulation
            ))?;
        }
    }

    fn step(&mut self, step: u64, host: &mut dyn Host) -> Result<Vec<(&'static str, f64)>> {
        let plan = self.plan;
        let all = self.rows;
        let chosen: Vec<&Encoded> =
            rows_of_step(plan, all.len(), step).into_iter().map(|i| &all[i]).collect();
        let tokens: usize = chosen.iter().map(|r| r.trained_tokens()).sum();
        let seen: usize = chosen.iter().map(|r| r.ids.len()).sum();
        let total = self.fitting(&chosen, host, |run| run.gradients(&chosen, tokens))?;
        let rate = plan.learning_rate * schedule::share(plan.schedule, step, plan.warmup_steps, plan.steps);
        let norm = self.optimizer.step(rate).map_err(|e| match e {
            Error::Diverged(what) => {
                Error::Diverged(format!("step {}: loss {total}, learning rate {rate:e}: {what}", step + 1))
            }
            other => other,
        })?;
        self.own.skipped += u64::from(norm.is_none());
        self.own.tokens += tokens as u64;
        self.own.losses.push(total);
        if self.own.losses.len() > 20 {
            self.own.losses.remove(0);
        }
        Ok(vec![
            ("loss", total),
            ("learning_rate", rate),
            ("grad_norm", norm.unwrap_or(f64::NAN)),
            ("tokens_per_s", seen as f64),
        ])
    }

    /// Gradients of the mean loss over the `tokens` trained tokens of `rows`; gives that loss.
    fn gradients(&self, rows: &[&Encoded], tokens: usize) -> Result<f64> {
        let decoder = &self.model.decoder;
        let pass = Pass { adapter: true, train: true, recompute: self.plan.recompute };
        let weight = 1.0 / tokens.max(1) as f64;
        let mut total = 0.0;
        for part in self.passes(rows) {
            let batch = self.batch(&part);
            let hidden = decoder.trunk(&batch.ids, batch.packing.as_ref(), pass)?.index_select(0, &batch.at);
            let scale = self.optimizer.scaler.scale;
            total += loss::cross_entropy_backward(
                decoder,
                &hidden,
                &batch.labels,
                weight,
                scale,
                self.plan.chunk,
            )?;
        }
        Ok(total)
    }

    /// Mean loss per trained token of the validation rows, without dropout.
    fn measure(&mut self, host: &mut dyn Host) -> Result<f64> {
        let rows: Vec<&Encoded> = self.validation.iter().collect();
        self.fitting(&rows, host, |run| {
            let _guard = tch::no_grad_guard();
            let decoder = &run.model.decoder;
            let (mut sum, mut tokens) = (0.0, 0);
            for part in run.passes(&rows) {
                let batch = run.batch(&part);
                let hidden = decoder.trunk(&batch.ids, batch.packing.as_ref(), Pass::EVAL)?;
                let hidden = hidden.index_select(0, &batch.at);
                sum += loss::cross_entropy(decoder, &hidden, &batch.labels, run.plan.chunk)?;
                tokens += batch.labels.size()[0];
            }
            Ok(sum / tokens.max(1) as f64)
        })
    }

    fn consider(&mut self, step: u64, loss: f64) {
        // a loss that is not a number is never the best
        if loss.is_finite() && self.own.best.is_none_or(|(best, _)| loss < best) {
            self.own.best = Some((loss, step));
            self.own.without = 0;
            self.best = shim::no_grad(|| {
                self.model.decoder.trainable().into_iter().map(|(n, t)| (n, t.detach().copy())).collect()
            });
        } else {
            self.own.without += 1;
        }
    }

    fn take_best(&self) {
        let best: BTreeMap<_, _> = self.best.iter().map(|(n, t)| (n.as_str(), t)).collect();
        shim::no_grad(|| {
            for (name, mut t) in self.model.decoder.trainable() {
                if let Some(from) = best.get(name.as_str()) {
                    t.copy_(from);
                }
            }
        });
    }
}
