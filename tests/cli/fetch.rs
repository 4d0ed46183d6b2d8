//! Fetching with the built program from a Hub on loopback, and what plan, run and jobs make of it without a network.

#[path = "../../src/hub/tests/server.rs"]
mod server;
mod util;

use serde_json::Value;
use server::{COMMIT, Server};
use std::process::Command;
use util::{Done, Place};

const JOB: &str = r#"
bessemer: 1
name: hubbed
matrix: {which: ["hf://org/tiny", "hf://datasets/org/rows@v1/data"]}
defaults: {resources: {cpus: 1, memory: 50MB, walltime: 5m}}
phases:
  look:
    kind: command
    inputs: {it: "${which}", mine: ./rows.jsonl}
    params: {argv: [sh, -c, "ls -R $BESSEMER_INPUT_IT/ > listing; cat $BESSEMER_INPUT_MINE > rows"], outputs: [listing]}
"#;

/// A place with the Hub's cache in it; `server` may be away.
fn command(place: &Place, server: Option<&Server>, args: &[&str]) -> Command {
    let mut c = place.command(args);
    let dead = "http://127.0.0.1:1".to_owned();
    c.env("HF_HUB_CACHE", place.dir.path().join("hub"));
    c.env("HF_ENDPOINT", server.map_or(dead, Server::endpoint));
    for name in ["HF_TOKEN", "HF_HOME", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"] {
        c.env_remove(name);
    }
    c
}

fn run(place: &Place, server: Option<&Server>, args: &[&str]) -> Done {
    Done::of(command(place, server, args).output().unwrap())
}

fn place() -> Place {
    let place = Place::new();
    place.write("job.yaml", JOB);
    place.write("rows.jsonl", "{\"a\": 1}\n");
    place.local_site(2);
    place
}

#[test]
fn a_job_is_fetched_pinned_planned_and_run_without_a_network() {
    let (place, server) = (place(), Server::start());
    // nothing is pinned yet: every reference is pointed at, with what to type
    let plan = ["plan", "job.yaml", "--site", "here.yaml", "--json"];
    run(&place, None, &plan)
        .code(65)
        .says("job.yaml:9:18: `hf://org/tiny` was not fetched")
        .says("bessemer fetch --job job.yaml");
    run(&place, Some(&server), &["fetch", "--job", "job.yaml"]).code(0).says(&COMMIT[..12]);
    let pins: Value = serde_json::from_str(&place.read("job.lock.json")).unwrap();
    assert_eq!(pins["sources"]["hf://org/tiny@main"]["commit"], COMMIT);
    let rows = pins["sources"]["hf://datasets/org/rows@v1/data"]["files"].as_object().unwrap();
    assert!(rows.contains_key("data/train.jsonl") && !rows.contains_key("extra.csv"), "{rows:?}");
    let done = run(&place, None, &plan).code(0);
    let doc: Value = serde_json::from_str(&done.out).unwrap();
    let tasks = doc["graph"]["tasks"].as_array().unwrap();
    assert_eq!(tasks[0]["sources"]["it"][0]["identity"], format!("hf://org/tiny@{COMMIT}"));
    run(&place, None, &["run", "job.yaml", "--site", "here.yaml", "--plain"]).code(0);
    for task in tasks {
        let out = place
            .dir
            .path()
            .join("runs/hubbed/tasks")
            .join(task["key"].as_str().unwrap())
            .join("attempt-1/out");
        assert_eq!(std::fs::read_to_string(out.join("rows")).unwrap(), "{\"a\": 1}\n");
        let listing = std::fs::read_to_string(out.join("listing")).unwrap();
        assert!(listing.contains("model.safetensors") || listing.contains("train.jsonl"), "{listing}");
    }
    // other rows are another task; the model is the same one
    place.write("rows.jsonl", "{\"a\": 2}\n");
    let changed: Value = serde_json::from_str(&run(&place, None, &plan).code(0).out).unwrap();
    assert!(changed["tasks"].as_array().unwrap().iter().all(|t| t["verdict"] == "run"), "{changed}");
}

#[test]
fn a_model_directory_of_the_users_stands_where_a_model_may_and_its_content_decides() {
    let place = Place::new();
    place.local_site(2);
    place.write(
        "job.yaml",
        "bessemer: 1\nname: own\ndefaults: {resources: {cpus: 1, memory: 1GB, walltime: 5m}}\nphases:\n  sft:\n    kind: \
         sft\n    inputs: {model: ./tiny, data: ./rows.jsonl}\n",
    );
    place.write("rows.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n");
    place.write("tiny/model.safetensors", "weights");
    let plan = ["plan", "job.yaml", "--site", "here.yaml", "--json"];
    run(&place, None, &plan)
        .code(65)
        .says("job.yaml:7:21: `./tiny` is no model")
        .says("config.json, tokenizer.json, *.safetensors");
    place.write(
        "tiny/config.json",
        r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 400, "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 1024}"#,
    );
    let seen = |place: &Place| {
        let doc: Value = serde_json::from_str(&run(place, None, &plan).code(0).out).unwrap();
        let task = &doc["graph"]["tasks"][0];
        (task["key"].clone(), task["sources"]["model"][0]["identity"].as_str().unwrap().to_owned())
    };
    let first = seen(&place);
    assert!(first.1.starts_with("sha256:"), "{first:?}");
    assert_eq!(seen(&place), first);
    place.write("tiny/model.safetensors", "others");
    let other = seen(&place);
    assert!(other.0 != first.0 && other.1 != first.1, "other weights are another task: {other:?}");
}

#[test]
fn what_is_missing_from_the_cache_is_named_with_what_to_type() {
    let (place, server) = (place(), Server::start());
    run(&place, Some(&server), &["fetch", "--job", "job.yaml"]).code(0);
    let snapshot = place.dir.path().join("hub/models--org--tiny/snapshots").join(COMMIT);
    std::fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    run(&place, None, &["plan", "job.yaml"])
        .code(65)
        .says("model.safetensors is missing")
        .says("bessemer fetch --job");
    run(&place, Some(&server), &["fetch", "--job", "job.yaml"]).code(0);
    run(&place, None, &["plan", "job.yaml", "--site", "here.yaml"]).code(0);
}

#[test]
fn mistakes_are_told_apart_by_exit_code_and_say_what_to_type() {
    let (place, server) = (place(), Server::start());
    run(&place, Some(&server), &["fetch"]).code(2).says("name what to fetch");
    run(&place, Some(&server), &["fetch", "org/nothing"]).code(65).says("there is no model");
    run(&place, Some(&server), &["fetch", "org/gated"]).code(65).says("accept the conditions");
    run(&place, Some(&server), &["fetch", "org/tiny", "--include", "*.nothing"]).code(65).says("--include");
    run(&place, Some(&server), &["fetch", "hf://org/tiny/x"]).code(2).says("--include");
    let offline =
        command(&place, Some(&server), &["fetch", "org/tiny"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    Done::of(offline).code(65).says("HF_HUB_OFFLINE");
    place.write("bad.yaml", &JOB.replace("hf://org/tiny", "hf://org/tiny@"));
    run(&place, Some(&server), &["fetch", "--job", "bad.yaml"])
        .code(65)
        .says("there is no revision after the @");
}

#[test]
fn a_repository_is_fetched_by_name_and_its_token_is_never_shown() {
    let (place, server) = (place(), Server::start());
    let mut c = command(&place, Some(&server), &["fetch", "org/private", "--json"]);
    let done = Done::of(c.env("HF_TOKEN", server::SECRET).output().unwrap()).code(0);
    let doc: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(doc["sources"][0]["commit"], COMMIT);
    assert!(std::path::Path::new(doc["sources"][0]["path"].as_str().unwrap()).join("config.json").is_file());
    let mut c = command(&place, Some(&server), &["-v", "fetch", "org/private"]);
    let done = Done::of(c.env("HF_TOKEN", "hf_wrong").output().unwrap()).code(65);
    assert!(!done.err.contains("hf_wrong") && !done.out.contains("hf_wrong"));
    run(&place, Some(&server), &["fetch", "--dataset", "org/rows", "--revision", "v1"]).code(0).says(COMMIT);
}
