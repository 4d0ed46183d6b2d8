//! Low-rank adapters: `y = x W^T + scale * dropout(x) A^T B^T`, in PEFT's file layout.

use crate::error::{Error, Result};
use crate::weights;
use record::params::LoraParams;
use serde_json::{Value, json};
use std::path::Path;
use tch::{Kind, Tensor};

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

    /// Name as job files and PEFT write it.
    #[must_use]
    pub fn name(self) -> &'static str {
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

    pub(crate) fn module(self, layer: usize) -> String {
        let part = match self {
            Target::Q | Target::K | Target::V | Target::O => "self_attn",
            Target::Gate | Target::Up | Target::Down => "mlp",
        };
        format!("model.layers.{layer}.{part}.{}", self.name())
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
    /// What the adapter adds for `x` `[rows, in]`, in the number format of `x`.
    pub(crate) fn delta(&self, x: &Tensor, train: bool) -> Tensor {
        let kind = x.kind();
        let x = x.to_kind(Kind::Float);
        let x = if train && self.dropout > 0.0 { x.dropout(self.dropout, true) } else { x };
        (x.linear(&self.a, None::<&Tensor>).linear(&self.b, None::<&Tensor>) * self.scale).to_kind(kind)
    }

    /// The same as a weight, `[out, in]`, fp32.
    pub(crate) fn weight(&self) -> Tensor {
        tch::no_grad(|| self.b.matmul(&self.a) * self.scale)
    }
}

/// Checks a job file's adapter and gives its targets.
///
/// # Errors
/// A rank of 0, an unknown target, a dropout outside [0, 1).
pub fn targets(p: &LoraParams) -> Result<Vec<Target>> {
    if p.r == 0 || !(0.0..1.0).contains(&p.dropout) || p.targets.is_empty() {
        return Err(Error::Invalid(format!(
            "lora: wanted r >= 1, 0 <= dropout < 1 and some targets, got r {}, dropout {}, {} targets",
            p.r,
            p.dropout,
            p.targets.len()
        )));
    }
    p.targets
        .iter()
        .map(|name| {
            Target::ALL.into_iter().find(|t| t.name() == name).ok_or_else(|| {
                let known: Vec<_> = Target::ALL.iter().map(|t| t.name()).collect();
                Error::Invalid(format!("lora: unknown target {name:?}; known: {}", known.join(", ")))
            })
        })
        .collect()
}

/// `adapter_config.json` as PEFT writes it.
#[must_use]
pub fn config_json(p: &LoraParams, base: &str) -> Value {
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": p.r,
        "lora_alpha": p.alpha,
        "lora_dropout": p.dropout,
        "target_modules": p.targets,
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
    let mut names: Vec<String> = doc["target_modules"]
        .as_array()
        .ok_or_else(|| refuse("target_modules: wanted a list of names"))?
        .iter()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect();
    names.sort();
    let r = doc["r"].as_u64().and_then(|r| u32::try_from(r).ok()).unwrap_or(0);
    let alpha = doc["lora_alpha"].as_f64().unwrap_or(f64::from(r));
    let p = LoraParams { r, alpha, dropout: doc["lora_dropout"].as_f64().unwrap_or(0.0), targets: names };
    targets(&p)?;
    let rslora = doc["use_rslora"].as_bool().unwrap_or(false);
    let scale = if rslora { alpha / f64::from(r).sqrt() } else { alpha / f64::from(r) };
    Ok((p, scale))
}

/// PEFT's key of one half of an adapter.
pub(crate) fn key(target: Target, layer: usize, half: char) -> String {
    format!("base_model.model.{}.lora_{half}.weight", target.module(layer))
}

/// Writes `adapter_model.safetensors` and `adapter_config.json`.
///
/// # Errors
/// I/O errors.
pub fn save(dir: &Path, p: &LoraParams, base: &str, tensors: &[(String, Tensor)]) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    weights::save(&dir.join("adapter_model.safetensors"), tensors)?;
    let path = dir.join("adapter_config.json");
    record::atomic::write_json(&path, &config_json(p, base)).map_err(Error::io(&path))
}
