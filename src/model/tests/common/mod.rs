//! A tiny random model for tests, requests, and what a pass of the whole text says about an answer.
#![allow(dead_code, reason = "every test file uses its own part")]

use generate::{Request, Sampling};
use model::config::{Arch, Config, RopeScaling};
use model::{Model, Pass, Spec, Tokenizer};
use record::params::LoraParams;
use tch::{Device, Kind, Tensor};

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

pub fn requests(model: &Model, n: u32) -> Vec<Request> {
    [
        "Read n integers.",
        "print(",
        "x",
        "Print how many are greater than 7.",
        "sum of 12 and 345 please, quickly",
    ]
    .iter()
    .enumerate()
    .map(|(i, text)| Request {
        prompt: model.tokenizer.encode(text).unwrap(),
        n,
        adapter: None,
        sampling: Sampling { seed: 100 * i as u64, max_new_tokens: 5 + 7 * i as u32, ..Sampling::default() },
    })
    .collect()
}

/// Log-probabilities of `tokens` after `prompt`, by one pass over the whole text.
pub fn teacher_forced(model: &Model, prompt: &[u32], tokens: &[u32]) -> Vec<f64> {
    let ids: Vec<i64> = prompt.iter().chain(tokens).map(|&t| i64::from(t)).collect();
    let _guard = tch::no_grad_guard();
    let h = model.decoder.trunk(&Tensor::from_slice(&ids).unsqueeze(0), None, Pass::EVAL).unwrap();
    let logp = model.decoder.logits(&h).log_softmax(-1, Kind::Float);
    tokens
        .iter()
        .enumerate()
        .map(|(i, &t)| logp.double_value(&[(prompt.len() + i) as i64 - 1, i64::from(t)]))
        .collect()
}

pub fn after(model: &Model, system: &str, texts: &[&str]) -> Vec<Request> {
    texts
        .iter()
        .enumerate()
        .map(|(i, text)| Request {
            prompt: model.tokenizer.encode(&format!("{system}{text}")).unwrap(),
            n: 2,
            adapter: None,
            sampling: Sampling { seed: 50 * i as u64, max_new_tokens: 9, ..Sampling::default() },
        })
        .collect()
}

/// A model and two adapters of it on disk, each with what a model that has it merged answers.
pub fn adapters(arch: Arch, dir: &std::path::Path) -> (Model, Vec<Model>) {
    let base = tiny(arch, 12);
    let tuned = (0..2)
        .map(|i| {
            let mut model = tiny(arch, 12);
            let targets = if i == 0 {
                vec!["q_proj", "v_proj", "down_proj"]
            } else {
                vec!["k_proj", "o_proj", "gate_proj", "up_proj"]
            };
            let p = LoraParams {
                r: 3 + i,
                alpha: 8.0,
                targets: targets.into_iter().map(str::to_owned).collect(),
                ..LoraParams::default()
            };
            model.decoder.add_adapter(&p).unwrap();
            tch::no_grad(|| {
                for (_, mut t) in model.decoder.adapter_tensors() {
                    let _ = t.normal_(0.0, 0.15);
                }
            });
            model.save_adapter(&dir.join(format!("a{i}")), "base").unwrap();
            model
        })
        .collect();
    (base, tuned)
}
