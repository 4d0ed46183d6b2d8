//! A throw-away Slurm, a directory with a job file and a site, and the built `bessemer`: what a user has.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub const BESSEMER: &str = env!("CARGO_BIN_EXE_bessemer");
const CLUSTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../slurm/test-cluster");

/// Only a hang reaches it; Slurm itself needs up to two minutes for some of what is waited for here.
const HANG: Duration = Duration::from_secs(420);

/// One cluster at a time in one process: a small machine has enough to do with it. (nextest runs one test per process
/// and has its own limit, `.config/nextest.toml`.)
static TURN: Mutex<()> = Mutex::new(());

/// Whether the real-Slurm tests can run. Missing programs fail the test, unless the user has said that he knows.
pub fn slurm_is_here() -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let here = |p: &str| std::env::split_paths(&path).any(|d| d.join(p).is_file());
    let missing: Vec<&str> =
        ["munged", "slurmctld", "slurmd", "sbatch", "python3"].into_iter().filter(|p| !here(p)).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(
        std::env::var("BESSEMER_WITHOUT_SLURM").is_ok_and(|v| v == "1"),
        "{missing:?} not found: `make packages`, or leave the real-Slurm tests out: BESSEMER_WITHOUT_SLURM=1"
    );
    eprintln!("SKIPPED: {missing:?} not found and BESSEMER_WITHOUT_SLURM=1");
    false
}

/// The laboratory. Dropping it stops the cluster, also when a test panics; should the whole process be killed, the
/// cluster notices that by itself (`up --with-pid`).
pub struct Lab {
    pub dir: PathBuf,
    cluster: PathBuf,
    _temp: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// Starts a cluster. `up`: more options for it, e.g. `--set MinJobAge=2`.
    pub fn new(up: &[&str]) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let temp = tempfile::Builder::new().prefix("lab").tempdir().unwrap();
        let dir = temp.path().canonicalize().unwrap();
        let cluster = dir.join("cluster");
        let started = Command::new(format!("{CLUSTER}/up"))
            .arg(&cluster)
            .args(["--with-pid", &std::process::id().to_string()])
            .args(up)
            .output()
            .unwrap();
        assert!(started.status.success(), "no cluster: {}", String::from_utf8_lossy(&started.stderr));
        let lab = Self { dir, cluster, _temp: temp, _turn: turn };
        lab.site("");
        lab
    }

    /// Writes the site file: test timings, then `more` (YAML lines).
    pub fn site(&self, more: &str) {
        let mut text = String::from("bessemer_site: 1\nname: lab\nscheduler: slurm\n");
        if !more.contains("limits:") {
            text.push_str("limits: {min_poll: 1s}\n");
        }
        if !more.contains("timeouts:") {
            text.push_str("timeouts: {query: 30s, submit: 150s}\n");
        }
        text.push_str(more);
        std::fs::write(self.dir.join("site.yaml"), text).unwrap();
    }

    pub fn job(&self, text: &str) {
        std::fs::write(self.dir.join("job.yaml"), text).unwrap();
    }

    /// Where tasks leave a line each time they run: `MARKS` in their environment.
    pub fn marks_file(&self) -> PathBuf {
        self.dir.join("marks")
    }

    /// All marks so far, sorted.
    pub fn marks(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.marks_file()).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// Handles a daemon of the cluster: `stop`, `freeze`, ...
    pub fn ctl(&self, verb: &str, daemon: &str) {
        let done =
            Command::new(format!("{CLUSTER}/ctl")).arg(&self.cluster).args([verb, daemon]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// A Slurm command's standard output.
    pub fn slurm(&self, program: &str, args: &[&str]) -> String {
        let done = Command::new(program).args(args).env("SLURM_CONF", self.conf()).output().unwrap();
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    /// Names of all jobs that Slurm still knows, finished ones included, array elements singly.
    pub fn job_names(&self) -> Vec<String> {
        self.slurm("squeue", &["-h", "-r", "-t", "all", "-o", "%j"]).lines().map(str::to_owned).collect()
    }

    fn conf(&self) -> PathBuf {
        self.cluster.join("etc/slurm.conf")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(BESSEMER);
        for (name, _) in std::env::vars() {
            if ["SLURM_", "SBATCH_", "BESSEMER_"].iter().any(|p| name.starts_with(p)) {
                c.env_remove(name);
            }
        }
        c.args(args).current_dir(&self.dir).env("SLURM_CONF", self.conf()).stdin(Stdio::null());
        // the records are on this machine's own disk: they are not late by minutes
        c.env("BESSEMER_RECORD_GRACE_S", "15");
        c
    }

    /// Runs `bessemer`; a hang becomes a failure.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Done {
        let out = self.dir.join("last.out");
        let err = self.dir.join("last.err");
        let mut child = self
            .command(args)
            .stdout(std::fs::File::create(&out).unwrap())
            .stderr(std::fs::File::create(&err).unwrap())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let code = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status.code().unwrap_or(-1);
            }
            if begun.elapsed() > HANG {
                let _ = child.kill();
                panic!("bessemer {args:?} hangs");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let read = |p: &Path| String::from_utf8_lossy(&std::fs::read(p).unwrap()).into_owned();
        Done { what: format!("bessemer {}", args.join(" ")), code, out: read(&out), err: read(&err) }
    }

    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    pub fn submit(&self) -> Done {
        self.run(&["submit", "job.yaml", "--site", "site.yaml"])
    }

    #[track_caller]
    pub fn status(&self) -> Status {
        let done = self.run(&["status", "--all", "--json"]);
        let value = serde_json::from_str(&done.out);
        Status(value.unwrap_or_else(|e| panic!("status --json: {e}\n{done}")))
    }

    /// Looks at the sweep until it is as wanted.
    #[track_caller]
    pub fn until(&self, what: &str, mut wanted: impl FnMut(&Status) -> bool) -> Status {
        let begun = Instant::now();
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(begun.elapsed() < HANG, "never happened: {what}\n{status:#?}\n{}", self.evidence());
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// `resume` again and again, as a user with patience would, until every task is done.
    #[track_caller]
    pub fn resume_until_done(&self) -> Status {
        let begun = Instant::now();
        loop {
            let resumed = self.run(&["resume"]);
            assert!([0, 75].contains(&resumed.code), "{resumed}");
            let status = self.status();
            if status.all_in(&["succeeded", "not-needed"]) {
                return status;
            }
            assert!(begun.elapsed() < HANG, "never done: {status:#?}\n{resumed}\n{}", self.evidence());
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    pub fn controller_log(&self) -> String {
        std::fs::read_to_string(self.cluster.join("log/slurmctld.log")).unwrap_or_default()
    }

    /// What a person would look at next.
    pub fn evidence(&self) -> String {
        let mut s = String::new();
        let _ = writeln!(s, "--- squeue\n{}", self.slurm("squeue", &["-r", "-t", "all"]));
        let log = self.controller_log();
        let tail: Vec<&str> = log.lines().rev().take(15).collect();
        let _ = writeln!(s, "--- slurmctld.log\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        s
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = Command::new(format!("{CLUSTER}/down")).arg("--purge").arg(&self.cluster).status();
    }
}

/// Waits for something that is not in `status`.
#[track_caller]
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < HANG, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// `status --json`.
#[derive(Debug)]
pub struct Status(pub Value);

impl Status {
    pub fn tasks(&self) -> &[Value] {
        ["tasks", "data"].iter().find_map(|k| self.0[k].as_array()).expect("a list of tasks")
    }

    /// `phase axis=value` -> state.
    pub fn states(&self) -> BTreeMap<String, &str> {
        self.tasks().iter().map(|t| (title(t), t["state"].as_str().unwrap_or("?"))).collect()
    }

    /// The task whose title starts with this.
    #[track_caller]
    pub fn task(&self, start: &str) -> &Value {
        self.tasks()
            .iter()
            .find(|t| title(t).starts_with(start))
            .unwrap_or_else(|| panic!("no {start}: {self:#?}"))
    }

    pub fn state(&self, start: &str) -> &str {
        self.task(start)["state"].as_str().unwrap_or("?")
    }

    pub fn all_in(&self, states: &[&str]) -> bool {
        self.states().values().all(|s| states.contains(s))
    }

    pub fn count(&self, state: &str) -> usize {
        self.states().values().filter(|s| **s == state).count()
    }
}

fn title(task: &Value) -> String {
    let mut s = task["phase"].as_str().unwrap_or("?").to_owned();
    for (axis, value) in task["labels"].as_object().into_iter().flatten() {
        let _ = write!(s, " {axis}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    s
}

/// A program that has ended.
#[derive(Debug)]
pub struct Done {
    what: String,
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: exit {}\n--- stdout\n{}\n--- stderr\n{}", self.what, self.code, self.out, self.err)
    }
}

impl Done {
    #[track_caller]
    pub fn code(self, wanted: i32) -> Self {
        assert_eq!(self.code, wanted, "{self}");
        self
    }
}
