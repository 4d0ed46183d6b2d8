//! Fine-tuning a model and rows that no phase made: found offline, read from a foreign format, errors with their place.

mod common;

use common::Runs;
use record::params::{Columns, SftParams};
use record::{Params, Source};
use std::path::{Path, PathBuf};

/// A tiny random model in Hugging Face's layout.
fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/golden/llama-gqa")
}

fn source(identity: &str, path: PathBuf) -> Vec<Source> {
    vec![Source { reference: identity.into(), identity: identity.into(), path }]
}

/// Runs one attempt of `sft`; exit code, last words, attempt directory.
fn sft(runs: &Runs, model: Vec<Source>, rows: PathBuf, columns: Option<Columns>) -> (i32, String, PathBuf) {
    let work = Params::Sft(SftParams { columns, max_steps: 1, max_tokens: 64, ..SftParams::default() });
    let task = runs.task("sft", 1, work, |spec| {
        spec.sources = [("model".into(), model), ("data".into(), source("sha256:0", rows))].into();
        spec.resources.cpus = 1;
    });
    let code = common::run_with(&task, &[("HF_HUB_CACHE", &runs.path().join("empty-cache"))]);
    (code, common::outcome(&task).message, task.parent().unwrap().to_owned())
}

fn columns() -> Option<Columns> {
    Some(Columns { prompt: Some("question".into()), completion: Some("answer".into()), messages: None })
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[test]
fn a_model_of_the_cache_is_trained_on_columns_of_a_csv_file() {
    let runs = Runs::new();
    let rows = runs.path().join("rows.csv");
    std::fs::write(&rows, "id,question,answer\n1,\"a, b\",c d\n2,e,f\n").unwrap();
    let at = source(&format!("hf://org/tiny@{COMMIT}"), model());
    let (code, words, dir) = sft(&runs, at, rows, columns());
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
    let runs = Runs::new();
    let rows = runs.path().join("rows.csv");
    std::fs::write(&rows, "id,question,reply\n1,a,b\n").unwrap();
    let at = source(&format!("hf://org/tiny@{COMMIT}"), model());
    let (code, words, _) = sft(&runs, at, rows, columns());
    assert_eq!(code, record::exit::USER_ERROR, "{words}");
    assert!(
        words.contains("rows.csv:2: there is no column `answer`; there are: id, question, reply"),
        "{words}"
    );
}

#[test]
fn a_model_that_is_not_on_this_node_is_upstream_missing_with_what_to_type() {
    let runs = Runs::new();
    let rows = runs.path().join("rows.jsonl");
    std::fs::write(&rows, "{\"prompt\": \"a\", \"completion\": \"b\"}\n").unwrap();
    let at = source(&format!("hf://org/tiny@{COMMIT}"), runs.path().join("nowhere"));
    let (code, words, _) = sft(&runs, at, rows, None);
    assert_eq!(code, record::exit::UPSTREAM_MISSING, "{words}");
    assert!(
        words.contains(&format!("bessemer fetch 'hf://org/tiny@{COMMIT}'")) && words.contains("HF_HUB_CACHE"),
        "{words}"
    );
}
