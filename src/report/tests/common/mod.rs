//! A finished sweep of the quickstart's shape, written as the planner and the supervisors would write it, with numbers
//! from a formula.

use plan::{Axis, Graph, Retry, Task, TaskRef};
use record::metric::{MetricRow, ProblemScores};
use record::{
    AttemptRecord, ContentKey, FailureClass, OutputFile, Params, Resources, ResultPointer, Status, Token,
    Usage, layout,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

pub const JOB: &str =
    "# the whole house in miniature\nbessemer: 1\nname: demo <b>&amp;\nphases:\n  base: {kind: base}\n";

pub struct Builder<'a> {
    pub run_dir: &'a Path,
    pub tasks: Vec<Task>,
    clock_ms: i64,
}

pub fn labels(pairs: &[(&str, Value)]) -> BTreeMap<String, Value> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect()
}

impl<'a> Builder<'a> {
    pub fn new(run_dir: &'a Path) -> Self {
        Self { run_dir, tasks: Vec::new(), clock_ms: 1_790_000_000_000 }
    }

    pub fn task(
        &mut self,
        phase: &str,
        kind: &str,
        labels: BTreeMap<String, Value>,
        inputs: &[(&str, &str)],
    ) -> usize {
        let mut params = json!({});
        if let Some(seed) = labels.get("seed") {
            params["seed"] = seed.clone();
        }
        if kind == "command" {
            params = json!({"argv": ["true"]});
        }
        let work: Params = serde_json::from_value(json!({"kind": kind, "params": params})).unwrap();
        let key = ContentKey::of(phase, &json!(labels), &BTreeMap::new());
        let find = |phase: &str| -> Vec<TaskRef> {
            let same = |t: &&Task| {
                t.phase == phase && t.labels.iter().all(|(k, v)| labels.get(k).is_none_or(|w| w == v))
            };
            self.tasks
                .iter()
                .filter(same)
                .map(|t| TaskRef { phase: t.phase.clone(), key: t.key.clone() })
                .collect()
        };
        let (mut needs, mut services) = (BTreeMap::new(), BTreeMap::new());
        for (role, phase) in inputs {
            let found = find(phase);
            if *role == "generator" {
                services.insert((*role).to_owned(), found[0].clone());
            } else {
                needs.insert((*role).to_owned(), found);
            }
        }
        self.tasks.push(Task {
            key,
            phase: phase.to_owned(),
            also: vec![],
            labels,
            points: vec![],
            shared_by: 1,
            work,
            inputs: needs,
            sources: BTreeMap::new(),
            services,
            consumers: vec![],
            resources: Resources { cpus: 1, gpus: 0, memory_mb: 1500, walltime_s: 1800 },
            extra: vec![],
            retry: Retry::default(),
            estimate_s: None,
            margin_s: 60,
        });
        self.tasks.len() - 1
    }

    fn dir(&self, task: usize, attempt: u32) -> std::path::PathBuf {
        let dir = layout::attempt_dir(&layout::task_dir(self.run_dir, &self.tasks[task].key), attempt);
        std::fs::create_dir_all(dir.join("out")).unwrap();
        dir
    }

    fn record(&mut self, task: usize, attempt: u32, status: Status, seconds: f64) -> AttemptRecord {
        let key = self.tasks[task].key.clone();
        let started = self.clock_ms;
        self.clock_ms += (seconds * 1000.0) as i64;
        AttemptRecord {
            format: record::FORMAT,
            token: Token::new("demo", &self.tasks[task].phase, &key, attempt),
            key,
            attempt,
            status,
            class: None,
            message: String::new(),
            exit_code: Some(0),
            signal: None,
            job_id: format!("{}", 100 + task),
            restart: 0,
            host: "n1".into(),
            gpus: vec![],
            started_ms: started,
            ended_ms: self.clock_ms,
            usage: Usage {
                wall_s: seconds,
                cpu_s: seconds * 0.96,
                peak_rss_mb: 310.0 + task as f64,
                gpu_s: 0.0,
            },
            outputs: vec![],
            metrics: vec![],
            facts: BTreeMap::from([
                ("device".to_owned(), json!("cpu")),
                ("torch".to_owned(), json!("2.10.0")),
                ("parameters".to_owned(), json!(412_672)),
            ]),
            checkpoint_step: None,
            program: "bessemer 0.1.0".into(),
        }
    }

    pub fn fails(&mut self, task: usize, attempt: u32, class: FailureClass, message: &str) {
        let dir = self.dir(task, attempt);
        let mut r = self.record(task, attempt, Status::Failed, 3.0);
        r.class = Some(class);
        r.message = message.to_owned();
        record::atomic::write_json(&dir.join(layout::RECORD), &r).unwrap();
    }

    pub fn succeeds(
        &mut self,
        task: usize,
        attempt: u32,
        seconds: f64,
        metrics: Vec<MetricRow>,
        scores: &[ProblemScores],
    ) {
        let dir = self.dir(task, attempt);
        let mut r = self.record(task, attempt, Status::Ok, seconds);
        r.metrics = metrics;
        if !scores.is_empty() {
            let text: String = scores.iter().map(|s| serde_json::to_string(s).unwrap() + "\n").collect();
            std::fs::write(dir.join("out").join(layout::SCORES), &text).unwrap();
            r.outputs.push(OutputFile {
                path: layout::SCORES.into(),
                bytes: text.len() as u64,
                sha256: record::key::sha256_hex(text.as_bytes()),
            });
        }
        let bytes = serde_json::to_vec_pretty(&r).unwrap();
        std::fs::write(dir.join(layout::RECORD), &bytes).unwrap();
        let pointer = ResultPointer {
            format: record::FORMAT,
            key: r.key.clone(),
            attempt,
            token: r.token.clone(),
            record_sha256: record::key::sha256_hex(&bytes),
        };
        let task_dir = layout::task_dir(self.run_dir, &r.key);
        record::atomic::write_json(&task_dir.join(layout::RESULT), &pointer).unwrap();
    }

    pub fn events(
        &self,
        task: usize,
        attempt: u32,
        steps: std::ops::Range<u64>,
        of: u64,
        value: impl Fn(u64) -> Vec<(&'static str, f64)>,
    ) {
        let mut log = record::event::EventLog::append(&self.dir(task, attempt).join(layout::EVENTS)).unwrap();
        for step in steps {
            log.step(step, Some(of), value(step)).unwrap();
        }
    }

    pub fn finish(&self) {
        let graph = Graph {
            format: record::FORMAT,
            sweep: "demo <b>&amp;".into(),
            job_sha256: record::key::sha256_hex(JOB.as_bytes()),
            matrix: vec![
                Axis {
                    name: "variant".into(),
                    values: vec![json!("binary"), json!("fresh"), json!("continued")],
                },
                Axis { name: "seed".into(), values: vec![json!(1), json!(2)] },
            ],
            tasks: self.tasks.clone(),
            memory: vec![],
        };
        record::atomic::write_json(&self.run_dir.join(layout::PLAN), &graph).unwrap();
        std::fs::write(self.run_dir.join(layout::JOB), JOB).unwrap();
    }
}

/// Noise in -1..1 that depends on its arguments only.
pub fn noise(a: u64, b: u64) -> f64 {
    let mut z = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 30)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % 20_001) as f64 / 10_000.0 - 1.0
}

/// Problem scores of a model of this strength, and the metric rows that follow from them.
pub fn measured(strength: f64, seed: u64, unscored: u64) -> (Vec<MetricRow>, Vec<ProblemScores>) {
    let scores: Vec<ProblemScores> = (0..120)
        .map(|p| {
            let hardness = noise(p, 1) * 0.3;
            let passed = (0..4).filter(|k| strength - hardness + noise(p * 4 + k, seed) * 0.25 > 0.5).count();
            let reward = (strength - hardness * 0.5).clamp(0.0, 1.0);
            ProblemScores {
                problem: format!("p{p}"),
                scores: BTreeMap::from([
                    ("pass_rate".into(), passed as f64 / 4.0),
                    ("reward".into(), reward),
                ]),
                n: 4,
                unscored: 0,
            }
        })
        .collect();
    let rows = ["pass_rate", "reward"]
        .map(|name| {
            let values: Vec<f64> = scores.iter().map(|s| s.scores[name]).collect();
            let (value, low, high) = report::paired::bootstrap(&values, 500).unwrap();
            MetricRow {
                metric: name.into(),
                value: Some(value),
                low: Some(low),
                high: Some(high),
                n: 480 - unscored,
                unscored,
            }
        })
        .to_vec();
    (rows, scores)
}

/// The quickstart's shape. `broken`: one evaluation has failed twice, with a message that tries to be markup.
pub fn quickstart(run_dir: &Path, broken: bool) {
    let mut b = Builder::new(run_dir);
    let plain = |b: &mut Builder, phase: &str, kind: &str, inputs: &[(&str, &str)], s: f64| {
        let t = b.task(phase, kind, labels(&[]), inputs);
        b.succeeds(t, 1, s, vec![], &[]);
        t
    };
    plain(&mut b, "corpus", "corpus", &[], 0.8);
    let base = plain(&mut b, "base", "base", &[("corpus", "corpus")], 41.0);
    b.events(base, 1, 1..151, 150, |s| {
        vec![
            ("loss", 5.6 * (-0.03 * s as f64).exp() + 0.6 + 0.15 * noise(s, 3)),
            ("tokens_per_s", 21_000.0 + 900.0 * noise(s, 9)),
        ]
    });
    plain(&mut b, "judge", "serve", &[("model", "base")], 38.0);
    plain(&mut b, "sample", "sample", &[("corpus", "corpus"), ("generator", "judge")], 33.0);
    let sft = plain(&mut b, "sft", "sft", &[("model", "base"), ("data", "sample")], 12.0);
    b.events(sft, 1, 1..31, 30, |s| {
        vec![("loss", 0.9 - 0.01 * s as f64 + 0.03 * noise(s, 4)), ("learning_rate", 1e-4)]
    });
    for (v, variant) in ["binary", "fresh", "continued"].into_iter().enumerate() {
        for seed in [1u64, 2] {
            let at = labels(&[("variant", json!(variant)), ("seed", json!(seed))]);
            let t = b.task("rl", "rl", at, &[("model", "sft"), ("corpus", "corpus")]);
            if variant == "continued" {
                // depends on the binary run with the same seed
                let from = b.tasks.iter().find(|x| {
                    x.labels.get("variant") == Some(&json!("binary"))
                        && x.labels.get("seed") == Some(&json!(seed))
                });
                let from = TaskRef { phase: "rl".into(), key: from.unwrap().key.clone() };
                b.tasks[t].inputs.insert("model".into(), vec![from]);
            }
            let curve = |s: u64| {
                let x = s as f64 / 20.0;
                let up = 0.5 + (0.24 + 0.05 * v as f64) * (1.0 - (-3.0 * x).exp());
                vec![
                    ("reward", up + 0.03 * noise(s, seed + 10 * v as u64)),
                    ("kl", 0.02 * x + 0.004 * noise(s, seed + 77)),
                    ("entropy", 1.2 - 0.3 * x),
                ]
            };
            b.events(t, 1, 1..13, 20, curve);
            b.fails(t, 1, FailureClass::Timeout, "time limit");
            b.events(t, 2, 10..21, 20, curve);
            b.succeeds(t, 2, 24.0 + 3.0 * v as f64, vec![], &[]);
        }
    }
    let eval = |b: &mut Builder, of: &str, more: &[(&str, Value)], strength: f64, seed: u64| {
        let mut at = labels(more);
        at.insert("of".into(), json!(of));
        let t = b.task("eval", "eval", at, &[("model", of), ("corpus", "corpus")]);
        if broken && of == "sft" {
            b.fails(t, 1, FailureClass::OutOfMemory, "killed");
            b.fails(t, 2, FailureClass::Error, "<script>alert('x')</script> \u{1b}[31mred");
        } else {
            let (rows, scores) = measured(strength, seed, if of == "base" { 3 } else { 0 });
            b.succeeds(t, 1, 9.0, rows, &scores);
        }
    };
    eval(&mut b, "base", &[], 0.46, 1);
    eval(&mut b, "sft", &[], 0.55, 2);
    for (v, variant) in ["binary", "fresh", "continued"].into_iter().enumerate() {
        for seed in [1u64, 2] {
            let more = [("variant", json!(variant)), ("seed", json!(seed))];
            eval(&mut b, "rl", &more, 0.72 + 0.04 * v as f64 + 0.01 * seed as f64, seed + 5);
        }
    }
    b.finish();
}
