//! What an engine needs to write answers: keys and values, prefill passes, weights in the form it reads.

use super::parts::{bytes_of, unpacked, weights, whole};
use super::{Estimate, Shape, Where};
use record::Params;
use record::params::{EvalParams, KvPrecision, Precision, Quantization, RlParams, ServeParams};

/// Prompt tokens of a prefill pass (`model::Options`).
const PREFILL: u64 = 8192;
/// Tokens of a page of keys and values.
const PAGE: u64 = 16;
/// Bytes of pages that the engine keeps of texts that have ended (`prefix_bytes`).
const KEPT: u64 = 256 << 20;
/// Tokens that a prompt is taken to have where the job file does not say.
const PROMPT: u64 = 1024;

fn pages(tokens: u64) -> u64 {
    tokens.next_multiple_of(PAGE)
}

/// Tokens of a prompt before `new` ones.
pub(super) fn prompt_of(s: &Shape, new: u64) -> u64 {
    PROMPT.min(s.context.saturating_sub(new)).max(1)
}

/// What an engine has in hand at once.
pub(super) struct Load {
    /// Prompts, each with samples that share its pages.
    prompts: u64,
    /// Samples of all of them together.
    sequences: u64,
    /// Tokens of a prompt, and of an answer at most.
    prompt: u64,
    new: u64,
}

impl Load {
    /// `samples` of a prompt run together.
    fn new(s: &Shape, sequences: u64, samples: u32, new: u32) -> Self {
        let new = u64::from(new);
        let prompts = sequences.div_ceil(u64::from(samples.max(1)));
        Self { prompts, sequences, prompt: prompt_of(s, new), new }
    }

    fn of_serve(s: &Shape, p: &ServeParams) -> Self {
        Self::new(s, u64::from(p.max_batch), 1, p.max_new_tokens)
    }

    fn of_eval(s: &Shape, p: &EvalParams) -> Self {
        Self::new(s, u64::from(p.max_batch), p.samples, p.max_new_tokens)
    }

    pub fn of_rl(s: &Shape, p: &RlParams) -> Self {
        let all = u64::from(p.prompts) * u64::from(p.rollouts);
        Self::new(s, all.min(u64::from(p.max_batch)), p.rollouts, p.max_new_tokens)
    }
}

/// How steps are calculated.
pub(super) struct Engine {
    /// Bytes of a number.
    e: u64,
    /// The kernels of `model::native`, on a CPU.
    native: bool,
    nf4: bool,
    place: Where,
    /// Bytes of a number of keys and values.
    kv: u64,
    /// Most bytes of keys and values.
    kv_bytes: u64,
    /// Prompt tokens of a pass.
    prefill: u64,
}

impl Engine {
    /// `kv_bytes`: 0 is no limit.
    pub fn new(s: &Shape, precision: Precision, nf4: bool, kv_bytes: u64, place: Where) -> Self {
        let e = bytes_of(precision);
        // Gemma-2, StarCoder2, fp16 and 4-bit weights go through libtorch
        let native = place == Where::Cpu && precision != Precision::Fp16 && !nf4 && s.gated && !s.soft_cap;
        let kv = if native { 4 } else { e };
        let kv_bytes = if kv_bytes == 0 { u64::MAX } else { kv_bytes };
        Self { e, native, nf4, place, kv, kv_bytes, prefill: PREFILL }
    }

    fn of_serve(s: &Shape, p: &ServeParams, place: Where) -> Self {
        let engine = Self::new(s, p.precision, p.quantization == Quantization::Nf4, p.kv_bytes, place);
        let kv = if p.kv_precision == KvPrecision::Bf16 { 2 } else { engine.kv };
        Self { kv, prefill: PREFILL.max(u64::from(p.prefill_chunk)), ..engine }
    }

    fn of_eval(s: &Shape, p: &EvalParams, place: Where) -> Self {
        Self::new(s, p.precision, p.quantization == Quantization::Nf4, p.kv_bytes, place)
    }

    pub fn of_rl(s: &Shape, p: &RlParams, place: Where) -> Self {
        Self::new(s, p.precision, p.quantization == Quantization::Nf4, p.kv_bytes, place)
    }

    /// Bytes of one page, all layers.
    fn page(&self, s: &Shape) -> u64 {
        s.layers * 2 * s.kv() * self.kv * PAGE
    }

    /// Keys and values: a prompt's pages once, whatever its samples; each sample's own, the last of its prompt copied. Pages
    /// of ended texts stay for those that begin alike: as much as runs, at most [`KEPT`]. libtorch's pool grows by half, and
    /// one layer of it is there twice while it grows or is gathered.
    pub fn cache(&self, s: &Shape, load: &Load) -> u64 {
        let tokens = load.prompts * pages(load.prompt) + load.sequences * (pages(load.new) + PAGE);
        let running = tokens / PAGE * self.page(s);
        let all = running + running.min(KEPT);
        if self.native {
            return all.min(self.kv_bytes);
        }
        let pool = (all + all / 2).min(self.kv_bytes);
        pool + pool / s.layers.max(1)
    }

    /// Temporaries of a prefill pass and of the sampler.
    pub fn passes(&self, s: &Shape, load: &Load) -> u64 {
        let room = (self.kv_bytes / self.page(s).max(1)).saturating_mul(PAGE);
        let tokens = self.prefill.max(load.prompt).min(load.prompts * load.prompt).min(room);
        // gate, up and their product; libtorch the activated gate beside them
        let mlp = if self.native || !s.gated { 3 } else { 4 } * s.intermediate;
        let pass = tokens * (4 * s.hidden + mlp + 2 * s.q()) * self.e;
        pass + 3 * load.sequences * s.vocab * 4
    }

    fn answering(&self, s: &Shape, load: &Load) -> Estimate {
        let (cache, passes) = (self.cache(s, load), self.passes(s, load));
        let table = s.vocab * s.hidden;
        let all = s.parameters() * self.e;
        // every product's weights are packed, the head's too; the table of embeddings stays, and the rest as loaded goes
        let packed = (s.linear() + table) * self.e;
        let parts = if self.native && all - table * self.e > cache + passes {
            vec![("weights", all), ("packed weights", packed)]
        } else {
            vec![
                ("weights", if self.native { packed + table * self.e } else { weights(s, self.e, self.nf4) }),
                ("KV cache", cache),
                ("generation", passes),
                ("an unpacked weight", if self.nf4 { unpacked(s, self.e, self.place) } else { 0 }),
            ]
        };
        whole(parts, self.place, load.prompts * load.prompt)
    }
}

pub(super) fn serve(p: &ServeParams, s: &Shape, place: Where) -> Estimate {
    Engine::of_serve(s, p, place).answering(s, &Load::of_serve(s, p))
}

pub(super) fn eval(p: &EvalParams, s: &Shape, place: Where) -> Estimate {
    Engine::of_eval(s, p, place).answering(s, &Load::of_eval(s, p))
}

/// Keys and values of a task that writes answers, in bytes.
pub(super) struct Keys {
    /// The limit that the job file sets, or 0.
    pub limit: u64,
    pub max_new_tokens: u32,
    /// What they are predicted to take.
    pub all: u64,
    /// What one answer may fill behind a prompt of one token: the least that a limit can be.
    pub least: u64,
    /// The same behind a prompt as long as prompts are taken to be.
    pub usual: u64,
}

/// `None` for kinds that write no answers themselves.
pub(super) fn keys(work: &Params, s: &Shape, place: Where) -> Option<Keys> {
    let (engine, load, limit, max_new_tokens) = match work {
        Params::Serve(p) => {
            (Engine::of_serve(s, p, place), Load::of_serve(s, p), p.kv_bytes, p.max_new_tokens)
        }
        Params::Eval(p) => (Engine::of_eval(s, p, place), Load::of_eval(s, p), p.kv_bytes, p.max_new_tokens),
        Params::Rl(p) => (Engine::of_rl(s, p, place), Load::of_rl(s, p), p.kv_bytes, p.max_new_tokens),
        _ => return None,
    };
    let one = |prompt: u64| s.context.min(prompt + load.new).div_ceil(PAGE) * engine.page(s);
    let all = engine.cache(s, &load);
    Some(Keys { limit, max_new_tokens, all, least: one(1), usual: one(load.prompt) })
}
