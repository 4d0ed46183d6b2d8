//! The kinds that train, driven through the built worker as the supervisor drives it: a chain that was cut at every stage
//! ends with the same bytes as the uncut one.

mod common;

use common::Runs;
use record::params::{BaseParams, CorpusParams, LoraParams, RlParams, SftParams};
use record::{Outcome, Params, Resources, Status, atomic, layout};
use std::path::{Path, PathBuf};

/// Runs one attempt; publishes its outputs when it ends with 0. Gives the exit code and the attempt's directory.
fn attempt(
    runs: &Runs,
    (phase, n): (&str, u32),
    work: &Params,
    inputs: &[(&str, &str)],
    extra: &[&str],
) -> (i32, PathBuf) {
    let task = runs.task(phase, n, work.clone(), |spec| {
        spec.inputs = inputs.iter().map(|(role, p)| ((*role).to_owned(), vec![runs.input(p)])).collect();
        spec.resources = Resources { cpus: 1, gpus: 0, memory_mb: 2000, walltime_s: 600 };
    });
    let code = common::run(&task, extra);
    if code == 0 {
        runs.publish(phase, n);
    }
    (code, task.parent().unwrap().to_owned())
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
    let (whole, cut) = (Runs::new(), Runs::new());
    for runs in [&whole, &cut] {
        assert_eq!(attempt(runs, ("corpus", 1), &corpus(), &[], &[]).0, 0);
    }
    for (phase, work, inputs) in chain() {
        let (code, want) = attempt(&whole, (phase, 1), &work, &inputs, &[]);
        assert_eq!(code, 0, "{}", outcome(&want).message);
        for n in 1..=2 {
            let (code, dir) = attempt(&cut, (phase, n), &work, &inputs, &["--stop-after", "1"]);
            assert_eq!(code, record::exit::CHECKPOINTED, "{}", outcome(&dir).message);
            assert_eq!(outcome(&dir).status, Status::Checkpointed);
            assert!(dir.join(layout::CKPT).join(format!("step-{n}")).is_dir());
        }
        let (code, got) = attempt(&cut, (phase, 3), &work, &inputs, &[]);
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
    let runs = Runs::new();
    let [(_, base, inputs), (_, sft, _), _] = chain();
    let (code, dir) = attempt(&runs, ("base", 1), &base, &inputs, &[]);
    assert_eq!(code, record::exit::UPSTREAM_MISSING);
    assert!(outcome(&dir).message.contains("result.json"), "{}", outcome(&dir).message);
    let (code, dir) = attempt(&runs, ("sft", 1), &sft, &[], &[]);
    assert_eq!(code, record::exit::USER_ERROR);
    assert!(outcome(&dir).message.contains("inputs: {model: PHASE}"), "{}", outcome(&dir).message);
    let bad = Params::Base(BaseParams { vocab_size: 10, ..BaseParams::default() });
    assert_eq!(attempt(&runs, ("corpus", 1), &corpus(), &[], &[]).0, 0);
    let (code, dir) = attempt(&runs, ("bad", 1), &bad, &inputs, &[]);
    assert_eq!(code, record::exit::USER_ERROR);
    assert!(outcome(&dir).message.contains("vocab_size 10"), "{}", outcome(&dir).message);
}

#[test]
fn conversations_train_with_held_out_rows_and_curves_for_tensorboard() {
    let runs = Runs::new();
    assert_eq!(attempt(&runs, ("corpus", 1), &corpus(), &[], &[]).0, 0);
    let [(_, base, inputs), ..] = chain();
    assert_eq!(attempt(&runs, ("base", 1), &base, &inputs, &[]).0, 0);
    // rows of the user's, as a command would leave them
    let data = layout::attempt_dir(&runs.task_dir("talks"), 1).join(layout::OUT).join("data.jsonl");
    std::fs::create_dir_all(data.parent().unwrap()).unwrap();
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
    std::fs::write(&data, rows.join("\n")).unwrap();
    runs.publish("talks", 1);
    let sft = Params::Sft(SftParams {
        schedule: record::params::Schedule::Rex,
        validation: 0.2,
        evaluate_every: 1,
        epochs: 2,
        ..SftParams::default()
    });
    let inputs = [("model", "base"), ("data", "talks")];
    let (code, dir) = attempt(&runs, ("sft", 1), &sft, &inputs, &[]);
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
    std::fs::write(&data, "{\"text\": 1}\n").unwrap();
    runs.publish("talks", 1);
    let (code, dir) = attempt(&runs, ("sft", 2), &sft, &inputs, &[]);
    assert_eq!(code, record::exit::USER_ERROR, "{}", outcome(&dir).message);
    assert!(outcome(&dir).message.contains("data.jsonl:1: neither `messages` nor `prompt`"));
}
