//! The statements that write the ledger. Everything about a sweep is written under its lease, through a [`Writer`].

use crate::db::Db;
use crate::db::lease::{self, Lease};
use crate::db::rows::{ATTEMPT, AttemptRow, SweepRow, attempt, signed};
use crate::error::{Error, Result};
use crate::host::Process;
use crate::retry::class_name;
use crate::state::{AttemptState, Hint};
use crate::submission::SubmissionState;
use cluster::backend::JobRef;
use record::Token;
use rusqlite::{Transaction, params};
use std::path::PathBuf;

/// A new submission, before it has an id.
#[derive(Debug, Clone)]
pub struct NewSubmission {
    pub token: Token,
    pub array: Option<u32>,
    pub script: PathBuf,
    pub script_sha256: String,
    pub intent_ms: i64,
}

/// A write transaction of one sweep under its lease.
pub struct Writer<'a> {
    pub tx: &'a Transaction<'a>,
    pub sweep: i64,
}

impl Db {
    /// Runs `f` in one transaction, if the lease is still ours.
    ///
    /// # Errors
    /// [`Error::LeaseLost`], SQLite's.
    pub fn write<T>(
        &mut self,
        lease: &Lease,
        sweep_name: &str,
        f: impl FnOnce(&Writer) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let value = self.transaction(|tx| {
            if !lease::renew(tx, lease, record::now_ms())? {
                return Ok(None);
            }
            f(&Writer { tx, sweep: lease.sweep }).map(Some)
        })?;
        value.ok_or_else(|| Error::LeaseLost(sweep_name.to_owned()))
    }

    /// Creates the row of a sweep, or updates site and hashes of the one with this run directory.
    ///
    /// # Errors
    /// SQLite's.
    pub fn put_sweep(&mut self, s: &SweepRow) -> Result<i64> {
        self.transaction(|tx| {
            tx.query_row(
                "INSERT INTO sweep (name, run_dir, site, nonce, job_sha256, graph_sha256, created_ms, updated_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, '', ?7, ?7)
                 ON CONFLICT (run_dir) DO UPDATE SET name = ?1, site = ?3, nonce = ?4, job_sha256 = ?5, updated_ms = ?7,
                   graph_sha256 = CASE graph_sha256 WHEN ?6 THEN ?6 ELSE '' END
                 RETURNING id",
                params![
                    s.name,
                    s.run_dir.to_string_lossy(),
                    s.site,
                    s.nonce,
                    s.job_sha256,
                    s.graph_sha256,
                    record::now_ms()
                ],
                |r| r.get(0),
            )
        })
    }
}

impl Writer<'_> {
    /// Makes the current graph the view of the sweep: upserts its tasks in order, marks the rest obsolete, and replaces
    /// the edges.
    ///
    /// # Errors
    /// SQLite's.
    pub fn put_graph(&self, graph: &plan::Graph, graph_sha256: &str) -> rusqlite::Result<()> {
        let tx = self.tx;
        tx.execute("UPDATE task SET current = 0 WHERE sweep = ?1", [self.sweep])?;
        tx.execute("DELETE FROM edge WHERE task IN (SELECT id FROM task WHERE sweep = ?1)", [self.sweep])?;
        let mut ids = std::collections::HashMap::with_capacity(graph.tasks.len());
        {
            let mut put = tx.prepare_cached(
                "INSERT INTO task (sweep, key, ord, current, phase, kind, labels, service)
                 VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6, ?7)
                 ON CONFLICT (sweep, key) DO UPDATE SET ord = ?3, current = 1, phase = ?4, labels = ?6 RETURNING id",
            )?;
            let mut put_edge = tx
                .prepare_cached("INSERT OR IGNORE INTO edge (task, upstream, service) VALUES (?1, ?2, ?3)")?;
            for (ord, task) in (0i64..).zip(&graph.tasks) {
                let kind = task.work.kind();
                let id: i64 = put.query_row(
                    params![
                        self.sweep,
                        task.key.as_str(),
                        ord,
                        task.phase,
                        kind.name(),
                        serde_json::to_string(&task.labels).unwrap_or_else(|_| "{}".into()),
                        kind.is_service()
                    ],
                    |r| r.get(0),
                )?;
                ids.insert(&task.key, id);
                for input in task.inputs.values().flatten() {
                    if let Some(upstream) = ids.get(&input.key) {
                        put_edge.execute(params![id, upstream, false])?;
                    }
                }
                for service in task.services.values() {
                    if let Some(upstream) = ids.get(&service.key) {
                        put_edge.execute(params![id, upstream, true])?;
                    }
                }
            }
        }
        tx.execute(
            "UPDATE sweep SET graph_sha256 = ?2, updated_ms = ?3 WHERE id = ?1",
            params![self.sweep, graph_sha256, record::now_ms()],
        )?;
        Ok(())
    }

    /// Writes an intent.
    ///
    /// # Errors
    /// SQLite's.
    pub fn put_submission(&self, s: &NewSubmission, me: &Process) -> rusqlite::Result<i64> {
        self.tx
            .prepare_cached(
                "INSERT INTO submission
                   (sweep, token, array, script, script_sha256, state, intent_ms, host, boot_id, pid, pid_start)
                 VALUES (?1, ?2, ?3, ?4, ?5, 'open', ?6, ?7, ?8, ?9, ?10) RETURNING id",
            )?
            .query_row(
                params![
                    self.sweep,
                    s.token.as_str(),
                    s.array,
                    s.script.to_string_lossy(),
                    s.script_sha256,
                    s.intent_ms,
                    me.host,
                    me.boot_id,
                    me.pid,
                    signed(me.pid_start)
                ],
                |r| r.get(0),
            )
    }

    /// Stores what is known about a submission.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_submission(&self, id: i64, state: &SubmissionState, message: &str) -> rusqlite::Result<()> {
        let (absent, job) = match state {
            SubmissionState::Open { absent_since_ms, .. } => (*absent_since_ms, None),
            SubmissionState::Accepted { job } => (None, Some(job)),
            _ => (None, None),
        };
        self.tx
            .prepare_cached(
                "UPDATE submission SET state = ?2, absent_ms = ?3, job_id = ?4, cluster = ?5, message = ?6 WHERE id = ?1",
            )?
            .execute(params![
                id,
                state.name(),
                absent,
                job.map(|j| &j.id),
                job.and_then(|j| j.cluster.as_ref()),
                message
            ])?;
        Ok(())
    }

    /// Creates an attempt, or takes a deferred one up again; either way it is part of `submission` and `submitting` now.
    ///
    /// # Errors
    /// SQLite's.
    pub fn put_attempt(
        &self,
        task: i64,
        n: u32,
        token: &Token,
        submission: i64,
        element: Option<u32>,
        memory_mb: u64,
    ) -> rusqlite::Result<i64> {
        let now = record::now_ms();
        let id = self
            .tx
            .prepare_cached(
                "INSERT INTO attempt (task, n, token, submission, element, state, since_ms, memory_mb)
                 VALUES (?1, ?2, ?3, ?4, ?5, 'submitting', ?6, ?7)
                 ON CONFLICT (task, n) DO UPDATE
                   SET submission = ?4, element = ?5, state = 'submitting', since_ms = ?6, reason = '', message = ''
                 RETURNING id",
            )?
            .query_row(params![task, n, token.as_str(), submission, element, now, signed(memory_mb)], |r| r.get(0))?;
        Ok(id)
    }

    /// Creates an attempt that is to be submitted later (a retry that was decided).
    ///
    /// # Errors
    /// SQLite's.
    pub fn put_deferred(
        &self,
        task: i64,
        n: u32,
        token: &Token,
        memory_mb: u64,
        next_try_ms: i64,
        why: &str,
    ) -> rusqlite::Result<()> {
        self.tx
            .prepare_cached(
                "INSERT INTO attempt (task, n, token, state, since_ms, memory_mb, next_try_ms, message)
                 VALUES (?1, ?2, ?3, 'deferred', ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                task,
                n,
                token.as_str(),
                record::now_ms(),
                signed(memory_mb),
                next_try_ms,
                why
            ])?;
        Ok(())
    }

    /// Stores a new state and notes the transition.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_state(&self, row: &AttemptRow, state: &AttemptState, why: &str) -> rusqlite::Result<()> {
        let mut class = None;
        let mut hint_exit = None;
        let mut since_ms = record::now_ms();
        match state {
            AttemptState::Failed { class: c } => class = Some(class_name(*c)),
            AttemptState::FinishedUnconfirmed { since_ms: since, hint, .. } => {
                since_ms = *since;
                match hint {
                    Hint::Gone => {}
                    Hint::Exit(code) => hint_exit = Some(*code),
                    Hint::Class(c) => class = Some(class_name(*c)),
                }
            }
            _ => {}
        }
        let job = state.job();
        self.tx
            .prepare_cached(
                "UPDATE attempt SET state = ?2, since_ms = ?3, class = ?4, hint_exit = ?5,
                   job_id = coalesce(?6, job_id), cluster = coalesce(?7, cluster), job_name = coalesce(?8, job_name),
                   ended_ms = CASE WHEN ?9 THEN coalesce(ended_ms, ?3) ELSE ended_ms END
                 WHERE id = ?1",
            )?
            .execute(params![
                row.id,
                state.name(),
                since_ms,
                class,
                hint_exit,
                job.map(|j| &j.id),
                job.and_then(|j| j.cluster.as_ref()),
                job.map(|j| j.token.as_str()),
                state.is_over()
            ])?;
        if state.name() != row.state.name() {
            self.tx
                .prepare_cached(
                    "INSERT INTO transition (attempt, at_ms, was, is_now, why) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![row.id, record::now_ms(), row.state.name(), state.name(), why])?;
        }
        Ok(())
    }

    /// [`Writer::set_state`] for a row that was made in this transaction.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_state_by_id(&self, id: i64, state: &AttemptState, why: &str) -> rusqlite::Result<()> {
        let row = self.tx.query_row(
            &format!("SELECT {ATTEMPT} FROM attempt a JOIN task t ON t.id = a.task WHERE a.id = ?1"),
            [id],
            attempt,
        )?;
        self.set_state(&row, state, why)
    }

    /// Elements of an accepted array that left no trace of their own share its fate: they are in the queue, or were.
    ///
    /// # Errors
    /// SQLite's.
    pub fn adopt_siblings(&self) -> rusqlite::Result<()> {
        self.tx.execute(
            "UPDATE attempt SET state = 'submitted', job_name = s.token, cluster = s.cluster,
               job_id = CASE WHEN attempt.element IS NULL THEN s.job_id ELSE s.job_id || '_' || attempt.element END
             FROM submission s
             WHERE s.id = attempt.submission AND s.sweep = ?1 AND s.state = 'accepted'
               AND attempt.state = 'submitting'",
            [self.sweep],
        )?;
        Ok(())
    }

    /// The scheduler's own words, what they mean for a job that waits ([`crate::db::rows::stuck`]), and since when.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_reason(&self, attempt: i64, reason: &str, stuck: &str, since_ms: i64) -> rusqlite::Result<()> {
        self.tx
            .prepare_cached("UPDATE attempt SET reason = ?2, stuck = ?3, stuck_since_ms = ?4 WHERE id = ?1")?
            .execute(params![attempt, reason, stuck, since_ms])?;
        Ok(())
    }

    /// # Errors
    /// SQLite's.
    pub fn set_message(&self, attempt: i64, message: &str) -> rusqlite::Result<()> {
        self.tx
            .prepare_cached("UPDATE attempt SET message = ?2 WHERE id = ?1")?
            .execute(params![attempt, message])?;
        Ok(())
    }

    /// The scheduler's id and name of the job behind an attempt.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_job(&self, attempt: i64, job: &JobRef) -> rusqlite::Result<()> {
        self.tx
            .prepare_cached("UPDATE attempt SET job_id = ?2, cluster = ?3, job_name = ?4 WHERE id = ?1")?
            .execute(params![attempt, job.id, job.cluster, job.token.as_str()])?;
        Ok(())
    }

    /// What the claim says.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_started(&self, attempt: i64, host: &str, started_ms: i64) -> rusqlite::Result<()> {
        self.tx
            .prepare_cached("UPDATE attempt SET host = ?2, started_ms = ?3 WHERE id = ?1")?
            .execute(params![attempt, host, started_ms])?;
        Ok(())
    }

    /// What the record says about cost, progress and cause.
    ///
    /// # Errors
    /// SQLite's.
    pub fn set_record(&self, attempt: i64, r: &record::AttemptRecord) -> rusqlite::Result<()> {
        self.tx
            .prepare_cached(
                "UPDATE attempt SET host = ?2, started_ms = ?3, ended_ms = ?4, checkpoint_step = ?5, wall_s = ?6,
                   cpu_s = ?7, gpu_s = ?8, peak_rss_mb = ?9, message = ?10 WHERE id = ?1",
            )?
            .execute(params![
                attempt,
                r.host,
                r.started_ms,
                r.ended_ms,
                r.checkpoint_step.map(signed),
                r.usage.wall_s,
                r.usage.cpu_s,
                r.usage.gpu_s,
                r.usage.peak_rss_mb,
                r.message
            ])?;
        Ok(())
    }

    /// # Errors
    /// SQLite's.
    pub fn set_progress(&self, attempt: i64, offset: u64, progress: &str) -> rusqlite::Result<()> {
        self.tx
            .prepare_cached("UPDATE attempt SET events_offset = ?2, progress = ?3 WHERE id = ?1")?
            .execute(params![attempt, signed(offset), progress])?;
        Ok(())
    }

    /// The wish comes before the deed (specs: F32). `superseded`: the engine's own wish, not the user's.
    ///
    /// # Errors
    /// SQLite's.
    pub fn ask_cancel(&self, attempt: i64, superseded: bool) -> rusqlite::Result<()> {
        let value = if superseded { 2 } else { 1 };
        self.tx
            .prepare_cached("UPDATE attempt SET cancel_asked = ?2 WHERE id = ?1")?
            .execute(params![attempt, value])?;
        Ok(())
    }

    /// # Errors
    /// SQLite's.
    pub fn set_damaged(&self, task: i64, why: &str) -> rusqlite::Result<()> {
        self.tx.prepare_cached("UPDATE task SET damaged = ?2 WHERE id = ?1")?.execute(params![task, why])?;
        Ok(())
    }

    /// # Errors
    /// SQLite's.
    pub fn suspect_node(&self, site: &str, node: &str, weight: u32, why: &str) -> rusqlite::Result<()> {
        self.tx
            .prepare_cached(
                "INSERT INTO node_suspicion (site, node, at_ms, weight, why) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![site, node, record::now_ms(), weight, why])?;
        Ok(())
    }

    /// # Errors
    /// SQLite's.
    pub fn add_calls(&self, calls: u64) -> rusqlite::Result<()> {
        if calls > 0 {
            self.tx
                .prepare_cached("UPDATE sweep SET calls = calls + ?2 WHERE id = ?1")?
                .execute(params![self.sweep, signed(calls)])?;
        }
        Ok(())
    }
}
