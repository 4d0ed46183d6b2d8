//! The backend against a real Slurm. Runs where `BESSEMER_REAL_SLURM` is set and `SLURM_CONF` leads to a throw-away
//! cluster with a partition `batch`; elsewhere it says that it did nothing. `BESSEMER_SLURMCTLD_PID` adds the
//! hung controller.

use cluster::backend::{Backend, JobRef, JobState, Query, Seen, Submission, Submitted};
use cluster::render::{ScriptInput, Target, index_map, script};
use cluster::runner::Real;
use cluster::site::Site;
use record::{Resources, Token};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One at a time: a stopped controller would disturb the others.
static ONE: Mutex<()> = Mutex::new(());

fn cluster_is_here() -> Option<MutexGuard<'static, ()>> {
    if std::env::var_os("BESSEMER_REAL_SLURM").is_none() {
        eprintln!("skipped: BESSEMER_REAL_SLURM is not set");
        return None;
    }
    Some(ONE.lock().unwrap_or_else(PoisonError::into_inner))
}

struct Lab {
    dir: tempfile::TempDir,
    site: Site,
    backend: Box<dyn Backend>,
}

impl Lab {
    fn new(program: &str, site: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("real slurm 50% ").tempdir().unwrap();
        let file = dir.path().join("bessemer");
        std::fs::write(&file, format!("#!/bin/bash\n{program}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let text = format!("bessemer_site: 1\nname: t\nscheduler: slurm\npartition: batch\n{site}");
        let site = Site::load(Path::new("s"), &text).unwrap();
        let backend = cluster::open(&site, Arc::new(Real::default()));
        Self { dir, site, backend }
    }

    fn token(&self) -> Token {
        let key = record::ContentKey(format!("{:?}", Instant::now()));
        Token::new(&self.dir.path().display().to_string(), "sft", &key, 1)
    }

    fn attempt(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(dir.join("sched")).unwrap();
        dir
    }

    fn prepare(&self, target: Target, dir: &Path, size: Option<u32>) -> Submission {
        let resources = Resources { cpus: 1, gpus: 0, memory_mb: 20, walltime_s: 300 };
        let input = ScriptInput {
            token: self.token(),
            target,
            resources: resources.clone(),
            sched_dir: dir.join("sched"),
            margin_s: 30,
            bessemer: self.dir.path().join("bessemer"),
            worker: None,
            extra: vec![],
            title: "a test".into(),
        };
        let file = dir.join("job.sh");
        std::fs::write(&file, script(&self.site, &input).unwrap()).unwrap();
        Submission {
            token: input.token,
            script: file,
            dir: input.sched_dir,
            array: size,
            after_ok: vec![],
            after_start: vec![],
            delay_s: 0,
            exclude_nodes: vec![],
            resources,
            comment: "a test: x=1, \"quoted\" | piped".into(),
        }
    }

    fn one(&self, name: &str) -> Submission {
        let dir = self.attempt(name);
        self.prepare(Target::One(dir.clone()), &dir, None)
    }

    fn look(&self, token: &Token) -> Vec<Seen> {
        let q = Query {
            jobs: vec![(token.clone(), None)],
            since_s: record::now_ms() / 1000 - 600,
            accounting: true,
        };
        let snap = self.backend.query(&q).unwrap();
        assert!(snap.queue_ok, "{snap:?}");
        snap.jobs.get(token).cloned().unwrap_or_default()
    }

    fn until(&self, token: &Token, done: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            let rows = self.look(token);
            if done(&rows) {
                return rows;
            }
            assert!(Instant::now() < end, "waited in vain, last seen: {rows:?}");
            self.backend.wait(Duration::from_millis(200));
        }
    }
}

fn accepted(s: Submitted) -> JobRef {
    match s {
        Submitted::Accepted(job) => job,
        other => panic!("{other:?}"),
    }
}

fn log(attempt: &Path) -> String {
    std::fs::read_to_string(attempt.join("log.txt")).unwrap_or_default()
}

#[test]
fn a_job_runs_and_is_found_by_its_token_alone() {
    let Some(_one) = cluster_is_here() else { return };
    for site in ["export: none\n", "export: all\n"] {
        let lab = Lab::new("echo \"$BESSEMER_JOB_ID $*\"; exit 85", site);
        let s = lab.one("attempt 1");
        let job = accepted(lab.backend.submit(&s));
        assert_eq!(lab.look(&s.token).len(), 1, "a job is in the queue at once");
        let rows = lab.until(&s.token, |rows| rows.iter().all(|r| !r.state.is_live()));
        assert_eq!((rows.len(), &rows[0].job.id, rows[0].state), (1, &job.id, JobState::Failed));
        assert!(rows[0].start_s.is_some_and(|t| (t - record::now_ms() / 1000).abs() < 600), "{rows:?}");
        let attempt = lab.dir.path().join("attempt 1");
        let text = log(&attempt);
        assert!(text.contains(&format!("{} task run {}/task.json", job.id, attempt.display())), "{text}");
        assert!(attempt.join("sched").join(format!("slurm-{}.out", job.id)).exists());
    }
    println!("{}", Lab::new("", "").backend.ping().unwrap());
}

#[test]
fn an_array_of_300_runs_every_element_once() {
    let Some(_one) = cluster_is_here() else { return };
    let lab = Lab::new("echo ran >>count", "");
    let dirs: Vec<PathBuf> = (0..300).map(|k| lab.attempt(&format!("attempt-{k}"))).collect();
    let dir = lab.attempt("array");
    let map = dir.join("index.map");
    std::fs::write(&map, index_map(&dirs).unwrap()).unwrap();
    let s = lab.prepare(Target::Array { map, size: 300 }, &dir, Some(300));
    let job = accepted(lab.backend.submit(&s));
    let rows = lab.look(&s.token);
    assert_eq!(rows.len(), 300, "folded elements are counted one by one");
    assert!(rows.iter().any(|r| r.job.id == format!("{}_299", job.id)));
    lab.until(&s.token, |rows| rows.iter().all(|r| !r.state.is_live()));
    for dir in &dirs {
        assert_eq!(std::fs::read_to_string(dir.join("count")).unwrap(), "ran\n", "{}", dir.display());
    }
}

#[test]
fn an_unmet_dependency_is_recognised_and_cancelled() {
    let Some(_one) = cluster_is_here() else { return };
    let lab = Lab::new("exit 1", "");
    let first = lab.one("first");
    let mut held = first.clone();
    held.delay_s = 2;
    let job = accepted(lab.backend.submit(&held));
    let mut second = lab.one("second");
    second.after_ok = vec![job];
    let second_job = accepted(lab.backend.submit(&second));
    lab.until(&second.token, |rows| rows.iter().any(|r| r.state == JobState::NeverSatisfied));
    lab.backend.cancel(&[JobRef { id: String::new(), ..second_job.clone() }]).unwrap();
    lab.until(&second.token, |rows| rows.iter().all(|r| r.state == JobState::Cancelled));
    lab.backend.cancel(&[second_job]).unwrap();
}

#[test]
fn the_warning_signal_and_a_cancel_reach_the_program() {
    let Some(_one) = cluster_is_here() else { return };
    let lab = Lab::new("trap 'echo got-term; exit 85' TERM; : >ready; while :; do sleep 0.1; done", "");
    let s = lab.one("a");
    let job = accepted(lab.backend.submit(&s));
    let attempt = lab.dir.path().join("a");
    lab.until(&s.token, |_| attempt.join("ready").exists());
    lab.backend.cancel(&[job]).unwrap();
    lab.until(&s.token, |rows| rows.iter().all(|r| r.state == JobState::Cancelled));
    assert!(log(&attempt).contains("got-term"), "{}", log(&attempt));
}

#[test]
fn what_slurm_refuses_is_refused() {
    let Some(_one) = cluster_is_here() else { return };
    for site in [
        "extra: ['--partition=nosuch']\n",
        "extra: ['--constraint=nosuch']\n",
        "extra: ['--gres=nosuch:1']\n",
    ] {
        let lab = Lab::new("true", site);
        let answer = lab.backend.submit(&lab.one("a"));
        assert!(matches!(answer, Submitted::Refused(_)), "{site}: {answer:?}");
    }
    let lab = Lab::new("true", "");
    let mut s = lab.one("a");
    s.array = Some(1_000_000);
    assert!(matches!(lab.backend.submit(&s), Submitted::Refused(_)));
}

#[test]
fn a_hung_controller_is_an_uncertainty_that_the_token_resolves() {
    let Some(pid) = std::env::var("BESSEMER_SLURMCTLD_PID").ok().and_then(|p| p.parse().ok()) else {
        eprintln!("skipped: BESSEMER_SLURMCTLD_PID is not set");
        return;
    };
    let Some(_one) = cluster_is_here() else { return };
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let lab = Lab::new("echo ran >>count", "");
    let s = lab.one("a");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let answer = lab.backend.submit(&s);
    let looked =
        lab.backend.query(&Query { jobs: vec![(s.token.clone(), None)], since_s: 0, accounting: false });
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert!(matches!(answer, Submitted::Uncertain(_)), "{answer:?}");
    assert!(looked.is_err(), "absence must not be concluded from a controller that does not answer");
    lab.until(&s.token, |rows| rows.len() == 1 && !rows[0].state.is_live());
    assert_eq!(std::fs::read_to_string(lab.dir.path().join("a/count")).unwrap(), "ran\n");
}

#[test]
fn a_probe_of_the_cluster_proposes_a_site_that_loads_and_fits() {
    let Some(_one) = cluster_is_here() else { return };
    let runner = Real::default();
    let proposal = cluster::probe::probe(&runner, "root").unwrap();
    println!("{}", proposal.text);
    let site = Site::load(Path::new("proposed"), &proposal.text)
        .unwrap_or_else(|e| panic!("{e}\n{}", proposal.text));
    let live = cluster::probe::live(&site, &runner).unwrap();
    let small = Resources { cpus: 1, gpus: 1, memory_mb: 100, walltime_s: 60 };
    assert_eq!(cluster::check(&site, &small, Some(&live)), [""; 0]);
    let large = Resources { cpus: 1000, ..small };
    assert!(!cluster::check(&site, &large, Some(&live)).is_empty());
}

/// The same, on a cluster with slurmdbd and a quality of service `tiny` (5 jobs per user in the queue).
fn accounting_is_here() -> Option<MutexGuard<'static, ()>> {
    if std::env::var_os("BESSEMER_REAL_SLURM_ACCOUNTING").is_none() {
        eprintln!("skipped: BESSEMER_REAL_SLURM_ACCOUNTING is not set");
        return None;
    }
    cluster_is_here()
}

#[test]
fn a_job_that_left_the_queue_is_explained_by_the_accounting() {
    let Some(_one) = accounting_is_here() else { return };
    let lab = Lab::new("exit 7", "account: test\n");
    let s = lab.one("a");
    let job = accepted(lab.backend.submit(&s));
    let rows = lab.until(&s.token, |rows| rows.iter().any(|r| r.source == "sacct" && !r.state.is_live()));
    assert_eq!((rows.len(), &rows[0].job.id, rows[0].state), (1, &job.id, JobState::Failed));
    assert_eq!(rows[0].exit, Some((7, 0)));
    assert_eq!(rows[0].nodes.len(), 1);
    assert!(rows[0].start_s.is_some_and(|t| (t - record::now_ms() / 1000).abs() < 600), "{rows:?}");
}

#[test]
fn a_submit_limit_is_a_limit_and_leaves_no_ghost() {
    let Some(_one) = accounting_is_here() else { return };
    let lab = Lab::new("sleep 300", "account: test\nqos: tiny\n");
    let jobs: Vec<JobRef> = (0..5).map(|k| accepted(lab.backend.submit(&lab.one(&k.to_string())))).collect();
    let sixth = lab.one("5");
    assert!(matches!(lab.backend.submit(&sixth), Submitted::Limit(_)));
    // sacct keeps a FAILED row under the refused job's name: it must not look like a job (specs: F3)
    let end = Instant::now() + Duration::from_secs(8);
    while Instant::now() < end {
        assert_eq!(lab.look(&sixth.token), []);
        lab.backend.wait(Duration::from_secs(1));
    }
    lab.backend.cancel(&jobs).unwrap();
    for job in &jobs {
        lab.until(&job.token, |rows| rows.iter().all(|r| r.state == JobState::Cancelled));
    }
}
