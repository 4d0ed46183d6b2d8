//! The model, the rows, and our own measurement.

use crate::{Measured, THREADS};
use model::{Config, Decoder, Model, Tokenizer, weights};
use record::ContentKey;
use record::checkpoint::Store;
use record::params::{LoraParams, Precision};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;
use tch::Device;
use train::rows::Encoded;
use train::sft::{Plan, train};
use train::{Host, Result};

/// Rows of 512 tokens, four a step, every token with loss.
const PADDED_STEPS: usize = 6;
/// Sixteen rows a step (4 micro-batches of 4), lengths as of real instruction data, the first two fifths without loss.
const MIXED_STEPS: usize = 5;

/// Writes model and rows, once: 56 M weights, the shape of the measurements that the targets come from.
pub fn prepare(dir: &Path) {
    if dir.join("rows.json").exists() {
        return;
    }
    let model = dir.join("model");
    std::fs::create_dir_all(&model).expect("the work directory can be made");
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000, "hidden_size": 512,
        "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 64, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "torch_dtype": "float32",
    });
    write(&model.join("config.json"), &config);
    let words = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|eos|>",
        "pad_token": "<|pad|>",
    });
    write(&model.join("tokenizer_config.json"), &words);
    let text = std::iter::repeat_n("print(sum(map(int, input().split())))", 20);
    Tokenizer::train(300, text).and_then(|t| t.save(&model)).expect("a tokenizer");
    model::runtime::init(THREADS);
    tch::manual_seed(7);
    let d = Decoder::random(Config::read(&model).expect("the config"), Device::Cpu);
    let entries = d.export().expect("the weights");
    weights::save_entries(&model.join("model.safetensors"), entries)
        .expect("the work directory can be written");
    write(&dir.join("rows.json"), &json!({"padded": padded(), "mixed": mixed()}));
}

fn write(path: &Path, value: &Value) {
    std::fs::write(path, serde_json::to_vec(value).expect("JSON"))
        .expect("the work directory can be written");
}

fn ids(row: usize, length: usize) -> Vec<u64> {
    (0..length).map(|t| model::sampler::bits(row as u64, t as u64) % 31_000 + 3).collect()
}

fn padded() -> Vec<Value> {
    (0..4).map(|i| json!({"ids": ids(i, 512), "prompt": 1})).collect()
}

/// Log-normal lengths (median 220, sigma 0.8) between 24 and 1024.
fn mixed() -> Vec<Value> {
    let uniform = |i: u64| (model::sampler::bits(99, i) >> 11) as f64 / (1u64 << 53) as f64;
    (0..16 * MIXED_STEPS)
        .map(|i| {
            // Box-Muller
            let (u, v) = (uniform(2 * i as u64).max(1e-12), uniform(2 * i as u64 + 1));
            let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
            let length = (220.0 * (0.8 * normal).exp()).clamp(24.0, 1024.0) as usize;
            json!({"ids": ids(100 + i, length), "prompt": length * 2 / 5})
        })
        .collect()
}

/// Notes when each step ended.
struct Clock {
    began: Instant,
    steps: Vec<(f64, f64)>,
}

impl Host for Clock {
    fn step(&mut self, _: u64, _: u64, values: &[(&str, f64)]) -> Result<()> {
        let loss = values.iter().find(|(n, _)| *n == "loss").map_or(f64::NAN, |(_, v)| *v);
        self.steps.push((self.began.elapsed().as_secs_f64(), loss));
        Ok(())
    }
    fn note(&mut self, text: &str) -> Result<()> {
        eprintln!("{text}");
        Ok(())
    }
    fn stop(&mut self) -> Option<String> {
        None
    }
}

pub fn measure(dir: &Path, precision: &str, set: &str, pass_tokens: Option<&String>) -> Measured {
    model::runtime::init(THREADS);
    let kind = if precision == "bf16" { Precision::Bf16 } else { Precision::Fp32 };
    let mut model = Model::load(&dir.join("model"), kind, Device::Cpu).expect("the model");
    model.decoder.add_adapter(&LoraParams::default()).expect("an adapter");
    let all: Value =
        serde_json::from_slice(&std::fs::read(dir.join("rows.json")).expect("rows.json")).expect("rows.json");
    let number = |v: &Value| v.as_u64().expect("a number");
    let rows: Vec<Encoded> = all[set]
        .as_array()
        .expect("rows")
        .iter()
        .map(|r| {
            let ids = r["ids"].as_array().expect("ids").iter().map(|id| number(id) as u32).collect();
            Encoded::answer(ids, number(&r["prompt"]) as usize)
        })
        .collect();
    let (accumulation, steps, most) =
        if set == "padded" { (1, PADDED_STEPS, 512) } else { (4, MIXED_STEPS, 1024) };
    let tokens = pass_tokens.map_or(4 * most, |n| n.parse().expect("tokens of a pass"));
    let plan = Plan {
        steps: steps as u64,
        accumulation,
        pass_tokens: tokens,
        learning_rate: 1e-4,
        ..Plan::default()
    };
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let store = Store {
        key: ContentKey("bench".into()),
        task_dir: scratch.path().into(),
        attempt_dir: scratch.path().join("attempt"),
        keep: 1,
    };
    let mut clock = Clock { began: Instant::now(), steps: Vec::new() };
    train(&model, &rows, &[], &plan, &store, &mut clock).expect("a training");
    let seconds = clock.steps[steps - 1].0 - clock.steps[0].0;
    // one epoch: the first step's rows are not counted, whichever they were; on average they are like the others
    let all: usize = rows.iter().map(|r| r.ids.len()).sum();
    let per_step = if set == "padded" { all as f64 } else { all as f64 / steps as f64 };
    Measured {
        engine: "ours".into(),
        precision: precision.into(),
        set: set.into(),
        tokens_per_s: per_step * (steps - 1) as f64 / seconds,
        seconds_per_step: seconds / (steps - 1) as f64,
        peak_rss_mb: peak_rss_mb(),
        losses: clock.steps.iter().map(|(_, loss)| *loss).collect(),
    }
}

/// Most resident memory that the process ever had.
fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kb =
        status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().split(' ').next()?.parse::<f64>().ok());
    kb.unwrap_or(f64::NAN) * 1024.0 / 1e6
}
