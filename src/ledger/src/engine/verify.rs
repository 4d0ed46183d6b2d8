//! Looking at outputs again, and tidying up.

use crate::board::Stand;
use crate::engine::Engine;
use crate::engine::observe::{Looked, to_cancel};
use crate::engine::submit::title_of;
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::state::AttemptState;
use cluster::backend::JobRef;
use record::{layout, verify};
use std::path::PathBuf;

/// What `verify` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct VerifyReport {
    /// Results that hold.
    pub whole: u64,
    /// Results that do not: (task, why). `resume` makes them again.
    pub damaged: Vec<(String, String)>,
}

/// What `gc` did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct GcReport {
    /// Jobs cancelled: they could never run, or their task left the job file.
    pub cancelled: u64,
    /// Directories removed (or that would be): checkpoints of tasks that have succeeded.
    pub removed: Vec<PathBuf>,
    pub warnings: Vec<String>,
}

impl Engine {
    /// Checks the results of succeeded tasks: sizes, with `depth` also every SHA-256. Damage is noted, the task leaves
    /// "succeeded", and `resume` makes it again.
    ///
    /// # Errors
    /// [`Error::Held`], SQLite's.
    pub fn verify(&mut self, filter: &Filter, depth: verify::Depth) -> Result<VerifyReport> {
        self.leased(|e, lease| {
            let board = e.board()?;
            let mut report = VerifyReport::default();
            let mut changes = Vec::new();
            for (k, task) in board.tasks.iter().enumerate() {
                let labels = serde_json::from_str(&task.labels).unwrap_or_default();
                let succeeded = board.newest[k].as_ref().is_some_and(|a| a.state == AttemptState::Succeeded)
                    && !task.service;
                if !succeeded || !filter.matches(&task.phase, &labels, task.key.as_str(), None) {
                    continue;
                }
                let why = match verify::result(&e.task_dir(&task.key), &task.key, depth) {
                    Ok(_) => {
                        report.whole += 1;
                        String::new()
                    }
                    Err(problem) => {
                        report.damaged.push((title_of(&board, k), problem.to_string()));
                        problem.to_string()
                    }
                };
                if why != task.damaged {
                    changes.push((task.id, why));
                }
            }
            e.db.write(lease, &e.sweep.name, |w| {
                changes.iter().try_for_each(|(id, why)| w.set_damaged(*id, why))
            })?;
            Ok(report)
        })
    }

    /// Frees the queue of jobs that can never run or whose task left the job file, and the disk of checkpoints that no
    /// attempt will continue from. Without `act` it only says what it would do.
    ///
    /// # Errors
    /// [`Error::Held`], SQLite's.
    pub fn gc(&mut self, act: bool) -> Result<GcReport> {
        self.leased(|e, lease| {
            let mut report = GcReport::default();
            match e.observe(lease) {
                Ok(looked) => report.warnings = looked.warnings,
                Err(Error::Scheduler(why)) => report.warnings.push(why),
                Err(other) => return Err(other),
            }
            let current: std::collections::HashSet<i64> =
                e.db.tasks(e.sweep.id, false)?.into_iter().map(|t| t.id).collect();
            let useless: Vec<_> =
                e.db.live_attempts(e.sweep.id)?
                    .into_iter()
                    .filter(|a| a.stuck == "never-satisfied" || !current.contains(&a.task))
                    .collect();
            let jobs: Vec<JobRef> = useless.iter().filter_map(to_cancel).collect();
            report.cancelled = jobs.len() as u64;
            if act {
                e.db.write(lease, &e.sweep.name, |w| {
                    // the engine's own wish: `resume` tries these again without counting a failure
                    useless.iter().try_for_each(|a| w.ask_cancel(a.id, true))
                })?;
                let mut looked = Looked::default();
                e.cancel_jobs(&jobs, &mut looked);
                report.warnings.extend(looked.warnings);
            }
            let board = e.board()?;
            for (task, stand) in board.tasks.iter().zip(board.stands()) {
                if stand != Stand::Done || task.service {
                    continue;
                }
                let task_dir = e.task_dir(&task.key);
                for n in layout::attempts(&task_dir).unwrap_or_default() {
                    let ckpt = layout::attempt_dir(&task_dir, n).join(layout::CKPT);
                    if !ckpt.is_dir() {
                        continue;
                    }
                    if act && let Err(err) = std::fs::remove_dir_all(&ckpt) {
                        report.warnings.push(format!("cannot remove {}: {err}", ckpt.display()));
                        continue;
                    }
                    report.removed.push(ckpt);
                }
            }
            Ok(report)
        })
    }
}
