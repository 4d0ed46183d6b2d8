//! Llama-family decoders on libtorch, in Hugging Face's file layout: weights, LoRA, tokenizer, chat template, KV cache,
//! and an implementation of `generate::Engine` over them.

pub mod error;
pub mod runtime;
pub mod shim;

pub use error::{Error, Result};
