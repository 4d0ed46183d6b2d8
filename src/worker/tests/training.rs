//! The kinds that train, driven through the built worker as the supervisor drives it: a chain that was cut at every stage
//! ends with the same bytes as the uncut one.

use record::params::{BaseParams, CorpusParams, LoraParams, RlParams, SftParams};
use record::{
    AttemptRecord, ContentKey, Input, Outcome, OutputFile, Params, Resources, ResultPointer, Status,
    TaskSpec, Token, Usage, atomic, layout,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn key(phase: &str) -> ContentKey {
    ContentKey::of(phase, &serde_json::Value::Null, &BTreeMap::new())
}

/// Runs one attempt; publishes its outputs when it ends with 0. Gives the exit code and the attempt's directory.
fn attempt(
    root: &Path,
    (phase, n): (&str, u32),
    work: &Params,
    inputs: &[(&str, &str)],
    extra: &[&str],
) -> (i32, PathBuf) {
    let task_dir = layout::task_dir(root, &key(phase));
    let dir = layout::attempt_dir(&task_dir, n);
    std::fs::create_dir_all(&dir).unwrap();
    let token = Token::new("n", phase, &key(phase), n);
    let input = |p: &str| Input { phase: p.into(), key: key(p), task_dir: layout::task_dir(root, &key(p)) };
    let spec = TaskSpec {
        format: record::FORMAT,
        sweep: "s".into(),
        phase: phase.into(),
        labels: BTreeMap::new(),
        key: key(phase),
        attempt: n,
        token: token.clone(),
        work: work.clone(),
        inputs: inputs.iter().map(|(role, p)| ((*role).to_owned(), vec![input(p)])).collect(),
        sources: BTreeMap::new(),
        services: BTreeMap::new(),
        consumers: vec![],
        resources: Resources { cpus: 1, gpus: 0, memory_mb: 2000, walltime_s: 600 },
        task_dir: task_dir.clone(),
        attempt_dir: dir.clone(),
        margin_s: 30,
    };
    let task = dir.join(layout::TASK);
    atomic::write_json(&task, &spec).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_bessemer-worker"))
        .arg("run")
        .arg(&task)
        .args(extra)
        .status()
        .unwrap();
    let code = status.code().unwrap();
    if code == 0 {
        publish(&task_dir, &dir, phase, n, token);
    }
    (code, dir)
}

fn publish(task_dir: &Path, dir: &Path, phase: &str, n: u32, token: Token) {
    let out = dir.join(layout::OUT);
    let file = |path: PathBuf| OutputFile {
        bytes: path.metadata().unwrap().len(),
        sha256: record::key::sha256_file(&path).unwrap(),
        path: path.strip_prefix(&out).unwrap().to_str().unwrap().to_owned(),
    };
    let mut outputs = Vec::new();
    let mut todo = vec![out.clone()];
    while let Some(d) = todo.pop() {
        for path in std::fs::read_dir(d).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() { todo.push(path) } else { outputs.push(file(path)) }
        }
    }
    let record = AttemptRecord {
        format: record::FORMAT,
        token: token.clone(),
        key: key(phase),
        attempt: n,
        status: Status::Ok,
        class: None,
        message: String::new(),
        exit_code: Some(0),
        signal: None,
        job_id: String::new(),
        restart: 0,
        host: "h".into(),
        gpus: vec![],
        started_ms: 0,
        ended_ms: 1,
        usage: Usage::default(),
        outputs,
        metrics: vec![],
        facts: BTreeMap::new(),
        checkpoint_step: None,
        program: "test".into(),
    };
    atomic::write_json(&dir.join(layout::RECORD), &record).unwrap();
    let sha = record::key::sha256_file(&dir.join(layout::RECORD)).unwrap();
    let pointer =
        ResultPointer { format: record::FORMAT, key: key(phase), attempt: n, token, record_sha256: sha };
    atomic::write_json(&task_dir.join(layout::RESULT), &pointer).unwrap();
}

fn outcome(dir: &Path) -> Outcome {
    atomic::read_json(&dir.join(layout::OUTCOME)).unwrap().unwrap()
}

fn corpus() -> Params {
    Params::Corpus(CorpusParams { train: 13, validation: 6, held_out: 12, ..CorpusParams::default() })
}

/// Phase, its work, and its inputs as (role, phase).
type Stage = (&'static str, Params, Vec<(&'static str, &'static str)>);

fn chain() -> [Stage; 3] {
    let base = BaseParams {
        hidden: 32,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        intermediate: 64,
        steps: 6,
        batch: 4,
        checkpoint_every: 2,
        ..BaseParams::default()
    };
    let lora = LoraParams { r: 2, alpha: 4.0, dropout: 0.1, ..LoraParams::default() };
    let sft =
        SftParams { lora: Some(lora), epochs: 0, max_steps: 5, learning_rate: 1e-2, ..SftParams::default() };
    let rl = RlParams {
        episodes: 3,
        prompts: 2,
        rollouts: 2,
        minibatch: 3,
        max_new_tokens: 12,
        validate_every: 2,
        ..RlParams::default()
    };
    [
        ("base", Params::Base(base), vec![("corpus", "corpus")]),
        ("sft", Params::Sft(sft), vec![("model", "base"), ("data", "corpus")]),
        ("rl", Params::Rl(rl), vec![("model", "sft"), ("corpus", "corpus")]),
    ]
}

#[test]
fn a_chain_cut_at_every_stage_ends_with_the_bytes_of_the_uncut_one() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for root in [whole.path(), cut.path()] {
        assert_eq!(attempt(root, ("corpus", 1), &corpus(), &[], &[]).0, 0);
    }
    for (phase, work, inputs) in chain() {
        let (code, want) = attempt(whole.path(), (phase, 1), &work, &inputs, &[]);
        assert_eq!(code, 0, "{}", outcome(&want).message);
        for n in 1..=2 {
            let (code, dir) = attempt(cut.path(), (phase, n), &work, &inputs, &["--stop-after", "1"]);
            assert_eq!(code, record::exit::CHECKPOINTED, "{}", outcome(&dir).message);
            assert_eq!(outcome(&dir).status, Status::Checkpointed);
            assert!(dir.join(layout::CKPT).join(format!("step-{n}")).is_dir());
        }
        let (code, got) = attempt(cut.path(), (phase, 3), &work, &inputs, &[]);
        assert_eq!(code, 0, "{}", outcome(&got).message);
        let mut files = vec!["model.safetensors", "config.json", "tokenizer.json"];
        if phase != "base" {
            files.push("adapter/adapter_model.safetensors");
        }
        for file in files {
            let read = |dir: &Path| std::fs::read(dir.join(layout::OUT).join(file)).unwrap();
            assert!(read(&want) == read(&got), "{phase}: {file} differs");
        }
        assert_eq!(outcome(&want).facts, outcome(&got).facts, "{phase}");
    }
}

#[test]
fn wrong_inputs_have_the_exit_code_and_the_words_for_it() {
    let root = tempfile::tempdir().unwrap();
    let [(_, base, inputs), (_, sft, _), _] = chain();
    let (code, dir) = attempt(root.path(), ("base", 1), &base, &inputs, &[]);
    assert_eq!(code, record::exit::UPSTREAM_MISSING);
    assert!(outcome(&dir).message.contains("result.json"), "{}", outcome(&dir).message);
    let (code, dir) = attempt(root.path(), ("sft", 1), &sft, &[], &[]);
    assert_eq!(code, record::exit::USER_ERROR);
    assert!(outcome(&dir).message.contains("inputs: {model: PHASE}"), "{}", outcome(&dir).message);
    let bad = Params::Base(BaseParams { vocab_size: 10, ..BaseParams::default() });
    assert_eq!(attempt(root.path(), ("corpus", 1), &corpus(), &[], &[]).0, 0);
    let (code, dir) = attempt(root.path(), ("bad", 1), &bad, &inputs, &[]);
    assert_eq!(code, record::exit::USER_ERROR);
    assert!(outcome(&dir).message.contains("vocab_size 10"), "{}", outcome(&dir).message);
}

#[test]
fn conversations_train_with_held_out_rows_and_curves_for_tensorboard() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(attempt(root.path(), ("corpus", 1), &corpus(), &[], &[]).0, 0);
    let [(_, base, inputs), ..] = chain();
    assert_eq!(attempt(root.path(), ("base", 1), &base, &inputs, &[]).0, 0);
    // rows of the user's, as a command would leave them
    let task_dir = layout::task_dir(root.path(), &key("talks"));
    let dir = layout::attempt_dir(&task_dir, 1);
    std::fs::create_dir_all(dir.join(layout::OUT)).unwrap();
    let row = |i: usize| {
        serde_json::json!({"messages": [
            {"role": "user", "content": format!("print {i}")},
            {"role": "assistant", "content": "what?", "train": false},
            {"role": "user", "content": "the number"},
            {"role": "assistant", "content": format!("print({i})")},
        ]})
        .to_string()
    };
    let rows: Vec<String> = (0..20).map(row).collect();
    std::fs::write(dir.join(layout::OUT).join("data.jsonl"), rows.join("\n")).unwrap();
    publish(&task_dir, &dir, "talks", 1, Token::new("n", "talks", &key("talks"), 1));
    let sft = Params::Sft(SftParams {
        schedule: record::params::Schedule::Rex,
        validation: 0.2,
        evaluate_every: 1,
        epochs: 2,
        ..SftParams::default()
    });
    let inputs = [("model", "base"), ("data", "talks")];
    let (code, dir) = attempt(root.path(), ("sft", 1), &sft, &inputs, &[]);
    let facts = outcome(&dir).facts;
    assert_eq!(code, 0, "{}", outcome(&dir).message);
    assert_eq!(
        (&facts["rows"], &facts["validation_rows"], &facts["steps"]),
        (&16.into(), &4.into(), &2.into())
    );
    assert!(facts["validation_loss"].as_f64().is_some_and(|l| l > 0.0), "{facts:?}");
    let curves: Vec<_> =
        std::fs::read_dir(dir.join("tensorboard")).unwrap().map(|e| e.unwrap().path()).collect();
    let bytes = std::fs::read(&curves[0]).unwrap();
    let has = |tag: &str| bytes.windows(tag.len()).any(|w| w == tag.as_bytes());
    assert!(curves.len() == 1 && has("brain.Event:2") && has("validation_loss") && has("grad_norm"));
    // a row that is wrong is named by file and line, and is the user's to mend
    std::fs::write(layout::attempt_dir(&task_dir, 1).join(layout::OUT).join("data.jsonl"), "{\"text\": 1}\n")
        .unwrap();
    publish(
        &task_dir,
        &layout::attempt_dir(&task_dir, 1),
        "talks",
        1,
        Token::new("n", "talks", &key("talks"), 1),
    );
    let (code, dir) = attempt(root.path(), ("sft", 2), &sft, &inputs, &[]);
    assert_eq!(code, record::exit::USER_ERROR, "{}", outcome(&dir).message);
    assert!(outcome(&dir).message.contains("data.jsonl:1: neither `messages` nor `prompt`"));
}
