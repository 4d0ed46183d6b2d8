//! The ledger's words for those who draw: states of the view as states of the report.

use ledger::view::{TaskState, TaskView, View};
use record::ContentKey;
use report::{Note, State};
use std::collections::BTreeMap;

pub fn state(s: TaskState) -> State {
    match s {
        TaskState::Planned => State::Planned,
        TaskState::Blocked => State::Blocked,
        TaskState::Deferred => State::Deferred,
        TaskState::Submitting => State::Submitting,
        TaskState::Queued => State::Queued,
        TaskState::Hopeless => State::Hopeless,
        TaskState::Running => State::Running,
        TaskState::FinishedUnconfirmed => State::FinishedUnconfirmed,
        TaskState::Succeeded => State::Succeeded,
        TaskState::NotNeeded => State::NotNeeded,
        TaskState::Checkpointed => State::Checkpointed,
        TaskState::Failed => State::Failed,
        TaskState::Lost => State::Lost,
        TaskState::Cancelled => State::Cancelled,
        TaskState::Damaged => State::Damaged,
    }
}

/// The most useful sentence about a task.
pub fn detail(t: &TaskView) -> String {
    use TaskState as T;
    // the scheduler's word counts while the scheduler has the job, and where nobody else has one
    let said = match t.state {
        T::Succeeded | T::NotNeeded | T::Running | T::Checkpointed | T::Planned => &t.message,
        _ if t.message.is_empty() => &t.reason,
        _ => &t.message,
    };
    let class = t.class.as_ref().map_or_else(String::new, |c| format!("{c}: "));
    match (&t.blocked_by, said.is_empty()) {
        (Some(key), true) => format!("waits for task {key}, which has to be tried again first"),
        _ => format!("{class}{said}"),
    }
}

/// Notes for [`report::Sweep::read`].
pub fn of(view: &View) -> BTreeMap<ContentKey, Note> {
    view.tasks
        .iter()
        .map(|t| {
            let note = Note {
                state: Some(state(t.state)),
                detail: detail(t),
                class: class(t),
                job_id: t.job_id.clone().unwrap_or_default(),
            };
            (t.key.clone(), note)
        })
        .collect()
}

/// The failure class of the newest attempt.
pub fn class(t: &TaskView) -> Option<record::FailureClass> {
    t.class.as_ref().and_then(|c| serde_json::from_value(serde_json::json!(c)).ok())
}
