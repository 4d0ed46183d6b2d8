//! A run directory with attempts of the built worker, as the supervisor would lay them out.
#![allow(dead_code, reason = "every test file uses its own part")]

use model::{Config, Model, Tokenizer};
use record::params::CorpusParams;
use record::{
    AttemptRecord, ContentKey, Input, Outcome, OutputFile, Params, Resources, ResultPointer, Status,
    TaskSpec, Token, Usage, atomic, layout,
};
use serve::Endpoint;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// A run directory in a temporary place.
pub struct Runs(tempfile::TempDir);

impl Runs {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn task_dir(&self, phase: &str) -> PathBuf {
        layout::task_dir(self.0.path(), &key(phase))
    }

    pub fn input(&self, phase: &str) -> Input {
        Input { phase: phase.into(), key: key(phase), task_dir: self.task_dir(phase) }
    }

    /// Writes the task.json of one attempt and returns its path.
    pub fn task(&self, phase: &str, attempt: u32, work: Params, edit: impl FnOnce(&mut TaskSpec)) -> PathBuf {
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
    pub fn publish(&self, phase: &str, attempt: u32) -> PathBuf {
        let task_dir = self.task_dir(phase);
        let dir = layout::attempt_dir(&task_dir, attempt);
        let out = dir.join(layout::OUT);
        let file = |path: &Path| OutputFile {
            path: path.strip_prefix(&out).unwrap().to_str().unwrap().to_owned(),
            bytes: path.metadata().unwrap().len(),
            sha256: record::key::sha256_file(path).unwrap(),
        };
        let mut outputs = Vec::new();
        let mut todo = vec![out.clone()];
        while let Some(dir) = todo.pop() {
            for path in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
                if path.is_dir() { todo.push(path) } else { outputs.push(file(&path)) }
            }
        }
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

    /// A model that has learnt nothing, with a tokenizer that fits the corpus. Its widths are multiples of 64, as packed
    /// weights need.
    pub fn random_model(&self, corpus: &Path) {
        let rows = corpus::files::read_demonstrations(corpus).unwrap();
        let texts: Vec<&str> = rows.iter().flat_map(|r| [r.prompt.as_str(), r.completion.as_str()]).collect();
        let tokenizer = Tokenizer::train(400, texts.into_iter()).unwrap();
        let config = Config {
            arch: model::config::Arch::Llama,
            vocab: 400,
            hidden: 64,
            intermediate: 128,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 32,
            context: 1024,
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

    pub fn corpus(&self) -> PathBuf {
        let params = CorpusParams { train: 13, validation: 6, held_out: 12, tests: 3, ..Default::default() };
        let task = self.task("corpus", 1, Params::Corpus(params), |_| {});
        assert_eq!(run(&task, &[]), 0);
        self.publish("corpus", 1)
    }
}

pub fn key(phase: &str) -> ContentKey {
    ContentKey::of(phase, &serde_json::Value::Null, &BTreeMap::new())
}

pub fn worker(task: &Path, extra: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_bessemer-worker")).arg("run").arg(task).args(extra).spawn().unwrap()
}

pub fn run(task: &Path, extra: &[&str]) -> i32 {
    worker(task, extra).wait().unwrap().code().unwrap()
}

/// As [`run`], with variables of the environment.
pub fn run_with(task: &Path, env: &[(&str, &Path)]) -> i32 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bessemer-worker"));
    command.arg("run").arg(task).envs(env.iter().copied()).status().unwrap().code().unwrap()
}

pub fn outcome(task: &Path) -> Outcome {
    atomic::read_json(&task.with_file_name(layout::OUTCOME)).unwrap().unwrap()
}

pub fn lines(path: &Path) -> Vec<serde_json::Value> {
    corpus::read_jsonl(path).unwrap()
}

/// One HTTP call to a service; status and body.
pub fn call(endpoint: &Endpoint, method: &str, path: &str, body: &str) -> (u16, String) {
    let host = endpoint.url.trim_start_matches("http://");
    let token = endpoint.token.as_deref().unwrap();
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Tells a service to leave and waits for it.
pub fn leave(mut service: Child) {
    let pid = i32::try_from(service.id()).unwrap();
    // SAFETY: a signal to a child of ours that has not been waited for.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    assert_eq!(service.wait().unwrap().code(), Some(record::exit::CHECKPOINTED));
}
