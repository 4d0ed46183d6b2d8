//! Low-rank adapters: `y = x W^T + scale * dropout(x) A^T B^T`, in PEFT's file layout.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::layer::Group;
use crate::shim;
use crate::spec::Arch;
use crate::weights::{self, Weights};
use record::params::LoraParams;
use serde_json::{Value, json};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// The linear layers of a decoder layer that can carry an adapter, with their module path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl Target {
    pub const ALL: [Target; 7] =
        [Target::Q, Target::K, Target::V, Target::O, Target::Gate, Target::Up, Target::Down];

    /// Name of the module in an architecture's files, and in PEFT's.
    #[must_use]
    pub fn name(self, arch: Arch) -> &'static str {
        match (self, arch) {
            (Target::Up, Arch::Starcoder2) => "c_fc",
            (Target::Down, Arch::Starcoder2) => "c_proj",
            _ => self.role(),
        }
    }

    /// Name that most architectures have for it; job files may use it for all of them.
    #[must_use]
    pub fn role(self) -> &'static str {
        match self {
            Target::Q => "q_proj",
            Target::K => "k_proj",
            Target::V => "v_proj",
            Target::O => "o_proj",
            Target::Gate => "gate_proj",
            Target::Up => "up_proj",
            Target::Down => "down_proj",
        }
    }

    pub(crate) fn module(self, layer: usize, arch: Arch) -> String {
        let part = match self {
            Target::Q | Target::K | Target::V | Target::O => "self_attn",
            Target::Gate | Target::Up | Target::Down => "mlp",
        };
        format!("model.layers.{layer}.{part}.{}", self.name(arch))
    }

    /// `(out, in)` of its weight.
    pub(crate) fn shape(self, c: &Config) -> (i64, i64) {
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        match self {
            Target::Q => (q, c.hidden),
            Target::K | Target::V => (kv, c.hidden),
            Target::O => (c.hidden, q),
            Target::Gate | Target::Up => (c.intermediate, c.hidden),
            Target::Down => (c.hidden, c.intermediate),
        }
    }
}

/// One adapter; always fp32.
#[derive(Debug)]
pub struct Lora {
    /// `[r, in]`
    pub a: Tensor,
    /// `[out, r]`
    pub b: Tensor,
    pub scale: f64,
    pub dropout: f64,
}

impl Lora {
    /// `y` `[rows, out]` plus what the adapter adds for `x` `[rows, in]`. Products run in the number format of `x` (sums of
    /// a product are fp32 inside); the factors and their gradients stay fp32.
    /// `x` has been through dropout already, where there is any.
    pub(crate) fn add(&self, y: &Tensor, x: &Tensor) -> Tensor {
        let kind = x.kind();
        let inner = x.linear(&self.a.to_kind(kind), None::<&Tensor>) * self.scale;
        y.addmm(&inner, &self.b.to_kind(kind).tr())
    }

    /// [`Self::add`], with dropout where it is wanted.
    pub(crate) fn on(&self, y: &Tensor, x: &Tensor, train: bool) -> Tensor {
        if train && self.dropout > 0.0 { self.add(y, &x.dropout(self.dropout, true)) } else { self.add(y, x) }
    }

    /// The same as a weight, `[out, in]`, fp32.
    pub(crate) fn weight(&self) -> Tensor {
        shim::no_grad(|| self.b.matmul(&self.a) * self.scale)
    }

    /// A copy outside the graph that later training steps do not change.
    pub(crate) fn snapshot(&self) -> Self {
        let copy = |t: &Tensor| shim::no_grad(|| t.detach().copy());
        Self { a: copy(&self.a), b: copy(&self.b), scale: self.scale, dropout: 0.0 }
    }
}

/// The adapters of the parts of one stored product as one: `y += (x A^T) B^T` over all its outputs.
#[derive(Debug)]
pub(crate) struct Stacked {
    /// `[sum of ranks, in]`
    pub a: Tensor,
    /// `[out, sum of ranks]`, scale included; 0 where a part's outputs meet another part's rank.
    pub b: Tensor,
}

impl Stacked {
    /// Of those parts of `group` that have one (`parts` in the order of [`Group::targets`]); `None`: of none.
    pub fn of(group: Group, config: &Config, parts: Vec<Option<Lora>>) -> Option<Self> {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let out = group.shape(config).0;
        let mut row = 0;
        for (t, part) in group.targets(config).iter().zip(parts) {
            let rows = t.shape(config).0;
            if let Some(part) = part {
                let whole = Tensor::zeros([out, part.a.size()[0]], (Kind::Float, part.b.device()));
                whole.narrow(0, row, rows).copy_(&(part.b * part.scale));
                a.push(part.a);
                b.push(whole);
            }
            row += rows;
        }
        (!a.is_empty()).then(|| Self { a: Tensor::cat(&a, 0), b: Tensor::cat(&b, 1) })
    }
}

/// Reads an adapter in PEFT's layout as the engine uses it: by layer, then by product (`Group as usize`), fp32, on the CPU.
///
/// # Errors
/// I/O errors, shapes that do not fit, a kind of adapter that is not built, one that changes nothing.
pub(crate) fn read_stacked(name: &str, dir: &Path, c: &Config) -> Result<Vec<[Option<Stacked>; 4]>> {
    let (params, scale) = read_config(dir)?;
    let weights = Weights::open_files(&[dir.join("adapter_model.safetensors")])?;
    let r = i64::from(params.r);
    let targets = targets(&params, c)?;
    let mut layers = Vec::new();
    for layer in 0..c.layers {
        let mut parts = [const { None }; 4];
        for group in Group::ALL {
            let read = group.targets(c).iter().map(|&t| {
                if !targets.contains(&t) {
                    return Ok(None);
                }
                let (rows, inputs) = t.shape(c);
                let load = |half, shape: [i64; 2]| {
                    weights.load(&key(t, layer, c.arch, half), &shape, Kind::Float, Device::Cpu)
                };
                Ok(Some(Lora { a: load('A', [r, inputs])?, b: load('B', [rows, r])?, scale, dropout: 0.0 }))
            });
            parts[group as usize] = Stacked::of(group, c, read.collect::<Result<_>>()?);
        }
        layers.push(parts);
    }
    if layers.iter().flatten().all(Option::is_none) {
        return Err(Error::Invalid(format!("adapter {name} in {} changes nothing", dir.display())));
    }
    Ok(layers)
}

/// Checks a job file's adapter and gives its targets. Names are the architecture's own or those of most architectures;
/// `all-linear` is every one. A gate is passed over where the architecture has none, so that the default list fits all.
///
/// # Errors
/// A rank of 0, an unknown target, a dropout outside [0, 1).
pub fn targets(p: &LoraParams, config: &Config) -> Result<Vec<Target>> {
    if p.r == 0 || !(0.0..1.0).contains(&p.dropout) || p.targets.is_empty() {
        return Err(Error::Invalid(format!(
            "lora: wanted r >= 1, 0 <= dropout < 1 and some targets, got r {}, dropout {}, {} targets",
            p.r,
            p.dropout,
            p.targets.len()
        )));
    }
    let arch = config.arch;
    let here = || Target::ALL.into_iter().filter(|t| config.spec.gated || *t != Target::Gate);
    let mut out = Vec::new();
    for name in &p.targets {
        if name == "all-linear" {
            out.extend(here());
        } else if let Some(t) = Target::ALL.into_iter().find(|t| t.name(arch) == name || t.role() == name) {
            out.extend(here().filter(|h| *h == t));
        } else {
            let known: Vec<_> = here().map(|t| t.name(arch)).collect();
            return Err(Error::Invalid(format!(
                "lora: {} has no target {name:?}; known: all-linear, {}",
                arch.class(),
                known.join(", ")
            )));
        }
    }
    out.sort_by_key(|t| *t as usize);
    out.dedup();
    if out.is_empty() {
        return Err(Error::Invalid(format!(
            "lora: {} has none of the targets {:?}",
            arch.class(),
            p.targets
        )));
    }
    Ok(out)
}

/// `adapter_config.json` as PEFT writes it.
#[must_use]
pub fn config_json(p: &LoraParams, targets: &[&str], base: &str) -> Value {
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": p.r,
        "lora_alpha": p.alpha,
        "lora_dropout": p.dropout,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": null,
        "use_rslora": false,
        "use_dora": false,
    })
}

/// Reads `adapter_config.json`.
///
/// # Errors
/// I/O errors; an adapter of a kind that is not built.
pub fn read_config(dir: &Path) -> Result<(LoraParams, f64)> {
    let path = dir.join("adapter_config.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let doc: Value = serde_json::from_str(&text).map_err(|e| Error::format(&path, e.to_string()))?;
    let refuse = |what: &str| Error::Unsupported { path: path.clone(), what: what.to_owned() };
    if doc["peft_type"].as_str() != Some("LORA") {
        return Err(refuse(&format!("peft_type {} is not built; known: \"LORA\"", doc["peft_type"])));
    }
    if doc["use_dora"].as_bool().unwrap_or(false) {
        return Err(refuse("use_dora true is not built"));
    }
    if doc["bias"].as_str().unwrap_or("none") != "none" {
        return Err(refuse("adapters with biases are not built"));
    }
    // keys that change what the tensors mean; PEFT writes them empty where they are not used
    for key in
        ["rank_pattern", "alpha_pattern", "layers_to_transform", "modules_to_save", "layer_replication"]
    {
        let v = &doc[key];
        let empty = v.is_null() || v.as_object().is_some_and(serde_json::Map::is_empty) || *v == json!([]);
        if !empty {
            return Err(refuse(&format!("{key} {v} is not built; known: empty")));
        }
    }
    let mut names: Vec<String> = match &doc["target_modules"] {
        Value::String(all) if all == "all-linear" => vec![all.clone()],
        Value::Array(names) => names.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
        other => {
            return Err(refuse(&format!("target_modules {other}: wanted a list of names or \"all-linear\"")));
        }
    };
    names.sort();
    let r = doc["r"].as_u64().and_then(|r| u32::try_from(r).ok()).unwrap_or(0);
    let alpha = doc["lora_alpha"].as_f64().unwrap_or(f64::from(r));
    let p = LoraParams { r, alpha, dropout: doc["lora_dropout"].as_f64().unwrap_or(0.0), targets: names };
    let rslora = doc["use_rslora"].as_bool().unwrap_or(false);
    let scale = if rslora { alpha / f64::from(r).sqrt() } else { alpha / f64::from(r) };
    Ok((p, scale))
}

/// PEFT's key of one half of an adapter.
pub(crate) fn key(target: Target, layer: usize, arch: Arch, half: char) -> String {
    format!("base_model.model.{}.lora_{half}.weight", target.module(layer, arch))
}

/// Writes `adapter_model.safetensors` and `adapter_config.json`.
///
/// # Errors
/// I/O errors.
pub fn save(
    dir: &Path,
    p: &LoraParams,
    config: &Config,
    base: &str,
    tensors: &[(String, Tensor)],
) -> Result<()> {
    let names: Vec<_> = targets(p, config)?.into_iter().map(|t| t.name(config.arch)).collect();
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    weights::save(&dir.join("adapter_model.safetensors"), tensors)?;
    let path = dir.join("adapter_config.json");
    record::atomic::write_json(&path, &config_json(p, &names, base)).map_err(Error::io(&path))
}
