//! Working a sweep to its end: the local driver, and `run` on a cluster. Hands in what is ready, waits, looks, retries.

use crate::board::Stand;
use crate::db::lease::Lease;
use crate::engine::Engine;
use crate::engine::observe::to_cancel;
use crate::engine::outcome::{Stop, SubmitReport};
use crate::engine::submit::Round;
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::retry::Who;
use crate::state::AttemptState;
use crate::view::View;
use cluster::backend::JobRef;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How a drive ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// Every task is done.
    Done,
    /// What is left needs a person.
    Stuck,
    /// The stop flag was set.
    Interrupted,
}

/// What a drive did.
#[derive(Debug, Clone, serde::Serialize)]
pub struct DriveReport {
    pub ended: Ended,
    pub last: SubmitReport,
}

impl DriveReport {
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self.ended {
            Ended::Done => record::exit::DONE,
            Ended::Stuck => record::exit::FAILED,
            Ended::Interrupted => record::exit::TRY_AGAIN,
        }
    }
}

/// Least time between two calls of the progress callback.
const SHOW_EVERY: Duration = Duration::from_millis(250);

impl Engine {
    /// Works the sweep until it is done, stuck, or `stop` is set. `show` gets a view now and then. On a local site a stop
    /// sends the jobs their "checkpoint now" and waits for them; elsewhere they go on without us.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn drive(&mut self, stop: &AtomicBool, mut show: impl FnMut(&View)) -> Result<DriveReport> {
        self.leased(|e, lease| e.drive_leased(lease, stop, &mut show))
    }

    fn drive_leased(
        &mut self,
        lease: &Lease,
        stop: &AtomicBool,
        show: &mut dyn FnMut(&View),
    ) -> Result<DriveReport> {
        let driver = self.backend.needs_driver();
        self.forget_requests();
        let looked = self.observe_settled(lease)?;
        let mut round = self.round()?;
        round.report.warnings = looked.warnings;
        // A person typed `run`: what was left over from the last time gets one more try.
        let mut stopped = self.retry(lease, &mut round, &Filter::all(), Who::Person)?;
        let mut shown: Option<Instant> = None;
        let (mut told_to_end, mut starving) = (false, false);
        let mut leaving = HashSet::new();
        let papers = self.papers()?;
        let desk = papers.desk();
        loop {
            let stopping = starving || stop.load(Ordering::Relaxed);
            if stopping && !driver {
                break;
            }
            self.obey(lease, &mut round)?;
            if stopping && !told_to_end {
                told_to_end = true;
                self.end_local_jobs(&mut round);
            }
            if !stopping {
                self.next_round(&mut round);
                self.hand_in_at(lease, &mut round, &desk, driver)?;
            }
            let stands = round.board.stands();
            if driver && !stopping {
                self.end_idle_services(lease, &mut round, &stands, &mut leaving)?;
            }
            let live = stands.iter().filter(|s| **s == Stand::Live).count();
            let due_ms = next_due(&round, &stands);
            let waiting = due_ms.is_some() && !stopping;
            if live == 0 && !waiting && (stopping || !may_pass(&round, driver)) {
                break;
            }
            if !stopping && driver && starved(&round, &stands) {
                // watched until they have ended: an end that nobody saw would be a loss
                round.report.warnings.push(STARVED.into());
                let services: Vec<usize> = (0..stands.len()).filter(|&k| stands[k] == Stand::Live).collect();
                self.end_services(lease, &mut round, &services)?;
                (starving, told_to_end) = (true, true);
                continue;
            }
            if shown.is_none_or(|t| t.elapsed() >= SHOW_EVERY) {
                shown = Some(Instant::now());
                let mut view = self.view(&Filter::all())?;
                if live == 0 && driver && matches!(round.report.stopped, Some(Stop::Limit(_))) {
                    view.warnings.push(FULL.into());
                }
                show(&view);
            }
            if driver && !stopping {
                self.write_ahead(&mut round, &desk)?;
            }
            self.pause(driver, due_ms, stop, stopping);
            match self.observe(lease) {
                Ok(looked) => round.report.warnings.extend(looked.warnings),
                Err(Error::Scheduler(why)) => round.report.warnings.push(why),
                Err(e) => return Err(e),
            }
            round.report.warnings.sort();
            round.report.warnings.dedup();
            let ended = self.sync(&mut round)?;
            if ended && !stopping {
                stopped.extend(self.retry(lease, &mut round, &Filter::all(), Who::Automatic)?);
            }
        }
        show(&self.view(&Filter::all())?);
        let stopping = stop.load(Ordering::Relaxed);
        let mut last = self.finish(lease, round)?;
        for (title, why) in stopped {
            if let Some(entry) = last.stuck.iter_mut().find(|(t, _)| *t == title) {
                entry.1 = why;
            }
        }
        let ended = if last.stuck.is_empty() && last.left == 0 && last.live == 0 {
            Ended::Done
        } else if stopping {
            Ended::Interrupted
        } else {
            Ended::Stuck
        };
        Ok(DriveReport { ended, last })
    }

    fn next_round(&self, round: &mut Round) {
        let live = round.board.newest.iter().flatten().filter(|a| a.state.is_live()).count() as u64;
        round.start_again(
            self.backend.limits().max_submit.map_or(u64::MAX, |m| u64::from(m).saturating_sub(live)),
        );
    }

    /// Re-reads the attempts that were live; `true` if one of them is over now.
    fn sync(&self, round: &mut Round) -> Result<bool> {
        let ids: Vec<i64> =
            round.board.newest.iter().flatten().filter(|a| a.state.is_live()).map(|a| a.id).collect();
        let mut ended = false;
        for row in self.db.attempts_by_id(&ids)? {
            ended |= !row.state.is_live();
            if let Some(k) = round.board.index(row.task) {
                round.board.newest[k] = Some(row);
            }
        }
        Ok(ended)
    }

    /// Local jobs end with their driver, with a checkpoint: TERM goes to each. Not a cancellation: `run` continues them.
    fn end_local_jobs(&self, round: &mut Round) {
        let jobs: Vec<JobRef> = round.board.newest.iter().flatten().filter_map(to_cancel).collect();
        if let Err(e) = self.backend.cancel(&jobs) {
            round.report.warnings.push(format!("cannot end the running jobs: {e}"));
        }
    }

    /// Ends services that run for nobody: a consumer that failed leaves no result to go by, and until the service's own
    /// patience ends its share of the machine would be lost. `told` are the attempts that have been told.
    fn end_idle_services(
        &mut self,
        lease: &Lease,
        round: &mut Round,
        stands: &[Stand],
        told: &mut HashSet<i64>,
    ) -> Result<()> {
        let mut idle: Vec<usize> = (0..stands.len()).filter(|&k| runs_for_nobody(round, stands, k)).collect();
        idle.retain(|&k| round.board.newest[k].as_ref().is_some_and(|a| told.insert(a.id)));
        if idle.is_empty() { Ok(()) } else { self.end_services(lease, round, &idle) }
    }

    /// Cancels these tasks' newest attempts, which are services. The wish is durable first: one that is gone before it has
    /// written anything is then cancelled, not lost.
    fn end_services(&mut self, lease: &Lease, round: &mut Round, tasks: &[usize]) -> Result<()> {
        let attempts = || tasks.iter().filter_map(|&k| round.board.newest[k].as_ref());
        self.db.write(lease, &self.sweep.name, |w| attempts().try_for_each(|a| w.ask_cancel(a.id, false)))?;
        let jobs: Vec<JobRef> = attempts().filter_map(to_cancel).collect();
        if let Err(e) = self.backend.cancel(&jobs) {
            round.report.warnings.push(format!("cannot end the services that nobody needs: {e}"));
        }
        Ok(())
    }

    /// Until something can have changed. On a cluster the site's polling floor holds (specs: F14).
    fn pause(&self, driver: bool, due_ms: Option<i64>, stop: &AtomicBool, stopping: bool) {
        let until_due = due_ms.map_or(Duration::MAX, |due| {
            Duration::from_millis(u64::try_from((due - record::now_ms()).max(1)).unwrap_or(1))
        });
        if driver {
            self.backend.wait(Duration::from_millis(500).min(until_due));
            return;
        }
        let floor = Duration::from_secs(self.backend.limits().min_poll_s.max(1));
        let start = Instant::now();
        while start.elapsed() < floor && (stopping || !stop.load(Ordering::Relaxed)) && !self.is_asked() {
            std::thread::sleep(Duration::from_millis(200).min(floor));
        }
    }
}

const FULL: &str = "waiting: jobs of another sweep hold this machine's slots";

const STARVED: &str = "only services are running, and they leave no room for those that need them: give them less \
     `resources`, or this site more; then `bessemer resume`";

/// Whether task `k` is a running service, some consumer of it failed, and none can still run.
fn runs_for_nobody(round: &Round, stands: &[Stand], k: usize) -> bool {
    let consumers = &round.board.consumers[k];
    round.board.tasks[k].service
        && stands[k] == Stand::Live
        && consumers.iter().any(|&c| stands[c] != Stand::Done)
        && !consumers.iter().any(|&c| matches!(stands[c], Stand::Live | Stand::Pending))
}

/// Whether nothing but services runs, and one that needs them finds no room: that would last until the services give up.
fn starved(round: &Round, stands: &[Stand]) -> bool {
    let full = matches!(round.report.stopped, Some(Stop::Limit(_)));
    let now_ms = record::now_ms();
    let due = |k: usize| round.board.newest[k].as_ref().is_none_or(|a| a.next_try_ms <= now_ms);
    let mut live = (0..stands.len()).filter(|&k| stands[k] == Stand::Live).peekable();
    let waiting = |service: usize| {
        let pending = |c: usize| stands[c] == Stand::Pending && !round.is_withheld(c);
        round.board.consumers[service].iter().any(|&c| pending(c) && due(c))
    };
    // one that has been told to leave makes room
    let stays = |k: usize| round.board.tasks[k].service && !runs_for_nobody(round, stands, k);
    full && live.peek().is_some() && live.clone().all(stays) && live.any(waiting)
}

/// When the next attempt that waits for its time may go out, milliseconds since the epoch.
fn next_due(round: &Round, stands: &[Stand]) -> Option<i64> {
    let now_ms = record::now_ms();
    round
        .board
        .newest
        .iter()
        .zip(stands)
        .enumerate()
        .filter(|(k, (_, stand))| **stand == Stand::Pending && !round.is_withheld(*k))
        .filter_map(|(_, (a, _))| a.as_ref())
        .filter(|a| a.state == AttemptState::Deferred && a.next_try_ms > now_ms)
        .map(|a| a.next_try_ms)
        .min()
}

/// Whether what stopped the round goes away by itself although nothing of ours is running. On this machine a limit does:
/// another sweep holds the slots (a task that is bigger than the machine is refused, not limited).
fn may_pass(round: &Round, driver: bool) -> bool {
    match round.report.stopped {
        Some(Stop::Unavailable(_) | Stop::Uncertain(_)) => true,
        Some(Stop::Limit(_)) => driver,
        _ => false,
    }
}
