//! Making a sweep, or giving a known one an edited job file.

use crate::db::Db;
use crate::db::rows::SweepRow;
use crate::engine::{Engine, Options, frozen};
use crate::error::{Error, Result};
use cluster::backend::Backend;
use cluster::site::Site;
use plan::Graph;
use record::atomic;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// What a sweep is made of.
#[derive(Debug)]
pub struct NewSweep<'a> {
    pub graph: &'a Graph,
    /// Created if needed.
    pub run_dir: &'a Path,
    /// The job file, verbatim: kept in the run directory.
    pub job_text: &'a str,
    /// The site file, verbatim: kept in the run directory, later commands use that copy.
    pub site_text: &'a str,
}

impl Engine {
    /// Makes the sweep known: identity, frozen files, rows. A sweep with the same run directory gets the new graph:
    /// tasks with the same key keep their attempts and results, tasks that left the job file keep their files and leave
    /// the view. Nothing is handed in.
    ///
    /// # Errors
    /// [`Error::Held`], I/O and SQLite errors.
    pub fn create(
        db: Db,
        new: &NewSweep,
        site: Site,
        backend: Arc<dyn Backend>,
        options: Options,
    ) -> Result<Self> {
        let dir = new.run_dir;
        std::fs::create_dir_all(dir).map_err(Error::io(format!("cannot create {}", dir.display())))?;
        let run_dir =
            std::fs::canonicalize(dir).map_err(Error::io(format!("cannot resolve {}", dir.display())))?;
        if run_dir.to_str().is_none() {
            return Err(Error::BadFile {
                path: run_dir,
                what: "is not UTF-8: choose another run directory".into(),
            });
        }
        let plan_json = plan_bytes(new.graph)?;
        let graph_sha256 = record::key::sha256_hex(&plan_json);
        let mut sweep = SweepRow {
            id: 0,
            name: new.graph.sweep.clone(),
            nonce: identity(&run_dir)?,
            run_dir,
            site: site.name.to_string(),
            job_sha256: new.graph.job_sha256.clone(),
            graph_sha256,
            created_ms: record::now_ms(),
            calls: 0,
        };
        let mut db = db;
        db.daily_backup()?;
        sweep.id = db.put_sweep(&sweep)?;
        let mut engine = Self::open(db, sweep, site, backend, options);
        engine.leased(|e, lease| {
            let files: [(&str, &[u8]); 3] = [
                (frozen::JOB, new.job_text.as_bytes()),
                (frozen::SITE, new.site_text.as_bytes()),
                (frozen::PLAN, &plan_json),
            ];
            for (name, bytes) in files {
                let path = e.sweep.run_dir.join(name);
                if std::fs::read(&path).ok().as_deref() != Some(bytes) {
                    atomic::write(&path, bytes).map_err(Error::io("cannot freeze the sweep"))?;
                }
            }
            let sha = e.sweep.graph_sha256.clone();
            e.db.write(lease, &e.sweep.name, |w| w.put_graph(new.graph, &sha))?;
            e.adopt_results(lease)
        })?;
        Ok(engine)
    }

    /// Results that lie in the run directory although the ledger knows no attempt of their task (a lost state file, or a
    /// task that was in the job file earlier): they count as done.
    pub(super) fn adopt_results(&mut self, lease: &crate::db::lease::Lease) -> Result<()> {
        if !self.sweep.run_dir.join("tasks").is_dir() {
            return Ok(());
        }
        let board = self.board()?;
        let missing: Vec<_> = board
            .tasks
            .iter()
            .zip(&board.newest)
            .filter(|(task, newest)| newest.is_none() && self.task_dir(&task.key).is_dir())
            .map(|(task, _)| task.clone())
            .collect();
        if missing.is_empty() { Ok(()) } else { self.adopt_attempts(lease, &missing).map(|_| ()) }
    }
}

/// `plan.json` as it is written: its hash is the graph's.
pub(super) fn plan_bytes(graph: &Graph) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(graph)
        .map_err(|e| Error::Io { what: "cannot write the plan".into(), source: e.into() })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The sweep's identity: random, made once.
pub(super) fn identity(run_dir: &Path) -> Result<String> {
    if let Some(known) = known_identity(run_dir)? {
        return Ok(known);
    }
    let mut random = [0u8; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut random))
        .map_err(Error::io("cannot read /dev/urandom"))?;
    let fresh = format!("{}\n", &record::key::sha256_hex(&random)[..32]);
    atomic::publish_once(&run_dir.join(frozen::IDENTITY), fresh.as_bytes())
        .map_err(Error::io("cannot write the sweep's identity"))?;
    // Of two planners that meet here the first one's identity counts for both.
    known_identity(run_dir)?.ok_or_else(|| Error::BadFile {
        path: run_dir.join(frozen::IDENTITY),
        what: "vanished while it was written".into(),
    })
}

/// The identity that a run directory already has.
pub(super) fn known_identity(run_dir: &Path) -> Result<Option<String>> {
    let path = run_dir.join(frozen::IDENTITY);
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim().len() >= 16 => Ok(Some(text.trim().to_owned())),
        Ok(_) => Err(Error::BadFile {
            path,
            what: "is no identity: restore it, or choose another run directory".into(),
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::Io { what: format!("cannot read {}", path.display()), source: e }),
    }
}
