//! Generation on processors without libtorch's overhead: weights packed once, a step as a handful of parallel kernels over a
//! flat list of tokens, keys and values in shared pages.
//!
//! A step takes any mixture of tokens (pieces of prompts, next tokens of sequences of any length): nothing is padded, so
//! short and long sequences do not pay for each other. A token's numbers are the same bits whatever else is in the
//! step, on any number of threads, and whether its past was computed by this sequence or found in a shared page.

pub(crate) mod gemm;
pub(crate) mod kernels;
pub(crate) mod lora;
pub(crate) mod ops;
pub(crate) mod pool;
pub(crate) mod simd;
pub(crate) mod store;

use crate::decoder::Decoder;
use crate::layer::Group;
use crate::pages::PAGE;
use crate::rope::Rope;
use crate::spec::{Activation, NormKind};
use gemm::{Cpu, Packed, Shared, SharedMut, Then, floats};
use lora::Adapter;
use std::cell::RefCell;
use store::{Shape, Store};
use tch::{Device, Kind, Tensor};

struct Layer {
    norm_attention: Vec<f32>,
    qkv: Packed,
    o: Packed,
    norm_mlp: Vec<f32>,
    gate_up: Packed,
    down: Packed,
    /// Tokens that a token sees, itself included.
    window: Option<usize>,
}

/// A decoder's weights in the form kernels read.
pub(crate) struct Native {
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Packed,
    /// Shared with the decoder: rows are read one by one.
    embed: Tensor,
    rope: Rope,
    /// Rows of cosines and of sines made so far.
    table: (Vec<f32>, Vec<f32>),
    dims: Dims,
}

#[derive(Debug, Clone, Copy)]
struct Dims {
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    eps: f32,
    /// Of attention's scores.
    scale: f32,
}

/// One token of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub id: u32,
    pub position: usize,
    /// Which of the step's tables holds its sequence's pages.
    pub table: usize,
    /// 0 for none, else the place in the list of adapters plus 1.
    pub adapter: u32,
}

/// Tokens of one pass: beyond this the inputs of a product leave the cache.
const PASS: usize = 256;
/// Numbers below which handing work to other threads costs more than it saves.
const ALONE: usize = 8192;

thread_local! {
    static ROOM: RefCell<(Vec<f32>, Vec<usize>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl Native {
    /// Whether [`Native`] computes what this decoder computes.
    pub fn knows(d: &Decoder) -> bool {
        let s = &d.config.spec;
        d.device == Device::Cpu
            && matches!(d.kind, Kind::Float | Kind::BFloat16)
            && !d.quantized()
            && s.norm == NormKind::Rms
            && s.activation == Activation::Silu
            && s.gated
            && !s.post_norms
            && !s.scaled_embeddings
            && s.attention_cap.is_none()
            && s.logit_cap.is_none()
    }

    /// Packs the weights of `d`, adapter merged in.
    pub fn new(d: &Decoder, cpu: &mut Cpu) -> Self {
        let c = &d.config;
        let layers = (0..d.layers.len())
            .map(|i| {
                let l = &d.layers[i];
                let mut pack =
                    |g| Packed::new(&mut cpu.pool, &l.merged(g, c, d.kind), l.linear(g).bias.as_ref());
                Layer {
                    norm_attention: floats(&l.norms.attention.weight),
                    qkv: pack(Group::Qkv),
                    o: pack(Group::O),
                    norm_mlp: floats(&l.norms.mlp.weight),
                    gate_up: pack(Group::In),
                    down: pack(Group::Out),
                    window: l.window.and_then(|w| usize::try_from(w).ok()),
                }
            })
            .collect();
        Self {
            layers,
            norm: floats(&d.norm.weight),
            head: Packed::new(&mut cpu.pool, d.head(), None),
            embed: d.embed.detach().contiguous(),
            rope: Rope::new(c, Kind::Float, Device::Cpu),
            table: (Vec::new(), Vec::new()),
            dims: Dims {
                hidden: c.hidden as usize,
                intermediate: c.intermediate as usize,
                heads: c.heads as usize,
                kv_heads: c.kv_heads as usize,
                dim: c.head_dim as usize,
                eps: c.norm_eps as f32,
                scale: (1.0 / c.spec.query_scalar.unwrap_or(c.head_dim as f64).sqrt()) as f32,
            },
        }
    }

    /// Drops the layers, so that they are not there twice while new ones are packed.
    pub fn forget(&mut self) {
        self.layers.clear();
    }

    /// Shape of the pages this model needs, in bfloat16 or fp32.
    pub fn shape(&self, half: bool) -> Shape {
        Shape { layers: self.layers.len(), kv_heads: self.dims.kv_heads, dim: self.dims.dim, half }
    }

    fn positions(&mut self, length: usize) {
        let half = self.dims.dim / 2;
        if length * half > self.table.0.len() {
            let (cos, sin) = self.rope.first(length.next_multiple_of(512) as i64);
            self.table = (floats(&cos), floats(&sin));
        }
    }

    fn embedding(&self, id: u32, to: &mut [f32]) {
        let n = to.len();
        assert!(i64::from(id) < self.embed.size()[0], "token id beyond the vocabulary");
        let row = self.embed.data_ptr();
        // SAFETY: a contiguous tensor of fp32 or bf16 on the CPU (`knows`), and row `id` exists.
        unsafe {
            if self.embed.kind() == Kind::BFloat16 {
                let row = std::slice::from_raw_parts(row.cast::<u16>().add(id as usize * n), n);
                row.iter().zip(to).for_each(|(&h, x)| *x = f32::from_bits(u32::from(h) << 16));
            } else {
                to.copy_from_slice(std::slice::from_raw_parts(row.cast::<f32>().add(id as usize * n), n));
            }
        }
    }

    /// Runs `items`; a sequence's items are in order of position, its pages reach as far. Gives the logits
    /// `[wanted, vocab]` after those items whose index is in `wanted` (ascending).
    pub fn run(
        &mut self,
        cpu: &mut Cpu,
        store: &mut Store,
        adapters: &[Adapter],
        items: &[Item],
        tables: &[&[u32]],
        wanted: &[usize],
    ) -> Vec<f32> {
        self.positions(items.iter().map(|i| i.position + 1).max().unwrap_or(0));
        let vocab = self.head.outputs;
        let mut logits = vec![0f32; wanted.len() * vocab];
        let mut done = 0;
        for (pass, part) in items.chunks(PASS).enumerate() {
            let hidden = self.trunk(cpu, store, adapters, part, tables);
            let from = pass * PASS;
            let here: Vec<usize> =
                wanted.iter().filter(|&&w| w >= from && w < from + part.len()).map(|w| w - from).collect();
            let n = self.dims.hidden;
            let mut rows = vec![0f32; here.len() * n];
            for (row, &at) in rows.chunks_exact_mut(n).zip(&here) {
                ops::rms_norm(&hidden[at * n..(at + 1) * n], &self.norm, self.dims.eps, row);
            }
            let to = &mut logits[done * vocab..(done + here.len()) * vocab];
            self.head.apply(cpu, &rows, here.len(), to, Then::Write);
            done += here.len();
        }
        logits
    }

    /// Residual stream after the last layer, `[items, hidden]`.
    fn trunk(
        &self,
        cpu: &mut Cpu,
        store: &mut Store,
        adapters: &[Adapter],
        items: &[Item],
        tables: &[&[u32]],
    ) -> Vec<f32> {
        let d = self.dims;
        let rows = items.len();
        let (q, kv) = (d.heads * d.dim, d.kv_heads * d.dim);
        let groups = lora::groups(items);
        let mut x = vec![0f32; rows * d.hidden];
        for (item, to) in items.iter().zip(x.chunks_exact_mut(d.hidden)) {
            self.embedding(item.id, to);
        }
        let mut normed = vec![0f32; rows * d.hidden];
        let mut qkv = vec![0f32; rows * (q + 2 * kv)];
        let mut attended = vec![0f32; rows * q];
        let mut gate_up = vec![0f32; rows * 2 * d.intermediate];
        let mut gated = vec![0f32; rows * d.intermediate];
        for (i, l) in self.layers.iter().enumerate() {
            norms(cpu, &x, &l.norm_attention, d.eps, &mut normed);
            l.qkv.apply(cpu, &normed, rows, &mut qkv, Then::Write);
            lora::apply(cpu, adapters, &groups, i, lora::QKV, &normed, &mut qkv);
            self.remember(store, i, items, tables, &mut qkv);
            self.attention(cpu, store, i, items, tables, &qkv, &mut attended);
            l.o.apply(cpu, &attended, rows, &mut x, Then::Add);
            lora::apply(cpu, adapters, &groups, i, lora::O, &attended, &mut x);
            norms(cpu, &x, &l.norm_mlp, d.eps, &mut normed);
            l.gate_up.apply(cpu, &normed, rows, &mut gate_up, Then::Write);
            lora::apply(cpu, adapters, &groups, i, lora::GATE_UP, &normed, &mut gate_up);
            gates(cpu, &gate_up, d.intermediate, &mut gated);
            l.down.apply(cpu, &gated, rows, &mut x, Then::Add);
            lora::apply(cpu, adapters, &groups, i, lora::DOWN, &gated, &mut x);
        }
        x
    }

    /// Rotates queries and keys in place and puts keys and values into their pages.
    fn remember(&self, store: &mut Store, layer: usize, items: &[Item], tables: &[&[u32]], qkv: &mut [f32]) {
        let d = self.dims;
        let (q, kv, half) = (d.heads * d.dim, d.kv_heads * d.dim, d.dim / 2);
        for (item, row) in items.iter().zip(qkv.chunks_exact_mut(q + 2 * kv)) {
            let at = item.position * half..(item.position + 1) * half;
            let (cos, sin) = (&self.table.0[at.clone()], &self.table.1[at]);
            row[..q + kv].chunks_exact_mut(d.dim).for_each(|head| ops::rotate(head, cos, sin));
            let page = tables[item.table][item.position / PAGE];
            store.put(page, item.position % PAGE, layer, &row[q..q + kv], &row[q + kv..]);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "slices of one step, with their pages and place")]
    fn attention(
        &self,
        cpu: &mut Cpu,
        store: &Store,
        layer: usize,
        items: &[Item],
        tables: &[&[u32]],
        qkv: &[f32],
        out: &mut [f32],
    ) {
        let d = self.dims;
        let window = self.layers[layer].window;
        let group = d.heads / d.kv_heads;
        let width = (d.heads + 2 * d.kv_heads) * d.dim;
        let isa = cpu.isa;
        let out = SharedMut(out.as_mut_ptr());
        let store = Shared(std::ptr::from_ref(store));
        let piece = |n: usize| {
            let (out, store) = (&out, &store);
            // SAFETY: the pages outlive this call and nobody writes them during it.
            let store = unsafe { &*store.0 };
            let (at, head) = (n / d.kv_heads, n % d.kv_heads);
            let item = items[at];
            let length = item.position + 1;
            let first = window.map_or(0, |w| length.saturating_sub(w));
            let used = &tables[item.table][..length.div_ceil(PAGE)];
            ROOM.with_borrow_mut(|(scores, keys)| {
                let need = group * used.len() * PAGE;
                if scores.len() < need {
                    scores.resize(need, 0.0);
                }
                keys.clear();
                keys.extend(used.iter().map(|&page| store.keys(page, layer, head) as usize));
                // SAFETY: addresses have the size of pointers, and these came from pointers.
                let keys: &[*const u8] =
                    unsafe { std::slice::from_raw_parts(keys.as_ptr().cast(), keys.len()) };
                let q = &qkv[at * width + head * group * d.dim..][..group * d.dim];
                // SAFETY: item `at` and head `head` own their part of `out`; scores and pages are as large as needed.
                unsafe {
                    let attend = ops::Attend {
                        q: q.as_ptr(),
                        out: out.0.add((at * d.heads + head * group) * d.dim),
                        group,
                        dim: d.dim,
                        padded: store.shape().padded(),
                        keys,
                        values: store.values(),
                        half: store.shape().half,
                        first,
                        length,
                        scale: d.scale,
                        scores: scores.as_mut_ptr(),
                    };
                    ops::attend(isa, &attend);
                }
            });
        };
        let work: usize = items.iter().map(|i| i.position + 1).sum::<usize>() * d.heads * d.dim;
        spread(cpu, items.len() * d.kv_heads, work, &piece);
    }
}

/// Runs `n` pieces on all threads, or alone when there is little to do.
fn spread(cpu: &mut Cpu, n: usize, work: usize, piece: &(dyn Fn(usize) + Sync)) {
    if work < ALONE {
        (0..n).for_each(piece);
    } else {
        cpu.pool.run(n, piece);
    }
}

fn norms(cpu: &mut Cpu, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let n = weight.len();
    let to = SharedMut(y.as_mut_ptr());
    spread(cpu, x.len() / n, x.len(), &|row| {
        let to = &to;
        // SAFETY: row `row` of `y`, which is as long as `x`, is ours alone.
        let y = unsafe { std::slice::from_raw_parts_mut(to.0.add(row * n), n) };
        ops::rms_norm(&x[row * n..(row + 1) * n], weight, eps, y);
    });
}

/// `silu(gate) * up` of every row.
fn gates(cpu: &mut Cpu, gate_up: &[f32], n: usize, y: &mut [f32]) {
    let isa = cpu.isa;
    let to = SharedMut(y.as_mut_ptr());
    spread(cpu, y.len() / n, y.len(), &|row| {
        let to = &to;
        let from = &gate_up[row * 2 * n..(row + 1) * 2 * n];
        // SAFETY: row `row` of `y` is ours alone; `from` holds two rows of n.
        unsafe { ops::silu_gate(isa, from.as_ptr(), from.as_ptr().add(n), to.0.add(row * n), n) };
    });
}
