//! What sets the architectures apart beyond their sizes. One decoder is built from these facts.

use crate::fused;
use tch::Tensor;

/// Which family; `architectures` of `config.json` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// Llama 1-3, DeepSeek-Coder, CodeLlama.
    Llama,
    /// Qwen2 and Qwen2.5: biases on q, k and v.
    Qwen2,
    /// Llama with a sliding window on every layer.
    Mistral,
    /// Soft caps, windows on every other layer, four norms per layer, scaled embeddings.
    Gemma2,
    /// LayerNorm, biases everywhere, one wide GELU layer instead of gate and up.
    Starcoder2,
}

impl Arch {
    /// Every architecture that is built.
    pub const ALL: [Arch; 5] = [Arch::Llama, Arch::Qwen2, Arch::Mistral, Arch::Gemma2, Arch::Starcoder2];

    /// Class name as `architectures` has it.
    #[must_use]
    pub fn class(self) -> &'static str {
        match self {
            Arch::Llama => "LlamaForCausalLM",
            Arch::Qwen2 => "Qwen2ForCausalLM",
            Arch::Mistral => "MistralForCausalLM",
            Arch::Gemma2 => "Gemma2ForCausalLM",
            Arch::Starcoder2 => "Starcoder2ForCausalLM",
        }
    }

    pub(crate) fn model_type(self) -> &'static str {
        match self {
            Arch::Llama => "llama",
            Arch::Qwen2 => "qwen2",
            Arch::Mistral => "mistral",
            Arch::Gemma2 => "gemma2",
            Arch::Starcoder2 => "starcoder2",
        }
    }
}

/// How a layer's input is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square, times the weight.
    Rms,
    /// Root mean square, times 1 + the weight, all in fp32 (Gemma).
    RmsPlusOne,
    /// Mean and variance, weight and bias.
    Layer,
}

/// The nonlinearity of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// GELU in its tanh approximation.
    GeluTanh,
}

impl Activation {
    const NAMES: [(&'static str, Activation); 2] =
        [("silu", Activation::Silu), ("gelu_pytorch_tanh", Activation::GeluTanh)];

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, a)| *a)
    }

    pub(crate) fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, a)| *a == self).map_or("", |(n, _)| n)
    }

    /// `f(gate) * up`
    pub(crate) fn gated(self, gate: &Tensor, up: &Tensor) -> Tensor {
        if self == Activation::Silu
            && let Some(y) = fused::swiglu(gate, up)
        {
            return y;
        }
        self.forward(gate) * up
    }

    pub(crate) fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Activation::Silu => x.silu(),
            Activation::GeluTanh => x.gelu("tanh"),
        }
    }
}

/// The decoder's variable parts.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub norm: NormKind,
    pub activation: Activation,
    /// `down(act(gate x) * up x)`; else `down(act(up x))`.
    pub gated: bool,
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub mlp_bias: bool,
    /// Norms behind attention and MLP as well, before the residual sum.
    pub post_norms: bool,
    /// Embeddings are multiplied by sqrt(hidden).
    pub scaled_embeddings: bool,
    /// Per layer: a token sees itself and the `window - 1` tokens before it; `None` sees all. Empty: no windows.
    pub windows: Vec<Option<i64>>,
    /// Scores are multiplied by its inverse square root; `None` is `head_dim`.
    pub query_scalar: Option<f64>,
    /// Scores become `cap * tanh(score / cap)`.
    pub attention_cap: Option<f64>,
    /// The same for the logits.
    pub logit_cap: Option<f64>,
}

impl Spec {
    /// The facts of a family before its `config.json` is read.
    #[must_use]
    pub fn of(arch: Arch) -> Self {
        let llama = Self {
            norm: NormKind::Rms,
            activation: Activation::Silu,
            gated: true,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            post_norms: false,
            scaled_embeddings: false,
            windows: Vec::new(),
            query_scalar: None,
            attention_cap: None,
            logit_cap: None,
        };
        match arch {
            Arch::Llama | Arch::Mistral => llama,
            Arch::Qwen2 => Self { qkv_bias: true, ..llama },
            Arch::Gemma2 => Self {
                norm: NormKind::RmsPlusOne,
                activation: Activation::GeluTanh,
                post_norms: true,
                scaled_embeddings: true,
                query_scalar: Some(256.0),
                attention_cap: Some(50.0),
                logit_cap: Some(30.0),
                ..llama
            },
            Arch::Starcoder2 => Self {
                norm: NormKind::Layer,
                activation: Activation::GeluTanh,
                gated: false,
                qkv_bias: true,
                o_bias: true,
                mlp_bias: true,
                ..llama
            },
        }
    }

    /// Window of a layer in tokens.
    #[must_use]
    pub fn window(&self, layer: usize) -> Option<i64> {
        self.windows.get(layer).copied().flatten()
    }
}

/// `cap * tanh(x / cap)`.
pub(crate) fn soft_cap(x: &Tensor, cap: f64) -> Tensor {
    (x / cap).tanh() * cap
}
