//! `config.json` of Hugging Face, old and new spellings, for the architectures that are built.

use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;

/// Which family; they differ in biases and defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// Llama 1-3, DeepSeek-Coder, CodeLlama.
    Llama,
    /// Qwen2 and Qwen2.5: biases on q, k and v.
    Qwen2,
}

impl Arch {
    const NAMES: [(&'static str, Arch); 2] =
        [("LlamaForCausalLM", Arch::Llama), ("Qwen2ForCausalLM", Arch::Qwen2)];

    fn class(self) -> &'static str {
        match self {
            Arch::Llama => "LlamaForCausalLM",
            Arch::Qwen2 => "Qwen2ForCausalLM",
        }
    }

    fn model_type(self) -> &'static str {
        match self {
            Arch::Llama => "llama",
            Arch::Qwen2 => "qwen2",
        }
    }
}

/// How rotary frequencies are stretched for longer contexts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    None,
    /// All frequencies divided by `factor` (DeepSeek-Coder).
    Linear {
        factor: f64,
    },
    /// Llama 3: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: f64,
    },
}

/// A decoder's shape. Lengths are in elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub arch: Arch,
    pub vocab: i64,
    pub hidden: i64,
    pub intermediate: i64,
    pub layers: usize,
    pub heads: i64,
    pub kv_heads: i64,
    pub head_dim: i64,
    /// Longest sequence in tokens (`max_position_embeddings`).
    pub context: i64,
    pub norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    /// The output head is the embedding.
    pub tied: bool,
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub bos: Option<u32>,
    /// Tokens that end a sequence; several in newer models.
    pub eos: Vec<u32>,
    pub pad: Option<u32>,
}

impl Config {
    /// Reads `config.json` of a model directory.
    ///
    /// # Errors
    /// Missing or malformed file; an architecture or setting that is not built, named with its place.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let doc: Value = serde_json::from_str(&text).map_err(|e| Error::format(&path, e.to_string()))?;
        Self::parse(&doc, &path)
    }

    fn parse(doc: &Value, path: &Path) -> Result<Self> {
        let arch_name = doc["architectures"][0].as_str().unwrap_or("").to_owned();
        let Some(&(_, arch)) = Arch::NAMES.iter().find(|(n, _)| *n == arch_name) else {
            let known: Vec<_> = Arch::NAMES.iter().map(|(n, _)| *n).collect();
            return Err(unsupported(
                path,
                format!("architecture {arch_name:?} is not built; known: {}", known.join(", ")),
            ));
        };
        let int = |key: &str| {
            doc[key].as_i64().filter(|v| *v > 0).ok_or_else(|| {
                Error::format(path, format!("{key}: wanted a positive number, got {}", doc[key]))
            })
        };
        let hidden = int("hidden_size")?;
        let heads = int("num_attention_heads")?;
        let config = Self {
            arch,
            vocab: int("vocab_size")?,
            hidden,
            intermediate: int("intermediate_size")?,
            layers: usize::try_from(int("num_hidden_layers")?).unwrap_or(usize::MAX),
            heads,
            kv_heads: doc["num_key_value_heads"].as_i64().unwrap_or(heads),
            head_dim: doc["head_dim"].as_i64().unwrap_or(hidden / heads),
            context: doc["max_position_embeddings"].as_i64().unwrap_or(2048),
            norm_eps: doc["rms_norm_eps"].as_f64().unwrap_or(1e-6),
            rope_theta: rope(doc, "rope_theta").as_f64().unwrap_or(10_000.0),
            rope_scaling: rope_scaling(doc, path)?,
            tied: doc["tie_word_embeddings"].as_bool().unwrap_or(false),
            qkv_bias: arch == Arch::Qwen2 || doc["attention_bias"].as_bool().unwrap_or(false),
            o_bias: arch == Arch::Llama && doc["attention_bias"].as_bool().unwrap_or(false),
            bos: token(&doc["bos_token_id"]).first().copied(),
            eos: token(&doc["eos_token_id"]),
            pad: token(&doc["pad_token_id"]).first().copied(),
        };
        config.check(doc, path)?;
        Ok(config)
    }

    /// Settings that would change the arithmetic without a word if they were passed over.
    fn check(&self, doc: &Value, path: &Path) -> Result<()> {
        let act = doc["hidden_act"].as_str().unwrap_or("silu");
        if act != "silu" {
            return Err(unsupported(path, format!("hidden_act {act:?} is not built; known: \"silu\"")));
        }
        if doc["mlp_bias"].as_bool().unwrap_or(false) {
            return Err(unsupported(path, "mlp_bias true is not built".into()));
        }
        if doc["use_sliding_window"].as_bool().unwrap_or(false) {
            return Err(unsupported(path, "use_sliding_window true is not built".into()));
        }
        if !doc["quantization_config"].is_null() {
            return Err(unsupported(path, "quantization_config: quantised weights cannot be read".into()));
        }
        if self.heads % self.kv_heads != 0 || self.head_dim % 2 != 0 {
            return Err(Error::format(
                path,
                format!(
                    "{} heads over {} key/value heads of width {} do not divide",
                    self.heads, self.kv_heads, self.head_dim
                ),
            ));
        }
        Ok(())
    }

    /// The same facts as `config.json`, with both spellings of the rotary settings: transformers 5 reads
    /// `rope_parameters`, everything older `rope_theta` and `rope_scaling`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut scaling = match self.rope_scaling {
            RopeScaling::None => json!({"rope_type": "default"}),
            RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_context as i64,
            }),
        };
        let old = if self.rope_scaling == RopeScaling::None { Value::Null } else { scaling.clone() };
        scaling["rope_theta"] = json!(self.rope_theta);
        let eos = match self.eos.as_slice() {
            [one] => json!(one),
            many => json!(many),
        };
        let mut doc = json!({
            "architectures": [self.arch.class()],
            "model_type": self.arch.model_type(),
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": old,
            "rope_parameters": scaling,
            "tie_word_embeddings": self.tied,
            "bos_token_id": self.bos,
            "eos_token_id": eos,
            "pad_token_id": self.pad,
            "torch_dtype": "float32",
            "use_cache": true,
        });
        if self.arch == Arch::Llama {
            doc["attention_bias"] = json!(self.o_bias);
            doc["mlp_bias"] = json!(false);
        }
        doc
    }

    /// Number of weights.
    #[must_use]
    pub fn parameters(&self) -> i64 {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let attention = self.hidden * (2 * q + 2 * kv)
            + if self.qkv_bias { q + 2 * kv } else { 0 }
            + if self.o_bias { self.hidden } else { 0 };
        let layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden;
        let embeddings = self.vocab * self.hidden * if self.tied { 1 } else { 2 };
        embeddings + self.layers as i64 * layer + self.hidden
    }
}

fn unsupported(path: &Path, what: String) -> Error {
    Error::Unsupported { path: path.into(), what }
}

/// A rotary setting: in `rope_parameters` (transformers 5), else at the top level.
fn rope<'a>(doc: &'a Value, key: &str) -> &'a Value {
    let new = &doc["rope_parameters"][key];
    if new.is_null() { &doc[key] } else { new }
}

fn rope_scaling(doc: &Value, path: &Path) -> Result<RopeScaling> {
    let s = if doc["rope_parameters"].is_object() { &doc["rope_parameters"] } else { &doc["rope_scaling"] };
    if s.is_null() {
        return Ok(RopeScaling::None);
    }
    let kind = s["rope_type"].as_str().or_else(|| s["type"].as_str()).unwrap_or("default");
    let number = |key: &str| {
        s[key].as_f64().ok_or_else(|| {
            Error::format(path, format!("rope type {kind:?}: {key}: wanted a number, got {}", s[key]))
        })
    };
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: number("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_context: number("original_max_position_embeddings")?,
        }),
        other => Err(unsupported(
            path,
            format!("rope type {other:?} is not built; known: default, linear, llama3"),
        )),
    }
}

/// One id or a list of them.
fn token(v: &Value) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match v {
        Value::Array(many) => many.iter().filter_map(one).collect(),
        other => one(other).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Value {
        json!({"architectures": ["LlamaForCausalLM"], "vocab_size": 10, "hidden_size": 8, "intermediate_size": 16,
               "num_hidden_layers": 2, "num_attention_heads": 2})
    }

    fn parse(doc: &Value) -> Result<Config> {
        Config::parse(doc, Path::new("config.json"))
    }

    #[test]
    fn old_and_new_rope_spellings_mean_the_same() {
        let mut old = base();
        old["rope_theta"] = json!(100_000.0);
        old["rope_scaling"] = json!({"type": "linear", "factor": 4.0});
        let mut new = base();
        new["rope_parameters"] = json!({"rope_type": "linear", "factor": 4.0, "rope_theta": 100_000.0});
        assert_eq!(parse(&old).unwrap(), parse(&new).unwrap());
        assert_eq!(parse(&old).unwrap().rope_theta, 100_000.0);
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let mut doc = base();
        doc["eos_token_id"] = json!([1, 2]);
        doc["rope_parameters"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192, "rope_theta": 500_000.0});
        let config = parse(&doc).unwrap();
        assert_eq!(parse(&config.to_json()).unwrap(), config);
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        for (key, value, word) in [
            ("architectures", json!(["MambaForCausalLM"]), "MambaForCausalLM"),
            ("hidden_act", json!("gelu"), "gelu"),
            ("rope_scaling", json!({"rope_type": "yarn", "factor": 2.0}), "yarn"),
            ("mlp_bias", json!(true), "mlp_bias"),
            ("vocab_size", json!("many"), "vocab_size"),
        ] {
            let mut doc = base();
            doc[key] = value;
            let words = parse(&doc).unwrap_err().to_string();
            assert!(words.contains(word) && words.contains("config.json"), "{words}");
        }
    }
}
