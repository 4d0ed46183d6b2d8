//! A scheduler in memory whose every answer a test decides, and sweeps of `command` tasks to hand to it.
#![allow(dead_code, reason = "every test file uses its own part")]

use cluster::backend::{Backend, JobRef, JobState, Limits, Query, Seen, Snapshot, Submission, Submitted};
use cluster::site::Site;
use ledger::{Db, Engine, NewSweep, Options, Timing};
use plan::{Graph, Retry, Task, TaskRef};
use record::params::CommandParams;
use record::{
    AttemptRecord, ContentKey, FailureClass, Params, Resources, StartRecord, Status, TaskSpec, Token, Usage,
};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub const SITE: &str = "bessemer_site: 1\nname: fake\nscheduler: slurm\n";

/// What happens to one submit call.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Accepted, but the answer never arrives.
    AcceptedUnheard,
    /// Not accepted, and the answer never arrives.
    LostUnheard,
    Refuse(&'static str),
    Limit,
    Unavailable,
}

#[derive(Debug, Clone)]
pub struct Job {
    pub id: String,
    pub token: Token,
    pub state: JobState,
    pub raw: String,
    pub exit: Option<(i32, i32)>,
    pub nodes: Vec<String>,
    pub dir: PathBuf,
    pub after_ok: Vec<String>,
    pub after_start: Vec<String>,
    pub delay_s: u64,
    pub exclude: Vec<String>,
    pub memory_mb: u64,
    /// Not listed by the queue any more (or not yet).
    pub hidden: bool,
    /// Its cancellation was accepted and has not taken effect.
    pub doomed: bool,
}

#[derive(Debug, Default)]
pub struct World {
    pub jobs: Vec<Job>,
    pub faults: VecDeque<Fault>,
    pub next_id: u64,
    pub submits: u64,
    pub queries: u64,
    pub cancels: Vec<JobRef>,
    pub queue_down: bool,
    pub max_submit: Option<u32>,
    pub max_array: u32,
    /// Cancellations take effect only at [`Fake::cancellations_land`].
    pub slow_cancel: bool,
    /// The planner dies in the submit call, after its effect.
    pub crash_after_submit: bool,
    /// As a local site: so many slots, nothing queues.
    pub slots: Option<usize>,
}

#[derive(Debug, Default)]
pub struct Fake {
    pub world: Mutex<World>,
}

impl Fake {
    pub fn new() -> Arc<Self> {
        let fake = Self::default();
        {
            let mut w = fake.world.lock().unwrap();
            w.next_id = 100;
            w.max_array = 1;
        }
        Arc::new(fake)
    }

    pub fn with<T>(&self, f: impl FnOnce(&mut World) -> T) -> T {
        f(&mut self.world.lock().unwrap())
    }

    pub fn fault(&self, f: Fault) {
        self.with(|w| w.faults.push_back(f));
    }

    /// Ids of jobs that the queue holds.
    pub fn live(&self) -> Vec<String> {
        self.with(|w| w.jobs.iter().filter(|j| j.state.is_live()).map(|j| j.id.clone()).collect())
    }

    pub fn job(&self, id: &str) -> Job {
        self.with(|w| w.jobs.iter().find(|j| j.id == id).cloned()).unwrap_or_else(|| panic!("no job {id}"))
    }

    pub fn set(&self, id: &str, state: JobState, raw: &str) {
        self.with(|w| {
            let j = w.jobs.iter_mut().find(|j| j.id == id).unwrap_or_else(|| panic!("no job {id}"));
            j.state = state;
            j.raw = raw.to_owned();
        });
    }

    /// Jobs whose cancellation was accepted end now.
    pub fn cancellations_land(&self) {
        self.with(|w| {
            for j in w.jobs.iter_mut().filter(|j| j.doomed && j.state.is_live()) {
                j.state = JobState::Cancelled;
                j.raw = "CANCELLED by 1000".into();
                j.hidden = true;
            }
        });
    }

    /// Directory of the attempt behind a job.
    pub fn attempt_dir(&self, id: &str) -> PathBuf {
        let job = self.job(id);
        let owner = job.dir.parent().unwrap().to_owned();
        match id.split_once('_') {
            None => owner,
            Some((_, index)) => {
                let map = std::fs::read_to_string(owner.join("map")).unwrap();
                PathBuf::from(map.lines().nth(index.parse().unwrap()).unwrap())
            }
        }
    }

    pub fn spec(&self, id: &str) -> TaskSpec {
        TaskSpec::read(&self.attempt_dir(id).join("task.json")).unwrap()
    }

    /// The supervisor's first act.
    pub fn start(&self, id: &str) {
        let spec = self.spec(id);
        let started = StartRecord {
            format: 1,
            token: spec.token.clone(),
            key: spec.key.clone(),
            attempt: spec.attempt,
            job_id: id.to_owned(),
            restart: 0,
            host: "node1".into(),
            pid: 1,
            pid_start: 1,
            boot_id: String::new(),
            at_ms: record::now_ms(),
            gpus: vec![],
        };
        record::atomic::write_json(&spec.attempt_dir.join("started.json"), &started).unwrap();
        self.set(id, JobState::Running, "RUNNING");
    }

    /// The supervisor's last act, without `result.json`.
    pub fn leave_record(&self, id: &str, status: Status, class: Option<FailureClass>, step: Option<u64>) {
        let spec = self.spec(id);
        leave_record(&spec, id, status, class, step);
    }

    /// A whole successful run; the scheduler forgets the job.
    pub fn succeed(&self, id: &str) {
        self.start(id);
        self.leave_record(id, Status::Ok, None, None);
        self.set(id, JobState::Completed, "COMPLETED");
        self.with(|w| w.jobs.iter_mut().find(|j| j.id == id).unwrap().hidden = true);
    }

    pub fn fail(&self, id: &str, class: FailureClass) {
        self.start(id);
        self.leave_record(id, Status::Failed, Some(class), None);
        self.set(id, JobState::Failed, "FAILED 1:0");
    }
}

pub fn leave_record(
    spec: &TaskSpec,
    id: &str,
    status: Status,
    class: Option<FailureClass>,
    step: Option<u64>,
) {
    let out = spec.attempt_dir.join("out");
    std::fs::create_dir_all(&out).unwrap();
    std::fs::write(out.join("data"), "abc").unwrap();
    let record = AttemptRecord {
        format: 1,
        token: spec.token.clone(),
        key: spec.key.clone(),
        attempt: spec.attempt,
        status,
        class,
        message: format!("{status:?} {class:?}"),
        exit_code: Some(0),
        signal: None,
        job_id: id.to_owned(),
        restart: 0,
        host: "node1".into(),
        gpus: vec![],
        started_ms: record::now_ms(),
        ended_ms: record::now_ms(),
        usage: Usage { wall_s: 1.0, cpu_s: 2.0, peak_rss_mb: 3.0, gpu_s: 0.0 },
        outputs: vec![record::OutputFile {
            path: "data".into(),
            bytes: 3,
            sha256: record::key::sha256_hex(b"abc"),
        }],
        metrics: vec![],
        facts: BTreeMap::new(),
        checkpoint_step: step,
        program: "test".into(),
    };
    record::atomic::write_json(&spec.attempt_dir.join("record.json"), &record).unwrap();
}

impl Fake {
    fn take(&self, s: &Submission) -> Submitted {
        self.with(|w| {
            w.submits += 1;
            let fault = w.faults.pop_front();
            let n = s.array.unwrap_or(1);
            let live = w.jobs.iter().filter(|j| j.state.is_live()).count() as u32;
            match &fault {
                Some(Fault::Refuse(why)) => return Submitted::Refused((*why).to_owned()),
                Some(Fault::Limit) => return Submitted::Limit("QOSMaxSubmitJobPerUserLimit".into()),
                Some(Fault::Unavailable) => return Submitted::Unavailable("connection refused".into()),
                Some(Fault::LostUnheard) => return Submitted::Uncertain("socket timed out".into()),
                _ => {}
            }
            if w.max_submit.is_some_and(|max| live + n > max) {
                return Submitted::Limit("AssocMaxSubmitJobLimit".into());
            }
            w.next_id += 1;
            let base = w.next_id.to_string();
            let ids: Vec<String> = match s.array {
                None => vec![base.clone()],
                Some(n) => (0..n).map(|k| format!("{base}_{k}")).collect(),
            };
            for id in ids {
                w.jobs.push(Job {
                    id,
                    token: s.token.clone(),
                    state: JobState::Waiting,
                    raw: "PENDING Priority".into(),
                    exit: None,
                    nodes: vec![],
                    dir: s.dir.clone(),
                    after_ok: s.after_ok.iter().map(|j| j.id.clone()).collect(),
                    after_start: s.after_start.iter().map(|j| j.id.clone()).collect(),
                    delay_s: s.delay_s,
                    exclude: s.exclude_nodes.clone(),
                    memory_mb: s.resources.memory_mb,
                    hidden: false,
                    doomed: false,
                });
            }
            match fault {
                Some(Fault::AcceptedUnheard) => Submitted::Uncertain("socket timed out".into()),
                _ => Submitted::Accepted(JobRef { id: base, cluster: None, token: s.token.clone() }),
            }
        })
    }
}

impl Backend for Fake {
    fn submit(&self, s: &Submission) -> Submitted {
        let reply = self.take(s);
        assert!(!self.with(|w| w.crash_after_submit), "crash after the call");
        reply
    }

    fn query(&self, q: &Query) -> Result<Snapshot, String> {
        self.with(|w| {
            w.queries += 1;
            if w.queue_down {
                return Err("squeue: connection refused".into());
            }
            let mut snap = Snapshot { queue_ok: true, ..Snapshot::default() };
            for j in w.jobs.iter().filter(|j| !j.hidden && q.jobs.iter().any(|(t, _)| *t == j.token)) {
                snap.jobs.entry(j.token.clone()).or_default().push(Seen {
                    job: JobRef { id: j.id.clone(), cluster: None, token: j.token.clone() },
                    state: j.state,
                    raw: j.raw.clone(),
                    exit: j.exit,
                    nodes: j.nodes.clone(),
                    start_s: None,
                    source: "squeue",
                });
            }
            Ok(snap)
        })
    }

    fn cancel(&self, jobs: &[JobRef]) -> Result<(), String> {
        self.with(|w| {
            let slow = w.slow_cancel;
            for job in jobs {
                w.cancels.push(job.clone());
                for j in w.jobs.iter_mut().filter(|j| j.token == job.token) {
                    if !(job.id.is_empty() || j.id == job.id) {
                        continue;
                    }
                    if j.state.is_live() && slow {
                        j.doomed = true;
                    } else if j.state.is_live() {
                        j.state = JobState::Cancelled;
                        j.raw = "CANCELLED by 1000".into();
                        j.hidden = true;
                    }
                }
            }
            Ok(())
        })
    }

    fn uncertain_grace_s(&self) -> u64 {
        180
    }

    fn calls(&self) -> u64 {
        self.with(|w| w.submits + w.queries + w.cancels.len() as u64)
    }

    fn needs_driver(&self) -> bool {
        self.with(|w| w.slots.is_some())
    }

    fn has_room(&self, _: &Resources) -> bool {
        let live = self.live().len();
        self.with(|w| w.slots.is_none_or(|n| live < n))
    }

    fn wait(&self, _: std::time::Duration) {}

    fn limits(&self) -> Limits {
        self.with(|w| Limits { max_array: w.max_array, max_submit: None, min_poll_s: 0 })
    }
}

/// A `command` task that differs from others by its name.
pub fn task(phase: &str, name: &str, inputs: &[&Task]) -> Task {
    let params =
        Params::Command(CommandParams { argv: vec!["true".into(), name.into()], ..CommandParams::default() });
    let keys = inputs.iter().enumerate().map(|(i, t)| (format!("in{i}"), t.key.clone())).collect();
    Task {
        key: ContentKey::of("command", &serde_json::to_value(&params).unwrap(), &keys),
        phase: phase.into(),
        labels: BTreeMap::from([("name".into(), serde_json::json!(name))]),
        points: vec![],
        also: vec![],
        shared_by: 1,
        work: params,
        inputs: inputs
            .iter()
            .enumerate()
            .map(|(i, t)| (format!("in{i}"), vec![TaskRef { phase: t.phase.clone(), key: t.key.clone() }]))
            .collect(),
        sources: BTreeMap::new(),
        services: BTreeMap::new(),
        consumers: vec![],
        resources: Resources { cpus: 1, gpus: 0, memory_mb: 1000, walltime_s: 600 },
        extra: vec![],
        retry: Retry { backoff_s: 0, backoff_max_s: 0, ..Retry::default() },
        estimate_s: None,
        margin_s: 60,
    }
}

pub fn graph(tasks: Vec<Task>) -> Graph {
    Graph { format: 1, sweep: "s".into(), job_sha256: "0".into(), matrix: vec![], tasks, memory: vec![] }
}

/// a -> b -> c
pub fn chain() -> Graph {
    let a = task("a", "a", &[]);
    let b = task("b", "b", &[&a]);
    let c = task("c", "c", &[&b]);
    graph(vec![a, b, c])
}

/// A sweep in a temporary directory.
pub struct Lab {
    pub dir: tempfile::TempDir,
    pub fake: Arc<Fake>,
    pub timing: Timing,
    pub graph: Graph,
}

impl Lab {
    pub fn new(graph: Graph) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            fake: Fake::new(),
            timing: Timing { record_grace_ms: 0, hint_grace_ms: 0, settle_ms: 0, uncertain_grace_ms: None },
            graph,
        }
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("runs/s")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn options(&self) -> Options {
        Options {
            bessemer: "/usr/bin/bessemer".into(),
            worker: None,
            command: "bessemer submit".into(),
            timing: self.timing,
        }
    }

    /// A new process, as it were: the state file is opened anew.
    pub fn create(&self) -> Engine {
        self.create_with(&self.graph)
    }

    pub fn create_with(&self, graph: &Graph) -> Engine {
        let new = NewSweep { graph, run_dir: &self.run_dir(), job_text: "job\n", site_text: SITE };
        Engine::create(self.db(), &new, site(), self.fake.clone(), self.options()).unwrap()
    }

    pub fn open(&self) -> Engine {
        let db = self.db();
        let sweep = db.find_sweep("s").unwrap();
        Engine::open(db, sweep, site(), self.fake.clone(), self.options())
    }

    pub fn db(&self) -> Db {
        Db::open(&self.state_dir()).unwrap()
    }

    /// `name -> state` of every task.
    pub fn states(&self) -> BTreeMap<String, String> {
        let view = self.open().refresh(&ledger::Filter::all()).unwrap();
        view.tasks.iter().map(|t| (label(&t.labels), t.state.name().to_owned())).collect()
    }

    /// Id of the live job of a task.
    pub fn job_of(&self, name: &str) -> String {
        let view = self.open().view(&ledger::Filter::all()).unwrap();
        let t = view.tasks.iter().find(|t| label(&t.labels) == name).unwrap();
        t.job_id.clone().unwrap_or_else(|| panic!("{name} has no job: {t:?}"))
    }
}

pub fn label(labels: &serde_json::Map<String, serde_json::Value>) -> String {
    labels["name"].as_str().unwrap().to_owned()
}

pub fn site() -> Site {
    Site::load(Path::new("fake.yaml"), SITE).unwrap()
}

/// `[("a", "queued"), ...]` as the map that [`Lab::states`] returns.
pub fn expect(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}
