//! What a `serve` task is asked for in its parameters: number formats of weights and of keys and values, and their limit.

mod common;

use common::{Runs, call, leave, outcome, run, worker};
use record::Params;
use record::params::{EvalParams, KvPrecision, Precision, Quantization, RlParams, ServeParams};
use serde_json::{Value, json};
use serve::client::Patience;
use serve::{Client, Endpoint};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Child;

fn task(runs: &Runs, phase: &str, params: ServeParams) -> PathBuf {
    runs.task(phase, 1, Params::Serve(params), |spec| {
        spec.inputs = BTreeMap::from([("model".into(), vec![runs.input("base")])]);
        spec.consumers = vec![runs.task_dir("asker")];
    })
}

fn up(runs: &Runs, phase: &str, params: ServeParams) -> (Child, Endpoint) {
    let service = worker(&task(runs, phase, params), &[]);
    let endpoint = Client::of_service(&runs.task_dir(phase), Patience::default()).wait_ready().unwrap();
    (service, endpoint)
}

/// A completion, greedy: status and answer.
fn complete(endpoint: &Endpoint, prompt: &str, max_tokens: u32) -> (u16, Value) {
    let body = json!({
        "model": endpoint.model, "prompt": prompt, "temperature": 0, "max_tokens": max_tokens, "logprobs": 1,
    });
    let (status, body) = call(endpoint, "POST", "/v1/completions", &body.to_string());
    (status, serde_json::from_str(&body).unwrap())
}

fn page_bytes(endpoint: &Endpoint) -> u64 {
    let (_, text) = call(endpoint, "GET", "/metrics", "");
    let line = text.lines().find_map(|l| l.strip_prefix("bessemer_kv_page_bytes ")).unwrap();
    line.parse().unwrap()
}

#[test]
fn a_service_answers_in_the_number_format_that_it_was_given() {
    let runs = Runs::new();
    runs.random_model(&runs.corpus());
    let prompts = ["Print the sum of two integers.", "Read n.", "a", "Print them in reverse order, please."];
    // first log-probabilities, and the bytes of a page
    let served = |phase: &str, params: ServeParams| -> (Vec<f64>, u64) {
        let (service, endpoint) = up(&runs, phase, params);
        let found = prompts.map(|p| {
            let (status, body) = complete(&endpoint, p, 4);
            assert_eq!(status, 200, "{body}");
            body["choices"][0]["logprobs"]["token_logprobs"][0].as_f64().unwrap()
        });
        let bytes = page_bytes(&endpoint);
        leave(service);
        (found.to_vec(), bytes)
    };
    let with = |precision| ServeParams { precision, ..ServeParams::default() };
    let (want, whole) = served("fp32", with(Precision::Fp32));
    let half = ServeParams { kv_precision: KvPrecision::Bf16, ..with(Precision::Bf16) };
    let packed = ServeParams { quantization: Quantization::Nf4, ..with(Precision::Bf16) };
    // the native kernels hold fp32 pages unless they are told otherwise; libtorch's way those of the weights' format
    for (phase, params, bound, page) in [
        ("bf16", with(Precision::Bf16), 0.05, whole),
        ("bf16-pages", half, 0.05, whole / 2),
        ("fp16", with(Precision::Fp16), 0.01, whole / 2),
        ("nf4", packed, 0.3, whole / 2),
    ] {
        let (got, bytes) = served(phase, params);
        assert_eq!(bytes, page, "{phase}");
        let off: Vec<f64> = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).collect();
        assert!(off.iter().all(|d| *d < bound) && off.iter().any(|d| *d > 0.0), "{phase}: {off:?}");
    }
}

#[test]
fn a_limit_of_keys_and_values_that_no_answer_fits_is_refused_at_the_start_and_a_long_request_when_it_comes() {
    let runs = Runs::new();
    runs.random_model(&runs.corpus());
    // one layer, one key head of 32: keys and values of 16 tokens in fp32
    let page = 2 * 32 * 16 * 4;
    let with = |kv_bytes| ServeParams { kv_bytes, max_new_tokens: 47, ..ServeParams::default() };
    // an answer of 47 tokens behind a prompt of one are three pages
    for (phase, kv_bytes) in [("none", page - 1), ("two", 3 * page - 1)] {
        let task = task(&runs, phase, with(kv_bytes));
        assert_eq!(run(&task, &[]), record::exit::USER_ERROR);
        let said = outcome(&task).message;
        assert!(said.contains(&format!("kv_bytes {kv_bytes} holds {} pages", kv_bytes / page)), "{said}");
        assert!(said.contains(&format!("set kv_bytes to {}", 3 * page)), "{said}");
    }
    let (service, endpoint) = up(&runs, "three", with(3 * page));
    let (status, body) = complete(&endpoint, "a", 40);
    assert_eq!(status, 200, "{body}");
    let (status, body) = complete(&endpoint, &"Print the sum of two integers. ".repeat(4), 40);
    let said = body["error"]["message"].as_str().unwrap();
    assert_eq!((status, body["error"]["param"].as_str()), (400, Some("max_tokens")), "{body}");
    assert!(said.contains("kv_bytes is") && said.contains("or raise kv_bytes"), "{said}");
    leave(service);
}

#[test]
fn an_evaluation_loads_what_its_precision_says_and_its_batch_changes_no_answer() {
    let runs = Runs::new();
    runs.random_model(&runs.corpus());
    let measured = |phase: &str, params: EvalParams| -> Vec<Value> {
        let task = runs.task(phase, 1, Params::Eval(params), |spec| {
            spec.inputs = BTreeMap::from([
                ("model".into(), vec![runs.input("base")]),
                ("corpus".into(), vec![runs.input("corpus")]),
            ]);
        });
        assert_eq!(run(&task, &[]), 0, "{}", outcome(&task).message);
        common::lines(&task.with_file_name(record::layout::OUT).join("samples.jsonl"))
    };
    let params =
        EvalParams { samples: 2, limit: 4, max_new_tokens: 24, bootstrap: 50, ..EvalParams::default() };
    let whole = measured("whole", params.clone());
    assert_eq!(whole.len(), 8);
    assert_eq!(whole, measured("narrow", EvalParams { max_batch: 3, ..params.clone() }));
    let half = measured("half", EvalParams { precision: Precision::Bf16, ..params });
    assert_eq!(half.len(), 8);
    // the same streams of random numbers over rounded weights: some answers part ways
    assert!(half != whole);
}

#[test]
fn under_a_limit_of_keys_and_values_answers_wait_and_stay_the_same_and_less_than_one_is_refused() {
    let runs = Runs::new();
    runs.random_model(&runs.corpus());
    let task = |phase: &str, work: Params| {
        runs.task(phase, 1, work, |spec| {
            spec.inputs = BTreeMap::from([
                ("model".into(), vec![runs.input("base")]),
                ("corpus".into(), vec![runs.input("corpus")]),
            ]);
        })
    };
    let eval = |kv_bytes| {
        Params::Eval(EvalParams {
            samples: 2,
            limit: 4,
            max_new_tokens: 24,
            bootstrap: 50,
            kv_bytes,
            ..EvalParams::default()
        })
    };
    let measured = |phase: &str, kv_bytes| {
        let task = task(phase, eval(kv_bytes));
        assert_eq!(run(&task, &[]), 0, "{}", outcome(&task).message);
        common::lines(&task.with_file_name(record::layout::OUT).join("samples.jsonl"))
    };
    let refused = |phase: &str, work: Params| -> u64 {
        let task = task(phase, work);
        assert_eq!(run(&task, &[]), record::exit::USER_ERROR, "{}", outcome(&task).message);
        let said = outcome(&task).message;
        let least = said.split("set kv_bytes to ").nth(1).and_then(|s| s.split(' ').next());
        least.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{said}"))
    };
    let free = measured("free", 0);
    let least = refused("cramped", eval(1));
    // room for the longest alone: one answer after the other
    assert_eq!(free, measured("narrow", least));
    assert_eq!(refused("less", eval(least - 1)), least);
    let rl = |kv_bytes| {
        Params::Rl(RlParams {
            episodes: 1,
            prompts: 2,
            rollouts: 2,
            minibatch: 4,
            max_new_tokens: 12,
            validate_every: 0,
            kv_bytes,
            ..RlParams::default()
        })
    };
    let least = refused("rl-cramped", rl(1));
    let learning = task("rl", rl(least));
    assert_eq!(run(&learning, &[]), 0, "{}", outcome(&learning).message);
}
