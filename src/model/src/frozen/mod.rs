//! The decoder on libtorch as the engine runs it: adapter merged, q/k/v and gate/up in one product, keys and values in pages.
//!
//! A step is a flat list of tokens, pieces of prompts and next tokens alike: only attention sees rows of unequal length.

mod adapters;
mod choose;
mod plan;
mod pool;

use crate::attention::{Scores, attend};
use crate::config::Config;
use crate::decoder::{Decoder, capped, embedded};
use crate::error::{Error, Result};
use crate::fused;
use crate::layer::{Group, Layer, Norms};
use crate::linear::{Linear, Weight};
use crate::lora::{self, Lora, Stacked};
use crate::native::pool::{self as threads, Pool as Threads};
use crate::norm::Norm;
use crate::paged::{Answers, Ask, Kernels, Piece};
use crate::pages::PAGE;
use crate::rope::{Rope, rotate};
use adapters::{Active, Adapters, Pair};
use generate::EngineError;
use plan::{Band, Plan, Terms};
use pool::Pool;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// One layer without a graph.
#[derive(Debug)]
struct Block {
    norms: Norms,
    /// By `Group as usize`.
    linears: [Linear; 4],
    /// The model's own adapter where it is not merged: over 4-bit weights.
    own: [Option<Pair>; 4],
    /// Place of its window in [`Frozen::windows`].
    window: usize,
}

/// Weights without a graph. Where there is no adapter they share storage with the decoder they came from.
struct Frozen {
    config: Config,
    embed: Tensor,
    blocks: Vec<Block>,
    /// The different windows of the layers.
    windows: Vec<Option<i64>>,
    norm: Norm,
    head: Tensor,
    rope: Rope,
    scores: Scores,
    kind: Kind,
    device: Device,
}

impl Block {
    /// Adapters are merged into dense weights (without one, storage is shared); over 4-bit weights they stay apart.
    fn new(l: &Layer, d: &Decoder, windows: &mut Vec<Option<i64>>) -> Self {
        let c = &d.config;
        let mut own = [const { None }; 4];
        for group in Group::ALL {
            if matches!(l.linear(group).weight, Weight::Nf4(_)) {
                let parts = group.targets(c).iter().map(|&t| l.lora[t as usize].as_ref().map(Lora::snapshot));
                own[group as usize] =
                    Stacked::of(group, c, parts.collect()).map(|s| Pair::new(&s, d.kind, d.device));
            }
        }
        let linears = Group::ALL.map(|g| {
            let linear = l.linear(g);
            let weight = match &linear.weight {
                Weight::Dense(_) => Weight::Dense(l.merged(g, c, d.kind)),
                Weight::Nf4(q) => Weight::Nf4(q.shallow_clone()),
            };
            Linear { weight, bias: linear.bias.as_ref().map(Tensor::detach) }
        });
        let norms = Norms {
            attention: l.norms.attention.detached(),
            attention_out: l.norms.attention_out.as_ref().map(Norm::detached),
            mlp: l.norms.mlp.detached(),
            mlp_out: l.norms.mlp_out.as_ref().map(Norm::detached),
        };
        let window = windows.iter().position(|w| *w == l.window).unwrap_or_else(|| {
            windows.push(l.window);
            windows.len() - 1
        });
        Self { norms, linears, own, window }
    }
}

/// `x` plus `y` behind the norm that some architectures have there.
fn residual(x: &Tensor, y: &Tensor, norm: Option<&Norm>) -> Tensor {
    match norm {
        Some(n) => x + n.forward(y),
        None => x + y,
    }
}

impl Frozen {
    fn new(d: &Decoder) -> Self {
        let _guard = tch::no_grad_guard();
        let mut windows = Vec::new();
        let blocks = d.layers.iter().map(|l| Block::new(l, d, &mut windows)).collect();
        Self {
            config: d.config.clone(),
            embed: d.embed.detach(),
            blocks,
            windows,
            norm: d.norm.detached(),
            head: d.head().detach(),
            // a table of its own: the decoder's must not be grown under inference mode
            rope: Rope::new(&d.config, d.kind, d.device),
            scores: Scores::of(&d.config),
            kind: d.kind,
            device: d.device,
        }
    }

    /// One product of layer `i`, `[tokens, out]`, adapters included.
    fn product(&self, i: usize, group: Group, x: &Tensor, adapters: Using<'_>) -> Result<Tensor> {
        let block = &self.blocks[i];
        let mut y = block.linears[group as usize].forward(x)?;
        if let Some(own) = &block.own[group as usize] {
            y = own.add(&y, x);
        }
        Ok(match adapters {
            Some((all, active)) => all.on(y, x, i, group, active),
            None => y,
        })
    }

    fn mlp(&self, i: usize, x: &Tensor, adapters: Using<'_>) -> Result<Tensor> {
        let (c, norms) = (&self.config, &self.blocks[i].norms);
        let inner = self.product(i, Group::In, &norms.mlp.forward(x), adapters)?;
        let inner = if c.spec.gated {
            let parts = inner.split_with_sizes([c.intermediate, c.intermediate], -1);
            c.spec.activation.gated(&parts[0], &parts[1])
        } else {
            c.spec.activation.forward(&inner)
        };
        Ok(residual(x, &self.product(i, Group::Out, &inner, adapters)?, norms.mlp_out.as_ref()))
    }

    /// Attention of a band's queries, out of the step's `[tokens, heads, head_dim]`, over what they see in the pages:
    /// `[tokens of the band, heads * head_dim]`.
    fn attention(&self, i: usize, pool: &Pool, q: &Tensor, band: &Band) -> Tensor {
        let c = &self.config;
        let (dim, group) = (c.head_dim, c.heads / c.kv_heads);
        let (rows, queries) = (band.rows, band.queries);
        let sight = &band.sights[band.sight[self.blocks[i].window]];
        let (k, v) = pool.get(i, &sight.table, rows);
        let q = q.narrow(0, band.first, band.tokens);
        let q = match &band.ragged {
            Some((spread, _)) => q.index_select(0, spread),
            None => q,
        };
        // key heads take the place of the batch, sequences that of the heads; the heads that share a key become rows of
        // one query: nothing is copied for them
        let q = q.reshape([rows, queries, c.kv_heads, group, dim]).permute([2, 0, 3, 1, 4]);
        let q = q.reshape([c.kv_heads, rows, group * queries, dim]);
        let a = attend(&q, &k, &v, Some(&sight.mask), false, self.scores);
        let a = a.view([c.kv_heads, rows, group, queries, dim]).permute([1, 3, 0, 2, 4]);
        let a = a.reshape([rows * queries, c.heads * dim]);
        match &band.ragged {
            Some((_, back)) => a.index_select(0, back),
            None => a,
        }
    }

    /// Logits of the tokens that the plan wants, `[wanted, vocab]` in fp32.
    fn run(&self, pool: &Pool, adapters: &Adapters, plan: &Plan) -> Result<Tensor> {
        let c = &self.config;
        let both = c.heads + c.kv_heads;
        let active = plan.adapters.as_ref().map(|of| adapters.active(of, &plan.range));
        let using = active.as_ref().map(|active| (adapters, active));
        let (cos, sin) = self.rope.at(&plan.positions, plan.length);
        let (cos, sin) = (cos.unsqueeze(1), sin.unsqueeze(1));
        let mut x = embedded(&self.embed, &plan.ids, c);
        for (i, block) in self.blocks.iter().enumerate() {
            let qkv = self.product(i, Group::Qkv, &block.norms.attention.forward(&x), using)?;
            let qkv = qkv.view([-1, both + c.kv_heads, c.head_dim]);
            let qk = rotate(&qkv.narrow(1, 0, both), &cos, &sin);
            pool.put(i, &plan.places, &qk.narrow(1, c.heads, c.kv_heads), &qkv.narrow(1, both, c.kv_heads));
            let q = qk.narrow(1, 0, c.heads);
            let mut a: Vec<Tensor> = plan.bands.iter().map(|b| self.attention(i, pool, &q, b)).collect();
            let a = if a.len() == 1 { a.remove(0) } else { Tensor::cat(&a, 0) };
            x = residual(&x, &self.product(i, Group::O, &a, using)?, block.norms.attention_out.as_ref());
            x = self.mlp(i, &x, using)?;
        }
        if plan.wanted.numel() == 0 {
            return Ok(Tensor::zeros([0, c.vocab], (Kind::Float, self.device)));
        }
        let x = self.norm.forward(&x.index_select(0, &plan.wanted));
        Ok(capped(fused::times(&x, &self.head).to_kind(Kind::Float), c))
    }
}

/// Adapters of a step, if any.
type Using<'a> = Option<(&'a Adapters, &'a Active)>;

/// libtorch as a calculator of steps.
pub(crate) struct TorchKernels {
    weights: Frozen,
    pool: Pool,
    adapters: Adapters,
    threads: Threads,
    /// Next tokens are chosen where the logits are.
    chooses: bool,
}

impl TorchKernels {
    /// `choose`: next tokens are chosen by libtorch on a processor too.
    pub fn new(decoder: &Decoder, choose: bool) -> Self {
        let (c, layers) = (&decoder.config, decoder.layers.len());
        let options = (decoder.kind, decoder.device);
        Self {
            weights: Frozen::new(decoder),
            pool: Pool::new(layers, c.kv_heads, PAGE as i64, c.head_dim, options),
            adapters: Adapters::new(layers, decoder.kind, decoder.device),
            threads: Threads::new(threads::threads()),
            chooses: choose || decoder.device != Device::Cpu,
        }
    }
}

impl Kernels for TorchKernels {
    fn run(&mut self, pieces: &[Piece<'_>]) -> std::result::Result<Answers, EngineError> {
        let failed = |e: Error| EngineError::Failed(e.to_string());
        let w = &self.weights;
        let group = w.config.heads / w.config.kv_heads;
        let terms = Terms { windows: &w.windows, group, kind: w.kind, device: w.device };
        let plan = Plan::new(pieces, &terms);
        let logits = w.run(&self.pool, &self.adapters, &plan).map_err(failed)?;
        let draws: Vec<_> = pieces
            .iter()
            .filter(|p| p.wanted())
            .map(|p| match p.ask {
                Ask::Token(draw) if self.chooses => Some(draw),
                _ => None,
            })
            .collect();
        let chosen = choose::choose(&logits, &draws).map_err(failed)?;
        let data = choose::rest(&logits, &chosen).map_err(failed)?;
        Ok(Answers::new(data, chosen))
    }

    fn hold(&mut self, pages: usize) {
        self.pool.hold(pages);
    }

    /// By half: growing copies what is there.
    fn more(&self, made: usize) -> usize {
        (made / 2).max(64)
    }

    fn copy(&mut self, from: u32, to: u32) {
        self.pool.copy(from, to);
    }

    fn clear(&mut self) {
        self.pool.clear();
    }

    fn page_bytes(&self) -> usize {
        self.pool.page_bytes()
    }

    fn refresh(&mut self, decoder: &Decoder) {
        // the merged weights must not be there twice
        self.weights.blocks.clear();
        self.weights = Frozen::new(decoder);
    }

    fn adapter(&mut self, name: &str, dir: &Path, decoder: &Decoder) -> Result<()> {
        self.adapters.add(lora::read_stacked(name, dir, &decoder.config)?);
        Ok(())
    }

    fn name(&self) -> &'static str {
        "libtorch"
    }

    fn each(&mut self, n: usize, work: &(dyn Fn(usize) + Sync)) {
        self.threads.run(n, work);
    }
}
