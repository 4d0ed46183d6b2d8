//! What the tests of the command line share: a fresh directory, and the built program.
#![allow(dead_code, reason = "each test binary uses its own part")]

use record::params::CommandParams;
use record::{
    AttemptRecord, ContentKey, Input, Params, Resources, ResultPointer, TaskSpec, Token, atomic, layout,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub const BESSEMER: &str = env!("CARGO_BIN_EXE_bessemer");

/// Generous: only a hang reaches it.
const HANG: Duration = Duration::from_secs(120);

/// Waits until `what` holds; the tests' only way to wait for another process.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < HANG, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process is there and not merely unburied.
pub fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|s| s.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X'])))
}

/// A task of kind `command` with its first attempt, in a directory of its own.
pub struct Task {
    pub spec: TaskSpec,
    _dir: Option<tempfile::TempDir>,
}

impl Task {
    /// `sh -c SCRIPT`.
    pub fn sh(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut task = Self::sh_in(dir.path(), script);
        task._dir = Some(dir);
        task
    }

    pub fn sh_in(dir: &Path, script: &str) -> Self {
        Self::of_kind(
            dir,
            Params::Command(CommandParams {
                argv: vec!["sh".into(), "-c".into(), script.into()],
                ..CommandParams::default()
            }),
        )
    }

    /// A worker task, run by the script `worker` instead of the real worker program.
    pub fn of_kind(dir: &Path, work: Params) -> Self {
        let key = ContentKey::of(work.kind().name(), &serde_json::to_value(&work).unwrap(), &BTreeMap::new());
        let task_dir = dir.join("tasks").join(key.as_str());
        let spec = TaskSpec {
            format: record::FORMAT,
            sweep: "s".into(),
            phase: "p".into(),
            labels: BTreeMap::from([("seed".into(), serde_json::json!(1))]),
            token: Token::new("n", work.kind().name(), &key, 1),
            key,
            attempt: 1,
            work,
            inputs: BTreeMap::new(),
            sources: BTreeMap::new(),
            services: BTreeMap::new(),
            consumers: vec![],
            resources: Resources { cpus: 1, gpus: 0, memory_mb: 1000, walltime_s: 3600 },
            attempt_dir: layout::attempt_dir(&task_dir, 1),
            task_dir,
            margin_s: 60,
        };
        Self { spec, _dir: None }
    }

    /// Changes the command's parameters.
    pub fn params(mut self, change: impl FnOnce(&mut CommandParams)) -> Self {
        if let Params::Command(p) = &mut self.spec.work {
            change(p);
        }
        self
    }

    pub fn spec(mut self, change: impl FnOnce(&mut TaskSpec)) -> Self {
        change(&mut self.spec);
        self
    }

    pub fn input(&self) -> Input {
        Input {
            phase: self.spec.phase.clone(),
            key: self.spec.key.clone(),
            task_dir: self.spec.task_dir.clone(),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.spec.attempt_dir
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.spec.attempt_dir.join(name)
    }

    /// The supervisor's command line, with an environment free of schedulers.
    pub fn command(&self) -> Command {
        std::fs::create_dir_all(&self.spec.attempt_dir).unwrap();
        let path = self.path(layout::TASK);
        atomic::write_json(&path, &self.spec).unwrap();
        let mut c = Command::new(BESSEMER);
        c.args(["task", "run"]).arg(path).stdin(Stdio::null());
        for (name, _) in std::env::vars() {
            if ["SLURM_", "PBS_", "BESSEMER_", "CUDA_"].iter().any(|p| name.starts_with(p)) {
                c.env_remove(name);
            }
        }
        c
    }

    pub fn run(&self) -> Done {
        self.run_with(&[])
    }

    pub fn run_with(&self, env: &[(&str, &str)]) -> Done {
        Done::of(self.command().envs(env.iter().copied()).output().unwrap())
    }

    pub fn start(&self) -> Child {
        self.command().stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    pub fn record(&self) -> AttemptRecord {
        atomic::read_json(&self.path(layout::RECORD)).unwrap().expect("a record")
    }

    pub fn result(&self) -> Option<ResultPointer> {
        atomic::read_json(&self.spec.task_dir.join(layout::RESULT)).unwrap()
    }

    pub fn out(&self, name: &str) -> PathBuf {
        self.path(layout::OUT).join(name)
    }

    pub fn read_out(&self, name: &str) -> String {
        std::fs::read_to_string(self.out(name)).unwrap().trim().to_owned()
    }
}

/// A program that has ended.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    pub fn of(o: Output) -> Self {
        Self {
            code: o.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&o.stdout).into_owned(),
            err: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub fn code(self, want: i32) -> Self {
        assert_eq!(self.code, want, "exit code\n--- stdout\n{}\n--- stderr\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.err.contains(text) || self.out.contains(text),
            "does not say {text:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.out,
            self.err
        );
        self
    }
}

/// A directory to work in, as a user's.
pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// `here.yaml`: this machine with so many slots, whatever it has, and nothing shared with other sweeps of this user.
    /// Returns the pool's name.
    pub fn local_site(&self, cpus: u32) -> String {
        let pool = format!("p{}", self.dir.path().file_name().unwrap().to_string_lossy().replace('.', ""));
        let local = format!("local: {{cpus: {cpus}, memory: 1GB, gpus: 0, pool: {pool}}}");
        self.write("here.yaml", &format!("bessemer_site: 1\nname: here\nscheduler: local\n{local}\n"));
        pool
    }

    /// An executable; `bin/` comes first in PATH.
    pub fn program(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        self.write(name, text);
        let path = self.dir.path().join(name);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The built program in this directory, free of the caller's schedulers and settings. Tasks find `RAN` and `GO`.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(BESSEMER);
        c.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars() {
            if ["SLURM_", "SBATCH_", "PBS_", "BESSEMER_", "CUDA_"].iter().any(|p| name.starts_with(p)) {
                c.env_remove(name);
            }
        }
        let path = format!(
            "{}:{}",
            self.dir.path().join("bin").display(),
            std::env::var("PATH").unwrap_or_default()
        );
        c.env("PATH", path).env("RAN", self.dir.path().join("ran")).env("GO", self.dir.path().join("go"));
        c
    }

    pub fn run(&self, args: &[&str]) -> Done {
        Done::of(self.command(args).output().unwrap())
    }
}
