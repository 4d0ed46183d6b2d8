//! A tiny random model for tests.

use model::Spec;
use model::config::{Arch, Config, RopeScaling};
use model::{Model, Tokenizer};
use tch::Device;

pub fn config(arch: Arch) -> Config {
    let mut spec = Spec::of(arch);
    // windows shorter than the prompts, on the layers that the architecture has them on
    spec.windows = match arch {
        Arch::Llama | Arch::Qwen2 => vec![],
        Arch::Mistral | Arch::Starcoder2 => vec![Some(7); 2],
        Arch::Gemma2 => vec![Some(7), None],
    };
    Config {
        arch,
        vocab: 300,
        hidden: 32,
        intermediate: 64,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        context: 96,
        norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Linear { factor: 2.0 },
        tied: !matches!(arch, Arch::Llama | Arch::Mistral),
        spec,
        bos: None,
        eos: vec![],
        pad: None,
    }
}

pub fn tokenizer() -> Tokenizer {
    let texts =
        ["Read n integers. Print how many are greater than 7.", "print(sum(map(int, input().split())))"];
    Tokenizer::train(300, texts.iter().copied().cycle().take(40)).unwrap()
}

/// libtorch's generator is one per process and tests run in threads: who draws from it goes alone.
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static GENERATOR: std::sync::Mutex<()> = std::sync::Mutex::new(());
    GENERATOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Weights twice as large as a fresh model's, so that the distribution is far from uniform.
pub fn tiny(arch: Arch, seed: i64) -> Model {
    model::runtime::init(1);
    tch::manual_seed(seed);
    let model = Model::fresh(config(arch), tokenizer(), Device::Cpu).unwrap();
    tch::no_grad(|| {
        for (name, mut t) in model.decoder.trainable() {
            if name.contains("bias") {
                let _ = t.normal_(0.0, 0.5);
            } else if !name.contains("norm") {
                let _ = t.g_mul_scalar_(2.0);
            }
        }
    });
    model
}
