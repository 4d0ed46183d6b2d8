//! The engine behind `submit`, `run`, `status`, `resume`, `cancel` and `rebuild`: it looks (files, queue), steps the state
//! machines, makes the outcome durable, and acts. One file per verb.

mod ahead;
mod cancel;
mod create;
mod drive;
mod dry;
mod observe;
mod outcome;
mod prepare;
mod rebuild;
mod request;
mod resume;
mod submit;
mod verify;

pub use cancel::CancelReport;
pub use create::NewSweep;
pub use drive::{DriveReport, Ended};
pub use dry::{DryReport, dry_run};
pub use outcome::{Stop, SubmitReport};
pub use rebuild::RebuildReport;
pub use request::Request;
pub use resume::ResumeOptions;
pub use verify::{GcReport, VerifyReport};

use crate::board::Board;
use crate::db::Db;
use crate::db::lease::Lease;
use crate::db::rows::SweepRow;
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::view::View;
use cluster::backend::Backend;
use cluster::site::Site;
use plan::Graph;
use record::{ContentKey, layout};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files of a run directory that are written at submit and frozen there.
pub mod frozen {
    pub use record::layout::{IDENTITY, JOB, PLAN, SITE};

    /// Directories of array scripts: `arrays/<token>/{job.sh, map, sched/}`.
    pub const ARRAYS: &str = "arrays";
    /// In an array's directory: line k is the attempt directory of element k.
    pub const MAP: &str = "map";
    /// Directory of what is asked of the driver, and its answers ([`super::Request`]).
    pub const REQUESTS: &str = "requests";
}

/// How long things may take. Every value can be set in the environment, for sites with slow file systems and for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How late a record may be after the scheduler says "over": `BESSEMER_RECORD_GRACE_S`, 300 s (specs: F29).
    pub record_grace_ms: i64,
    /// The same when the scheduler names a cause of failure: a tenth of it.
    pub hint_grace_ms: i64,
    /// Time between two looks that make absence believable: `BESSEMER_SETTLE_S`, 5 s.
    pub settle_ms: i64,
    /// Instead of the backend's own: `BESSEMER_UNCERTAIN_GRACE_S` (specs: F3).
    pub uncertain_grace_ms: Option<i64>,
}

impl Timing {
    /// Defaults, and what the environment says. `local`: jobs are processes of this machine, whose records cannot be late.
    #[must_use]
    pub fn from_env(local: bool) -> Self {
        let ms = |name: &str| {
            let seconds: f64 = std::env::var(name).ok()?.parse().ok()?;
            #[allow(clippy::cast_possible_truncation)]
            (0.0..1e9).contains(&seconds).then_some((seconds * 1000.0) as i64)
        };
        let record_grace_ms = ms("BESSEMER_RECORD_GRACE_S").unwrap_or(if local { 2_000 } else { 300_000 });
        Self {
            record_grace_ms,
            hint_grace_ms: record_grace_ms / 10,
            settle_ms: ms("BESSEMER_SETTLE_S").unwrap_or(if local { 0 } else { 5_000 }),
            uncertain_grace_ms: ms("BESSEMER_UNCERTAIN_GRACE_S"),
        }
    }
}

/// What the engine cannot know by itself.
#[derive(Debug, Clone)]
pub struct Options {
    /// Absolute path of the `bessemer` program that jobs run, where the site names none.
    pub bessemer: PathBuf,
    /// Absolute path of the worker program, where the site names none.
    pub worker: Option<PathBuf>,
    /// The command line, for whoever meets the lease.
    pub command: String,
    pub timing: Timing,
}

/// One sweep, its site and its scheduler.
pub struct Engine {
    db: Db,
    sweep: SweepRow,
    site: Site,
    backend: Arc<dyn Backend>,
    options: Options,
    graph: Option<Arc<Graph>>,
    /// Scheduler calls of the backend that are in the ledger already.
    counted_calls: u64,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("sweep", &self.sweep)
            .field("db", &self.db.path())
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine for a sweep that the state file knows. `site` is the one frozen in the run directory
    /// ([`frozen::SITE`]).
    #[must_use]
    pub fn open(db: Db, sweep: SweepRow, site: Site, backend: Arc<dyn Backend>, options: Options) -> Self {
        Self { db, sweep, site, backend, options, graph: None, counted_calls: 0 }
    }

    #[must_use]
    pub fn sweep(&self) -> &SweepRow {
        &self.sweep
    }

    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.sweep.run_dir
    }

    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// The graph frozen in the run directory.
    ///
    /// # Errors
    /// [`Error::BadFile`]: missing or malformed `plan.json`.
    pub fn graph(&mut self) -> Result<Arc<Graph>> {
        if let Some(graph) = &self.graph {
            return Ok(Arc::clone(graph));
        }
        let graph = Arc::new(read_graph(&self.sweep.run_dir)?);
        self.graph = Some(Arc::clone(&graph));
        Ok(graph)
    }

    /// What the ledger says, without looking at anything else. `filter`: only these tasks.
    ///
    /// # Errors
    /// SQLite's.
    pub fn view(&self, filter: &Filter) -> Result<View> {
        let board = self.board()?;
        let holder = self.db.holder(self.sweep.id, record::now_ms())?;
        View::of(&self.sweep, &board, filter, holder.as_ref(), self.backend.calls())
    }

    /// Ingests records and events, asks the scheduler once (at most one queue and one accounting command, and only while
    /// attempts are live), and shows what is known now. Never hands anything in. While another planner holds the sweep
    /// the ledger is only read.
    ///
    /// # Errors
    /// SQLite's.
    pub fn refresh(&mut self, filter: &Filter) -> Result<View> {
        let warnings = match self.lease() {
            Ok(lease) => {
                let looked = self.observe(&lease);
                self.release(&lease)?;
                match looked {
                    Ok(seen) => seen.warnings,
                    // Nothing could be asked: what the ledger knows is still worth showing.
                    Err(Error::Scheduler(why)) => vec![why],
                    Err(e) => return Err(e),
                }
            }
            Err(held @ Error::Held { .. }) => vec![format!("only read: {held}")],
            Err(e) => return Err(e),
        };
        let mut view = self.view(filter)?;
        view.warnings = warnings;
        Ok(view)
    }

    fn lease(&mut self) -> Result<Lease> {
        let command = self.options.command.clone();
        self.db.acquire(self.sweep.id, &self.sweep.name, &command, record::now_ms())
    }

    fn release(&mut self, lease: &Lease) -> Result<()> {
        let calls = self.backend.calls();
        let new = calls.saturating_sub(self.counted_calls);
        if new > 0 {
            self.db.write(lease, &self.sweep.name, |w| w.add_calls(new))?;
            self.counted_calls = calls;
        }
        self.db.release(lease)
    }

    /// Runs `f` under the lease and gives it back whatever happens.
    fn leased<T>(&mut self, f: impl FnOnce(&mut Self, &Lease) -> Result<T>) -> Result<T> {
        let lease = self.lease()?;
        let value = self.complete_creation(&lease).and_then(|()| f(self, &lease));
        let released = self.release(&lease);
        let value = value?;
        released?;
        Ok(value)
    }

    /// A planner that was killed while it made the sweep, or gave it an edited job file, left a row without a graph's
    /// hash: the tasks of the frozen plan may not be in the ledger. Without this such a sweep would look done, having
    /// nothing to do.
    fn complete_creation(&mut self, lease: &Lease) -> Result<()> {
        if !self.sweep.graph_sha256.is_empty() {
            return Ok(());
        }
        let graph = self.graph()?;
        let sha = record::key::sha256_hex(&create::plan_bytes(&graph)?);
        self.db.write(lease, &self.sweep.name, |w| w.put_graph(&graph, &sha))?;
        self.adopt_results(lease)?;
        self.sweep.graph_sha256 = sha;
        Ok(())
    }

    fn board(&self) -> Result<Board> {
        Ok(Board::new(
            self.db.tasks(self.sweep.id, false)?,
            self.db.newest_attempts(self.sweep.id)?,
            &self.db.edges(self.sweep.id)?,
        ))
    }

    fn task_dir(&self, key: &ContentKey) -> PathBuf {
        layout::task_dir(&self.sweep.run_dir, key)
    }

    fn attempt_dir(&self, key: &ContentKey, n: u32) -> PathBuf {
        layout::attempt_dir(&self.task_dir(key), n)
    }

    fn uncertain_grace_ms(&self) -> i64 {
        self.options.timing.uncertain_grace_ms.unwrap_or_else(|| {
            i64::try_from(self.backend.uncertain_grace_s()).unwrap_or(i64::MAX / 2000) * 1000
        })
    }
}

/// Reads the graph frozen in a run directory.
///
/// # Errors
/// [`Error::BadFile`].
pub fn read_graph(run_dir: &Path) -> Result<Graph> {
    let path = run_dir.join(frozen::PLAN);
    let bad = |what: String| Error::BadFile { path: path.clone(), what };
    let graph: Graph = record::atomic::read_json(&path)
        .map_err(|e| bad(format!("cannot be read: {e}")))?
        .ok_or_else(|| bad("is missing: this is no run directory, or `submit` never got that far".into()))?;
    if graph.format > record::FORMAT {
        return Err(bad(format!(
            "has format {}, this program knows up to {}: update bessemer",
            graph.format,
            record::FORMAT
        )));
    }
    Ok(graph)
}
