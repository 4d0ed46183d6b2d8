//! Kind `sft`: fine-tuning on prompt and completion rows, or on conversations.

use crate::context::{Context, Ending, Failure};
use crate::kinds::{load, training};
use anyhow::Result;
use model::sampler::{bits, permutation};
use record::params::SftParams;
use serde_json::json;
use train::rows::{Encoded, encode, read};
use train::sft::{Plan, steps_per_epoch, train};

/// Counter of the draw of held-out rows; epochs count from 0.
const HELD_OUT: u64 = u64::MAX - 1;

pub fn run(cx: &mut Context, p: &SftParams) -> Result<Ending> {
    if p.batch == 0 || p.accumulation == 0 || (p.epochs == 0 && p.max_steps == 0) {
        return Err(
            Failure::user("sft: batch, accumulation and epochs (or max_steps) must be at least 1").into()
        );
    }
    let (mut model, base) = load(cx, "model", p.precision, p.quantization)?;
    let data = crate::data::rows(cx, p.columns.as_ref())?;
    let context = usize::try_from(model.decoder.config.context).unwrap_or(usize::MAX);
    let max_tokens = context.min(p.max_tokens as usize);
    let (rows, skipped) = encode(&model, &read(&data)?, max_tokens)?;
    let (rows, held_out) = split(rows, p)?;
    tch::manual_seed((p.seed >> 1) as i64);
    match &p.lora {
        Some(lora) => model.decoder.add_adapter(lora)?,
        None => model.decoder.train_all(),
    }
    let per_epoch = steps_per_epoch(rows.len(), p.batch as usize, p.accumulation as usize);
    let whole = per_epoch * u64::from(p.epochs);
    let steps = match (u64::from(p.max_steps), whole) {
        (0, whole) => whole,
        (most, 0) => most,
        (most, whole) => most.min(whole),
    };
    let plan = Plan {
        seed: p.seed,
        steps,
        batch: p.batch as usize,
        accumulation: p.accumulation as usize,
        packing: p.packing,
        pass_tokens: match p.pass_tokens as usize {
            0 => p.batch as usize * max_tokens,
            n => n,
        },
        learning_rate: p.learning_rate,
        weight_decay: p.weight_decay,
        warmup_steps: (p.warmup * steps as f64).round() as u64,
        schedule: p.schedule,
        max_grad_norm: p.max_grad_norm,
        checkpoint_every: u64::from(p.checkpoint_every),
        evaluate_every: u64::from(p.evaluate_every),
        patience: p.patience,
        recompute: p.recompute,
        chunk: train::loss::CHUNK,
    };
    let store = cx.checkpoints();
    let end = train(&model, &rows, &held_out, &plan, &store, &mut training::Attempt(cx))?;
    training::ending(end, |s| {
        training::save(cx, &model, p.lora.as_ref().map(|_| base.as_path()))?;
        let mut message = format!("{} rows, {} steps, loss {:.3}", rows.len(), s.steps, s.loss);
        let mut facts = json!({
            "rows": rows.len(), "rows_cut": skipped.cut, "prompts_cut": skipped.prompts_cut,
            "rows_too_long": skipped.too_long, "steps": s.steps, "loss": s.loss, "tokens": s.tokens,
            "skipped_steps": s.skipped_steps,
        });
        if let Some((loss, step)) = s.best {
            message += &format!(", best on {} held-out rows {loss:.3} after step {step}", held_out.len());
            facts["validation_rows"] = json!(held_out.len());
            facts["validation_loss"] = json!(loss);
            facts["best_step"] = json!(step);
            facts["ended_early"] = json!(s.early);
        }
        if let Some(n) = s.pass_tokens {
            facts["pass_tokens_after_out_of_memory"] = json!(n);
        }
        Ok((message, facts))
    })
}

/// Takes the held-out share away: rows chosen by the seed alone, the others in the file's order.
fn split(rows: Vec<Encoded>, p: &SftParams) -> Result<(Vec<Encoded>, Vec<Encoded>)> {
    if p.validation <= 0.0 {
        return Ok((rows, Vec::new()));
    }
    let n = ((rows.len() as f64 * p.validation).round() as usize).max(1);
    if n >= rows.len() {
        return Err(Failure::user(format!(
            "sft: validation {} of {} rows leaves nothing to train on",
            p.validation,
            rows.len()
        ))
        .into());
    }
    let order = permutation(rows.len(), bits(p.seed, HELD_OUT));
    let mut chosen = vec![false; rows.len()];
    order[..n].iter().for_each(|&i| chosen[i] = true);
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for (row, out) in rows.into_iter().zip(chosen) {
        if out { held_out.push(row) } else { train.push(row) }
    }
    Ok((train, held_out))
}
