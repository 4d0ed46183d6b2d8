//! Trying again: what failed, what was lost, what stopped with a checkpoint; and mending what is damaged.

use crate::board::{Board, Stand};
use crate::db::lease::Lease;
use crate::db::rows::AttemptRow;
use crate::engine::Engine;
use crate::engine::observe::{Looked, to_cancel};
use crate::engine::outcome::SubmitReport;
use crate::engine::submit::{Round, title_of};
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::retry::{Decision, Past, Who, decide};
use crate::state::AttemptState;
use cluster::backend::JobRef;
use record::{layout, verify};

/// What `resume` is to do.
#[derive(Debug, Clone)]
pub struct ResumeOptions {
    pub filter: Filter,
    pub who: Who,
}

/// One decision for a task.
struct Verdict {
    k: usize,
    decision: Decision,
}

impl Engine {
    /// Gives every task that is over without success the attempt its retry policy grants, takes jobs out of the queue that
    /// wait for a failed one, and hands in whatever can go.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn resume(&mut self, options: &ResumeOptions) -> Result<SubmitReport> {
        self.leased(|e, lease| {
            let looked = e.observe_settled(lease)?;
            let mut round = e.round()?;
            round.report.warnings = looked.warnings;
            round.report.uncertain = looked.open as u64;
            let stopped = e.retry(lease, &mut round, &options.filter, options.who)?;
            e.hand_in(lease, &mut round, e.backend.needs_driver())?;
            let mut report = e.finish(lease, round)?;
            // The policy's own words say more than "failed".
            for (title, why) in stopped {
                if let Some(entry) = report.stuck.iter_mut().find(|(t, _)| *t == title) {
                    entry.1 = why;
                }
            }
            Ok(report)
        })
    }

    /// Decides about every task that is over, prepares the new attempts, and frees the queue of jobs that can never run.
    /// Returns those that get no further attempt: (title, why).
    pub(super) fn retry(
        &mut self,
        lease: &Lease,
        round: &mut Round,
        filter: &Filter,
        who: Who,
    ) -> Result<Vec<(String, String)>> {
        self.take_late_results(lease, round)?;
        let verdicts = self.verdicts(&round.board, filter, who)?;
        let mut stopped = Vec::new();
        let mut again = Vec::new();
        for v in verdicts {
            match v.decision {
                Decision::Retry { delay_s, memory_mb, why } => again.push((v.k, delay_s, memory_mb, why)),
                Decision::Stop { why } => stopped.push((title_of(&round.board, v.k), why)),
            }
        }
        let dead_ends = dead_ends(&round.board);
        if again.is_empty() && dead_ends.is_empty() {
            return Ok(stopped);
        }
        let retried: Vec<usize> = again.iter().map(|(k, ..)| *k).collect();
        for k in self.supersede(lease, round, &retried, &dead_ends)? {
            let memory_mb = round.board.newest[k].as_ref().map_or(0, |a| a.memory_mb);
            again.push((k, 0, memory_mb, "a task before it is tried again".into()));
        }
        self.set_aside_damaged(round, &retried)?;
        self.end_the_lost(round, &retried);
        let nonce = self.sweep.nonce.clone();
        let now_ms = record::now_ms();
        let board = &round.board;
        self.db.write(lease, &self.sweep.name, |w| {
            for (k, delay_s, memory_mb, why) in &again {
                let task = &board.tasks[*k];
                let n = board.newest[*k].as_ref().map_or(1, |a| a.n + 1);
                let token = record::Token::new(&nonce, &task.kind, &task.key, n);
                let not_before = now_ms + i64::try_from(*delay_s).unwrap_or(0) * 1000;
                w.put_deferred(
                    task.id,
                    n,
                    &token,
                    *memory_mb,
                    if *delay_s == 0 { 0 } else { not_before },
                    why,
                )?;
                if !task.damaged.is_empty() {
                    w.set_damaged(task.id, "")?;
                }
            }
            Ok(())
        })?;
        round.board = self.board()?;
        Ok(stopped)
    }

    /// A success that was published after the attempt had been given up (specs: F29) counts, before anything is repeated.
    fn take_late_results(&mut self, lease: &Lease, round: &mut Round) -> Result<()> {
        let stands = round.board.stands();
        let mut late = Vec::new();
        for (k, stand) in stands.iter().enumerate() {
            let task = &round.board.tasks[k];
            if *stand != Stand::Over || task.service || !task.damaged.is_empty() {
                continue;
            }
            if let Some(a) = &round.board.newest[k] {
                let t = crate::files::traces(&self.attempt_dir(&task.key, a.n), &task.key, &a.token);
                if t.whole
                    && let Err(e) = crate::files::publish(&self.task_dir(&task.key), a.n)
                {
                    round.report.warnings.push(e.to_string());
                }
            }
            if let Ok(whole) = verify::result(&self.task_dir(&task.key), &task.key, verify::Depth::Size) {
                late.push((k, whole));
            }
        }
        if late.is_empty() {
            return Ok(());
        }
        let mut rows = Vec::new();
        for (k, whole) in &late {
            let task = &round.board.tasks[*k];
            let all = self.db.attempts_of(task.id)?;
            // The view shows the newest attempt; the record may be an earlier one's.
            if let Some(newest) = all.last() {
                rows.push((newest.clone(), whole.record.clone()));
            }
            round.report.warnings.push(format!(
                "{}: a record of attempt {} that came late says ok: it counts as succeeded",
                title_of(&round.board, *k),
                whole.pointer.attempt
            ));
        }
        self.db.write(lease, &self.sweep.name, |w| {
            for (row, record) in &rows {
                w.set_state(row, &AttemptState::Succeeded, "a late record")?;
                w.set_record(row.id, record)?;
            }
            Ok(())
        })?;
        round.board = self.board()?;
        Ok(())
    }

    fn verdicts(&self, board: &Board, filter: &Filter, who: Who) -> Result<Vec<Verdict>> {
        let graph = crate::engine::read_graph(&self.sweep.run_dir);
        let graph = match &self.graph {
            Some(g) => std::sync::Arc::clone(g),
            None => std::sync::Arc::new(graph?),
        };
        let policies: std::collections::HashMap<&record::ContentKey, &plan::Retry> =
            graph.tasks.iter().map(|t| (&t.key, &t.retry)).collect();
        let now_ms = record::now_ms();
        let mut verdicts = Vec::new();
        for (k, stand) in board.stands().iter().enumerate() {
            let task = &board.tasks[k];
            let labels = serde_json::from_str(&task.labels).unwrap_or_default();
            let token = board.newest[k].as_ref().map(|a| a.token.as_str());
            if *stand != Stand::Over || !filter.matches(&task.phase, &labels, task.key.as_str(), token) {
                continue;
            }
            let attempts = self.db.attempts_of(task.id)?;
            let last_memory = attempts.last().map_or(0, |a| a.memory_mb);
            let decision = if task.damaged.is_empty() {
                let past: Vec<Past> = attempts.iter().map(past).collect();
                let default = plan::Retry::default();
                decide(policies.get(&task.key).copied().unwrap_or(&default), &past, now_ms, who)
            } else if who == Who::Automatic {
                Decision::Stop { why: format!("{}: `bessemer resume` makes it again", task.damaged) }
            } else {
                Decision::Retry { delay_s: 0, memory_mb: last_memory, why: task.damaged.clone() }
            };
            verdicts.push(Verdict { k, decision });
        }
        Ok(verdicts)
    }

    /// Jobs that wait in the queue for an attempt that has failed can never run: they are cancelled, and once they are
    /// certainly gone they get a new attempt with new dependencies (specs: F9). Returns the ones that are gone.
    fn supersede(
        &mut self,
        lease: &Lease,
        round: &mut Round,
        retried: &[usize],
        dead_ends: &[usize],
    ) -> Result<Vec<usize>> {
        let board = &round.board;
        let mut below = vec![false; board.tasks.len()];
        for &k in retried.iter().chain(dead_ends) {
            below[k] = true;
        }
        let mut waiting: Vec<(usize, AttemptRow)> =
            dead_ends.iter().filter_map(|&k| Some((k, board.newest[k].clone()?))).collect();
        for k in 0..board.tasks.len() {
            if below[k] {
                continue;
            }
            below[k] = board.inputs[k].iter().chain(&board.services[k]).any(|&u| below[u]);
            if below[k]
                && let Some(a) = &board.newest[k]
                && let AttemptState::Submitted { .. } = &a.state
            {
                waiting.push((k, a.clone()));
            }
        }
        if waiting.is_empty() {
            return Ok(Vec::new());
        }
        self.db.write(lease, &self.sweep.name, |w| {
            waiting.iter().try_for_each(|(_, a)| w.ask_cancel(a.id, true))
        })?;
        let jobs: Vec<JobRef> = waiting.iter().filter_map(|(_, a)| to_cancel(a)).collect();
        let mut looked = Looked::default();
        self.cancel_jobs(&jobs, &mut looked);
        // Only what is certainly gone may be handed in again: look.
        let second = self.observe(lease)?;
        round.report.warnings.extend(looked.warnings);
        round.report.warnings.extend(second.warnings);
        round.board = self.board()?;
        let gone = |k: &usize| {
            round.board.newest[*k]
                .as_ref()
                .is_some_and(|a| a.superseded && a.state == AttemptState::Cancelled)
        };
        let (gone, still): (Vec<usize>, Vec<usize>) = waiting.iter().map(|(k, _)| *k).partition(gone);
        if !still.is_empty() {
            round.report.warnings.push(format!(
                "{} jobs that wait for a failed task are still being cancelled: `bessemer resume` again in a minute",
                still.len()
            ));
        }
        Ok(gone)
    }

    /// "Lost" means that nobody saw it end. Should a controller have come back with it, it must not run beside its
    /// successor.
    fn end_the_lost(&self, round: &mut Round, retried: &[usize]) {
        let lost = |k: &usize| round.board.newest[*k].as_ref().filter(|a| a.state == AttemptState::Lost);
        // an element goes by its id, as its name is the whole array's; without an id nothing can be said
        let jobs: Vec<JobRef> = retried
            .iter()
            .filter_map(lost)
            .filter_map(|a| match a.element {
                None => Some(JobRef { id: String::new(), cluster: None, token: a.token.clone() }),
                Some(_) => a.job_id.clone().zip(a.job_name.clone()).map(|(id, name)| JobRef {
                    id,
                    cluster: None,
                    token: name,
                }),
            })
            .collect();
        let mut looked = Looked::default();
        self.cancel_jobs(&jobs, &mut looked);
        round.report.warnings.extend(looked.warnings);
    }

    /// A result that does not hold any more would be in the way of the next one, which is published only once.
    fn set_aside_damaged(&self, round: &Round, retried: &[usize]) -> Result<()> {
        for &k in retried {
            let task = &round.board.tasks[k];
            if task.damaged.is_empty() {
                continue;
            }
            let from = self.task_dir(&task.key).join(layout::RESULT);
            let n = round.board.newest[k].as_ref().map_or(0, |a| a.n);
            let to = self.task_dir(&task.key).join(format!("result.damaged-{n}.json"));
            match std::fs::rename(&from, &to) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => {
                    return Err(Error::Io {
                        what: format!("cannot set {} aside", from.display()),
                        source: e,
                    });
                }
            }
        }
        Ok(())
    }
}

/// Tasks whose job waits for a predecessor that will never succeed, though nothing before them is in need of a retry:
/// a newer attempt of the predecessor is under way or done (it was decided on while nobody could see this job).
fn dead_ends(board: &Board) -> Vec<usize> {
    let stands = board.stands();
    let fine = |u: &usize| !matches!(stands[*u], Stand::Over | Stand::Blocked(_));
    let waits_in_vain = |k: &usize| {
        board.newest[*k].as_ref().is_some_and(|a| {
            a.stuck == crate::db::rows::stuck::NEVER_SATISFIED
                && matches!(a.state, AttemptState::Submitted { .. })
        })
    };
    (0..board.tasks.len())
        .filter(waits_in_vain)
        .filter(|&k| board.inputs[k].iter().chain(&board.services[k]).all(fine))
        .collect()
}

fn past(a: &AttemptRow) -> Past {
    Past {
        state: a.state.clone(),
        memory_mb: a.memory_mb,
        checkpoint_step: a.checkpoint_step,
        ended_ms: a.ended_ms.unwrap_or(a.since_ms),
        superseded: a.superseded || never_ran(a),
        never_accepted: a.job_id.is_none() && a.started_ms.is_none(),
    }
}

/// Cancelled by the scheduler because of a dependency, before it ever started, and not by anybody's wish.
fn never_ran(a: &AttemptRow) -> bool {
    a.state == AttemptState::Cancelled && !a.cancel_asked && a.started_ms.is_none()
}
