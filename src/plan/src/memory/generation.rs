//! What an engine needs to write answers: keys and values, prefill passes, weights in the form it reads.

use super::parts::{bytes_of, unpacked, weights, whole};
use super::{Estimate, Shape, Where};
use record::params::{EvalParams, KvPrecision, Precision, Quantization, ServeParams};

/// Prompt tokens of a prefill pass (`model::Options`).
const PREFILL: u64 = 8192;
/// Tokens of a page of keys and values.
pub(super) const PAGE: u64 = 16;
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
    pub fn new(sequences: u64, samples: u64, prompt: u64, new: u64) -> Self {
        Self { prompts: sequences.div_ceil(samples.max(1)), sequences, prompt, new }
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
    pub fn new(s: &Shape, precision: Precision, nf4: bool, place: Where) -> Self {
        let e = bytes_of(precision);
        // Gemma-2, StarCoder2, fp16 and 4-bit weights go through libtorch
        let native = place == Where::Cpu && precision != Precision::Fp16 && !nf4 && s.gated && !s.soft_cap;
        let kv = if native { 4 } else { e };
        Self { e, native, nf4, place, kv, kv_bytes: u64::MAX, prefill: PREFILL }
    }

    fn of_serve(s: &Shape, p: &ServeParams, place: Where) -> Self {
        let engine = Self::new(s, p.precision, p.quantization == Quantization::Nf4, place);
        let kv = if p.kv_precision == KvPrecision::Bf16 { 2 } else { engine.kv };
        let kv_bytes = if p.kv_bytes == 0 { u64::MAX } else { p.kv_bytes };
        Self { kv, kv_bytes, prefill: PREFILL.max(u64::from(p.prefill_chunk)), ..engine }
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
        let pass = tokens * (4 * s.hidden + 3 * s.intermediate + 2 * s.q()) * self.e;
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
    let new = u64::from(p.max_new_tokens);
    Engine::of_serve(s, p, place).answering(s, &Load::new(u64::from(p.max_batch), 1, prompt_of(s, new), new))
}

pub(super) fn eval(p: &EvalParams, s: &Shape, place: Where) -> Estimate {
    let new = u64::from(p.max_new_tokens);
    let load = Load::new(u64::from(p.max_batch), u64::from(p.samples), prompt_of(s, new), new);
    Engine::new(s, p.precision, p.quantization == Quantization::Nf4, place).answering(s, &load)
}

/// Bytes of keys and values that one answer of a server may fill: the least a limit can be, behind a prompt of one token, and
/// behind one as long as prompts are taken to be.
pub(super) fn one_answer(p: &ServeParams, s: &Shape, place: Where) -> (u64, u64) {
    let engine = Engine::of_serve(s, p, place);
    let new = u64::from(p.max_new_tokens);
    let bytes = |prompt: u64| s.context.min(prompt + new).div_ceil(PAGE) * engine.page(s);
    (bytes(1), bytes(prompt_of(s, new)))
}
