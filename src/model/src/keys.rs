//! Which keys of a `config.json` are known. One that is not may change the arithmetic, so it is refused by name.

use crate::error::{Error, Result};
use crate::spec::Arch;
use serde_json::Value;
use std::path::Path;

/// Read or checked for every architecture.
const COMMON: [&str; 18] = [
    "architectures",
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
];

fn own(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::Llama => &["rms_norm_eps", "attention_bias", "mlp_bias", "pretraining_tp", "sliding_window"],
        Arch::Qwen2 => {
            &["rms_norm_eps", "use_sliding_window", "sliding_window", "max_window_layers", "layer_types"]
        }
        Arch::Mistral => &["rms_norm_eps", "sliding_window"],
        Arch::Gemma2 => &[
            "rms_norm_eps",
            "hidden_activation",
            "attention_bias",
            "sliding_window",
            "layer_types",
            "query_pre_attn_scalar",
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "cache_implementation",
        ],
        Arch::Starcoder2 => &["norm_epsilon", "norm_type", "use_bias", "mlp_type", "sliding_window"],
    }
}

/// Facts about files, libraries, initialisation and training; without effect on what a model computes when it is read.
/// The dropouts of pre-training are among them: fine-tuning has its own (`lora.dropout`).
const HARMLESS: [&str; 28] = [
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
    "initializer_range",
    "initializer_factor",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "residual_dropout",
    "embedding_dropout",
    "hidden_dropout_prob",
    "attn_implementation",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "return_dict_in_generate",
    "output_scores",
    "id2label",
    "label2id",
    "problem_type",
    "finetuning_task",
    "tokenizer_class",
    "task_specific_params",
    "chunk_size_feed_forward",
    "resid_pdrop",
    "unsloth_version",
    "unsloth_fixed",
    "model_max_length",
];

/// Refuses a key that is neither known nor harmless, unless it says "nothing" (null, false, empty).
pub(crate) fn check(doc: &Value, arch: Arch, path: &Path) -> Result<()> {
    for (key, value) in doc.as_object().into_iter().flatten() {
        let nothing = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            _ => false,
        };
        let known = key.starts_with('_')
            || COMMON.contains(&key.as_str())
            || own(arch).contains(&key.as_str())
            || HARMLESS.contains(&key.as_str());
        if !known && !nothing {
            return Err(Error::Unsupported {
                path: path.into(),
                what: format!(
                    "{} is built without the setting {key:?} (here {value}), which may change what the model computes; \
                     if it does not, remove it from the file",
                    arch.class()
                ),
            });
        }
    }
    Ok(())
}
