//! A tiny model, rows, a reward and a host for tests.
#![allow(dead_code, reason = "each test file uses a part")]

use generate::Finish;
use model::Spec;
use model::config::{Arch, Config, RopeScaling};
use model::{Model, Tokenizer};
use record::ContentKey;
use record::checkpoint::Store;
use record::params::LoraParams;
use std::path::Path;
use tch::Device;
use train::rl::{Reward, RewardError, Rollout};
use train::rows::{Encoded, Row, Text, encode};
use train::{Host, Result};

/// libtorch's generator is one per process and tests run in threads: who draws from it goes alone.
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static GENERATOR: std::sync::Mutex<()> = std::sync::Mutex::new(());
    GENERATOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn words() -> Vec<Row> {
    (0..40)
        .map(|i| {
            Row::pair(
                format!("add {} and {}: ", i, 2 * i),
                format!("print({})\n", if i % 2 == 0 { 3 * i } else { i }),
            )
        })
        .collect()
}

pub fn model(lora: Option<LoraParams>) -> Model {
    model::runtime::init(1);
    tch::manual_seed(11);
    let rows = words();
    let texts = rows.iter().flat_map(|r| match &r.text {
        Text::Pair { prompt, completion } => [prompt.as_str(), completion.as_str()],
        Text::Chat(_) => unreachable!("words() makes pairs"),
    });
    let tokenizer = Tokenizer::train(290, texts).unwrap();
    let config = Config {
        arch: Arch::Llama,
        vocab: 0,
        hidden: 32,
        intermediate: 64,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        context: 64,
        norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        tied: true,
        spec: Spec::of(Arch::Llama),
        bos: None,
        eos: vec![],
        pad: None,
    };
    let mut model = Model::fresh(config, tokenizer, Device::Cpu).unwrap();
    // larger weights than a fresh model's: an adapter on top of nearly nothing can change nearly nothing
    tch::no_grad(|| {
        for (name, mut t) in model.decoder.trainable() {
            if !name.contains("norm") {
                let _ = t.g_mul_scalar_(1.2);
            }
        }
    });
    match lora {
        Some(p) => model.decoder.add_adapter(&p).unwrap(),
        None => model.decoder.train_all(),
    }
    model
}

pub fn rows(model: &Model) -> Vec<Encoded> {
    encode(model, &words(), 64).unwrap().0
}

pub fn store(task_dir: &Path, attempt: u32) -> Store {
    let attempt_dir = record::layout::attempt_dir(task_dir, attempt);
    Store { key: ContentKey("k".repeat(20)), task_dir: task_dir.into(), attempt_dir, keep: 2 }
}

/// Stops after so many steps; remembers what it heard.
#[derive(Default)]
pub struct Listener {
    pub stop_after: Option<u64>,
    pub seen: u64,
    pub values: Vec<(u64, Vec<(String, f64)>)>,
    pub notes: Vec<String>,
}

impl Host for Listener {
    fn step(&mut self, step: u64, _of: u64, values: &[(&str, f64)]) -> Result<()> {
        self.values.push((step, values.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect()));
        Ok(())
    }
    fn note(&mut self, text: &str) -> Result<()> {
        self.notes.push(text.to_owned());
        Ok(())
    }
    fn stop(&mut self) -> Option<String> {
        self.seen += 1;
        self.stop_after.filter(|n| self.seen >= *n).map(|_| "told to".into())
    }
}

impl Listener {
    pub fn series(&self, name: &str) -> Vec<f64> {
        let find = |row: &[(String, f64)]| row.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        self.values.iter().filter_map(|(_, row)| find(row)).collect()
    }
}

/// Share of digits in the answer; every seventh answer of a batch cannot be judged.
pub struct Digits {
    pub blind: bool,
}

impl Reward for Digits {
    fn score(&mut self, _: u64, batch: &[Rollout]) -> std::result::Result<Vec<Option<f64>>, RewardError> {
        Ok(batch
            .iter()
            .enumerate()
            .map(|(i, r)| {
                let n = r.text.chars().count().max(1) as f64;
                let digits = r.text.chars().filter(char::is_ascii_digit).count() as f64;
                let ended = if r.finish == Finish::Stop { 0.1 } else { 0.0 };
                (!self.blind || i % 7 != 3).then_some(digits / n + ended)
            })
            .collect())
    }
}
