//! Making the ledger anew from files: it is a cache of them.

use crate::db::Db;
use crate::db::lease::Lease;
use crate::db::rows::{SweepRow, TaskRow};
use crate::db::writes::NewSubmission;
use crate::engine::create::{identity, plan_bytes};
use crate::engine::{Engine, Options, frozen, read_graph};
use crate::error::{Error, Result};
use crate::files;
use crate::host::Process;
use crate::state::{AttemptState, Context, Observation, step};
use crate::submission::SubmissionState;
use cluster::backend::{Backend, JobRef};
use cluster::site::Site;
use record::{TaskSpec, Token, layout};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// What `rebuild` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct RebuildReport {
    pub tasks: u64,
    /// Attempts by the state they were found in.
    pub attempts: std::collections::BTreeMap<String, u64>,
    pub warnings: Vec<String>,
}

/// One attempt directory, as found.
struct Found {
    task: i64,
    spec: TaskSpec,
    dir: PathBuf,
    state: AttemptState,
    traces: files::Traces,
    /// Time of `task.json`: the intent cannot be older.
    intent_ms: i64,
}

impl Engine {
    /// Recreates the rows of a sweep from its run directory: frozen plan and identity, attempt directories, and one look at
    /// the scheduler, which is searched by the names of attempts that left no trace of their own.
    ///
    /// # Errors
    /// [`Error::BadFile`] for a directory that is no run directory; I/O and SQLite errors.
    pub fn rebuild(
        db: Db,
        run_dir: &Path,
        site: Site,
        backend: Arc<dyn Backend>,
        options: Options,
    ) -> Result<(Self, RebuildReport)> {
        let run_dir = std::fs::canonicalize(run_dir)
            .map_err(Error::io(format!("cannot resolve {}", run_dir.display())))?;
        let graph = read_graph(&run_dir)?;
        let graph_sha256 = record::key::sha256_hex(&plan_bytes(&graph)?);
        let mut sweep = SweepRow {
            id: 0,
            name: graph.sweep.clone(),
            nonce: identity(&run_dir)?,
            run_dir,
            site: site.name.to_string(),
            job_sha256: graph.job_sha256.clone(),
            graph_sha256: graph_sha256.clone(),
            created_ms: record::now_ms(),
            calls: 0,
        };
        let mut db = db;
        sweep.id = db.put_sweep(&sweep)?;
        let mut engine = Self::open(db, sweep, site, backend, options);
        let report = engine.leased(|e, lease| {
            e.db.write(lease, &e.sweep.name, |w| w.put_graph(&graph, &graph_sha256))?;
            let tasks = e.db.tasks(e.sweep.id, true)?;
            let mut report = e.adopt_attempts(lease, &tasks)?;
            match e.observe_settled(lease) {
                Ok(looked) => report.warnings.extend(looked.warnings),
                Err(Error::Scheduler(why)) => report.warnings.push(why),
                Err(other) => return Err(other),
            }
            report.tasks = tasks.len() as u64;
            report.attempts.clear();
            for a in e.db.all_attempts(e.sweep.id)? {
                *report.attempts.entry(a.state.name().to_owned()).or_default() += 1;
            }
            Ok(report)
        })?;
        Ok((engine, report))
    }

    /// Makes rows for attempts that have a directory and no row.
    pub(super) fn adopt_attempts(&mut self, lease: &Lease, tasks: &[TaskRow]) -> Result<RebuildReport> {
        let known: std::collections::HashSet<(i64, u32)> =
            self.db.all_attempts(self.sweep.id)?.into_iter().map(|a| (a.task, a.n)).collect();
        let arrays = self.arrays();
        let mut report = RebuildReport::default();
        let mut found = Vec::new();
        for task in tasks {
            let task_dir = self.task_dir(&task.key);
            let numbers = layout::attempts(&task_dir)
                .map_err(Error::io(format!("cannot list {}", task_dir.display())))?;
            for n in numbers {
                if known.contains(&(task.id, n)) {
                    continue;
                }
                match self.found(task, n) {
                    Ok(Some(f)) => found.push(f),
                    Ok(None) => {}
                    Err(why) => report.warnings.push(why),
                }
            }
        }
        let me = Process { pid: 0, pid_start: 0, ..Process::me() };
        self.db.write(lease, &self.sweep.name, |w| {
            let mut submissions: HashMap<Token, i64> = HashMap::new();
            for f in &found {
                let array = arrays.get(&f.dir);
                let token = array.map_or_else(|| f.spec.token.clone(), |(token, ..)| token.clone());
                let submission = match submissions.get(&token) {
                    Some(id) => *id,
                    None => {
                        let script =
                            array.map_or_else(|| f.dir.join(layout::SCRIPT), |(.., script)| script.clone());
                        let id = w.put_submission(
                            &NewSubmission {
                                token: token.clone(),
                                array: array.map(|(_, _, size, _)| *size),
                                script_sha256: record::key::sha256_file(&script).unwrap_or_default(),
                                script,
                                intent_ms: f.intent_ms,
                            },
                            &me,
                        )?;
                        submissions.insert(token.clone(), id);
                        id
                    }
                };
                let element = array.map(|(_, index, ..)| *index);
                let id = w.put_attempt(
                    f.task,
                    f.spec.attempt,
                    &f.spec.token,
                    submission,
                    element,
                    f.spec.resources.memory_mb,
                )?;
                if let Some(s) = &f.traces.started {
                    w.set_started(id, &s.host, s.at_ms)?;
                    let own = JobRef { id: s.job_id.clone(), cluster: None, token: token.clone() };
                    w.set_job(id, &own)?;
                    // One claim proves the acceptance of its whole submission.
                    let base = crate::submission::base_id(&s.job_id).to_owned();
                    let job = JobRef { id: base, cluster: None, token: token.clone() };
                    w.set_submission(submission, &SubmissionState::Accepted { job }, "")?;
                }
                if let Some(r) = &f.traces.record {
                    w.set_record(id, r)?;
                }
                if f.state != AttemptState::Submitting {
                    let state = rename(&f.state, &token);
                    w.set_state_by_id(id, &state, "rebuilt from files")?;
                }
            }
            // Elements without a trace of an array that was accepted for certain: they have its id.
            w.adopt_siblings()
        })?;
        for f in &found {
            report.warnings.extend(f.traces.problems.iter().cloned());
            *report.attempts.entry(f.state.name().to_owned()).or_default() += 1;
        }
        Ok(report)
    }

    fn found(&self, task: &TaskRow, n: u32) -> std::result::Result<Option<Found>, String> {
        let dir = self.attempt_dir(&task.key, n);
        let path = dir.join(layout::TASK);
        if !path.exists() {
            // a directory without a spec was never handed in
            return Ok(None);
        }
        let spec = TaskSpec::read(&path)?;
        if spec.key != task.key || spec.attempt != n {
            return Err(format!("{} belongs to another attempt: ignored", path.display()));
        }
        let expected = Token::new(&self.sweep.nonce, &task.kind, &task.key, n);
        if spec.token != expected {
            // A dry run's leftovers carry another identity; they were never handed in.
            return Ok(None);
        }
        let traces = files::traces(&dir, &task.key, &spec.token);
        if traces.whole
            && let Err(e) = files::publish(&self.task_dir(&task.key), n)
        {
            return Err(e.to_string());
        }
        let now_ms = record::now_ms();
        let ctx = Context { now_ms, record_grace_ms: 0, hint_grace_ms: 0, cancel_asked: false };
        let mut state = AttemptState::Submitting;
        if let Some(s) = &traces.started {
            let job = JobRef { id: s.job_id.clone(), cluster: None, token: spec.token.clone() };
            state = step(state, &Observation::Accepted(&job), &ctx).0;
            state = step(state, &Observation::Started(s), &ctx).0;
        }
        if let Some(record) = &traces.record {
            state = step(state, &Observation::Record { record, whole: traces.whole }, &ctx).0;
        }
        let intent_ms = std::fs::metadata(&path)
            .and_then(|m| m.modified())
            .ok()
            .and_then(|t| t.duration_since(UNIX_EPOCH).ok())
            .and_then(|d| i64::try_from(d.as_millis()).ok())
            .unwrap_or(now_ms);
        Ok(Some(Found { task: task.id, spec, dir, state, traces, intent_ms }))
    }

    /// Attempt directory -> (array's token, index, size, script), of the newest array that names it.
    fn arrays(&self) -> HashMap<PathBuf, (Token, u32, u32, PathBuf)> {
        let mut arrays: Vec<(std::time::SystemTime, PathBuf)> =
            std::fs::read_dir(self.sweep.run_dir.join(frozen::ARRAYS))
                .into_iter()
                .flatten()
                .filter_map(std::result::Result::ok)
                .filter_map(|e| {
                    Some((e.path().join(layout::SCRIPT).metadata().ok()?.modified().ok()?, e.path()))
                })
                .collect();
        arrays.sort();
        let mut of = HashMap::new();
        for (_, dir) in arrays {
            let Some(token) = dir.file_name().and_then(|n| n.to_str()).map(|n| Token(n.to_owned())) else {
                continue;
            };
            let map = std::fs::read_to_string(dir.join(frozen::MAP)).unwrap_or_default();
            let size = u32::try_from(map.lines().count()).unwrap_or(0);
            for (index, line) in (0u32..).zip(map.lines()) {
                of.insert(PathBuf::from(line), (token.clone(), index, size, dir.join(layout::SCRIPT)));
            }
        }
        of
    }
}

/// The job's name at the scheduler is the array's, not the attempt's.
fn rename(state: &AttemptState, token: &Token) -> AttemptState {
    match state {
        AttemptState::Submitted { job } => {
            AttemptState::Submitted { job: JobRef { token: token.clone(), ..job.clone() } }
        }
        AttemptState::Running { job } => {
            AttemptState::Running { job: JobRef { token: token.clone(), ..job.clone() } }
        }
        other => other.clone(),
    }
}
