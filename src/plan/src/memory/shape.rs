//! A decoder's sizes, as far as memory depends on them.

use record::params::{BaseParams, LoraParams};
use serde_json::Value;

/// Sizes in elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    pub vocab: u64,
    pub hidden: u64,
    pub intermediate: u64,
    pub layers: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    /// Longest sequence in tokens.
    pub context: u64,
    /// The output head is the embedding.
    pub tied: bool,
    /// The MLP has a gate: three matrices instead of two.
    pub gated: bool,
    /// Norms per layer.
    pub norms: u64,
    /// Attention scores are capped (Gemma-2): no fused kernel.
    pub soft_cap: bool,
    /// q, k and v have biases.
    pub qkv_bias: bool,
    /// Every linear layer and every norm has one (StarCoder2).
    pub all_bias: bool,
}

impl Shape {
    /// From `config.json`; `None` for architectures whose memory is not known here.
    #[must_use]
    pub fn from_config(doc: &Value) -> Option<Self> {
        let arch = doc["architectures"][0].as_str()?;
        let known = [
            "LlamaForCausalLM",
            "Qwen2ForCausalLM",
            "MistralForCausalLM",
            "Gemma2ForCausalLM",
            "Starcoder2ForCausalLM",
        ];
        if !known.contains(&arch) {
            return None;
        }
        let int = |key: &str| doc[key].as_u64().filter(|n| *n > 0);
        let (hidden, heads) = (int("hidden_size")?, int("num_attention_heads")?);
        let (gemma, starcoder) = (arch.starts_with("Gemma2"), arch.starts_with("Starcoder2"));
        let biases = match arch {
            "Qwen2ForCausalLM" => true,
            _ => doc["attention_bias"].as_bool().unwrap_or(false),
        };
        Some(Self {
            vocab: int("vocab_size")?,
            hidden,
            intermediate: int("intermediate_size")?,
            layers: int("num_hidden_layers")?,
            heads,
            kv_heads: int("num_key_value_heads").unwrap_or(heads),
            head_dim: int("head_dim").unwrap_or(if gemma { 256 } else { hidden / heads }),
            context: int("max_position_embeddings").unwrap_or(2048),
            tied: doc["tie_word_embeddings"].as_bool().unwrap_or(gemma || starcoder),
            gated: !starcoder,
            norms: if gemma { 4 } else { 2 },
            soft_cap: gemma,
            qkv_bias: biases,
            all_bias: starcoder && doc["use_bias"].as_bool().unwrap_or(true),
        })
    }

    /// What a `base` phase trains.
    #[must_use]
    pub fn of_base(p: &BaseParams) -> Self {
        let n = u64::from;
        Self {
            vocab: n(p.vocab_size),
            hidden: n(p.hidden),
            intermediate: n(p.intermediate),
            layers: n(p.layers),
            heads: n(p.heads),
            kv_heads: n(p.kv_heads),
            head_dim: n(p.hidden) / n(p.heads).max(1),
            context: n(p.context),
            tied: true,
            gated: true,
            norms: 2,
            soft_cap: false,
            qkv_bias: false,
            all_bias: false,
        }
    }

    /// Width of all heads together.
    #[must_use]
    pub fn q(&self) -> u64 {
        self.heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    #[must_use]
    pub fn kv(&self) -> u64 {
        self.kv_heads * self.head_dim
    }

    /// Weights of the linear layers: what LoRA adapts and 4-bit formats pack.
    #[must_use]
    pub fn linear(&self) -> u64 {
        let mlp = if self.gated { 3 } else { 2 } * self.hidden * self.intermediate;
        self.layers * (2 * self.hidden * self.q() + 2 * self.hidden * self.kv() + mlp)
    }

    /// All weights.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let mut biases = 0;
        if self.qkv_bias || self.all_bias {
            biases += self.q() + 2 * self.kv();
        }
        if self.all_bias {
            biases += 2 * self.hidden + self.intermediate + self.norms * self.hidden;
        }
        let table = self.vocab * self.hidden * if self.tied { 1 } else { 2 };
        let norms = (self.layers * self.norms + 1) * self.hidden;
        let last = if self.all_bias { self.hidden } else { 0 };
        self.linear() + self.layers * biases + table + norms + last
    }

    /// Weights of an adapter.
    #[must_use]
    pub fn adapter(&self, p: &LoraParams) -> u64 {
        let all = p.targets.iter().any(|t| t == "all-linear");
        let (h, q, kv, i) = (self.hidden, self.q(), self.kv(), self.intermediate);
        // in + out of each target; StarCoder2 has names of its own for two of them
        let targets = [
            (["q_proj", "q_proj"], h + q),
            (["k_proj", "k_proj"], h + kv),
            (["v_proj", "v_proj"], h + kv),
            (["o_proj", "o_proj"], q + h),
            (["gate_proj", "gate_proj"], if self.gated { h + i } else { 0 }),
            (["up_proj", "c_fc"], h + i),
            (["down_proj", "c_proj"], i + h),
        ];
        let chosen =
            targets.iter().filter(|(names, _)| all || p.targets.iter().any(|t| names.contains(&t.as_str())));
        self.layers * u64::from(p.r) * chosen.map(|(_, n)| n).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// DeepSeek-Coder 1.3B and 6.7B, Qwen2.5-7B, by their published configurations.
    #[test]
    fn parameters_are_those_of_the_published_models() {
        let config = |arch: &str, v: u64, h: u64, i: u64, l: u64, heads: u64, kv: u64| {
            json!({"architectures": [arch], "vocab_size": v, "hidden_size": h, "intermediate_size": i,
                "num_hidden_layers": l, "num_attention_heads": heads, "num_key_value_heads": kv, "tie_word_embeddings": false})
        };
        let shape = |c: Value| Shape::from_config(&c).unwrap();
        let small = shape(config("LlamaForCausalLM", 32_256, 2048, 5504, 24, 16, 16));
        assert_eq!(small.parameters(), 1_346_471_936);
        assert_eq!(small.adapter(&LoraParams::default()), 14_991_360);
        let targets = ["q_proj", "k_proj", "v_proj", "o_proj"].map(str::to_owned).to_vec();
        // SecureCodeRL's adapter (specs: securecoderl.md 22)
        assert_eq!(small.adapter(&LoraParams { r: 16, targets, ..LoraParams::default() }), 6_291_456);
        let large = shape(config("LlamaForCausalLM", 32_256, 4096, 11_008, 32, 32, 32));
        assert_eq!(large.parameters(), 6_740_512_768);
        let qwen = shape(config("Qwen2ForCausalLM", 152_064, 3584, 18_944, 28, 28, 4));
        assert_eq!(qwen.parameters(), 7_615_616_512);
        let star = shape(
            json!({"architectures": ["Starcoder2ForCausalLM"], "vocab_size": 49_152, "hidden_size": 3072,
            "intermediate_size": 12_288, "num_hidden_layers": 30, "num_attention_heads": 24, "num_key_value_heads": 2}),
        );
        assert_eq!(star.parameters(), 3_030_371_328);
        assert!(Shape::from_config(&json!({"architectures": ["GPT2LMHeadModel"]})).is_none());
    }
}
