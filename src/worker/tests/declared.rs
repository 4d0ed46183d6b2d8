//! A declared reward in the kinds that take one, driven through the built worker: every oracle's word is in the ledger, what
//! nobody could judge is no reward, and a judge that is away is asked later.

mod common;

use common::{Runs, lines, outcome, run, worker};
use oracle::analyzer::bandit::Bandit;
use record::params::{EvalParams, RlParams, ServeParams};
use record::{Params, TaskSpec, layout};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

fn rl(reward: Value) -> Params {
    Params::Rl(RlParams {
        reward: serde_json::from_value(reward).unwrap(),
        episodes: 1,
        prompts: 2,
        rollouts: 2,
        minibatch: 4,
        max_new_tokens: 12,
        validate_every: 0,
        ..RlParams::default()
    })
}

fn eval(reward: Value) -> Params {
    Params::Eval(EvalParams {
        reward: serde_json::from_value(reward).unwrap(),
        samples: 2,
        limit: 3,
        max_new_tokens: 12,
        bootstrap: 50,
        ..EvalParams::default()
    })
}

fn prepared() -> Runs {
    let runs = Runs::new();
    runs.random_model(&runs.corpus());
    runs
}

fn inputs(runs: &Runs) -> impl Fn(&mut TaskSpec) {
    let of = |role: &str, phase: &str| (role.to_owned(), vec![runs.input(phase)]);
    let inputs = BTreeMap::from([of("model", "base"), of("corpus", "corpus")]);
    move |spec| spec.inputs = inputs.clone()
}

fn out(task: &Path) -> PathBuf {
    task.with_file_name(layout::OUT)
}

/// Scores of a row's oracles by name.
fn scores(row: &Value) -> BTreeMap<String, Option<f64>> {
    let oracles = row["oracles"].as_array().unwrap().iter();
    oracles.map(|o| (o["oracle"].as_str().unwrap().to_owned(), o["score"].as_f64())).collect()
}

fn assert_weighted(rows: &[Value], a: (&str, f64), b: (&str, f64)) {
    for row in rows {
        let by = scores(row);
        assert_eq!(by.keys().map(String::as_str).collect::<Vec<_>>(), [a.0, b.0], "{row}");
        let (Some(x), Some(y)) = (by[a.0], by[b.0]) else {
            panic!("somebody could not judge: {row}");
        };
        let reward = row["reward"].as_f64().unwrap();
        assert!((reward - (a.1 * x + b.1 * y)).abs() < 1e-9, "{row}");
    }
}

#[test]
fn a_declared_reward_trains_and_every_oracle_is_in_the_ledger() {
    let runs = prepared();
    let reward = json!({
        "oracles": {"credit": {"oracle": "partial-credit"}, "layout": {"oracle": "format"}},
        "combine": "0.75*credit+0.25*layout",
    });
    let task = runs.task("rl", 1, rl(reward), inputs(&runs));
    assert_eq!(run(&task, &[]), 0, "{}", outcome(&task).message);
    let rows = lines(&out(&task).join("rewards.jsonl"));
    assert_eq!(rows.len(), 4);
    assert_weighted(&rows, ("credit", 0.75), ("layout", 0.25));
    assert!(rows.iter().all(|r| r["oracles"][1]["reason"].as_str().is_some_and(|w| !w.is_empty())));
    assert!(out(&task).join("model.safetensors").exists());
}

#[test]
fn an_answer_that_fails_a_gate_earns_nothing_and_is_not_asked_about_further() {
    let runs = prepared();
    let reward = json!({
        "oracles": {"tests": {"oracle": "binary"}, "layout": {"oracle": "format"}},
        "combine": "tests",
        "gates": ["layout"],
    });
    let task = runs.task("rl", 1, rl(reward), inputs(&runs));
    assert_eq!(run(&task, &[]), 0, "{}", outcome(&task).message);
    for row in lines(&out(&task).join("rewards.jsonl")) {
        // a random model writes no sections
        assert_eq!(scores(&row), BTreeMap::from([("layout".to_owned(), Some(0.0))]), "{row}");
        assert_eq!(row["reward"], json!(0.0));
    }
}

#[test]
fn an_evaluation_reports_the_declared_reward_beside_the_tests() {
    let runs = prepared();
    let reward = json!({
        "oracles": {"tests": {"oracle": "binary"}, "layout": {"oracle": "format"}},
        "combine": "min(tests,layout)",
    });
    let task = runs.task("eval", 1, eval(reward), inputs(&runs));
    assert_eq!(run(&task, &[]), 0, "{}", outcome(&task).message);
    let metrics = outcome(&task).metrics;
    let reward = metrics.iter().find(|m| m.metric == "reward").expect("the metric is there");
    assert_eq!((reward.value, reward.n, reward.unscored), (Some(0.0), 6, 0));
    assert!(metrics.iter().any(|m| m.metric == "partial_credit"));
    assert!(outcome(&task).message.contains("reward 0.000"), "{}", outcome(&task).message);
    for row in lines(&out(&task).join("samples.jsonl")) {
        assert_eq!(scores(&row).len(), 2, "{row}");
        assert_eq!(row["reward"]["score"], json!(0.0));
    }
}

#[test]
fn bandit_rewards_reinforcement_learning() {
    let python = Bandit::default_python(Path::new(env!("CARGO_MANIFEST_DIR")));
    if !python.exists() {
        eprintln!("skipped: no Bandit at {}; `scripts/bandit.sh` makes it", python.display());
        return;
    }
    let runs = prepared();
    let reward = json!({
        "oracles": {"credit": {"oracle": "partial-credit"}, "security": {"oracle": "analyzer", "tool": "bandit"}},
        "combine": "0.6*credit+0.4*security",
    });
    let task = runs.task("rl", 1, rl(reward), inputs(&runs));
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_bessemer-worker"))
        .arg("run")
        .arg(&task)
        .env("BESSEMER_BANDIT_PYTHON", python)
        .status()
        .unwrap();
    assert!(status.success(), "{}", outcome(&task).message);
    let rows = lines(&out(&task).join("rewards.jsonl"));
    assert_eq!(rows.len(), 4);
    assert_weighted(&rows, ("credit", 0.6), ("security", 0.4));
}

#[test]
fn a_service_that_babbles_judges_nothing_and_ends_the_task() {
    let runs = prepared();
    let server = runs.task("judge", 1, Params::Serve(ServeParams::default()), |spec| {
        spec.inputs = BTreeMap::from([("model".into(), vec![runs.input("base")])]);
        spec.consumers = vec![runs.task_dir("rl"), runs.task_dir("eval")];
    });
    let reward = json!({
        "oracles": {"tests": {"oracle": "partial-credit"},
                    "judge": {"oracle": "judge", "rubric": "malice", "max_tokens": 8, "tries": 1}},
        "combine": "0.5*tests+0.5*judge",
    });
    let judged = |spec: &mut TaskSpec| {
        inputs(&runs)(spec);
        spec.services = BTreeMap::from([("judge".into(), runs.input("judge"))]);
    };
    // its prompts are long: few answers
    let (mut few, mut one) = (rl(reward.clone()), eval(reward));
    if let (Params::Rl(few), Params::Eval(one)) = (&mut few, &mut one) {
        few.prompts = 1;
        (one.samples, one.limit) = (1, 1);
    }
    let learner = runs.task("rl", 1, few, judged);
    let mut waiting = worker(&learner, &[]);
    let mut service = worker(&server, &[]);
    // no reward at all: nothing to learn from
    assert_eq!(waiting.wait().unwrap().code(), Some(record::exit::FAILED));
    let words = outcome(&learner).message;
    assert_eq!(words.matches("2 of 2 answers could not be judged").count(), 1, "{words}");
    assert!(words.contains("judge: 1 answers of the judge could not be read, the last: "), "{words}");
    for row in lines(&out(&learner).join("rewards.jsonl")) {
        assert_eq!(row["reward"], Value::Null);
        let by = scores(&row);
        assert!(by["tests"].is_some() && by["judge"].is_none(), "{row}");
    }
    // the tests are measured nevertheless, and the reward is missing, not 0
    let measured = runs.task("eval", 1, one, judged);
    assert_eq!(run(&measured, &[]), 0, "{}", outcome(&measured).message);
    let metrics = outcome(&measured).metrics;
    let reward = metrics.iter().find(|m| m.metric == "reward").unwrap();
    assert_eq!((reward.value, reward.n, reward.unscored), (None, 0, 1));
    assert!(outcome(&measured).message.contains("no reward, unscored 1: "), "{}", outcome(&measured).message);
    let pid = i32::try_from(service.id()).unwrap();
    // SAFETY: a signal to a child of ours that has not been waited for.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    service.wait().unwrap();
}

#[test]
fn a_judge_that_is_away_is_asked_later_and_waiting_for_one_ends_when_told() {
    let runs = prepared();
    // a server that knows no such model
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream
                .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}");
        }
    });
    let reward = |judge: Value| json!({"oracles": {"judge": judge}, "combine": "judge"});
    let away = reward(json!({"oracle": "judge", "rubric": "malice", "url": url, "model": "m"}));
    for (phase, work) in [("rl", rl(away.clone())), ("eval", eval(away))] {
        let task = runs.task(phase, 1, work, inputs(&runs));
        assert_eq!(run(&task, &[]), record::exit::TRY_AGAIN, "{phase}: {}", outcome(&task).message);
        assert!(outcome(&task).message.contains("oracle judge: "), "{}", outcome(&task).message);
    }
    // nobody ever starts this service; the deadline comes before its patience ends
    let never = reward(json!({"oracle": "judge", "rubric": "malice"}));
    let task = runs.task("eval", 2, eval(never), |spec| {
        inputs(&runs)(spec);
        spec.services = BTreeMap::from([("judge".into(), runs.input("judge"))]);
        (spec.resources.walltime_s, spec.margin_s) = (10, 5);
    });
    assert_eq!(run(&task, &[]), record::exit::CHECKPOINTED, "{}", outcome(&task).message);
    assert!(outcome(&task).message.contains("0 of 3 problems"), "{}", outcome(&task).message);
}
