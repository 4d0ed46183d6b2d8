//! `config.json` of Hugging Face, old and new spellings, for the architectures that are built.

use crate::error::{Error, Result};
use crate::keys;
pub use crate::spec::Arch;
use crate::spec::{Activation, NormKind, Spec};
use serde_json::{Value, json};
use std::path::Path;

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
    /// What the architecture does differently from others.
    pub spec: Spec,
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
        let Some(arch) = Arch::ALL.into_iter().find(|a| a.class() == arch_name) else {
            let known: Vec<_> = Arch::ALL.iter().map(|a| a.class()).collect();
            return Err(unsupported(
                path,
                format!("architecture {arch_name:?} is not built; known: {}", known.join(", ")),
            ));
        };
        keys::check(doc, arch, path)?;
        let int = |key: &str| {
            doc[key].as_i64().filter(|v| *v > 0).ok_or_else(|| {
                Error::format(path, format!("{key}: wanted a positive number, got {}", doc[key]))
            })
        };
        let hidden = int("hidden_size")?;
        let heads = int("num_attention_heads")?;
        let layers = usize::try_from(int("num_hidden_layers")?).unwrap_or(usize::MAX);
        let eps = if arch == Arch::Starcoder2 { ("norm_epsilon", 1e-5) } else { ("rms_norm_eps", 1e-6) };
        let config = Self {
            arch,
            vocab: int("vocab_size")?,
            hidden,
            intermediate: int("intermediate_size")?,
            layers,
            heads,
            // Llama's class takes as many as there are heads where the key is missing; the others have defaults of their own
            kv_heads: match &doc["num_key_value_heads"] {
                Value::Null if arch != Arch::Llama => int("num_key_value_heads")?,
                Value::Null => heads,
                _ => int("num_key_value_heads")?,
            },
            head_dim: match &doc["head_dim"] {
                Value::Null if arch == Arch::Gemma2 => 256,
                Value::Null => hidden / heads,
                _ => int("head_dim")?,
            },
            context: doc["max_position_embeddings"].as_i64().unwrap_or(2048),
            norm_eps: doc[eps.0].as_f64().unwrap_or(eps.1),
            rope_theta: rope(doc, "rope_theta").as_f64().unwrap_or(10_000.0),
            rope_scaling: rope_scaling(doc, path)?,
            tied: doc["tie_word_embeddings"]
                .as_bool()
                .unwrap_or(matches!(arch, Arch::Gemma2 | Arch::Starcoder2)),
            spec: spec(doc, arch, layers, path)?,
            bos: token(&doc["bos_token_id"]).first().copied(),
            eos: token(&doc["eos_token_id"]),
            pad: token(&doc["pad_token_id"]).first().copied(),
        };
        config.check(doc, path)?;
        Ok(config)
    }

    /// Settings that would change the arithmetic without a word if they were passed over.
    fn check(&self, doc: &Value, path: &Path) -> Result<()> {
        let class = self.arch.class();
        if doc["mlp_bias"].as_bool().unwrap_or(false) {
            return Err(unsupported(path, format!("{class} with mlp_bias true is not built")));
        }
        if !doc["quantization_config"].is_null() {
            return Err(unsupported(
                path,
                format!(
                    "{class}: quantization_config: quantised weights cannot be read; take the plain weights and set `quantization: nf4` in the job"
                ),
            ));
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
            "hidden_act": self.spec.activation.name(),
            "max_position_embeddings": self.context,
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
        let spec = &self.spec;
        let eps = if self.arch == Arch::Starcoder2 { "norm_epsilon" } else { "rms_norm_eps" };
        doc[eps] = json!(self.norm_eps);
        let window = spec.windows.iter().flatten().next();
        let types: Vec<_> = (0..self.layers)
            .map(|i| if spec.window(i).is_some() { "sliding_attention" } else { "full_attention" })
            .collect();
        match self.arch {
            Arch::Llama => {
                doc["attention_bias"] = json!(spec.o_bias);
                doc["mlp_bias"] = json!(false);
            }
            Arch::Mistral => doc["sliding_window"] = json!(window),
            Arch::Qwen2 => {
                doc["use_sliding_window"] = json!(window.is_some());
                doc["sliding_window"] = json!(window);
                // the older key can only say from which layer on
                doc["max_window_layers"] =
                    json!(types.iter().position(|t| *t == "sliding_attention").unwrap_or(self.layers));
                doc["layer_types"] = json!(types);
            }
            Arch::Gemma2 => {
                doc["hidden_activation"] = json!(spec.activation.name());
                doc["attention_bias"] = json!(spec.o_bias);
                doc["sliding_window"] = json!(window);
                doc["layer_types"] = json!(types);
                // transformers insists on a whole number here
                doc["query_pre_attn_scalar"] = json!(spec.query_scalar.map(|q| q as i64));
                doc["attn_logit_softcapping"] = json!(spec.attention_cap);
                doc["final_logit_softcapping"] = json!(spec.logit_cap);
            }
            Arch::Starcoder2 => {
                doc["use_bias"] = json!(spec.qkv_bias);
                doc["sliding_window"] = json!(window);
            }
        }
        doc
    }

    /// Number of weights.
    #[must_use]
    pub fn parameters(&self) -> i64 {
        let (h, wide) = (self.hidden, self.intermediate);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let spec = &self.spec;
        let only = |on: bool, n: i64| if on { n } else { 0 };
        let attention = h * (2 * q + 2 * kv) + only(spec.qkv_bias, q + 2 * kv) + only(spec.o_bias, h);
        let mlp = h * wide * if spec.gated { 3 } else { 2 }
            + only(spec.mlp_bias, h + wide * if spec.gated { 2 } else { 1 });
        let norm = h * if spec.norm == NormKind::Layer { 2 } else { 1 };
        let layer = attention + mlp + norm * if spec.post_norms { 4 } else { 2 };
        self.vocab * h * if self.tied { 1 } else { 2 } + self.layers as i64 * layer + norm
    }
}

fn unsupported(path: &Path, what: String) -> Error {
    Error::Unsupported { path: path.into(), what }
}

/// The variable parts as `config.json` sets them.
fn spec(doc: &Value, arch: Arch, layers: usize, path: &Path) -> Result<Spec> {
    let mut spec = Spec::of(arch);
    // an absent cap is the family's, null is none
    let number =
        |key: &str, family: Option<f64>| match doc.get(key) {
            None => Ok(family),
            Some(Value::Null) => Ok(None),
            Some(v) => v.as_f64().filter(|n| *n > 0.0).map(Some).ok_or_else(|| {
                Error::format(path, format!("{key}: wanted a positive number or null, got {v}"))
            }),
        };
    let window = |family: Option<f64>| Ok::<_, Error>(number("sliding_window", family)?.map(|w| w as i64));
    let bias = |key: &str, family: bool| doc[key].as_bool().unwrap_or(family);
    let key = if arch == Arch::Gemma2 && !doc["hidden_activation"].is_null() {
        "hidden_activation"
    } else {
        "hidden_act"
    };
    let act = doc[key].as_str().unwrap_or(spec.activation.name());
    if Activation::of_name(act) != Some(spec.activation) {
        return Err(unsupported(
            path,
            format!("{} with {key} {act:?} is not built; known: {:?}", arch.class(), spec.activation.name()),
        ));
    }
    // one window on the layers that `layer_types` names, else on those that the family's rule names
    let windows = |window: Option<i64>, rule: &dyn Fn(usize) -> bool| -> Result<Vec<Option<i64>>> {
        let Some(window) = window else { return Ok(Vec::new()) };
        let types = doc["layer_types"].as_array();
        if let Some(t) = types.filter(|t| t.len() != layers) {
            return Err(Error::format(
                path,
                format!("layer_types has {} entries for {layers} layers", t.len()),
            ));
        }
        (0..layers)
            .map(|i| {
                let on = match types.map(|t| t[i].as_str().unwrap_or("")) {
                    None => rule(i),
                    Some("sliding_attention") => true,
                    Some("full_attention") => false,
                    Some(other) => {
                        return Err(unsupported(
                            path,
                            format!(
                                "{} with layer type {other:?} is not built; known: sliding_attention, full_attention",
                                arch.class()
                            ),
                        ));
                    }
                };
                Ok(on.then_some(window))
            })
            .collect()
    };
    match arch {
        Arch::Llama => {
            spec.qkv_bias = bias("attention_bias", false);
            spec.o_bias = spec.qkv_bias;
            if !doc["sliding_window"].is_null() {
                return Err(unsupported(path, "LlamaForCausalLM with sliding_window is not built".into()));
            }
        }
        Arch::Qwen2 => {
            let used = bias("use_sliding_window", false);
            let first = doc["max_window_layers"].as_u64().unwrap_or(28) as usize;
            let window = if used { window(Some(4096.0))? } else { None };
            spec.windows = windows(window, &|i| i >= first)?;
        }
        Arch::Mistral => spec.windows = windows(window(Some(4096.0))?, &|_| true)?,
        Arch::Gemma2 => {
            spec.qkv_bias = bias("attention_bias", false);
            spec.o_bias = spec.qkv_bias;
            spec.windows = windows(window(Some(4096.0))?, &|i| i % 2 == 0)?;
            spec.query_scalar = number("query_pre_attn_scalar", spec.query_scalar)?;
            spec.attention_cap = number("attn_logit_softcapping", spec.attention_cap)?;
            spec.logit_cap = number("final_logit_softcapping", spec.logit_cap)?;
        }
        Arch::Starcoder2 => {
            spec.windows = windows(window(None)?, &|_| true)?;
            let all = bias("use_bias", true);
            (spec.qkv_bias, spec.o_bias, spec.mlp_bias) = (all, all, all);
            for (key, built) in [("norm_type", "layer_norm"), ("mlp_type", "default")] {
                if let Some(v) = doc[key].as_str().filter(|v| *v != built) {
                    return Err(unsupported(
                        path,
                        format!("Starcoder2ForCausalLM with {key} {v:?} is not built; known: {built:?}"),
                    ));
                }
            }
        }
    }
    Ok(spec)
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
    fn every_architecture_reads_back_what_it_wrote() {
        for arch in Arch::ALL {
            let mut doc = base();
            doc["architectures"] = json!([arch.class()]);
            doc["num_key_value_heads"] = json!(1);
            if let Some(act) =
                [Activation::Silu, Activation::GeluTanh].into_iter().find(|a| *a == Spec::of(arch).activation)
            {
                doc["hidden_act"] = json!(act.name());
            }
            if arch != Arch::Llama {
                doc["sliding_window"] = json!(5);
            }
            if arch == Arch::Qwen2 {
                doc["use_sliding_window"] = json!(true);
                doc["max_window_layers"] = json!(1);
            }
            let config = parse(&doc).unwrap();
            assert_eq!(parse(&config.to_json()).unwrap(), config, "{arch:?}");
            let windows = match arch {
                Arch::Llama => vec![],
                Arch::Qwen2 => vec![None, Some(5)],
                Arch::Gemma2 => vec![Some(5), None],
                Arch::Mistral | Arch::Starcoder2 => vec![Some(5); 2],
            };
            assert_eq!(config.spec.windows, windows, "{arch:?}");
        }
    }

    #[test]
    fn a_window_that_qwen_does_not_use_is_none_and_an_absent_one_is_the_familys() {
        let mut doc = base();
        doc["architectures"] = json!(["Qwen2ForCausalLM"]);
        doc["num_key_value_heads"] = json!(1);
        doc["sliding_window"] = json!(131_072);
        doc["use_sliding_window"] = json!(false);
        doc["max_window_layers"] = json!(0);
        assert_eq!(parse(&doc).unwrap().spec.windows, []);
        let mut doc = base();
        doc["architectures"] = json!(["MistralForCausalLM"]);
        doc["num_key_value_heads"] = json!(1);
        assert_eq!(parse(&doc).unwrap().spec.windows, [Some(4096); 2]);
        doc["sliding_window"] = Value::Null;
        assert_eq!(parse(&doc).unwrap().spec.windows, []);
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        for (key, value, word) in [
            ("architectures", json!(["MambaForCausalLM"]), "MambaForCausalLM"),
            ("hidden_act", json!("gelu"), "gelu"),
            ("rope_scaling", json!({"rope_type": "yarn", "factor": 2.0}), "yarn"),
            ("mlp_bias", json!(true), "mlp_bias"),
            ("logit_scale", json!(0.1), "logit_scale"),
            ("sliding_window", json!(100), "sliding_window"),
            ("vocab_size", json!("many"), "vocab_size"),
        ] {
            let mut doc = base();
            doc[key] = value;
            let words = parse(&doc).unwrap_err().to_string();
            assert!(words.contains(word) && words.contains("config.json"), "{words}");
            // an unknown setting is named with the architecture that does not know it
            assert!(key != "logit_scale" || words.contains("LlamaForCausalLM"), "{words}");
        }
    }
}
