//! Cancelling: the wish is made durable, then the scheduler is told; a success that came first still counts.

use crate::db::lease::Lease;
use crate::db::rows::AttemptRow;
use crate::engine::Engine;
use crate::engine::observe::{Looked, to_cancel};
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::state::AttemptState;
use cluster::backend::JobRef;

/// What became of a cancellation.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CancelReport {
    /// Attempts that are cancelled now.
    pub cancelled: u64,
    /// Attempts whose job has been told to end and has not ended yet.
    pub ending: u64,
    /// Attempts that had succeeded before the cancellation reached them.
    pub succeeded: u64,
    /// Attempts of unknown fate: they are cancelled as soon as they are found.
    pub uncertain: u64,
    pub warnings: Vec<String>,
}

impl Engine {
    /// Ends what the filter names: jobs in the queue, running ones (they get the scheduler's signal and may checkpoint), and
    /// attempts that wait to be handed in. Tasks that were never tried are not touched: `submit` would hand them in.
    ///
    /// # Errors
    /// [`Error::NoMatch`], [`Error::Held`], SQLite's.
    pub fn cancel(&mut self, filter: &Filter) -> Result<CancelReport> {
        self.leased(|e, lease| e.cancel_leased(lease, filter))
    }

    pub(super) fn cancel_leased(&mut self, lease: &Lease, filter: &Filter) -> Result<CancelReport> {
        // A scheduler that is away does not hinder the wish.
        let mut warnings = match self.observe(lease) {
            Ok(looked) => looked.warnings,
            Err(Error::Scheduler(why)) => vec![why],
            Err(other) => return Err(other),
        };
        let chosen = self.chosen(filter)?;
        self.db.write(lease, &self.sweep.name, |w| {
            for a in &chosen {
                w.ask_cancel(a.id, false)?;
                if !a.state.is_live() {
                    w.set_state(a, &AttemptState::Cancelled, "cancelled before it was handed in")?;
                }
            }
            Ok(())
        })?;
        let jobs: Vec<JobRef> = chosen.iter().filter_map(to_cancel).collect();
        let mut looked = Looked::default();
        self.cancel_jobs(&jobs, &mut looked);
        warnings.extend(looked.warnings);
        match self.observe(lease) {
            Ok(after) => warnings.extend(after.warnings),
            Err(Error::Scheduler(why)) => warnings.push(why),
            Err(other) => return Err(other),
        }
        let ids: Vec<i64> = chosen.iter().map(|a| a.id).collect();
        let mut report = CancelReport { warnings, ..CancelReport::default() };
        report.warnings.sort();
        report.warnings.dedup();
        for a in self.db.attempts_by_id(&ids)? {
            match a.state {
                AttemptState::Succeeded => report.succeeded += 1,
                AttemptState::Submitting => report.uncertain += 1,
                s if s.is_live() => report.ending += 1,
                _ => report.cancelled += 1,
            }
        }
        Ok(report)
    }

    /// Live and deferred newest attempts that the filter names; also those of tasks that left the job file.
    fn chosen(&self, filter: &Filter) -> Result<Vec<AttemptRow>> {
        let tasks = self.db.tasks(self.sweep.id, true)?;
        let by_id: std::collections::HashMap<i64, &crate::db::rows::TaskRow> =
            tasks.iter().map(|t| (t.id, t)).collect();
        let mut named = 0usize;
        let chosen = self
            .db
            .newest_attempts(self.sweep.id)?
            .into_iter()
            .filter(|a| {
                let Some(task) = by_id.get(&a.task) else { return false };
                let labels = serde_json::from_str(&task.labels).unwrap_or_default();
                let hit = filter.matches(&task.phase, &labels, task.key.as_str(), Some(a.token.as_str()));
                named += usize::from(hit);
                hit && (a.state.is_live() || a.state == AttemptState::Deferred)
            })
            .collect();
        let planned = tasks.iter().any(|t| {
            let labels = serde_json::from_str(&t.labels).unwrap_or_default();
            filter.matches(&t.phase, &labels, t.key.as_str(), None)
        });
        if named == 0 && !planned && !filter.is_all() {
            let mut phases: Vec<&str> = tasks.iter().map(|t| t.phase.as_str()).collect();
            phases.dedup();
            return Err(Error::NoMatch {
                sweep: self.sweep.name.clone(),
                what: format!("{filter:?}"),
                phases: phases.join(", "),
            });
        }
        Ok(chosen)
    }
}
