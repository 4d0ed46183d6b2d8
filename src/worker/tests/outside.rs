//! Fine-tuning a model and rows that no phase made: found offline, read from a foreign format, errors with their place.

use record::params::{Columns, SftParams};
use record::{ContentKey, Params, Resources, Source, TaskSpec, Token, atomic, layout};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tiny random model in Hugging Face's layout.
fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/golden/llama-gqa")
}

fn source(identity: &str, path: PathBuf) -> Vec<Source> {
    vec![Source { reference: identity.into(), identity: identity.into(), path }]
}

/// Runs one attempt of `sft`; exit code, last words, attempt directory.
fn sft(root: &Path, model: Vec<Source>, rows: PathBuf, columns: Option<Columns>) -> (i32, String, PathBuf) {
    let work = Params::Sft(SftParams { columns, max_steps: 1, max_tokens: 64, ..SftParams::default() });
    let key = ContentKey::of("sft", &serde_json::Value::Null, &BTreeMap::new());
    let task_dir = layout::task_dir(root, &key);
    let dir = layout::attempt_dir(&task_dir, 1);
    std::fs::create_dir_all(&dir).unwrap();
    let spec = TaskSpec {
        format: record::FORMAT,
        sweep: "s".into(),
        phase: "sft".into(),
        labels: BTreeMap::new(),
        token: Token::new("n", "sft", &key, 1),
        key,
        attempt: 1,
        work,
        inputs: BTreeMap::new(),
        sources: BTreeMap::from([("model".into(), model), ("data".into(), source("sha256:0", rows))]),
        services: BTreeMap::new(),
        consumers: vec![],
        resources: Resources { cpus: 1, gpus: 0, memory_mb: 2000, walltime_s: 600 },
        task_dir,
        attempt_dir: dir.clone(),
        margin_s: 30,
    };
    let task = dir.join(layout::TASK);
    atomic::write_json(&task, &spec).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_bessemer-worker"))
        .arg("run")
        .arg(&task)
        .env("HF_HUB_CACHE", root.join("empty-cache"))
        .status()
        .unwrap();
    let outcome: record::Outcome = atomic::read_json(&dir.join(layout::OUTCOME)).unwrap().unwrap();
    (status.code().unwrap(), outcome.message, dir)
}

fn columns() -> Option<Columns> {
    Some(Columns { prompt: Some("question".into()), completion: Some("answer".into()), messages: None })
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[test]
fn a_model_of_the_cache_is_trained_on_columns_of_a_csv_file() {
    let root = tempfile::tempdir().unwrap();
    let rows = root.path().join("rows.csv");
    std::fs::write(&rows, "id,question,answer\n1,\"a, b\",c d\n2,e,f\n").unwrap();
    let at = source(&format!("hf://org/tiny@{COMMIT}"), model());
    let (code, words, dir) = sft(root.path(), at, rows, columns());
    assert_eq!(code, 0, "{words}");
    assert!(words.contains("2 rows"), "{words}");
    let seen = std::fs::read_to_string(dir.join("rows.jsonl")).unwrap();
    assert_eq!(
        seen,
        "{\"prompt\":\"a, b\",\"completion\":\"c d\"}\n{\"prompt\":\"e\",\"completion\":\"f\"}\n"
    );
    assert!(dir.join("out/model.safetensors").is_file());
}

#[test]
fn wrong_rows_are_the_users_mistake_with_file_line_and_columns() {
    let root = tempfile::tempdir().unwrap();
    let rows = root.path().join("rows.csv");
    std::fs::write(&rows, "id,question,reply\n1,a,b\n").unwrap();
    let at = source(&format!("hf://org/tiny@{COMMIT}"), model());
    let (code, words, _) = sft(root.path(), at, rows, columns());
    assert_eq!(code, record::exit::USER_ERROR, "{words}");
    assert!(
        words.contains("rows.csv:2: there is no column `answer`; there are: id, question, reply"),
        "{words}"
    );
}

#[test]
fn a_model_that_is_not_on_this_node_is_upstream_missing_with_what_to_type() {
    let root = tempfile::tempdir().unwrap();
    let rows = root.path().join("rows.jsonl");
    std::fs::write(&rows, "{\"prompt\": \"a\", \"completion\": \"b\"}\n").unwrap();
    let at = source(&format!("hf://org/tiny@{COMMIT}"), root.path().join("nowhere"));
    let (code, words, _) = sft(root.path(), at, rows, None);
    assert_eq!(code, record::exit::UPSTREAM_MISSING, "{words}");
    assert!(
        words.contains(&format!("bessemer fetch 'hf://org/tiny@{COMMIT}'")) && words.contains("HF_HUB_CACHE"),
        "{words}"
    );
}
