//! The decoder, parametrised by [`crate::spec::Spec`]. Trains (graph, LoRA, recomputation) and gives its weights to the
//! engine.

use crate::attention::Masks;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::fused;
use crate::layer::{Group, Layer, Norms, Place, Sizes};
use crate::linear::{Linear, Weight};
use crate::lora::{self, Lora, Target};
use crate::norm::Norm;
use crate::rope::Rope;
use crate::shim;
use crate::spec::{NormKind, soft_cap};
use crate::weights::{Entry, Weights};
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

/// A causal language model.
#[derive(Debug)]
pub struct Decoder {
    pub config: Config,
    pub(crate) embed: Tensor,
    pub(crate) layers: Vec<Rc<Layer>>,
    pub(crate) norm: Norm,
    /// `None`: the embedding is the head.
    pub(crate) head: Option<Tensor>,
    pub(crate) rope: Rc<Rope>,
    pub(crate) adapter: Option<LoraParams>,
    pub kind: Kind,
    pub device: Device,
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
        let normal =
            |(rows, width): (i64, i64), scale: f64| Tensor::randn([rows, width], options) * (std * scale);
        let residual = 1.0 / (2.0 * c.layers as f64).sqrt();
        let sizes = Sizes::of(c);
        let norm = || Norm {
            weight: match c.spec.norm {
                NormKind::RmsPlusOne => Tensor::zeros([c.hidden], options),
                NormKind::Rms | NormKind::Layer => Tensor::ones([c.hidden], options),
            },
            bias: (c.spec.norm == NormKind::Layer).then(|| Tensor::zeros([c.hidden], options)),
            kind: c.spec.norm,
            eps: c.norm_eps,
        };
        let embed = normal((c.vocab, c.hidden), 1.0);
        let layers = (0..c.layers)
            .map(|i| {
                let linears = Group::ALL.map(|g| {
                    let scale = if matches!(g, Group::O | Group::Out) { residual } else { 1.0 };
                    let shape = g.shape(c);
                    let bias = g.biased(c).then(|| Tensor::zeros([shape.0], options));
                    Linear::dense(normal(shape, scale), bias)
                });
                let norms = Norms {
                    attention: norm(),
                    attention_out: c.spec.post_norms.then(norm),
                    mlp: norm(),
                    mlp_out: c.spec.post_norms.then(norm),
                };
                Rc::new(Layer { norms, linears, lora: Default::default(), window: c.spec.window(i), sizes })
            })
            .collect();
        let norm = norm();
        let head = (!c.tied).then(|| normal((c.vocab, c.hidden), 1.0));
        Self::assemble(config, embed, layers, norm, head, Kind::Float, device)
    }

    fn assemble(
        config: Config,
        embed: Tensor,
        layers: Vec<Rc<Layer>>,
        norm: Norm,
        head: Option<Tensor>,
        kind: Kind,
        device: Device,
    ) -> Self {
        let rope = Rc::new(Rope::new(&config, kind, device));
        Self { config, embed, layers, norm, head, rope, adapter: None, kind, device }
    }

    /// Loads the weights of a model directory in number format `kind`; with `quantize`, the layers' linear weights are
    /// packed to 4 bits as they are read. Every weight is written once, from the file's pages to its place.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape, by name and file.
    pub fn load(dir: &Path, config: Config, kind: Kind, device: Device, quantize: bool) -> Result<Self> {
        let w = Weights::open(dir)?;
        let c = &config;
        let sizes = Sizes::of(c);
        let get = |name: String, shape: &[i64]| w.load(&name, shape, kind, device);
        let norm = |name: String| -> Result<Norm> {
            Ok(Norm {
                weight: get(format!("{name}.weight"), &[c.hidden])?,
                bias: match c.spec.norm {
                    NormKind::Layer => Some(get(format!("{name}.bias"), &[c.hidden])?),
                    NormKind::Rms | NormKind::RmsPlusOne => None,
                },
                kind: c.spec.norm,
                eps: c.norm_eps,
            })
        };
        let linear = |layer: usize, g: Group| -> Result<Linear> {
            let (rows, width) = g.shape(c);
            let weight = Tensor::f_empty([rows, width], (kind, device))?;
            let bias = if g.biased(c) { Some(Tensor::f_empty([rows], (kind, device))?) } else { None };
            let mut row = 0;
            for t in g.targets(c) {
                let n = t.shape(c).0;
                let name = t.module(layer, c.arch);
                w.fill(&format!("{name}.weight"), &weight.narrow(0, row, n))?;
                if let Some(b) = &bias {
                    w.fill(&format!("{name}.bias"), &b.narrow(0, row, n))?;
                }
                row += n;
            }
            Ok(Linear::dense(weight, bias))
        };
        let mut layers = Vec::new();
        for i in 0..c.layers {
            let mut linears = Vec::with_capacity(Group::ALL.len());
            for g in Group::ALL {
                let mut linear = linear(i, g)?;
                if quantize {
                    linear.quantize()?;
                }
                linears.push(linear);
            }
            let linears = linears.try_into().expect("one linear per group");
            let norms = Norms::make(c, |name| norm(format!("model.layers.{i}.{name}")))?;
            layers.push(Rc::new(Layer {
                norms,
                linears,
                lora: Default::default(),
                window: c.spec.window(i),
                sizes,
            }));
        }
        let embed = get("model.embed_tokens.weight".into(), &[c.vocab, c.hidden])?;
        let norm = norm("model.norm".into())?;
        let head = if c.tied { None } else { Some(get("lm_head.weight".into(), &[c.vocab, c.hidden])?) };
        Ok(Self::assemble(config, embed, layers, norm, head, kind, device))
    }

    /// Packs the layers' linear weights to 4 bits (NF4). They are frozen from then on: train an adapter.
    ///
    /// # Errors
    /// libtorch's words.
    pub fn quantize(&mut self) -> Result<()> {
        for i in 0..self.layers.len() {
            for linear in &mut self.layer_mut(i).linears {
                linear.quantize()?;
            }
        }
        Ok(())
    }

    /// Whether the layers' weights are 4-bit.
    #[must_use]
    pub fn quantized(&self) -> bool {
        self.layers.iter().any(|l| l.linears.iter().any(|l| matches!(l.weight, Weight::Nf4(_))))
    }

    /// Bytes of all weights, adapters left out.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        let dense: usize = self.stored().iter().map(|(_, t)| t.numel() * t.kind().elt_size_in_bytes()).sum();
        let packed = self.layers.iter().flat_map(|l| &l.linears).filter_map(|l| match &l.weight {
            Weight::Nf4(q) => Some(q.bytes()),
            Weight::Dense(_) => None,
        });
        dense + packed.sum::<usize>()
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
        let masks = Masks::new(&self.config, longest, self.kind, self.device);
        let place = Rc::new(Place { rows, length, cos, sin, masks, texts });
        let mut x = embedded(&self.embed, &ids.reshape([-1]), &self.config);
        for layer in &self.layers {
            x = if pass.recompute {
                let (layer, place) = (Rc::clone(layer), Rc::clone(&place));
                shim::checkpoint(Rc::new(move |x: &Tensor| layer.forward(x, &place, pass)), &x, pass.train)?
            } else {
                layer.forward(&x, &place, pass)?
            };
        }
        Ok(self.norm.forward(&x))
    }

    /// Weight of the output head, `[vocab, hidden]`; [`Self::logits`] may cap its products.
    pub fn head(&self) -> &Tensor {
        self.head.as_ref().unwrap_or(&self.embed)
    }

    /// Logits of hidden states, `[rows, vocab]`, in fp32.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        capped(fused::times(hidden, self.head()).to_kind(Kind::Float), &self.config)
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
        let arch = self.config.arch;
        self.with_adapter(&p, scale, |target, layer, (r, inp, out), device| {
            Ok((
                w.load(&lora::key(target, layer, arch, 'A'), &[r, inp], Kind::Float, device)?,
                w.load(&lora::key(target, layer, arch, 'B'), &[out, r], Kind::Float, device)?,
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
        let targets = lora::targets(p, &self.config)?;
        let r = i64::from(p.r);
        for i in 0..self.layers.len() {
            for target in Target::ALL.into_iter().filter(|t| targets.contains(t)) {
                let (out, inp) = target.shape(&self.config);
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

    /// Adapter tensors under PEFT's names, in a fixed order. They share storage with the model.
    #[must_use]
    pub fn adapter_tensors(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            for t in Target::ALL {
                if let Some(l) = &layer.lora[t as usize] {
                    out.push((lora::key(t, i, self.config.arch, 'A'), l.a.shallow_clone()));
                    out.push((lora::key(t, i, self.config.arch, 'B'), l.b.shallow_clone()));
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

    /// Every dense weight as it is stored (q/k/v and gate/up in one piece), in a fixed order.
    fn stored(&self) -> Vec<(String, Tensor)> {
        let mut out = vec![("model.embed_tokens.weight".to_owned(), self.embed.shallow_clone())];
        for (i, l) in self.layers.iter().enumerate() {
            for (name, norm) in l.norms.named() {
                put_norm(&mut out, format!("model.layers.{i}.{name}"), norm);
            }
            for g in Group::ALL {
                let linear = l.linear(g);
                let name = format!("model.layers.{i}.{}", g.name());
                if let Weight::Dense(w) = &linear.weight {
                    out.push((format!("{name}.weight"), w.shallow_clone()));
                    if let Some(b) = &linear.bias {
                        out.push((format!("{name}.bias"), b.shallow_clone()));
                    }
                }
            }
        }
        put_norm(&mut out, "model.norm".to_owned(), &self.norm);
        if let Some(head) = &self.head {
            out.push(("lm_head.weight".to_owned(), head.shallow_clone()));
        }
        out
    }

    /// Weights under Hugging Face's names with the adapter merged in, made one at a time.
    ///
    /// # Errors
    /// A number format that the file format lacks.
    pub fn export(&self) -> Result<Vec<Entry<'_>>> {
        let mut out = vec![Entry::of("model.embed_tokens.weight".to_owned(), &self.embed)?];
        let norm = |out: &mut Vec<Entry<'_>>, name: String, norm: &Norm| -> Result<()> {
            out.push(Entry::of(format!("{name}.weight"), &norm.weight)?);
            if let Some(b) = &norm.bias {
                out.push(Entry::of(format!("{name}.bias"), b)?);
            }
            Ok(())
        };
        for (i, l) in self.layers.iter().enumerate() {
            for (name, n) in l.norms.named() {
                norm(&mut out, format!("model.layers.{i}.{name}"), n)?;
            }
            for g in Group::ALL {
                let mut row = 0;
                for &t in g.targets(&self.config) {
                    let (rows, width) = t.shape(&self.config);
                    let name = t.module(i, self.config.arch);
                    let make = move || l.merged_part(g, t, row, rows, self.kind);
                    out.push(Entry::new(format!("{name}.weight"), &[rows, width], self.kind, make)?);
                    if let Some(b) = &l.linear(g).bias {
                        out.push(Entry::of(format!("{name}.bias"), &b.narrow(0, row, rows))?);
                    }
                    row += rows;
                }
            }
        }
        norm(&mut out, "model.norm".to_owned(), &self.norm)?;
        if let Some(head) = &self.head {
            out.push(Entry::of("lm_head.weight".to_owned(), head)?);
        }
        Ok(out)
    }
}

fn put_norm(out: &mut Vec<(String, Tensor)>, name: String, norm: &Norm) {
    out.push((format!("{name}.weight"), norm.weight.shallow_clone()));
    if let Some(b) = &norm.bias {
        out.push((format!("{name}.bias"), b.shallow_clone()));
    }
}

/// Embeddings of flat `ids`, scaled where the architecture does.
pub(crate) fn embedded(table: &Tensor, ids: &Tensor, config: &Config) -> Tensor {
    let x = Tensor::embedding(table, ids, -1, false, false);
    if !config.spec.scaled_embeddings {
        return x;
    }
    // the factor is rounded to the model's number format first, as transformers does it; a number, not a tensor: nothing
    // has to go to the device for it
    let factor = Tensor::from((config.hidden as f64).sqrt()).to_kind(x.kind()).double_value(&[]);
    x * factor
}

/// Logits under the architecture's soft cap.
pub(crate) fn capped(logits: Tensor, config: &Config) -> Tensor {
    match config.spec.logit_cap {
        Some(cap) => soft_cap(&logits, cap),
        None => logits,
    }
}
