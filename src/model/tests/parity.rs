//! Our numbers against those of transformers and PEFT, from the files that tests/parity/make_golden.py wrote.

use generate::{Engine, Request, Sampling};
use model::shim::set_grad;
use model::{Config, Decoder, Model, Options, Packing, Pass, weights};
use record::params::Precision;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Reduction, Tensor};

const MODELS: [&str; 9] = [
    "llama-gqa",
    "llama-bias",
    "deepseek-coder",
    "llama3",
    "qwen2",
    "qwen2-windows",
    "mistral",
    "gemma2",
    "starcoder2",
];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/golden")
}

fn open(name: &str) -> (Decoder, BTreeMap<String, Tensor>) {
    model::runtime::init(1);
    let dir = golden().join(name);
    let config = Config::read(&dir).unwrap();
    let decoder = Decoder::load(&dir, config, Kind::Float, Device::Cpu, false).unwrap();
    (decoder, weights::read_all(&dir.join("golden.safetensors")).unwrap())
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    f64::try_from((a - b).abs().max()).unwrap()
}

fn logits(d: &Decoder, ids: &Tensor, packing: Option<&Packing>) -> Tensor {
    let _guard = tch::no_grad_guard();
    let (rows, length) = ids.size2().unwrap();
    d.logits(&d.trunk(ids, packing, Pass::EVAL).unwrap()).view([rows, length, -1])
}

#[test]
fn logits_equal_those_of_transformers() {
    for name in MODELS {
        let (d, g) = open(name);
        let worst = difference(&logits(&d, &g["ids"], None), &g["logits"]);
        assert!(worst < 2e-5, "{name}: {worst}");
    }
}

#[test]
fn packed_rows_give_the_logits_of_separate_ones() {
    for name in MODELS {
        let (d, g) = open(name);
        let (rows, length) = g["ids"].size2().unwrap();
        // the positions restart, so the row may be longer than the model's context as long as no text is
        let mut d = d;
        d.config.context = length;
        let packing = Packing { lengths: vec![length; rows as usize] };
        let got = logits(&d, &g["ids"].view([1, -1]), Some(&packing)).view([rows, length, -1]);
        let worst = difference(&got, &g["logits"]);
        assert!(worst < 2e-5, "{name}: {worst}");
        let wrong = Packing { lengths: vec![length; rows as usize - 1] };
        assert!(d.trunk(&g["ids"].view([1, -1]), Some(&wrong), Pass::EVAL).is_err(), "{name}");
    }
}

#[test]
fn greedy_generation_equals_that_of_transformers_token_for_token() {
    for name in MODELS {
        let (_, g) = open(name);
        let mut model = Model::load(&golden().join(name), Precision::Fp32, Device::Cpu).unwrap();
        // transformers was told not to stop and not to draw the end token
        model.eos.clear();
        let (rows, _) = g["ids"].size2().unwrap();
        let requests = (0..rows)
            .map(|i| Request {
                prompt: Vec::<i64>::try_from(g["ids"].get(i).narrow(0, 0, 16))
                    .unwrap()
                    .into_iter()
                    .map(|t| t as u32)
                    .collect(),
                n: 1,
                sampling: Sampling { temperature: 0.0, max_new_tokens: 24, ..Sampling::default() },
                adapter: None,
            })
            .collect();
        let requests: Vec<Request> = requests;
        // each model's own kernels, libtorch's, and both with prompts in pieces
        for (libtorch, prefill_tokens) in [(false, 8192), (true, 8192), (false, 7), (true, 7)] {
            let options =
                Options { libtorch, prefill_tokens, piece_tokens: prefill_tokens, ..Options::default() };
            let answers = model.engine(options).generate(requests.clone()).unwrap();
            for (i, answer) in answers.iter().enumerate() {
                let want = Vec::<i64>::try_from(g["greedy"].get(i as i64)).unwrap();
                let got: Vec<i64> = answer[0].tokens.iter().map(|&t| i64::from(t)).collect();
                assert_eq!(got, want, "{name} row {i}, {options:?}");
                // and the log-probabilities are those of one pass over the whole text
                let text =
                    Tensor::cat(&[g["ids"].get(i as i64).narrow(0, 0, 16), Tensor::from_slice(&want)], 0);
                let all = logits(&model.decoder, &text.unsqueeze(0), None).log_softmax(-1, Kind::Float);
                let said = all.get(0).narrow(0, 15, want.len() as i64).gather(
                    1,
                    &Tensor::from_slice(&want).unsqueeze(1),
                    false,
                );
                let worst = difference(&said.view(-1), &Tensor::from_slice(&answer[0].logprobs));
                assert!(worst < 2e-5, "{name} row {i}, {options:?}: {worst}");
            }
        }
    }
}

#[test]
fn an_adapter_of_peft_gives_its_logits_loss_and_gradients() {
    for name in MODELS {
        let (mut d, g) = open(name);
        d.load_adapter(&golden().join(name).join("adapter")).unwrap();
        let worst = difference(&logits(&d, &g["ids"], None), &g["lora_logits"]);
        assert!(worst < 2e-5, "{name}: {worst}");
        for recompute in [false, true] {
            for (_, t) in d.trainable() {
                set_grad(&t, None).unwrap();
            }
            let (rows, length) = g["ids"].size2().unwrap();
            let pass = Pass { adapter: true, train: true, recompute };
            let h = d.trunk(&g["ids"], None, pass).unwrap().view([rows, length, -1]);
            // tokens 10.. carry loss: predicted at 9..
            let h = h.narrow(1, 9, length - 10).reshape([-1, d.config.hidden]);
            let labels = g["ids"].narrow(1, 10, length - 10).reshape([-1]);
            let loss = d.logits(&h).cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Mean, -100, 0.0);
            loss.backward();
            assert!(difference(&loss.detach(), &g["lora_loss"]) < 5e-6, "{name}");
            let grads = d.trainable();
            assert_eq!(grads.len(), g.keys().filter(|k| k.starts_with("grad.")).count());
            for (key, t) in grads {
                let want = &g[&format!("grad.{key}")];
                let scale = f64::try_from(want.abs().max()).unwrap();
                let worst = difference(&t.grad(), want) / scale;
                assert!(worst < 1e-4, "{name} {key}: relative {worst}");
            }
        }
    }
}

#[test]
fn token_ids_and_texts_equal_those_of_the_python_library() {
    let text = std::fs::read_to_string(golden().join("tokenizer.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let t = model::Tokenizer::read(&golden().join("qwen2")).unwrap();
    for case in &cases {
        let words = case["text"].as_str().unwrap();
        let want: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        // a frame that is in the text already is the one difference on purpose
        let got = if words.starts_with("<|bos|>") {
            [vec![1], t.encode(words).unwrap()].concat()
        } else {
            t.encode(words).unwrap()
        };
        assert_eq!(got, want, "{words:?}");
        assert_eq!(t.decode(&want).unwrap(), case["decoded"].as_str().unwrap());
    }
    assert!(cases.len() >= 7);
}

#[test]
fn chat_templates_render_byte_for_byte_as_in_transformers() {
    let text = std::fs::read_to_string(golden().join("chat.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let mut names = std::collections::BTreeSet::new();
    for case in &cases {
        let t = model::chat::ChatTemplate::new(
            case["template"].as_str().unwrap(),
            "<|bos|>",
            "<|eos|>",
            "<|pad|>",
        )
        .unwrap();
        let mut variables = serde_json::json!({
            "messages": case["messages"], "add_generation_prompt": case["add_generation_prompt"],
        });
        if !case["tools"].is_null() {
            variables["tools"] = case["tools"].clone();
        }
        let name = case["name"].as_str().unwrap();
        assert_eq!(t.render_json(&variables).unwrap(), case["text"].as_str().unwrap(), "{name}");
        names.insert(name);
    }
    assert!(names.len() >= 12);
}

/// Needs the environment of tests/parity/setup.sh: `cargo test -p bessemer-model --test parity -- --ignored`.
#[test]
#[ignore = "needs the Python environment of tests/parity/setup.sh"]
fn peft_reads_our_adapters_and_transformers_our_merged_models() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv-parity/bin/python");
    let dir = tempfile::tempdir().unwrap();
    let ids = Tensor::arange_start(3, 33, (Kind::Int64, Device::Cpu)).view([1, -1]);
    let mut ours = BTreeMap::new();
    for name in MODELS {
        let place = dir.path().join(name);
        let mut m = Model::load(&golden().join(name), Precision::Fp32, Device::Cpu).unwrap();
        m.save(&place.join("base")).unwrap();
        let p = record::params::LoraParams { r: 3, alpha: 12.0, ..Default::default() };
        m.decoder.add_adapter(&p).unwrap();
        tch::no_grad(|| m.decoder.trainable().into_iter().for_each(|(_, mut t)| drop(t.normal_(0.0, 0.1))));
        m.save_adapter(&place.join("adapter"), "base").unwrap();
        ours.insert(name, logits(&m.decoder, &ids, None).view(-1));
    }
    let script = golden().join("../exchange.py");
    let out = std::process::Command::new(&python).arg(&script).arg(dir.path()).output().unwrap();
    let theirs: BTreeMap<String, Vec<f32>> = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stderr)));
    for (name, ours) in ours {
        let worst = difference(&ours, &Tensor::from_slice(&theirs[name]));
        assert!(worst < 2e-5, "{name}: {worst}");
    }
}
