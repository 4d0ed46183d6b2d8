//! Decoders on libtorch, in Hugging Face's file layout: weights, LoRA, tokenizer, chat template, KV cache,
//! and an implementation of `generate::Engine` over them.

mod attention;
pub mod chat;
pub mod config;
pub mod decoder;
pub mod engine;
pub mod error;
mod frozen;
pub mod fused;
mod keys;
mod layer;
mod linear;
pub mod lora;
mod native;
pub mod nf4;
mod norm;
mod paged;
mod pages;
pub mod rope;
pub mod runtime;
pub mod sampler;
mod sequence;
pub mod shim;
pub mod spec;
pub mod tokenizer;
pub mod weights;

pub use config::Config;
pub use decoder::{Decoder, Packing, Pass};
pub use engine::{Options, TorchEngine};
pub use error::{Error, Result};
pub use spec::{Arch, Spec};
pub use tokenizer::Tokenizer;

use chat::ChatTemplate;
use record::params::Precision;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::{Device, Kind};

/// libtorch's name of a number format.
#[must_use]
pub fn kind_of(p: Precision) -> Kind {
    match p {
        Precision::Fp32 => Kind::Float,
        Precision::Fp16 => Kind::Half,
        Precision::Bf16 => Kind::BFloat16,
    }
}

/// A decoder with everything that a directory of Hugging Face holds.
pub struct Model {
    pub decoder: Decoder,
    pub tokenizer: Arc<Tokenizer>,
    pub chat: Arc<ChatTemplate>,
    /// Tokens that end an answer: `generation_config.json`, else `config.json`.
    pub eos: Vec<u32>,
    /// Fills rows of unequal length; any id does, since padding is never looked at.
    pub pad: u32,
    /// Files that are passed on unchanged when the model is saved: name -> content.
    files: BTreeMap<String, Vec<u8>>,
}

const PASSED_ON: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "added_tokens.json",
];

impl Model {
    /// Loads a model directory.
    ///
    /// # Errors
    /// Anything missing, malformed or not built, with the path.
    pub fn load(dir: &Path, precision: Precision, device: Device) -> Result<Self> {
        Self::load_quantized(dir, precision, false, device)
    }

    /// Loads a model directory; with `quantize`, the layers' linear weights are packed to 4 bits as they are read, and the
    /// rest (and all arithmetic) is in `precision`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_quantized(dir: &Path, precision: Precision, quantize: bool, device: Device) -> Result<Self> {
        let config = Config::read(dir)?;
        let mut files = BTreeMap::new();
        for name in PASSED_ON {
            let path = dir.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => {
                    files.insert(name.to_owned(), bytes);
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io(&path)(e)),
            }
        }
        let tokenizer = Tokenizer::read(dir)?;
        if tokenizer.size() as i64 > config.vocab {
            return Err(Error::format(
                &dir.join("tokenizer.json"),
                format!("{} tokens, but config.json has vocab_size {}", tokenizer.size(), config.vocab),
            ));
        }
        let chat = ChatTemplate::read(dir)?;
        let generation: serde_json::Value = files
            .get("generation_config.json")
            .and_then(|b| serde_json::from_slice(b).ok())
            .unwrap_or_default();
        let eos = match &generation["eos_token_id"] {
            serde_json::Value::Number(n) => {
                n.as_u64().and_then(|n| u32::try_from(n).ok()).into_iter().collect()
            }
            serde_json::Value::Array(many) => {
                many.iter().filter_map(|v| v.as_u64().and_then(|n| u32::try_from(n).ok())).collect()
            }
            _ => config.eos.clone(),
        };
        let pad = config.pad.or_else(|| eos.first().copied()).unwrap_or(0);
        let decoder = Decoder::load(dir, config, kind_of(precision), device, quantize)?;
        Ok(Self { decoder, tokenizer: Arc::new(tokenizer), chat: Arc::new(chat), eos, pad, files })
    }

    /// A model of our own with fresh weights around a tokenizer from [`Tokenizer::train`].
    ///
    /// # Errors
    /// A template or file that cannot be made.
    pub fn fresh(mut config: Config, tokenizer: Tokenizer, device: Device) -> Result<Self> {
        let id = |t: &str| tokenizer.id(t).ok_or_else(|| Error::Tokenizer(format!("there is no token {t}")));
        let (bos, eos, pad) = (id(tokenizer::BOS)?, id(tokenizer::EOS)?, id(tokenizer::PAD)?);
        config.bos = Some(bos);
        config.eos = vec![eos];
        config.pad = Some(pad);
        config.vocab = tokenizer.size() as i64;
        let chat = ChatTemplate::new(chat::PLAIN, tokenizer::BOS, tokenizer::EOS, tokenizer::PAD)?;
        let json = |v: serde_json::Value| serde_json::to_vec_pretty(&v).unwrap_or_default();
        let files = BTreeMap::from([
            (
                "tokenizer_config.json".to_owned(),
                json(serde_json::json!({
                    "tokenizer_class": "PreTrainedTokenizerFast",
                    "bos_token": tokenizer::BOS, "eos_token": tokenizer::EOS, "pad_token": tokenizer::PAD,
                    "clean_up_tokenization_spaces": false,
                    "model_max_length": config.context,
                    "chat_template": chat::PLAIN,
                })),
            ),
            (
                "generation_config.json".to_owned(),
                json(serde_json::json!({"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad})),
            ),
        ]);
        let decoder = Decoder::random(config, device);
        Ok(Self { decoder, tokenizer: Arc::new(tokenizer), chat: Arc::new(chat), eos: vec![eos], pad, files })
    }

    /// Writes the model, adapter merged in, as a plain Hugging Face directory: each file by temp + fsync + rename, the
    /// weights last.
    ///
    /// # Errors
    /// I/O errors.
    pub fn save(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        if !self.files.contains_key("tokenizer.json") {
            self.tokenizer.save(dir)?;
        }
        for (name, bytes) in &self.files {
            let path: PathBuf = dir.join(name);
            record::atomic::write(&path, bytes).map_err(Error::io(&path))?;
        }
        let path = dir.join("config.json");
        let mut config = self.decoder.config.to_json();
        config["torch_dtype"] = serde_json::json!(match self.decoder.kind {
            Kind::Half => "float16",
            Kind::BFloat16 => "bfloat16",
            _ => "float32",
        });
        record::atomic::write_json(&path, &config).map_err(Error::io(&path))?;
        weights::save_entries(&dir.join("model.safetensors"), self.decoder.export()?)
    }

    /// Writes the adapter in PEFT's layout.
    ///
    /// # Errors
    /// I/O errors; a model without an adapter.
    pub fn save_adapter(&self, dir: &Path, base: &str) -> Result<()> {
        let p = self
            .decoder
            .adapter
            .as_ref()
            .ok_or_else(|| Error::Invalid("the model has no adapter to save".into()))?;
        lora::save(dir, p, &self.decoder.config, base, &self.decoder.adapter_tensors())
    }

    /// An engine over the model as it is now.
    #[must_use]
    pub fn engine(&self, options: Options) -> TorchEngine {
        TorchEngine::new(self, options)
    }
}
