//! The decoder: RMSNorm, rotary attention with grouped keys and values, SwiGLU. Trains (graph, LoRA, recomputation) and
//! gives its weights to the engine.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::lora::{self, Lora, Target};
use crate::rope::{Rope, rotate};
use crate::shim;
use crate::weights::Weights;
use record::params::LoraParams;
use std::path::Path;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// How to run a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// Use the adapter; off, the model is the one before fine-tuning (the reference of RL).
    pub adapter: bool,
    /// Dropout on.
    pub train: bool,
    /// Keep only the layers' inputs and recompute the rest in the backward pass.
    pub recompute: bool,
}

impl Pass {
    /// No dropout, adapter on: what a caller sees who asks for logits.
    pub const EVAL: Pass = Pass { adapter: true, train: false, recompute: false };
    /// Dropout on.
    pub const TRAIN: Pass = Pass { adapter: true, train: true, recompute: false };
    /// The model under the adapter.
    pub const REFERENCE: Pass = Pass { adapter: false, train: false, recompute: false };
}

/// One layer. q/k/v and gate/up are stored as one tensor each: one-token decoding wants the single product, training and
/// prefill want the parts, which are views.
#[derive(Debug)]
pub struct Layer {
    pub(crate) norm_attention: Tensor,
    /// `[(heads + 2 kv_heads) * head_dim, hidden]`
    pub(crate) qkv: Tensor,
    pub(crate) qkv_bias: Option<Tensor>,
    pub(crate) o: Tensor,
    pub(crate) o_bias: Option<Tensor>,
    pub(crate) norm_mlp: Tensor,
    /// `[2 intermediate, hidden]`
    pub(crate) gate_up: Tensor,
    pub(crate) down: Tensor,
    /// By `Target as usize`.
    pub(crate) lora: [Option<Lora>; 7],
}

/// A causal language model.
#[derive(Debug)]
pub struct Decoder {
    pub config: Config,
    pub(crate) embed: Tensor,
    pub(crate) layers: Vec<Rc<Layer>>,
    pub(crate) norm: Tensor,
    /// `None`: the embedding is the head.
    pub(crate) head: Option<Tensor>,
    pub(crate) rope: Rc<Rope>,
    pub(crate) adapter: Option<LoraParams>,
    shape: Shape,
    pub kind: Kind,
    pub device: Device,
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
    eps: f64,
}

/// RMSNorm with the mean square in fp32.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Tensor {
    let width = weight.size();
    if x.kind() == Kind::Float {
        return x.rms_norm(&width[..], Some(weight), eps);
    }
    x.to_kind(Kind::Float).rms_norm(&width[..], None::<&Tensor>, eps).to_kind(x.kind()) * weight
}

impl Layer {
    fn linear(&self, target: Target, x: &Tensor, w: &Tensor, bias: Option<&Tensor>, pass: Pass) -> Tensor {
        let y = x.linear(w, bias);
        match &self.lora[target as usize] {
            Some(l) if pass.adapter => y + l.delta(x, pass.train),
            _ => y,
        }
    }

    /// `x` is `[rows * length, hidden]`: flat, because libtorch's bf16 product is hundreds of times slower on strided
    /// 3-D input.
    fn forward(&self, x: &Tensor, at: &Place, pass: Pass) -> Tensor {
        let Shape { heads, kv_heads, head_dim, eps } = at.shape;
        let widths = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim];
        let w = self.qkv.split_with_sizes(&widths[..], 0);
        let b = self.qkv_bias.as_ref().map(|b| b.split_with_sizes(&widths[..], 0));
        let h = rms_norm(x, &self.norm_attention, eps);
        let part = |i: usize, target, n: i64| {
            self.linear(target, &h, &w[i], b.as_ref().map(|b| &b[i]), pass)
                .view([at.rows, at.length, n, head_dim])
                .transpose(1, 2)
        };
        let q = rotate(&part(0, Target::Q, heads), &at.cos, &at.sin);
        let k = rotate(&part(1, Target::K, kv_heads), &at.cos, &at.sin);
        let v = part(2, Target::V, kv_heads);
        let a = attention(&q, &k, &v, at);
        let x = x + self.linear(Target::O, &a, &self.o, self.o_bias.as_ref(), pass);
        let h = rms_norm(&x, &self.norm_mlp, eps);
        let gu = self.gate_up.chunk(2, 0);
        let gate = self.linear(Target::Gate, &h, &gu[0], None, pass).silu();
        let up = self.linear(Target::Up, &h, &gu[1], None, pass);
        &x + self.linear(Target::Down, &(gate * up), &self.down, None, pass)
    }
}

/// Causal attention of `q` `[rows, heads, length, head_dim]` over `k` and `v` (fewer heads), flat `[rows * length, width]`.
/// Packed texts are cut apart for it: nobody looks into another text, no mask exists, and no work is spent on it.
fn attention(q: &Tensor, k: &Tensor, v: &Tensor, at: &Place) -> Tensor {
    let grouped = at.shape.heads != at.shape.kv_heads;
    let causal = |q: &Tensor, k: &Tensor, v: &Tensor| {
        Tensor::scaled_dot_product_attention(q, k, v, None::<&Tensor>, 0.0, true, None, grouped)
            .transpose(1, 2)
            .reshape([-1, at.shape.heads * at.shape.head_dim])
    };
    let Some(lengths) = &at.texts else { return causal(q, k, v) };
    // split, not narrow: the backward pass of a split is one concatenation
    let [q, k, v] = [q, k, v].map(|t| t.split_with_sizes(&lengths[..], 2));
    let parts: Vec<Tensor> = q.iter().zip(&k).zip(&v).map(|((q, k), v)| causal(q, k, v)).collect();
    Tensor::cat(&parts, 0)
}

/// Where the rows of a pass stand.
#[derive(Debug)]
struct Place {
    rows: i64,
    length: i64,
    shape: Shape,
    cos: Tensor,
    sin: Tensor,
    /// Lengths of the texts that one row is packed with.
    texts: Option<Vec<i64>>,
}

/// Several texts one after the other in one row: attention is block-diagonal and positions start again with each text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packing {
    /// Tokens of each text, at least 1; they add up to the row's length.
    pub lengths: Vec<i64>,
}

impl Decoder {
    /// A model with fresh weights: normal with standard deviation 0.02 at width 768 and larger in smaller models (by
    /// sqrt(768 / hidden), so that products keep their size), the two projections into the residual stream smaller by
    /// sqrt(2 layers) (GPT-2), norms 1, biases 0. Draws from libtorch's generator.
    #[must_use]
    pub fn random(config: Config, device: Device) -> Self {
        let options = (Kind::Float, device);
        let c = &config;
        let std = 0.02 * (768.0 / c.hidden as f64).sqrt().max(1.0);
        let normal = |shape: [i64; 2], scale: f64| Tensor::randn(shape, options) * (std * scale);
        let residual = 1.0 / (2.0 * c.layers as f64).sqrt();
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let embed = normal([c.vocab, c.hidden], 1.0);
        let layers = (0..c.layers)
            .map(|_| {
                Rc::new(Layer {
                    norm_attention: Tensor::ones([c.hidden], options),
                    qkv: normal([q + 2 * kv, c.hidden], 1.0),
                    qkv_bias: c.qkv_bias.then(|| Tensor::zeros([q + 2 * kv], options)),
                    o: normal([c.hidden, q], residual),
                    o_bias: c.o_bias.then(|| Tensor::zeros([c.hidden], options)),
                    norm_mlp: Tensor::ones([c.hidden], options),
                    gate_up: normal([2 * c.intermediate, c.hidden], 1.0),
                    down: normal([c.hidden, c.intermediate], residual),
                    lora: Default::default(),
                })
            })
            .collect();
        let norm = Tensor::ones([c.hidden], options);
        let head = (!c.tied).then(|| normal([c.vocab, c.hidden], 1.0));
        Self::assemble(config, embed, layers, norm, head, Kind::Float, device)
    }

    fn assemble(
        config: Config,
        embed: Tensor,
        layers: Vec<Rc<Layer>>,
        norm: Tensor,
        head: Option<Tensor>,
        kind: Kind,
        device: Device,
    ) -> Self {
        let shape = Shape {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            eps: config.norm_eps,
        };
        let rope = Rc::new(Rope::new(&config, kind, device));
        Self { config, embed, layers, norm, head, rope, adapter: None, shape, kind, device }
    }

    /// Loads the weights of a model directory in number format `kind`.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape, by name and file.
    pub fn load(dir: &Path, config: Config, kind: Kind, device: Device) -> Result<Self> {
        let w = Weights::open(dir)?;
        let c = &config;
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let get = |name: String, shape: &[i64]| w.load(&name, shape, kind, device);
        let mut layers = Vec::new();
        for i in 0..c.layers {
            let weight = |t: Target, shape: &[i64]| get(format!("{}.weight", t.module(i)), shape);
            let bias = |t: Target, n: i64| get(format!("{}.bias", t.module(i)), &[n]);
            let qkv = Tensor::cat(
                &[
                    weight(Target::Q, &[q, c.hidden])?,
                    weight(Target::K, &[kv, c.hidden])?,
                    weight(Target::V, &[kv, c.hidden])?,
                ],
                0,
            );
            let qkv_bias = if c.qkv_bias {
                Some(Tensor::cat(&[bias(Target::Q, q)?, bias(Target::K, kv)?, bias(Target::V, kv)?], 0))
            } else {
                None
            };
            let wide = [c.intermediate, c.hidden];
            layers.push(Rc::new(Layer {
                norm_attention: get(format!("model.layers.{i}.input_layernorm.weight"), &[c.hidden])?,
                qkv,
                qkv_bias,
                o: weight(Target::O, &[c.hidden, q])?,
                o_bias: if c.o_bias { Some(bias(Target::O, c.hidden)?) } else { None },
                norm_mlp: get(format!("model.layers.{i}.post_attention_layernorm.weight"), &[c.hidden])?,
                gate_up: Tensor::cat(&[weight(Target::Gate, &wide)?, weight(Target::Up, &wide)?], 0),
                down: weight(Target::Down, &[c.hidden, c.intermediate])?,
                lora: Default::default(),
            }));
        }
        let embed = get("model.embed_tokens.weight".into(), &[c.vocab, c.hidden])?;
        let norm = get("model.norm.weight".into(), &[c.hidden])?;
        let head = if c.tied { None } else { Some(get("lm_head.weight".into(), &[c.vocab, c.hidden])?) };
        Ok(Self::assemble(config, embed, layers, norm, head, kind, device))
    }

    /// Final hidden states `[rows * length, hidden]` of `ids` `[rows, length]` (int64). Rows are padded on the right:
    /// causal attention keeps padding out of every real position, so no mask is needed. With `packing` there is one row.
    ///
    /// # Errors
    /// A text longer than the model's context; a packing that is not that of `ids`; libtorch's words, when recomputation
    /// cannot be set up.
    pub fn trunk(&self, ids: &Tensor, packing: Option<&Packing>, pass: Pass) -> Result<Tensor> {
        let (rows, length) = ids.size2()?;
        let longest = packing.map_or(Some(length), |p| p.lengths.iter().copied().max()).unwrap_or(0);
        if longest > self.config.context {
            return Err(Error::Invalid(format!(
                "a row has {longest} tokens, the model's context is {}",
                self.config.context
            )));
        }
        let (cos, sin) = match packing {
            Some(p) if rows != 1 || p.lengths.iter().sum::<i64>() != length => {
                return Err(Error::Invalid(format!(
                    "packing: wanted one row of {} tokens, got {rows} rows of {length}",
                    p.lengths.iter().sum::<i64>()
                )));
            }
            Some(p) => {
                let (cos, sin) = self.rope.first(longest);
                let again = |t: &Tensor| {
                    Tensor::cat(&p.lengths.iter().map(|&n| t.narrow(0, 0, n)).collect::<Vec<_>>(), 0)
                };
                (again(&cos), again(&sin))
            }
            None => self.rope.first(length),
        };
        let texts = packing.map(|p| p.lengths.clone());
        let place = Rc::new(Place { rows, length, shape: self.shape, cos, sin, texts });
        let mut x = Tensor::embedding(&self.embed, &ids.reshape([-1]), -1, false, false);
        for layer in &self.layers {
            x = if pass.recompute {
                let (layer, place) = (Rc::clone(layer), Rc::clone(&place));
                shim::checkpoint(Rc::new(move |x: &Tensor| layer.forward(x, &place, pass)), &x, pass.train)?
            } else {
                layer.forward(&x, &place, pass)
            };
        }
        Ok(rms_norm(&x, &self.norm, self.shape.eps))
    }

    /// Weight of the output head, `[vocab, hidden]`.
    pub fn head(&self) -> &Tensor {
        self.head.as_ref().unwrap_or(&self.embed)
    }

    /// Logits of hidden states, `[rows, vocab]`, in fp32.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        hidden.linear(self.head(), None::<&Tensor>).to_kind(Kind::Float)
    }

    /// Freezes the weights and adds a fresh adapter: A uniform as PEFT (Kaiming with a = sqrt(5)), B zero. Draws from
    /// libtorch's generator.
    ///
    /// # Errors
    /// Parameters that make no sense; an adapter that is there already.
    pub fn add_adapter(&mut self, p: &LoraParams) -> Result<()> {
        self.with_adapter(p, p.alpha / f64::from(p.r.max(1)), |_, _, (r, inp, out), device| {
            let bound = 1.0 / (inp as f64).sqrt();
            let a = Tensor::empty([r, inp], (Kind::Float, device)).uniform_(-bound, bound);
            Ok((a, Tensor::zeros([out, r], (Kind::Float, device))))
        })
    }

    /// Loads an adapter in PEFT's layout.
    ///
    /// # Errors
    /// I/O errors, shapes that do not fit, a kind of adapter that is not built.
    pub fn load_adapter(&mut self, dir: &Path) -> Result<()> {
        let (p, scale) = lora::read_config(dir)?;
        let w = Weights::open_files(&[dir.join("adapter_model.safetensors")])?;
        self.with_adapter(&p, scale, |target, layer, (r, inp, out), device| {
            Ok((
                w.load(&lora::key(target, layer, 'A'), &[r, inp], Kind::Float, device)?,
                w.load(&lora::key(target, layer, 'B'), &[out, r], Kind::Float, device)?,
            ))
        })
    }

    fn with_adapter(
        &mut self,
        p: &LoraParams,
        scale: f64,
        mut make: impl FnMut(Target, usize, (i64, i64, i64), Device) -> Result<(Tensor, Tensor)>,
    ) -> Result<()> {
        if self.adapter.is_some() {
            return Err(Error::Invalid("the model has an adapter already; merge it first".into()));
        }
        let targets = lora::targets(p)?;
        let r = i64::from(p.r);
        for i in 0..self.layers.len() {
            for target in Target::ALL.into_iter().filter(|t| targets.contains(t)) {
                let (out, inp) = self.shape_of(target);
                let (a, b) = make(target, i, (r, inp, out), self.device)?;
                let a = a.set_requires_grad(true);
                let b = b.set_requires_grad(true);
                self.layer_mut(i).lora[target as usize] = Some(Lora { a, b, scale, dropout: p.dropout });
            }
        }
        self.adapter = Some(p.clone());
        Ok(())
    }

    fn layer_mut(&mut self, i: usize) -> &mut Layer {
        Rc::get_mut(&mut self.layers[i]).expect("no pass is under way while the model is borrowed mutably")
    }

    /// `(out, in)` of a linear layer.
    fn shape_of(&self, t: Target) -> (i64, i64) {
        let c = &self.config;
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        match t {
            Target::Q => (q, c.hidden),
            Target::K | Target::V => (kv, c.hidden),
            Target::O => (c.hidden, q),
            Target::Gate | Target::Up => (c.intermediate, c.hidden),
            Target::Down => (c.hidden, c.intermediate),
        }
    }

    /// Adapter tensors under PEFT's names, in a fixed order. They share storage with the model.
    #[must_use]
    pub fn adapter_tensors(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            for t in Target::ALL {
                if let Some(l) = &layer.lora[t as usize] {
                    out.push((lora::key(t, i, 'A'), l.a.shallow_clone()));
                    out.push((lora::key(t, i, 'B'), l.b.shallow_clone()));
                }
            }
        }
        out
    }

    /// Makes every weight trainable (full fine-tuning, training from scratch).
    pub fn train_all(&mut self) {
        for (_, t) in self.stored() {
            let _ = t.set_requires_grad(true);
        }
    }

    /// What the optimizer works on: the adapter if there is one, else every stored weight. Shares storage.
    #[must_use]
    pub fn trainable(&self) -> Vec<(String, Tensor)> {
        if self.adapter.is_some() { self.adapter_tensors() } else { self.stored() }
    }

    /// Every weight as it is stored (q/k/v and gate/up in one piece), in a fixed order.
    fn stored(&self) -> Vec<(String, Tensor)> {
        let mut out = vec![("model.embed_tokens.weight".to_owned(), self.embed.shallow_clone())];
        for (i, l) in self.layers.iter().enumerate() {
            let at = format!("model.layers.{i}");
            let mut put = |name: &str, t: &Tensor| out.push((format!("{at}.{name}"), t.shallow_clone()));
            put("input_layernorm.weight", &l.norm_attention);
            put("self_attn.qkv_proj.weight", &l.qkv);
            if let Some(b) = &l.qkv_bias {
                put("self_attn.qkv_proj.bias", b);
            }
            put("self_attn.o_proj.weight", &l.o);
            if let Some(b) = &l.o_bias {
                put("self_attn.o_proj.bias", b);
            }
            put("post_attention_layernorm.weight", &l.norm_mlp);
            put("mlp.gate_up_proj.weight", &l.gate_up);
            put("mlp.down_proj.weight", &l.down);
        }
        out.push(("model.norm.weight".to_owned(), self.norm.shallow_clone()));
        if let Some(head) = &self.head {
            out.push(("lm_head.weight".to_owned(), head.shallow_clone()));
        }
        out
    }

    /// q/k/v or gate/up (as stored) with the adapter merged in: a new tensor if there is one, else the stored one.
    pub(crate) fn merged(&self, layer: usize, which: &[Target]) -> Tensor {
        let _guard = tch::no_grad_guard();
        let l = &self.layers[layer];
        let stored = match which[0] {
            Target::Q => &l.qkv,
            Target::O => &l.o,
            Target::Gate => &l.gate_up,
            _ => &l.down,
        };
        if which.iter().all(|t| l.lora[*t as usize].is_none()) {
            return stored.detach();
        }
        let out = stored.detach().copy();
        let mut row = 0;
        for &t in which {
            let rows = self.shape_of(t).0;
            if let Some(lora) = &l.lora[t as usize] {
                let _ = out.narrow(0, row, rows).g_add_(&lora.weight().to_kind(self.kind));
            }
            row += rows;
        }
        out
    }

    /// Weights under Hugging Face's names with the adapter merged in.
    #[must_use]
    pub fn export(&self) -> Vec<(String, Tensor)> {
        let mut out = vec![("model.embed_tokens.weight".to_owned(), self.embed.detach())];
        for (i, l) in self.layers.iter().enumerate() {
            out.push((format!("model.layers.{i}.input_layernorm.weight"), l.norm_attention.detach()));
            out.push((format!("model.layers.{i}.post_attention_layernorm.weight"), l.norm_mlp.detach()));
            for group in [
                &[Target::Q, Target::K, Target::V][..],
                &[Target::O],
                &[Target::Gate, Target::Up],
                &[Target::Down],
            ] {
                let (whole, mut row) = (self.merged(i, group), 0);
                let bias = match group[0] {
                    Target::Q => l.qkv_bias.as_ref(),
                    Target::O => l.o_bias.as_ref(),
                    _ => None,
                };
                for &t in group {
                    let rows = self.shape_of(t).0;
                    out.push((format!("{}.weight", t.module(i)), whole.narrow(0, row, rows)));
                    if let Some(b) = bias {
                        out.push((format!("{}.bias", t.module(i)), b.detach().narrow(0, row, rows)));
                    }
                    row += rows;
                }
            }
        }
        out.push(("model.norm.weight".to_owned(), self.norm.detach()));
        if let Some(head) = &self.head {
            out.push(("lm_head.weight".to_owned(), head.detach()));
        }
        out
    }
}
