//! The cluster as one JSON file under a lock. Every call of a fake command is one locked transaction.

use crate::Faults;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// State of one job or array element, in Slurm's spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl State {
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, State::Pending | State::Running)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Pending => "PENDING",
            State::Running => "RUNNING",
            State::Completed => "COMPLETED",
            State::Failed => "FAILED",
            State::Cancelled => "CANCELLED",
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    pub id: u64,
    /// Index in the array; `None`: a single job.
    pub element: Option<u32>,
    pub name: String,
    pub script: PathBuf,
    /// Pattern of `--output`.
    pub output: String,
    pub after_ok: Vec<String>,
    pub after: Vec<String>,
    pub state: State,
    pub reason: String,
    pub exit: i32,
    pub submit_ms: i64,
    /// `--begin`.
    pub begin_ms: i64,
    pub start_ms: Option<i64>,
    pub end_ms: Option<i64>,
    /// Process of a job that is really run.
    pub pid: Option<u32>,
}

impl Job {
    /// `4711` or `4711_3`.
    #[must_use]
    pub fn full_id(&self) -> String {
        self.element.map_or_else(|| self.id.to_string(), |k| format!("{}_{k}", self.id))
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Cluster {
    pub next_id: u64,
    pub calls: u64,
    pub jobs: Vec<Job>,
}

/// The cluster, locked.
pub struct Guard {
    pub cluster: Cluster,
    pub faults: Faults,
    dir: PathBuf,
    _lock: File,
}

impl Guard {
    /// Waits for the lock and reads the cluster.
    ///
    /// # Errors
    /// I/O errors; malformed state.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let lock = File::options().create(true).truncate(false).write(true).open(dir.join("lock"))?;
        // SAFETY: the descriptor belongs to `lock`, which lives as long as the guard; flock has no other precondition.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let read = |name: &str| match std::fs::read(dir.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        };
        let mut cluster: Cluster = match read("cluster.json")? {
            Some(bytes) => serde_json::from_slice(&bytes)?,
            None => Cluster { next_id: 1, ..Cluster::default() },
        };
        let faults = match read("faults.json")? {
            Some(bytes) => serde_json::from_slice(&bytes)?,
            None => Faults::default(),
        };
        cluster.calls += 1;
        Ok(Self { cluster, faults, dir: dir.to_owned(), _lock: lock })
    }

    /// Writes the cluster and lets go of the lock.
    ///
    /// # Errors
    /// I/O errors.
    pub fn save(self) -> io::Result<()> {
        // rename: a command that is killed in here must not leave half a cluster
        let tmp = self.dir.join("cluster.json.tmp");
        std::fs::write(&tmp, serde_json::to_vec(&self.cluster)?)?;
        std::fs::rename(tmp, self.dir.join("cluster.json"))
    }

    /// A share drawn for this call; `what` keeps several draws of one call apart.
    #[must_use]
    pub fn draw(&self, what: u64) -> f64 {
        crate::draw(self.faults.seed, self.cluster.calls * 16 + what)
    }
}

/// Writes the faults of a cluster.
///
/// # Errors
/// I/O errors.
pub fn set_faults(dir: &Path, faults: &Faults) -> io::Result<()> {
    let tmp = dir.join("faults.json.tmp");
    std::fs::write(&tmp, serde_json::to_vec(faults)?)?;
    std::fs::rename(tmp, dir.join("faults.json"))
}
