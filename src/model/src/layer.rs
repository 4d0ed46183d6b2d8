//! One layer of the decoder, as training runs it: parts, adapters, graph. The engine has its own ([`crate::frozen`]).

use crate::attention::{Masks, Scores, attend};
use crate::config::Config;
use crate::decoder::Pass;
use crate::error::Result;
use crate::linear::Linear;
use crate::lora::{Lora, Target};
use crate::norm::Norm;
use crate::rope::rotate;
use crate::spec::Activation;
use tch::{Kind, Tensor};

/// Linear layers that are stored as one tensor: one-token decoding wants the single product, training and prefill want
/// the parts, which are views.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// q, k, v
    Qkv,
    O,
    /// gate and up; up alone where there is no gate
    In,
    /// down
    Out,
}

impl Group {
    pub const ALL: [Group; 4] = [Group::Qkv, Group::O, Group::In, Group::Out];

    /// What it is made of, in the order of its rows.
    pub fn targets(self, config: &Config) -> &'static [Target] {
        match self {
            Group::Qkv => &[Target::Q, Target::K, Target::V],
            Group::O => &[Target::O],
            Group::In if config.spec.gated => &[Target::Gate, Target::Up],
            Group::In => &[Target::Up],
            Group::Out => &[Target::Down],
        }
    }

    /// Name of the stored tensor.
    pub fn name(self) -> &'static str {
        match self {
            Group::Qkv => "self_attn.qkv_proj",
            Group::O => "self_attn.o_proj",
            Group::In => "mlp.gate_up_proj",
            Group::Out => "mlp.down_proj",
        }
    }

    /// Whether its members have biases.
    pub fn biased(self, config: &Config) -> bool {
        match self {
            Group::Qkv => config.spec.qkv_bias,
            Group::O => config.spec.o_bias,
            Group::In | Group::Out => config.spec.mlp_bias,
        }
    }

    /// `(out, in)` of the stored tensor.
    pub fn shape(self, config: &Config) -> (i64, i64) {
        let targets = self.targets(config);
        (targets.iter().map(|t| t.shape(config).0).sum(), targets[0].shape(config).1)
    }
}

/// The norms of a layer; the two behind the projections exist in Gemma-2 only.
#[derive(Debug)]
pub(crate) struct Norms {
    pub attention: Norm,
    pub attention_out: Option<Norm>,
    pub mlp: Norm,
    pub mlp_out: Option<Norm>,
}

impl Norms {
    /// With the names that Hugging Face's files have for them.
    pub fn named(&self) -> Vec<(&'static str, &Norm)> {
        match (&self.attention_out, &self.mlp_out) {
            (Some(a), Some(m)) => vec![
                ("input_layernorm", &self.attention),
                ("post_attention_layernorm", a),
                ("pre_feedforward_layernorm", &self.mlp),
                ("post_feedforward_layernorm", m),
            ],
            _ => vec![("input_layernorm", &self.attention), ("post_attention_layernorm", &self.mlp)],
        }
    }

    /// Makes the norms of an architecture, each by its name.
    pub fn make(config: &Config, mut norm: impl FnMut(&'static str) -> Result<Norm>) -> Result<Self> {
        let four = config.spec.post_norms;
        Ok(Self {
            attention: norm("input_layernorm")?,
            attention_out: if four { Some(norm("post_attention_layernorm")?) } else { None },
            mlp: norm(if four { "pre_feedforward_layernorm" } else { "post_attention_layernorm" })?,
            mlp_out: if four { Some(norm("post_feedforward_layernorm")?) } else { None },
        })
    }
}

/// The sizes that a layer's arithmetic needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub heads: i64,
    pub kv_heads: i64,
    pub head_dim: i64,
    pub intermediate: i64,
    pub gated: bool,
    pub activation: Activation,
    pub scores: Scores,
}

impl Sizes {
    pub fn of(c: &Config) -> Self {
        Self {
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
            intermediate: c.intermediate,
            gated: c.spec.gated,
            activation: c.spec.activation,
            scores: Scores::of(c),
        }
    }
}

/// One layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub norms: Norms,
    /// By `Group as usize`.
    pub linears: [Linear; 4],
    /// By `Target as usize`.
    pub lora: [Option<Lora>; 7],
    /// Tokens that a token sees, itself included.
    pub window: Option<i64>,
    pub sizes: Sizes,
}

/// Where the rows of a pass stand.
#[derive(Debug)]
pub(crate) struct Place {
    pub rows: i64,
    pub length: i64,
    pub cos: Tensor,
    pub sin: Tensor,
    pub masks: Masks,
    /// Lengths of the texts that one row is packed with.
    pub texts: Option<Vec<i64>>,
}

impl Layer {
    pub fn linear(&self, group: Group) -> &Linear {
        &self.linears[group as usize]
    }

    /// One product per member of a group, adapters on top.
    fn parts<const N: usize>(
        &self,
        group: Group,
        targets: [(Target, i64); N],
        x: &Tensor,
        pass: Pass,
    ) -> Result<Vec<Tensor>> {
        let lora = |t: Target| self.lora[t as usize].as_ref().filter(|_| pass.adapter);
        self.linear(group).parts(x, &targets.map(|(t, n)| (n, lora(t))), pass.train)
    }

    fn part(&self, group: Group, target: Target, width: i64, x: &Tensor, pass: Pass) -> Result<Tensor> {
        Ok(self.parts(group, [(target, width)], x, pass)?.remove(0))
    }

    /// q, k and v of `x` `[rows * length, hidden]`, each `[rows, heads, length, head_dim]`; q and k not yet rotated.
    fn qkv(&self, x: &Tensor, rows: i64, length: i64, pass: Pass) -> Result<[Tensor; 3]> {
        let Sizes { heads, kv_heads, head_dim, .. } = self.sizes;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let h = self.norms.attention.forward(x);
        let parts = self.parts(Group::Qkv, [(Target::Q, q), (Target::K, kv), (Target::V, kv)], &h, pass)?;
        let split = |i: usize, n: i64| parts[i].view([rows, length, n, head_dim]).transpose(1, 2);
        Ok([split(0, heads), split(1, kv_heads), split(2, kv_heads)])
    }

    /// The residual stream after attention: `x` plus the projected heads `a` `[rows, heads * head_dim]`.
    fn after_attention(&self, x: &Tensor, a: &Tensor, pass: Pass) -> Result<Tensor> {
        let y = self.part(Group::O, Target::O, x.size()[1], a, pass)?;
        Ok(match &self.norms.attention_out {
            Some(n) => x + n.forward(&y),
            None => x + y,
        })
    }

    /// The residual stream after the MLP.
    fn mlp(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let Sizes { intermediate: n, gated, activation, .. } = self.sizes;
        let h = self.norms.mlp.forward(x);
        let inner = if !gated {
            activation.forward(&self.part(Group::In, Target::Up, n, &h, pass)?)
        } else {
            let parts = self.parts(Group::In, [(Target::Gate, n), (Target::Up, n)], &h, pass)?;
            activation.gated(&parts[0], &parts[1])
        };
        let y = self.part(Group::Out, Target::Down, x.size()[1], &inner, pass)?;
        Ok(match &self.norms.mlp_out {
            Some(n) => x + n.forward(&y),
            None => x + y,
        })
    }

    /// Causal attention of `q` `[rows, heads, length, head_dim]` over `k` and `v` (fewer heads), flat
    /// `[rows * length, width]`. Packed texts are cut apart for it: nobody looks into another text, no mask across texts
    /// exists, and no work is spent on it.
    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, at: &Place) -> Tensor {
        let causal = |q: &Tensor, k: &Tensor, v: &Tensor| {
            let mask = at.masks.of(self.window, q.size()[2]);
            attend(q, k, v, mask.as_ref(), true, self.sizes.scores)
                .transpose(1, 2)
                .reshape([-1, self.sizes.heads * self.sizes.head_dim])
        };
        let Some(lengths) = &at.texts else { return causal(q, k, v) };
        // split, not narrow: the backward pass of a split is one concatenation
        let [q, k, v] = [q, k, v].map(|t| t.split_with_sizes(&lengths[..], 2));
        let parts: Vec<Tensor> = q.iter().zip(&k).zip(&v).map(|((q, k), v)| causal(q, k, v)).collect();
        Tensor::cat(&parts, 0)
    }

    /// `x` is `[rows * length, hidden]`: flat, because libtorch's bf16 product is hundreds of times slower on strided
    /// 3-D input.
    pub fn forward(&self, x: &Tensor, at: &Place, pass: Pass) -> Result<Tensor> {
        let [q, k, v] = self.qkv(x, at.rows, at.length, pass)?;
        let q = rotate(&q, &at.cos, &at.sin);
        let k = rotate(&k, &at.cos, &at.sin);
        let a = self.attention(&q, &k, &v, at);
        let x = self.after_attention(x, &a, pass)?;
        self.mlp(&x, pass)
    }

    /// The stored weight of a group with the adapter merged in: a new tensor if there is one, else the stored one.
    pub fn merged(&self, group: Group, config: &Config, kind: Kind) -> Tensor {
        let _guard = tch::no_grad_guard();
        let stored = self.linear(group).numbers(kind);
        let targets = group.targets(config);
        if targets.iter().all(|t| self.lora[*t as usize].is_none()) {
            return stored;
        }
        let out = stored.copy();
        let mut row = 0;
        for &t in targets {
            let rows = t.shape(config).0;
            if let Some(lora) = &self.lora[t as usize] {
                let _ = out.narrow(0, row, rows).g_add_(&lora.weight().to_kind(kind));
            }
            row += rows;
        }
        out
    }

    /// Rows `row..row + rows` of a group, which are those of `target`, with its adapter merged in.
    pub fn merged_part(&self, group: Group, target: Target, row: i64, rows: i64, kind: Kind) -> Tensor {
        let _guard = tch::no_grad_guard();
        let stored = self.linear(group).numbers(kind).narrow(0, row, rows);
        match &self.lora[target as usize] {
            Some(lora) => stored + lora.weight().to_kind(kind),
            None => stored,
        }
    }
}
