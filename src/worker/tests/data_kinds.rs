//! The kinds that make, draw and measure data, driven through the built worker as the supervisor drives it.

mod common;

use common::{Runs, lines, outcome, run, worker};
use record::params::{CorpusParams, EvalParams, Keep, SampleParams, ServeParams};
use record::{Params, TaskSpec, atomic, layout};
use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn a_corpus_is_made_checked_and_whole() {
    let runs = Runs::new();
    let out = runs.corpus();
    let set = corpus::Set::read(&out).unwrap();
    assert_eq!((set.train.len(), set.validation.len(), set.held_out.len()), (13, 6, 12));
    let task = runs.task_dir("corpus").join("attempt-1").join(layout::TASK);
    assert!(outcome(&task).message.contains("found as labelled"));
}

#[test]
fn a_corpus_that_cannot_exist_is_the_users_error() {
    let runs = Runs::new();
    let params = CorpusParams { validation: 1_000_000, ..Default::default() };
    let task = runs.task("corpus", 1, Params::Corpus(params), |_| {});
    assert_eq!(run(&task, &[]), record::exit::USER_ERROR);
    assert!(outcome(&task).message.contains("validation"));
}

#[test]
fn an_evaluation_that_was_cut_ends_like_the_uncut_one() {
    let runs = Runs::new();
    runs.random_model(&runs.corpus());
    let params = EvalParams { samples: 16, max_new_tokens: 12, bootstrap: 100, ..EvalParams::default() };
    let with_inputs = |spec: &mut TaskSpec| {
        spec.inputs = BTreeMap::from([
            ("model".into(), vec![runs.input("base")]),
            ("corpus".into(), vec![runs.input("corpus")]),
        ]);
    };
    let whole = runs.task("eval-whole", 1, Params::Eval(params.clone()), with_inputs);
    assert_eq!(run(&whole, &[]), 0);
    let first = runs.task("eval-cut", 1, Params::Eval(params.clone()), with_inputs);
    assert_eq!(run(&first, &["--stop-after", "5"]), record::exit::CHECKPOINTED);
    assert!(outcome(&first).message.contains("of 12 problems"), "{}", outcome(&first).message);
    let second = runs.task("eval-cut", 2, Params::Eval(params), with_inputs);
    assert_eq!(run(&second, &[]), 0);
    for file in ["samples.jsonl", layout::SCORES] {
        let strip = |task: &Path| {
            let mut rows = lines(&task.with_file_name(layout::OUT).join(file));
            for row in &mut rows {
                // how long judging took is not part of the result
                if let Some(judged) = row.get_mut("judged") {
                    judged["ms"] = 0.into();
                }
            }
            rows
        };
        assert_eq!(strip(&whole), strip(&second), "{file}");
    }
    assert_eq!(outcome(&whole).metrics, outcome(&second).metrics);
    let rows = lines(&whole.with_file_name(layout::OUT).join("samples.jsonl"));
    assert_eq!(rows.len(), 12 * 16);
    let groups: std::collections::BTreeSet<_> = rows.iter().map(|r| r["group"].to_string()).collect();
    assert_eq!(groups.len(), 2, "{groups:?}");
    assert!(outcome(&whole).metrics.iter().any(|m| m.metric == "partial_credit_new_family"));
}

#[test]
fn sampling_goes_through_a_served_model_and_the_server_leaves_afterwards() {
    let runs = Runs::new();
    runs.random_model(&runs.corpus());
    let server = runs.task("judge", 1, Params::Serve(ServeParams::default()), |spec| {
        spec.inputs = BTreeMap::from([("model".into(), vec![runs.input("base")])]);
        spec.consumers = vec![runs.task_dir("sample")];
    });
    let params = SampleParams { n: 3, keep: Keep::All, max_new_tokens: 10, ..SampleParams::default() };
    let with_inputs = |spec: &mut TaskSpec| {
        spec.inputs = BTreeMap::from([("corpus".into(), vec![runs.input("corpus")])]);
        spec.services = BTreeMap::from([("generator".into(), runs.input("judge"))]);
    };
    let sample = runs.task("sample", 1, Params::Sample(params.clone()), with_inputs);
    // the consumer may start first: it waits for the lease
    let mut consumer = worker(&sample, &["--stop-after", "4"]);
    let mut service = worker(&server, &[]);
    assert_eq!(consumer.wait().unwrap().code(), Some(record::exit::CHECKPOINTED));
    let again = runs.task("sample", 2, Params::Sample(params), with_inputs);
    assert_eq!(run(&again, &[]), 0, "{}", outcome(&again).message);
    let out = again.with_file_name(layout::OUT);
    let candidates = lines(&out.join("candidates.jsonl"));
    assert_eq!(candidates.len(), 13 * 3);
    let order: Vec<String> = candidates.iter().step_by(3).map(|c| c["problem"].to_string()).collect();
    let problems = corpus::files::read_problems(
        &layout::attempt_dir(&runs.task_dir("corpus"), 1).join(layout::OUT),
        record::params::Split::Train,
    )
    .unwrap();
    assert_eq!(order, problems.iter().map(|p| format!("{:?}", p.id)).collect::<Vec<_>>());
    assert!(!lines(&out.join("demonstrations.jsonl")).is_empty());
    // the last consumer's result lets the server go
    runs.publish("sample", 2);
    assert_eq!(service.wait().unwrap().code(), Some(0));
    assert!(outcome(&server).message.contains("every consumer is done"));
    let lease: record::service::ServiceLease =
        atomic::read_json(&runs.task_dir("judge").join(layout::SERVICE)).unwrap().unwrap();
    assert!(lease.draining);
}

#[test]
fn an_unverified_sample_is_an_error_that_says_what_to_change() {
    let runs = Runs::new();
    runs.random_model(&runs.corpus());
    let server = runs.task("judge", 1, Params::Serve(ServeParams::default()), |spec| {
        spec.inputs = BTreeMap::from([("model".into(), vec![runs.input("base")])]);
        spec.consumers = vec![runs.task_dir("nobody")];
    });
    let mut service = worker(&server, &[]);
    let params = SampleParams { n: 1, max_new_tokens: 8, limit: 3, ..SampleParams::default() };
    let sample = runs.task("sample", 1, Params::Sample(params), |spec| {
        spec.inputs = BTreeMap::from([("corpus".into(), vec![runs.input("corpus")])]);
        spec.services = BTreeMap::from([("generator".into(), runs.input("judge"))]);
    });
    assert_eq!(run(&sample, &[]), record::exit::USER_ERROR);
    assert!(outcome(&sample).message.contains("keep: verified"), "{}", outcome(&sample).message);
    // told to stop, the server leaves with "to be continued": somebody may still need it
    let pid = i32::try_from(service.id()).unwrap();
    // SAFETY: a signal to a child of ours that has not been waited for.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    assert_eq!(service.wait().unwrap().code(), Some(record::exit::CHECKPOINTED));
}
