//! The formulas of docs/MEMORY.md.

use super::generation::{self, Engine, Load, prompt_of};
use super::{Estimate, Shape};
use record::Params;
use record::params::{Algorithm, BaseParams, LoraParams, Precision, Quantization, RlParams, SftParams};
use serde::Serialize;
use serde_json::Value;

/// Where a task's tensors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    Gpu,
    Cpu,
}

/// Positions that go through the output head together (`train::loss::CHUNK`).
const CHUNK: u64 = 256;
/// Context and workspaces of CUDA, cuBLAS and the loaded kernels.
const CUDA: u64 = 600_000_000;
/// Program, libtorch and its threads before any tensor, resident: measured.
const PROGRAM: u64 = 215_000_000;

/// The parts that are alive only while a pass runs.
const PASS: [&str; 4] = ["activations", "gradients of activations", "logits", "holes of the allocator"];

pub(super) fn bytes_of(p: Precision) -> u64 {
    if p == Precision::Fp32 { 4 } else { 2 }
}

/// How a pass through the model is trained.
struct Training<'a> {
    lora: Option<&'a LoraParams>,
    precision: Precision,
    /// Tokens of a pass.
    tokens: u64,
    /// Tokens of the longest text in it.
    longest: u64,
    recompute: bool,
    nf4: bool,
    /// Several passes make one step: gradients of weights stay while the next pass runs.
    accumulates: bool,
    /// Copies of the logits of one piece that are alive together, in fp32.
    logits: u64,
}

/// Whether the one-pass kernels of the CPU (`model`'s `fused.cpp`) run: fp32 and bf16.
fn fused(t: &Training, place: Where) -> bool {
    place == Where::Cpu && t.precision != Precision::Fp16
}

/// Bytes that a pass keeps per token and layer for its backward pass.
fn kept(s: &Shape, t: &Training, place: Where) -> u64 {
    let e = bytes_of(t.precision);
    // statistics of norms are fp32: without a kernel of our own, half formats keep an fp32 copy of the input
    let norms = s.norms * s.hidden * (if fused(t, place) { e } else { 4 } + e);
    let unit = if t.lora.is_none() && !fused(t, place) { s.norms * s.hidden * 4 } else { 0 };
    // queries, keys, values, the result, and a sum for each head
    let attention = (2 * s.q() + 2 * s.kv()) * e + s.heads * 4 + scores(s, t.longest, e);
    // gate, its activation (not by a kernel of our own), up, their product
    let gated = if fused(t, place) { 3 } else { 4 };
    let mlp = if s.gated { gated } else { 2 } * s.intermediate * e;
    let dropout = match t.lora {
        // a mask and a dropped copy of every adapter's own input
        Some(p) if p.dropout > 0.0 => (1 + e) * (5 * s.hidden + s.q() + s.intermediate),
        _ => 0,
    };
    let inner = t.lora.map_or(0, |p| 7 * u64::from(p.r) * e);
    norms + unit + attention + mlp + dropout + inner
}

/// Bytes per token of attention scores that are kept: the fused kernels keep none, but none of them knows soft caps.
fn scores(s: &Shape, longest: u64, e: u64) -> u64 {
    if s.soft_cap { 5 * s.heads * longest * e } else { 0 }
}

/// Bytes per token and layer that are freed during the forward pass and cannot be used again before its end: glibc places
/// aligned blocks so that a freed one does not hold the next of the same size. Fitted to measurements: what rotating queries
/// and keys takes, with an adapter, and dropout's masks; without a kernel of our own also the products before the adapter's
/// part is added. GPUs have an allocator of their own.
fn holes(s: &Shape, t: &Training) -> u64 {
    let e = bytes_of(t.precision);
    let rotated = (s.q() + s.kv()) * e;
    let one_pass = fused(t, Where::Cpu);
    let Some(lora) = t.lora else { return if one_pass { 0 } else { 3 * rotated } };
    let masks = if lora.dropout > 0.0 { 5 * s.hidden + s.q() + s.intermediate } else { 0 };
    if one_pass {
        // over 4 bits the adapter's products are not part of the layer's node
        let apart = if t.nf4 && e == 4 { (s.q() + s.hidden) * e } else { 0 };
        return rotated * 3 / 2 + 2 * masks + apart;
    }
    let mlp = if s.gated { 2 } else { 1 } * s.intermediate;
    (s.q() + 2 * s.kv() + 2 * s.hidden + mlp) * e + masks
}

/// Weights, optimizer, activations of one training.
fn training(s: &Shape, t: &Training, place: Where) -> Vec<(&'static str, u64)> {
    let e = bytes_of(t.precision);
    let weights = weights(s, e, t.nf4);
    let (trained, weight_gradients, copies) = match t.lora {
        // fp32 weights, gradients and two moments
        Some(p) => (s.adapter(p) * 16, 0, 0),
        // two moments; a fused matrix's gradient is put together from its parts
        None => {
            let all = s.parameters() * e;
            (2 * all, all, 2 * s.intermediate * s.hidden * e + s.vocab * s.hidden * e)
        }
    };
    let layer = kept(s, t, place) * t.tokens;
    let holes = if place == Where::Cpu { holes(s, t) * t.tokens } else { 0 };
    let activations = if t.recompute { s.layers * s.hidden * e * t.tokens + layer } else { s.layers * layer };
    let mlp = (3 * s.intermediate + 2 * s.hidden) * e;
    let attention = scores(s, t.longest, e) * 3 / 2 + 4 * s.q() * e;
    let gradients = mlp.max(attention) * t.tokens + copies;
    // final states, those of the trained positions, and their gradient
    let ends = 4 * s.hidden * e.max(3) * t.tokens;
    let head = CHUNK.min(t.tokens) * s.vocab * (4 * t.logits + if e == 2 { 4 } else { 0 });
    // a layer that is computed again lies beside what the first time has left
    let again = if place == Where::Cpu { 2 * layer } else { 0 };
    let holes = if t.recompute { holes + again } else { s.layers * holes };
    vec![
        ("weights", weights),
        ("optimizer", trained),
        // they grow in the backward pass while activations go, unless a pass before has left them
        (
            "weight gradients",
            if t.accumulates {
                weight_gradients
            } else {
                weight_gradients.saturating_sub(activations + holes)
            },
        ),
        ("activations", activations + ends),
        ("gradients of activations", gradients),
        ("logits", head),
        ("holes of the allocator", holes),
        ("an unpacked weight", if t.nf4 { unpacked(s, e, place) } else { 0 }),
    ]
}

pub(super) fn weights(s: &Shape, e: u64, nf4: bool) -> u64 {
    if nf4 {
        // 4 bits and a scale of 4 bytes for each block of 64
        return s.linear() / 2 + s.linear() / 16 + (s.parameters() - s.linear()) * e;
    }
    s.parameters() * e
}

/// The largest weight while it is unpacked from 4 bits. A GPU looks its numbers up in fp32 and scales them beside that; on a
/// CPU it is the result alone, which is small and in what was measured.
pub(super) fn unpacked(s: &Shape, e: u64, place: Where) -> u64 {
    let widest = if s.gated { 2 } else { 1 } * s.intermediate * s.hidden;
    if place == Where::Gpu { widest * (8 + e) } else { 0 }
}

pub(super) fn whole(mut parts: Vec<(&'static str, u64)>, place: Where, tokens: u64) -> Estimate {
    let moving: u64 = parts.iter().filter(|(name, _)| *name != "weights").map(|(_, n)| n).sum();
    match place {
        // the caching allocator rounds blocks and keeps holes
        Where::Gpu => parts.extend([("CUDA", CUDA), ("fragmentation", moving / 10)]),
        Where::Cpu => parts.extend([("program", PROGRAM), ("fragmentation", moving / 50)]),
    }
    Estimate::of(place == Where::Gpu, tokens, parts)
}

/// Parameters that newer versions of a kind have and older ones lack.
fn extra<T: Serialize>(p: &T, key: &str) -> Value {
    serde_json::to_value(p).map_or(Value::Null, |v| v.get(key).cloned().unwrap_or_default())
}

fn sft(p: &SftParams, s: &Shape, place: Where) -> Estimate {
    let longest = u64::from(p.max_tokens).min(s.context);
    let pass = extra(p, "pass_tokens").as_u64().unwrap_or(0);
    let full = u64::from(p.batch) * longest;
    let tokens = if pass == 0 { full } else { pass.max(longest).min(full) };
    let t = Training {
        lora: p.lora.as_ref(),
        precision: p.precision,
        tokens,
        longest,
        recompute: extra(p, "recompute").as_bool().unwrap_or(false),
        nf4: p.quantization == Quantization::Nf4,
        accumulates: p.accumulation > 1,
        // logits, their log-softmax, its gradient, theirs
        logits: 5,
    };
    let mut parts = training(s, &t, place);
    if extra(p, "validation").as_f64().unwrap_or(0.0) > 0.0 {
        // the best weights so far
        let e = bytes_of(p.precision);
        parts.push(("best weights", p.lora.as_ref().map_or(s.parameters() * e, |l| s.adapter(l) * 4)));
    }
    whole(parts, place, tokens)
}

fn base(p: &BaseParams, place: Where) -> Estimate {
    let s = Shape::of_base(p);
    let tokens = u64::from(p.batch) * s.context;
    let t = Training {
        lora: None,
        precision: Precision::Fp32,
        tokens,
        longest: s.context,
        recompute: false,
        nf4: false,
        accumulates: false,
        logits: 5,
    };
    whole(training(&s, &t, place), place, tokens)
}

fn rl(p: &RlParams, s: &Shape, place: Where) -> Estimate {
    let e = bytes_of(p.precision);
    let new = u64::from(p.max_new_tokens);
    let prompt = prompt_of(s, new);
    let length = (prompt + new).min(s.context);
    let tokens = u64::from(p.minibatch) * length;
    let t = Training {
        lora: p.lora.as_ref(),
        precision: p.precision,
        tokens,
        longest: length,
        recompute: extra(p, "recompute").as_bool().unwrap_or(false),
        nf4: p.quantization == Quantization::Nf4,
        accumulates: false,
        // log-probabilities and entropy beside the loss
        logits: 7,
    };
    let mut parts = training(s, &t, place);
    // the engine has merged weights of its own. On a CPU it packs every product's weights, the head's too, and what it frees
    // before it makes new ones is not used again as it was: twice, as measured. Over 4 bits the adapter stays apart.
    let engine = match (&p.lora, place) {
        (_, Where::Cpu) => 2 * (s.linear() + s.vocab * s.hidden) * e,
        (Some(lora), Where::Gpu) if t.nf4 => s.adapter(lora) * e,
        (Some(_), Where::Gpu) => s.linear() * e,
        (None, Where::Gpu) => 0,
    };
    parts.push(("rollout engine", engine));
    if p.lora.is_none() {
        // an adapter is switched off for the reference; without one the starting model is loaded a second time
        parts.push(("reference model", s.parameters() * e));
    }
    if p.algorithm == Algorithm::Ppo {
        parts.push(("value head", (s.hidden + 1) * 16));
    }
    let pass: u64 = parts.iter().filter(|(n, _)| PASS.contains(n)).map(|(_, n)| n).sum();
    let (engine, load) = (Engine::of_rl(s, p, place), Load::of_rl(s, p));
    let rollout = engine.cache(s, &load) + engine.passes(s, &load);
    if rollout > pass {
        parts.retain(|(n, _)| !PASS.contains(n));
        parts.push(("KV cache and generation", rollout));
    }
    whole(parts, place, tokens)
}

/// Peak memory of a task over a model of this shape; `None` for kinds that hold no model.
#[must_use]
pub fn estimate(work: &Params, shape: &Shape, place: Where) -> Option<Estimate> {
    Some(match work {
        Params::Base(p) => base(p, place),
        Params::Sft(p) => sft(p, shape, place),
        Params::Rl(p) => rl(p, shape, place),
        Params::Serve(p) => generation::serve(p, shape, place),
        Params::Eval(p) => generation::eval(p, shape, place),
        _ => return None,
    })
}
