//! A cluster, a directory, and programs that are timed.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub const BESSEMER: &str = env!("CARGO_BIN_EXE_bessemer");
const CLUSTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../slurm/test-cluster");

pub struct Lab {
    pub dir: PathBuf,
    cluster: Option<PathBuf>,
    _temp: tempfile::TempDir,
}

/// One finished program.
pub struct Ran {
    pub wall: Duration,
    pub peak_mb: f64,
    pub out: String,
    pub code: i32,
}

impl Lab {
    /// A directory without a cluster.
    pub fn here() -> Self {
        let temp = tempfile::Builder::new().prefix("bench").tempdir().expect("a temporary directory");
        Self { dir: temp.path().canonicalize().expect("it is there"), cluster: None, _temp: temp }
    }

    pub fn slurm(up: &[&str]) -> Self {
        let mut lab = Self::here();
        let cluster = lab.dir.join("cluster");
        let started = Command::new(format!("{CLUSTER}/up"))
            .arg(&cluster)
            .args(["--with-pid", &std::process::id().to_string()])
            .args(up)
            .output()
            .expect("slurm/test-cluster/up starts");
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        lab.cluster = Some(cluster);
        lab
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::write(&path, text).expect("the directory is writable");
        path
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut c = Command::new(program);
        c.args(args).current_dir(&self.dir).stdin(Stdio::null());
        for name in ["BESSEMER_RUNS", "BESSEMER_STATE", "SBATCH_PARTITION", "SLURM_CONF"] {
            c.env_remove(name);
        }
        if let Some(cluster) = &self.cluster {
            c.env("SLURM_CONF", cluster.join("etc/slurm.conf"));
        }
        c
    }

    /// Runs a program to its end; time and memory are the kernel's account of it and its waited-for children.
    #[expect(clippy::zombie_processes, reason = "wait4 below waits for it, and gives its resources")]
    pub fn run(&self, program: &str, args: &[&str]) -> Ran {
        let out = self.dir.join("stdout");
        let err = self.dir.join("stderr");
        let file = |p: &Path| std::fs::File::create(p).expect("the directory is writable");
        let mut c = self.command(program, args);
        c.stdout(file(&out)).stderr(file(&err)).process_group(0);
        let begun = Instant::now();
        let child = c.spawn().unwrap_or_else(|e| panic!("{program}: {e}"));
        let mut status = 0;
        // SAFETY: all-zero is a valid rusage, which the kernel then fills in
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        let pid = libc::pid_t::try_from(child.id()).expect("a pid");
        // SAFETY: the pid is our child's, which nobody else waits for; both pointers are valid for the call
        unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
        let wall = begun.elapsed();
        let code = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -1 };
        let read = |p: &Path| String::from_utf8_lossy(&std::fs::read(p).unwrap_or_default()).into_owned();
        if code != 0 {
            eprintln!("bench: {program} {args:?}: exit {code}: {}", read(&err).trim());
        }
        #[allow(clippy::cast_precision_loss)]
        Ran { wall, peak_mb: usage.ru_maxrss as f64 / 1000.0 * 1.024, out: read(&out), code }
    }

    pub fn bessemer(&self, args: &[&str]) -> Ran {
        self.run(BESSEMER, args)
    }

    pub fn reset_counters(&self) {
        self.run("sdiag", &["--reset"]);
    }

    /// Requests of one type that the controller has answered since the last reset.
    pub fn requests(&self, kind: &str) -> u64 {
        let text = self.run("sdiag", &[]).out;
        text.lines()
            .find(|l| l.contains(kind))
            .and_then(|l| l.split("count:").nth(1)?.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    }

    /// Forgets every job.
    pub fn cancel_all(&self) {
        self.run("scancel", &["-u", self.run("id", &["-un"]).out.trim()]);
        while !self.run("squeue", &["-h", "-t", "pending,running,completing"]).out.trim().is_empty() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(cluster) = &self.cluster {
            let _ = Command::new(format!("{CLUSTER}/down")).arg("--purge").arg(cluster).status();
        }
    }
}

/// A job file of `n` equal tasks.
pub fn many(name: &str, n: usize, argv: &str) -> String {
    let list: Vec<String> = (0..n).map(|i| i.to_string()).collect();
    format!(
        "bessemer: 1\nname: {name}\nmatrix: {{i: [{}]}}\ndefaults:\n  resources: {{cpus: 1, memory: 60MB, walltime: 5m}}\nphases:\n\
         \x20 work: {{kind: command, params: {{argv: {argv}, env: {{I: \"${{i}}\"}}}}}}\n",
        list.join(", ")
    )
}
