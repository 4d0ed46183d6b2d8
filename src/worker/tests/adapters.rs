//! Adapters served beside their base, and training over packed weights, driven through the built worker.

mod common;

use common::{Runs, call, leave, outcome, run, worker};
use generate::{Engine, Message, Request, Sampling};
use model::{Model, Options};
use record::params::{EvalParams, LoraParams, Precision, Quantization, ServeParams, SftParams};
use record::{Params, TaskSpec, atomic, layout};
use serve::client::Patience;
use serve::{Chat, Client, Endpoint};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const QUESTION: &str = "Print the number.";

/// Fine-tunes `base` hard enough that its answers become others; the outputs.
fn tuned(runs: &Runs, phase: &str, seed: u64, quantization: Quantization) -> PathBuf {
    let work = Params::Sft(SftParams {
        seed,
        lora: Some(LoraParams { r: 4, alpha: 16.0, ..LoraParams::default() }),
        quantization,
        epochs: 0,
        max_steps: 6,
        learning_rate: 2e-2,
        ..SftParams::default()
    });
    let task = runs.task(phase, 1, work, |spec| {
        spec.inputs = BTreeMap::from([
            ("model".into(), vec![runs.input("base")]),
            ("data".into(), vec![runs.input("corpus")]),
        ]);
    });
    assert_eq!(run(&task, &[]), 0, "{}", outcome(&task).message);
    runs.publish(phase, 1)
}

/// The greedy answer of a model directory.
fn answer(dir: &Path) -> String {
    let model = Model::load(dir, Precision::Fp32, tch::Device::Cpu).unwrap();
    let prompt = train::rows::prompt_ids(&model, QUESTION).unwrap();
    let sampling = Sampling { temperature: 0.0, max_new_tokens: 12, ..Sampling::default() };
    let mut engine = model.engine(Options::default());
    let rows = engine.generate(vec![Request { prompt, n: 1, sampling, adapter: None }]).unwrap();
    rows[0][0].text.clone()
}

fn models(endpoint: &Endpoint) -> Vec<String> {
    let (_, body) = call(endpoint, "GET", "/v1/models", "");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    body["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_served_adapter_answers_as_the_merged_model_it_came_with() {
    let runs = Runs::new();
    runs.random_model(&runs.corpus());
    let of_sft = tuned(&runs, "sft", 1, Quantization::None);
    let of_other = tuned(&runs, "other", 2, Quantization::None);
    let serve = |phase: &str, model: &str, adapters: &[&str]| {
        let (model, adapters) = (runs.input(model), adapters.iter().map(|p| runs.input(p)).collect());
        runs.task(phase, 1, Params::Serve(ServeParams::default()), |spec: &mut TaskSpec| {
            spec.inputs = BTreeMap::from([("model".into(), vec![model]), ("adapters".into(), adapters)]);
            spec.consumers = vec![runs.task_dir("asker")];
        })
    };
    let server = serve("service", "base", &["sft", "other"]);
    let service = worker(&server, &[]);
    let endpoint = Client::of_service(&runs.task_dir("service"), Patience::default()).wait_ready().unwrap();
    assert_eq!(models(&endpoint), ["service", "sft", "other"]);
    let ask = |name: &str| {
        let named = Endpoint { model: name.into(), ..endpoint.clone() };
        let chat = Chat {
            messages: vec![Message { role: "user".into(), content: QUESTION.into() }],
            n: 1,
            temperature: 0.0,
            top_p: 1.0,
            max_tokens: 12,
            seed: None,
            stop: vec![],
        };
        Client::of_url(named, Patience::default()).chat(&chat).map(|r| r.choices[0].text.clone())
    };
    let base = layout::attempt_dir(&runs.task_dir("base"), 1).join(layout::OUT);
    let (plain, first, second) = (ask("service").unwrap(), ask("sft").unwrap(), ask("other").unwrap());
    assert_eq!(plain, answer(&base));
    assert_eq!(first, answer(&of_sft));
    assert_eq!(second, answer(&of_other));
    assert!(plain != first && plain != second && first != second, "{plain:?} {first:?} {second:?}");
    assert!(ask("nobody").unwrap_err().to_string().contains("404"));
    leave(service);

    // an adapter over other weights than its own would answer, and wrongly
    let wrong = serve("wrong", "other", &["sft"]);
    assert_eq!(run(&wrong, &[]), record::exit::USER_ERROR);
    assert!(outcome(&wrong).message.contains("adapter of phase sft"), "{}", outcome(&wrong).message);
}

#[test]
fn training_over_packed_weights_leaves_a_model_that_can_be_measured() {
    let runs = Runs::new();
    runs.random_model(&runs.corpus());
    let out = tuned(&runs, "sft", 1, Quantization::Nf4);
    for file in ["model.safetensors", "config.json", "adapter/adapter_model.safetensors"] {
        assert!(out.join(file).exists(), "{file}");
    }
    let trained = out.with_file_name(layout::TASK);
    let loss = outcome(&trained).facts["loss"].as_f64().unwrap();
    assert!(loss.is_finite() && loss > 0.0, "{loss}");
    let params =
        EvalParams { samples: 1, limit: 3, max_new_tokens: 12, bootstrap: 50, ..EvalParams::default() };
    let task = runs.task("eval", 1, Params::Eval(params), |spec| {
        spec.inputs = BTreeMap::from([
            ("model".into(), vec![runs.input("sft")]),
            ("corpus".into(), vec![runs.input("corpus")]),
        ]);
    });
    assert_eq!(run(&task, &[]), 0, "{}", outcome(&task).message);
    let rows: Vec<serde_json::Value> =
        corpus::read_jsonl(&task.with_file_name(layout::OUT).join("samples.jsonl")).unwrap();
    assert_eq!(rows.len(), 3);
    let config: serde_json::Value = atomic::read_json(&out.join("config.json")).unwrap().unwrap();
    assert!(config.get("quantization_config").is_none(), "plain weights were saved: {config}");
}
