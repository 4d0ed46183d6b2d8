//! The kinds that make, draw and measure data, driven through the built worker as the supervisor drives it.

use model::{Config, Model, Tokenizer};
use record::params::{CorpusParams, EvalParams, Keep, SampleParams, ServeParams};
use record::{
    AttemptRecord, ContentKey, Input, Outcome, OutputFile, Params, Resources, ResultPointer, Status,
    TaskSpec, Token, Usage, atomic, layout,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// A run directory in a temporary place.
struct Runs(tempfile::TempDir);

impl Runs {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn task_dir(&self, phase: &str) -> PathBuf {
        layout::task_dir(self.0.path(), &key(phase))
    }

    fn input(&self, phase: &str) -> Input {
        Input { phase: phase.into(), key: key(phase), task_dir: self.task_dir(phase) }
    }

    /// Writes the task.json of one attempt and returns its path.
    fn task(&self, phase: &str, attempt: u32, work: Params, edit: impl FnOnce(&mut TaskSpec)) -> PathBuf {
        let task_dir = self.task_dir(phase);
        let attempt_dir = layout::attempt_dir(&task_dir, attempt);
        std::fs::create_dir_all(&attempt_dir).unwrap();
        let mut spec = TaskSpec {
            format: record::FORMAT,
            sweep: "s".into(),
            phase: phase.into(),
            labels: BTreeMap::new(),
            key: key(phase),
            attempt,
            token: Token::new("n", phase, &key(phase), attempt),
            work,
            inputs: BTreeMap::new(),
            sources: BTreeMap::new(),
            services: BTreeMap::new(),
            consumers: vec![],
            resources: Resources { cpus: 2, gpus: 0, memory_mb: 2000, walltime_s: 600 },
            task_dir,
            attempt_dir: attempt_dir.clone(),
            margin_s: 30,
        };
        edit(&mut spec);
        let path = attempt_dir.join(layout::TASK);
        atomic::write_json(&path, &spec).unwrap();
        path
    }

    /// Publishes what lies in `out/` of an attempt, as the supervisor does after success.
    fn publish(&self, phase: &str, attempt: u32) -> PathBuf {
        let task_dir = self.task_dir(phase);
        let dir = layout::attempt_dir(&task_dir, attempt);
        let out = dir.join(layout::OUT);
        let outputs = std::fs::read_dir(&out)
            .unwrap()
            .map(|e| {
                let path = e.unwrap().path();
                OutputFile {
                    path: path.file_name().unwrap().to_str().unwrap().to_owned(),
                    bytes: path.metadata().unwrap().len(),
                    sha256: record::key::sha256_file(&path).unwrap(),
                }
            })
            .collect();
        let token = Token::new("n", phase, &key(phase), attempt);
        let record = AttemptRecord {
            format: record::FORMAT,
            token: token.clone(),
            key: key(phase),
            attempt,
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
            ResultPointer { format: record::FORMAT, key: key(phase), attempt, token, record_sha256: sha };
        atomic::write_json(&task_dir.join(layout::RESULT), &pointer).unwrap();
        out
    }

    /// A model that has learnt nothing, with a tokenizer that fits the corpus.
    fn random_model(&self, corpus: &Path) {
        let rows = corpus::files::read_demonstrations(corpus).unwrap();
        let texts: Vec<&str> = rows.iter().flat_map(|r| [r.prompt.as_str(), r.completion.as_str()]).collect();
        let tokenizer = Tokenizer::train(400, texts.into_iter()).unwrap();
        let config = Config {
            arch: model::config::Arch::Llama,
            vocab: 400,
            hidden: 32,
            intermediate: 64,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 16,
            context: 256,
            norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: model::config::RopeScaling::None,
            tied: true,
            spec: model::Spec::of(model::Arch::Llama),
            bos: None,
            eos: vec![],
            pad: None,
        };
        tch::manual_seed(1);
        let model = Model::fresh(config, tokenizer, tch::Device::Cpu).unwrap();
        let out = layout::attempt_dir(&self.task_dir("base"), 1).join(layout::OUT);
        model.save(&out).unwrap();
        self.publish("base", 1);
    }

    fn corpus(&self) -> PathBuf {
        let params = CorpusParams { train: 13, validation: 6, held_out: 12, tests: 3, ..Default::default() };
        let task = self.task("corpus", 1, Params::Corpus(params), |_| {});
        assert_eq!(run(&task, &[]), 0);
        self.publish("corpus", 1)
    }
}

fn key(phase: &str) -> ContentKey {
    ContentKey::of(phase, &serde_json::Value::Null, &BTreeMap::new())
}

fn worker(task: &Path, extra: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_bessemer-worker")).arg("run").arg(task).args(extra).spawn().unwrap()
}

fn run(task: &Path, extra: &[&str]) -> i32 {
    worker(task, extra).wait().unwrap().code().unwrap()
}

fn outcome(task: &Path) -> Outcome {
    atomic::read_json(&task.with_file_name(layout::OUTCOME)).unwrap().unwrap()
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    corpus::read_jsonl(path).unwrap()
}

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
