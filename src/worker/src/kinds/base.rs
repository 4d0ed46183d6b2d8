//! Kind `base`: a tokenizer and a small decoder from scratch, on the corpus' demonstrations.

use crate::context::{Context, Ending, Failure};
use crate::kinds::{device, training};
use anyhow::Result;
use model::config::{Arch, RopeScaling};
use model::{Config, Model, Spec, Tokenizer};
use record::params::{BaseParams, Schedule};
use serde_json::json;
use train::rows::{Row, encode};
use train::sft::{Plan, train};

pub fn run(cx: &mut Context, p: &BaseParams) -> Result<Ending> {
    let demonstrations = corpus::files::read_demonstrations(&cx.input("corpus")?)?;
    if demonstrations.is_empty() {
        return Err(Failure::user("the corpus has no demonstrations: raise its `train`").into());
    }
    let texts = demonstrations.iter().flat_map(|r| [r.prompt.as_str(), r.completion.as_str()]);
    let tokenizer = Tokenizer::train(p.vocab_size as usize, texts.collect::<Vec<_>>().into_iter())?;
    // the weights are drawn from the seed and from nothing else
    tch::manual_seed((p.seed >> 1) as i64);
    let mut model = Model::fresh(config(p)?, tokenizer, device())?;
    model.decoder.train_all();
    let rows: Vec<Row> = demonstrations.into_iter().map(|r| Row::pair(r.prompt, r.completion)).collect();
    // prompts carry no loss here either: their constants cannot be predicted, and half of a small model's steps would go
    // into trying
    let (rows, skipped) = encode(&model, &rows, p.context as usize)?;
    let plan = Plan {
        seed: p.seed,
        steps: u64::from(p.steps),
        batch: p.batch as usize,
        accumulation: 1,
        learning_rate: p.learning_rate,
        weight_decay: 0.01,
        warmup_steps: u64::from(p.warmup_steps),
        schedule: Schedule::Cosine,
        max_grad_norm: 1.0,
        checkpoint_every: u64::from(p.checkpoint_every),
        ..Plan::default()
    };
    let store = cx.checkpoints();
    let end = train(&model, &rows, &[], &plan, &store, &mut training::Attempt(cx))?;
    training::ending(end, |s| {
        training::save(cx, &model, None)?;
        let n = model.decoder.config.parameters();
        let message = format!("{n} weights, {} steps, loss {:.3}", s.steps, s.loss);
        let facts = json!({
            "weights": n, "rows": rows.len(), "rows_cut": skipped.cut, "rows_too_long": skipped.too_long,
            "vocabulary": model.tokenizer.size(), "steps": s.steps, "loss": s.loss, "tokens": s.tokens,
        });
        Ok((message, facts))
    })
}

fn config(p: &BaseParams) -> Result<Config> {
    let wrong = |what: String| Failure::user(format!("base: {what}"));
    if p.vocab_size < 260 {
        return Err(wrong(format!(
            "vocab_size {} is less than 260 (256 bytes and 3 special tokens)",
            p.vocab_size
        ))
        .into());
    }
    if p.heads == 0
        || p.kv_heads == 0
        || !p.heads.is_multiple_of(p.kv_heads)
        || !p.hidden.is_multiple_of(2 * p.heads)
    {
        return Err(wrong(format!(
            "hidden {} must be an even multiple of heads {}, and heads a multiple of kv_heads {}",
            p.hidden, p.heads, p.kv_heads
        ))
        .into());
    }
    if p.layers == 0 || p.intermediate == 0 || p.context < 8 {
        return Err(wrong("layers and intermediate must be at least 1, context at least 8".into()).into());
    }
    Ok(Config {
        arch: Arch::Llama,
        vocab: i64::from(p.vocab_size),
        hidden: i64::from(p.hidden),
        intermediate: i64::from(p.intermediate),
        layers: p.layers as usize,
        heads: i64::from(p.heads),
        kv_heads: i64::from(p.kv_heads),
        head_dim: i64::from(p.hidden / p.heads),
        context: i64::from(p.context),
        norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        tied: true,
        spec: Spec::of(Arch::Llama),
        bos: None,
        eos: Vec::new(),
        pad: None,
    })
}
