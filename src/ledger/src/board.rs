//! Where every task of a sweep stands, and what may be done next. Pure, over rows that somebody else has read.

use crate::db::rows::{AttemptRow, TaskRow};
use crate::state::AttemptState;
use cluster::backend::JobRef;
use std::collections::HashMap;

/// All current tasks of a sweep with their newest attempts, in topological order.
#[derive(Debug)]
pub struct Board {
    pub tasks: Vec<TaskRow>,
    /// Newest attempt of task k.
    pub newest: Vec<Option<AttemptRow>>,
    /// Upstream tasks whose results task k reads.
    pub inputs: Vec<Vec<usize>>,
    /// Services that task k needs while it runs.
    pub services: Vec<Vec<usize>>,
    /// Tasks that need service k.
    pub consumers: Vec<Vec<usize>>,
    by_id: HashMap<i64, usize>,
}

/// Where one task stands, reduced to what decides about submitting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stand {
    /// Its result is there and holds.
    Done,
    /// The scheduler holds or may hold a job for it.
    Live,
    /// Never tried, or an attempt is waiting to be handed in.
    Pending,
    /// Its newest attempt is over without success: `resume` decides.
    Over,
    /// It cannot go on before this task (an index) has been retried.
    Blocked(usize),
    /// A service that nobody who can still run needs.
    Idle,
}

/// What a pending task needs before it can be handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Hand it in, with these dependencies.
    Go { after_ok: Vec<JobRef>, after_start: Vec<JobRef> },
    /// Something before it is not handed in yet, or its fate is unknown.
    NotYet,
}

impl Board {
    /// `tasks` in topological order, `edges` as (task, upstream, service).
    #[must_use]
    pub fn new(tasks: Vec<TaskRow>, attempts: Vec<AttemptRow>, edges: &[(i64, i64, bool)]) -> Self {
        let by_id: HashMap<i64, usize> = tasks.iter().enumerate().map(|(k, t)| (t.id, k)).collect();
        let n = tasks.len();
        let mut board = Self {
            newest: vec![None; n],
            inputs: vec![vec![]; n],
            services: vec![vec![]; n],
            consumers: vec![vec![]; n],
            tasks,
            by_id,
        };
        for a in attempts {
            if let Some(&k) = board.by_id.get(&a.task) {
                board.newest[k] = Some(a);
            }
        }
        for (task, upstream, service) in edges {
            if let (Some(&t), Some(&u)) = (board.by_id.get(task), board.by_id.get(upstream)) {
                if *service {
                    board.services[t].push(u);
                    board.consumers[u].push(t);
                } else {
                    board.inputs[t].push(u);
                }
            }
        }
        board
    }

    /// Position of a task by its row id.
    #[must_use]
    pub fn index(&self, task: i64) -> Option<usize> {
        self.by_id.get(&task).copied()
    }

    /// Where every task stands.
    #[must_use]
    pub fn stands(&self) -> Vec<Stand> {
        let mut stands: Vec<Stand> = Vec::with_capacity(self.tasks.len());
        for k in 0..self.tasks.len() {
            let own = self.own_stand(k);
            // Only tasks that could go out can be blocked: what is done or running is past its inputs.
            let stand = if own == Stand::Pending {
                self.blocker(k, &stands).map_or(own, Stand::Blocked)
            } else {
                own
            };
            stands.push(stand);
        }
        // A service is wanted exactly while somebody who can still run needs it. Services stand before their consumers,
        // so this needs a second look.
        for k in 0..self.tasks.len() {
            if self.tasks[k].service
                && matches!(stands[k], Stand::Pending | Stand::Done | Stand::Over | Stand::Blocked(_))
            {
                let wanted =
                    self.consumers[k].iter().any(|&c| matches!(stands[c], Stand::Pending | Stand::Live));
                stands[k] = match (&stands[k], wanted) {
                    (Stand::Done, true) => Stand::Pending,
                    (Stand::Over | Stand::Blocked(_), true) => stands[k].clone(),
                    (Stand::Pending, true) => Stand::Pending,
                    (_, false) => {
                        if self.consumers[k].iter().all(|&c| stands[c] == Stand::Done) {
                            Stand::Done
                        } else {
                            Stand::Idle
                        }
                    }
                    (other, true) => (*other).clone(),
                };
            }
        }
        // A consumer whose service has failed waits for `resume`.
        for k in 0..self.tasks.len() {
            if stands[k] == Stand::Pending
                && let Some(&s) =
                    self.services[k].iter().find(|&&s| matches!(stands[s], Stand::Over | Stand::Blocked(_)))
            {
                stands[k] = Stand::Blocked(s);
            }
        }
        stands
    }

    fn own_stand(&self, k: usize) -> Stand {
        let task = &self.tasks[k];
        let Some(attempt) = &self.newest[k] else { return Stand::Pending };
        match &attempt.state {
            AttemptState::Succeeded if task.damaged.is_empty() => Stand::Done,
            // A service that left because it was idle or at its deadline has not failed: it is started again when wanted.
            AttemptState::Checkpointed if task.service => Stand::Done,
            AttemptState::Deferred => Stand::Pending,
            s if s.is_live() => Stand::Live,
            _ => Stand::Over,
        }
    }

    fn blocker(&self, k: usize, stands: &[Stand]) -> Option<usize> {
        self.inputs[k].iter().find_map(|&u| match stands.get(u) {
            Some(Stand::Over) => Some(u),
            Some(Stand::Blocked(root)) => Some(*root),
            _ => None,
        })
    }

    /// Whether pending task `k` can be handed in now. `driver`: there is no queue that could hold it back, so its inputs
    /// must be done and its services running.
    #[must_use]
    pub fn readiness(&self, k: usize, stands: &[Stand], driver: bool) -> Readiness {
        let mut after_ok = Vec::new();
        let mut after_start = Vec::new();
        for &u in &self.inputs[k] {
            match (&stands[u], self.newest[u].as_ref().map(|a| &a.state)) {
                // Known to be finished: no dependency (specs: F8).
                (Stand::Done, _) => {}
                (Stand::Live, Some(state)) if !driver => match state.job() {
                    // Without an id (an adopted claim of a job that left the queue) nothing can hang on it.
                    Some(job)
                        if !job.id.is_empty()
                            && !matches!(state, AttemptState::FinishedUnconfirmed { .. }) =>
                    {
                        after_ok.push(job.clone());
                    }
                    _ => return Readiness::NotYet,
                },
                _ => return Readiness::NotYet,
            }
        }
        for &s in &self.services[k] {
            match (&stands[s], self.newest[s].as_ref().map(|a| &a.state)) {
                (Stand::Live, Some(AttemptState::Running { .. })) => {}
                (Stand::Live, Some(AttemptState::Submitted { job })) if driver || !job.id.is_empty() => {
                    if !driver {
                        after_start.push(job.clone());
                    }
                }
                _ => return Readiness::NotYet,
            }
        }
        // Where nothing queues, a service is started when its first consumer could begin, not before: it holds a slot.
        if driver && self.tasks[k].service {
            let wanted = self.consumers[k].iter().any(|&c| {
                stands[c] == Stand::Pending && self.inputs[c].iter().all(|&u| stands[u] == Stand::Done)
            });
            if !wanted {
                return Readiness::NotYet;
            }
        }
        after_ok.sort();
        after_ok.dedup();
        after_start.sort();
        after_start.dedup();
        Readiness::Go { after_ok, after_start }
    }
}
