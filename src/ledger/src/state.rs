//! The state machine of one attempt. Pure: no clock, no file, no scheduler; whoever calls it does the I/O.
//!
//! `step(state, observation) -> (state, actions)`. The caller makes the new state durable *before* it runs the actions:
//! a crash in between loses actions, never knowledge, and every action is found again by the next observation.
//!
//! Order of truth (specs: F12, F13, F29): the attempt's own record, then the live queue, then the accounting. Absence
//! from any of them proves nothing by itself.

use cluster::backend::{JobRef, JobState, Seen};
use record::{AttemptRecord, FailureClass, StartRecord, Status};

/// How far an attempt is. Every variant carries what is known in it and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptState {
    /// The intent is durable; whether the scheduler has the job is not known (yet).
    Submitting,
    /// Certainly not at the scheduler (submit limit, controller down, reconcile proved it): the same attempt with the
    /// same token is handed in again by the next `submit`.
    Deferred,
    /// The scheduler holds it; not started.
    Submitted {
        job: JobRef,
    },
    /// Claimed by a supervisor, or running by the scheduler's account.
    Running {
        job: JobRef,
    },
    /// Over by the scheduler's account (or gone), but no record was seen yet: on NFS it may come late (specs: F29).
    FinishedUnconfirmed {
        job: JobRef,
        since_ms: i64,
        hint: Hint,
    },
    /// The record says ok and the outputs are whole.
    Succeeded,
    /// Stopped with a checkpoint: to be continued by a new attempt.
    Checkpointed,
    Failed {
        class: FailureClass,
    },
    /// Gone without a record and nothing explains it.
    Lost,
    /// By the user's wish, or an administrator's.
    Cancelled,
}

/// What the scheduler says about the end of a job that left no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// It is in no list any more.
    Gone,
    /// Over with this exit code, which decides nothing without a record.
    Exit(i32),
    /// Over for a reason that names the class.
    Class(FailureClass),
}

impl AttemptState {
    /// Whether the scheduler holds, or may hold, a job for it.
    #[must_use]
    pub fn is_live(&self) -> bool {
        use AttemptState as S;
        matches!(
            self,
            S::Submitting | S::Submitted { .. } | S::Running { .. } | S::FinishedUnconfirmed { .. }
        )
    }

    /// Whether nothing will change it any more, but for a late success record.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !self.is_live() && *self != AttemptState::Deferred
    }

    #[must_use]
    pub fn job(&self) -> Option<&JobRef> {
        use AttemptState as S;
        match self {
            S::Submitted { job } | S::Running { job } | S::FinishedUnconfirmed { job, .. } => Some(job),
            _ => None,
        }
    }

    /// Stored and shown name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        use AttemptState as S;
        match self {
            S::Submitting => "submitting",
            S::Deferred => "deferred",
            S::Submitted { .. } => "submitted",
            S::Running { .. } => "running",
            S::FinishedUnconfirmed { .. } => "finished-unconfirmed",
            S::Succeeded => "succeeded",
            S::Checkpointed => "checkpointed",
            S::Failed { .. } => "failed",
            S::Lost => "lost",
            S::Cancelled => "cancelled",
        }
    }
}

/// What somebody saw.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation<'a> {
    /// The scheduler took it under this id, or an earlier submission was found under it.
    Accepted(&'a JobRef),
    /// Certainly not accepted; nothing is wrong with the task.
    NotAccepted,
    /// Certainly not accepted, and asking again is useless until something is changed.
    Refused,
    /// `started.json` of this very attempt.
    Started(&'a StartRecord),
    /// `record.json` of this very attempt. `whole`: every output is there in its full size.
    Record { record: &'a AttemptRecord, whole: bool },
    /// A row about this job.
    Seen(&'a Seen),
    /// No row about this job, though the live queue was read. `accounting`: whether the accounting was read too.
    Absent,
}

/// What the machine has to know besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub now_ms: i64,
    /// How long a record may be late.
    pub record_grace_ms: i64,
    /// How long a record may be late when the scheduler has already named a cause of failure.
    pub hint_grace_ms: i64,
    /// The user asked for the end of this attempt, and that wish is durable.
    pub cancel_asked: bool,
}

/// What the caller has to do after the new state is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Remember this node as unfit.
    SuspectNode(String),
    /// Cancel the job: the user's wish met a job that lives.
    Cancel(JobRef),
    /// Tell the user.
    Warn(String),
}

/// One step. Unknown or contradictory observations leave the state as it is.
#[must_use]
pub fn step(state: AttemptState, seen: &Observation, ctx: &Context) -> (AttemptState, Vec<Action>) {
    use AttemptState as S;
    use Observation as O;
    match seen {
        O::Record { record, whole } => on_record(state, record, *whole, ctx),
        O::Accepted(job) => match state {
            S::Submitting => {
                let cancel = ctx.cancel_asked.then(|| Action::Cancel((*job).clone()));
                (S::Submitted { job: (*job).clone() }, cancel.into_iter().collect())
            }
            other => (other, vec![]),
        },
        O::NotAccepted => match state {
            S::Submitting if ctx.cancel_asked => (S::Cancelled, vec![]),
            S::Submitting => (S::Deferred, vec![]),
            other => (other, vec![]),
        },
        O::Refused => match state {
            S::Submitting => (S::Failed { class: FailureClass::Setup }, vec![]),
            other => (other, vec![]),
        },
        O::Started(_) => match state {
            S::Submitted { job } => (S::Running { job }, vec![]),
            other => (other, vec![]),
        },
        O::Seen(row) => on_row(state, row, ctx),
        O::Absent => on_absence(state, ctx),
    }
}

fn on_record(
    state: AttemptState,
    record: &AttemptRecord,
    whole: bool,
    ctx: &Context,
) -> (AttemptState, Vec<Action>) {
    use AttemptState as S;
    match record.status {
        Status::Ok if whole => {
            if state == S::Succeeded {
                return (state, vec![]);
            }
            let mut actions = vec![];
            if state.is_over() {
                actions.push(Action::Warn(format!(
                    "a late record says that this attempt succeeded; it was taken for {}",
                    state.name()
                )));
            }
            (S::Succeeded, actions)
        }
        // The record travelled faster than the outputs (NFS), or they were damaged: not a success yet.
        Status::Ok => match state {
            S::Submitted { job } | S::Running { job } => {
                (S::FinishedUnconfirmed { job, since_ms: ctx.now_ms, hint: Hint::Gone }, vec![])
            }
            S::FinishedUnconfirmed { since_ms, .. } if ctx.now_ms - since_ms >= ctx.record_grace_ms => (
                S::Failed { class: FailureClass::Error },
                vec![Action::Warn("the record says ok but outputs are missing or cut short".into())],
            ),
            other => (other, vec![]),
        },
        _ if state.is_over() => (state, vec![]),
        Status::Checkpointed if ctx.cancel_asked => (S::Cancelled, vec![]),
        Status::Checkpointed => (S::Checkpointed, vec![]),
        Status::Failed => {
            let class = record.class.unwrap_or(FailureClass::Error);
            match class {
                _ if ctx.cancel_asked => (S::Cancelled, vec![]),
                FailureClass::Cancelled => (S::Cancelled, vec![]),
                FailureClass::Lost => (S::Lost, vec![]),
                FailureClass::NodeUnfit => {
                    (S::Failed { class }, suspect(std::iter::once(record.host.as_str())))
                }
                _ => (S::Failed { class }, vec![]),
            }
        }
    }
}

fn on_row(state: AttemptState, row: &Seen, ctx: &Context) -> (AttemptState, Vec<Action>) {
    use AttemptState as S;
    use JobState as J;
    if !state.is_live() || state == S::Submitting {
        // Submitting is settled by reconcile alone, which sees all rows of the token at once.
        return (state, vec![]);
    }
    let Some(job) = state.job().cloned() else { return (state, vec![]) };
    let hint = match row.state {
        J::Unknown => return (state, vec![]),
        J::Waiting | J::Unavailable | J::Hopeless | J::NeverSatisfied => {
            let again = if ctx.cancel_asked { vec![Action::Cancel(job.clone())] } else { vec![] };
            // Back from running to waiting is a requeue under the same id (specs: F24); not a failure.
            return (S::Submitted { job }, again);
        }
        J::Starting | J::Running | J::Suspended => {
            let again = if ctx.cancel_asked { vec![Action::Cancel(job.clone())] } else { vec![] };
            return (S::Running { job }, again);
        }
        J::Completed => Hint::Exit(0),
        J::Failed => match row.exit {
            Some((code, 0)) if code > 0 => Hint::Exit(code),
            _ => Hint::Gone,
        },
        J::TimedOut => Hint::Class(FailureClass::Timeout),
        J::OutOfMemory => Hint::Class(FailureClass::OutOfMemory),
        J::Preempted => Hint::Class(FailureClass::Preempted),
        J::NodeFailed => Hint::Class(FailureClass::NodeUnfit),
        J::Cancelled => Hint::Class(FailureClass::Cancelled),
    };
    match state {
        S::Submitted { .. } if ctx.cancel_asked && row.state == J::Cancelled => (S::Cancelled, vec![]),
        // A named cause beats "gone", but the clock keeps running from the first sight.
        S::FinishedUnconfirmed { since_ms, hint: Hint::Gone, .. } => {
            give_up_when_due(job, since_ms, hint, &row.nodes, ctx)
        }
        S::FinishedUnconfirmed { since_ms, hint: known, .. } => {
            give_up_when_due(job, since_ms, known, &row.nodes, ctx)
        }
        _ => give_up_when_due(job, ctx.now_ms, hint, &row.nodes, ctx),
    }
}

fn on_absence(state: AttemptState, ctx: &Context) -> (AttemptState, Vec<Action>) {
    use AttemptState as S;
    match state {
        // It was still waiting when its cancellation was asked for, and now it is gone: it never ran.
        S::Submitted { .. } if ctx.cancel_asked => (S::Cancelled, vec![]),
        S::Submitted { job } | S::Running { job } => give_up_when_due(job, ctx.now_ms, Hint::Gone, &[], ctx),
        S::FinishedUnconfirmed { job, since_ms, hint } => give_up_when_due(job, since_ms, hint, &[], ctx),
        other => (other, vec![]),
    }
}

/// Keeps waiting for the record, or concludes from what the scheduler said.
fn give_up_when_due(
    job: JobRef,
    since_ms: i64,
    hint: Hint,
    nodes: &[String],
    ctx: &Context,
) -> (AttemptState, Vec<Action>) {
    use AttemptState as S;
    let grace = match hint {
        Hint::Class(_) => ctx.hint_grace_ms,
        Hint::Gone | Hint::Exit(_) => ctx.record_grace_ms,
    };
    if ctx.now_ms - since_ms < grace {
        return (S::FinishedUnconfirmed { job, since_ms, hint }, vec![]);
    }
    if ctx.cancel_asked {
        return (S::Cancelled, vec![]);
    }
    match hint {
        Hint::Class(FailureClass::Cancelled) => (S::Cancelled, vec![]),
        Hint::Class(FailureClass::Lost) | Hint::Gone => (S::Lost, vec![]),
        Hint::Class(class @ FailureClass::NodeUnfit) => {
            (S::Failed { class }, suspect(nodes.iter().map(String::as_str)))
        }
        Hint::Class(class) => (S::Failed { class }, vec![]),
        Hint::Exit(code) => match class_of_exit(code) {
            Some(class @ FailureClass::NodeUnfit) => {
                (S::Failed { class }, suspect(nodes.iter().map(String::as_str)))
            }
            Some(class) => (S::Failed { class }, vec![]),
            // Exit 0 without a record is not a success (specs: F25), and nothing explains the rest.
            None => (S::Lost, vec![]),
        },
    }
}

/// Exit codes that our script can have without a record: it ended before the supervisor could write one.
fn class_of_exit(code: i32) -> Option<FailureClass> {
    match code {
        record::exit::TRY_AGAIN => Some(FailureClass::TryAgain),
        record::exit::UPSTREAM_MISSING => Some(FailureClass::UpstreamMissing),
        record::exit::SETUP_FAILED | 126 | 127 => Some(FailureClass::Setup),
        record::exit::NODE_UNFIT => Some(FailureClass::NodeUnfit),
        _ => None,
    }
}

/// `None assigned`, lists in brackets and empty names are no nodes (specs: F28).
fn suspect<'a>(nodes: impl Iterator<Item = &'a str>) -> Vec<Action> {
    nodes
        .filter(|n| !n.is_empty() && !n.contains(['[', ' ', ',']))
        .map(|n| Action::SuspectNode(n.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests;
