//! Kill -9 the planner at random moments, again and again, while the scheduler misbehaves; then let it go on in peace. No
//! task may run twice, no job may be left that the ledger does not know, no task may be lost.
//!
//! `BESSEMER_KILLS` sets the number of kills (default 200), `BESSEMER_SEED` the first seed. A failing sweep names its
//! seed; its directory is kept.

use crash::Faults;
use crash::store::{Cluster, State, set_faults};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const JOB: &str = "\
bessemer: 1
name: s
matrix:
  x: [1, 2, 3]
phases:
  first:
    kind: command
    params: {argv: [\"true\"]}
  middle:
    kind: command
    inputs: {a: first}
    params: {argv: [\"true\", \"${x}\"]}
  last:
    kind: command
    inputs: {b: middle}
    params: {argv: [\"true\", \"${x}\"]}
";
const TASKS: usize = 7;
const KILLS_PER_SWEEP: u64 = 4;

/// The planner as a user has it, built by this very cargo.
fn planner() -> &'static Path {
    static PLANNER: OnceLock<PathBuf> = OnceLock::new();
    PLANNER.get_or_init(|| {
        let fake = Path::new(env!("CARGO_BIN_EXE_fake-slurm"));
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "bessemer"]);
        let profile = fake.parent().unwrap();
        if profile.ends_with("release") {
            build.arg("--release");
        }
        build.env("CARGO_TARGET_DIR", profile.parent().unwrap());
        assert!(build.status().unwrap().success(), "the planner does not build");
        profile.join("bessemer")
    })
}

/// One sweep on one fake cluster.
struct Lab {
    dir: PathBuf,
    seed: u64,
    /// Position in the seed's random numbers.
    drawn: AtomicU64,
}

impl Lab {
    fn new(root: &Path, seed: u64, arrays: bool, faults: &Faults) -> Self {
        let dir = root.join(format!("seed-{seed}"));
        for sub in ["bin", "cluster"] {
            std::fs::create_dir_all(dir.join(sub)).unwrap();
        }
        for name in ["sbatch", "squeue", "sacct", "scancel", "scontrol"] {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_fake-slurm"), dir.join("bin").join(name)).unwrap();
        }
        std::fs::write(dir.join("job.yaml"), JOB).unwrap();
        let max_array = if arrays { 100 } else { 1 };
        let site = format!(
            "bessemer_site: 1\nname: fake\nscheduler: slurm\nlimits: {{max_array: {max_array}, min_poll: 1s}}\n"
        );
        std::fs::write(dir.join("site.yaml"), site).unwrap();
        set_faults(&dir.join("cluster"), faults).unwrap();
        Self { dir, seed, drawn: AtomicU64::new(0) }
    }

    fn draw(&self) -> f64 {
        crash::draw(self.seed, 1_000_000 + self.drawn.fetch_add(1, Ordering::Relaxed))
    }

    fn command(&self, args: &[&str]) -> Command {
        let path = format!("{}:{}", self.dir.join("bin").display(), std::env::var("PATH").unwrap());
        let mut c = Command::new(planner());
        c.args(args)
            .current_dir(&self.dir)
            .env("PATH", path)
            .env(crash::DIR, self.dir.join("cluster"))
            .env("BESSEMER_SETTLE_S", "0.1")
            // more than the fake's lists lag behind: with less a fast machine gives up jobs that are not listed yet
            .env("BESSEMER_RECORD_GRACE_S", "2")
            .stdin(Stdio::null());
        c
    }

    fn submit(&self) -> Vec<&'static str> {
        vec!["submit", "job.yaml", "--site", "site.yaml"]
    }

    /// Starts a command and kills it after `after`; `false` if it had ended by itself.
    fn kill(&self, args: &[&str], after: Duration) -> bool {
        let mut child = self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(after);
        // of the planner alone: the scheduler command that it may be waiting for lives on
        let _ = child.kill();
        child.wait().unwrap().signal() == Some(9)
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn cluster(&self) -> Cluster {
        serde_json::from_slice(&std::fs::read(self.dir.join("cluster/cluster.json")).unwrap()).unwrap()
    }

    fn status(&self) -> Value {
        let out = self.run(&["status", "s", "--json"]);
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| {
            panic!("{self}: status --json: {e}: {}", String::from_utf8_lossy(&out.stderr))
        })
    }

    /// Undisturbed commands until every task has succeeded.
    fn end_well(&self) -> Value {
        let mut last = String::new();
        let start = Instant::now();
        // a second attempt waits for half a minute (`retry.backoff`)
        while start.elapsed() < Duration::from_secs(120) {
            for args in [self.submit(), vec!["resume", "s"]] {
                let out = self.run(&args);
                assert!(
                    matches!(out.status.code(), Some(0 | 1 | 65 | 75)),
                    "{self}: {args:?}: {:?}: {}",
                    out.status,
                    String::from_utf8_lossy(&out.stderr)
                );
                last = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
            }
            let status = self.status();
            let tasks = tasks(&status);
            if tasks.len() == TASKS && tasks.iter().all(|t| t["state"] == "succeeded") {
                return status;
            }
        }
        panic!("{self}: the sweep does not end: {last}\n{:#}", self.status());
    }

    /// Who ran, who is left, who is known.
    fn check(&self, status: &Value) {
        let tasks = tasks(status);
        let known: BTreeSet<&str> = tasks.iter().filter_map(|t| t["job_id"].as_str()).collect();
        // A task has succeeded when its record lies there; its job ends a moment later.
        let start = Instant::now();
        let mut cluster = self.cluster();
        while cluster.jobs.iter().any(|j| j.state.is_live()) && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
            cluster = self.cluster();
        }
        for job in &cluster.jobs {
            assert!(!job.state.is_live(), "{self}: orphan: job {} ({}) still lives", job.full_id(), job.name);
            let id = job.full_id();
            assert!(
                job.state == State::Cancelled || known.contains(id.as_str()),
                "{self}: orphan: the ledger does not know job {id} ({}); it knows {known:?}",
                job.name
            );
        }
        let mut ran: BTreeMap<String, u32> = BTreeMap::new();
        let log = std::fs::read_to_string(self.dir.join("cluster").join(crash::jobs::EXECUTIONS))
            .unwrap_or_default();
        for line in log.lines() {
            *ran.entry(line.split(' ').next().unwrap().to_owned()).or_default() += 1;
        }
        let real = cluster.jobs.iter().any(|j| j.pid.is_some());
        assert!(real || ran.len() == TASKS, "{self}: lost: only {} of {TASKS} tasks ran", ran.len());
        assert!(ran.values().all(|n| *n == 1), "{self}: duplicate: {ran:?}");
        for t in &tasks {
            let dir = self.dir.join("runs/s/tasks").join(t["task"].as_str().unwrap());
            assert!(dir.join("result.json").exists(), "{self}: {t} has no result");
            let records = record::layout::attempts(&dir)
                .unwrap()
                .into_iter()
                .filter(|n| record::layout::attempt_dir(&dir, *n).join("record.json").exists())
                .count();
            assert_eq!(records, 1, "{self}: duplicate: {} has {records} records", dir.display());
        }
    }
}

impl std::fmt::Display for Lab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {} (look into {})", self.seed, self.dir.display())
    }
}

fn tasks(status: &Value) -> Vec<Value> {
    status["data"].as_array().unwrap_or_else(|| panic!("no tasks in {status:#}")).clone()
}

/// What goes wrong in the sweep of this seed.
fn faults(seed: u64) -> Faults {
    let share = |n: u64| crash::draw(seed, n);
    let some = |n: u64, most: f64| if share(n) < 0.5 { 0.0 } else { share(n + 100) * most };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Faults {
        seed,
        accept_then_time_out: some(1, 0.4),
        lose_then_time_out: some(2, 0.3),
        refuse: some(3, 0.1),
        unreachable: some(4, 0.2),
        blind: some(5, 0.2),
        delay_before_ms: some(6, 150.0) as u64,
        delay_after_ms: some(7, 60.0) as u64,
        lag_ms: some(8, 40.0) as u64,
        sacct_lag_ms: some(9, 500.0) as u64,
        purge_ms: some(10, 200.0) as u64,
        no_accounting: share(11) < 0.5,
        max_submit: if share(12) < 0.5 { 0 } else { 3 },
        run_ms: some(13, 30.0) as u64,
        hold: false,
        real: false,
    }
}

/// How long an undisturbed submission takes here and now: kills are spread over it.
fn length_of_a_submission(root: &Path) -> Duration {
    let lab = Lab::new(root, 0, false, &Faults::default());
    planner();
    let start = Instant::now();
    let out = lab.run(&lab.submit());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    start.elapsed()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// A directory that is kept when the test fails.
fn root(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&root);
    std::fs::create_dir_all(&root).unwrap();
    root
}

#[test]
fn a_planner_that_is_killed_at_random_moments_doubles_nothing_and_loses_nothing() {
    let root = root("campaign");
    let length = length_of_a_submission(&root).as_secs_f64();
    let kills = number("BESSEMER_KILLS", 200);
    let first = number("BESSEMER_SEED", 1);
    let killed = AtomicU64::new(0);
    let next = AtomicU64::new(first);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while killed.load(Ordering::Relaxed) < kills {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let lab = Lab::new(&root, seed, seed.is_multiple_of(2), &faults(seed));
                    for k in 0..KILLS_PER_SWEEP {
                        let args = match (k, lab.draw()) {
                            (0, _) => lab.submit(),
                            (_, luck) if luck < 0.4 => lab.submit(),
                            (_, luck) if luck < 0.8 => vec!["resume", "s"],
                            _ => vec!["status", "s"],
                        };
                        let after = Duration::from_secs_f64(lab.draw() * length * 1.2);
                        killed.fetch_add(u64::from(lab.kill(&args, after)), Ordering::Relaxed);
                    }
                    let status = lab.end_well();
                    lab.check(&status);
                }
            });
        }
    });
    let (killed, sweeps) = (killed.into_inner(), next.into_inner() - first);
    eprintln!("{killed} kills in {sweeps} sweeps of {TASKS} tasks: 0 duplicates, 0 orphans, 0 lost");
    assert!(killed >= kills);
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn real_job_scripts_survive_a_killed_planner_too() {
    let root = root("real");
    let length = length_of_a_submission(&root).as_secs_f64();
    for seed in [501, 502] {
        let faults = Faults { real: true, refuse: 0.0, purge_ms: 200, ..faults(seed) };
        let lab = Lab::new(&root, seed, seed.is_multiple_of(2), &faults);
        for share in [0.4, 0.7] {
            lab.kill(&lab.submit(), Duration::from_secs_f64(share * length));
        }
        let status = lab.end_well();
        lab.check(&status);
    }
    std::fs::remove_dir_all(root).unwrap();
}
