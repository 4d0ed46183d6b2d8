//! How far a task is, as people and programs are told.

use record::FailureClass;
use serde::{Deserialize, Serialize};

/// A task's state. Names and meanings are the ledger's, and API (`status --json`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Never handed in.
    Planned,
    /// Waits for a task that has to be retried first.
    Blocked,
    /// Waits to be handed in (again): a submit limit, a back-off, a controller that was away.
    Deferred,
    /// Handed in; nobody knows yet whether the scheduler has it.
    Submitting,
    /// In the queue.
    Queued,
    /// In the queue for a reason that never goes away.
    Hopeless,
    Running,
    /// Over, its record has not been seen yet.
    FinishedUnconfirmed,
    Succeeded,
    /// A service that nobody needs (any more).
    NotNeeded,
    /// Stopped with a checkpoint, to be continued.
    Checkpointed,
    Failed,
    /// Gone without a record, and nothing explains it.
    Lost,
    Cancelled,
    /// Succeeded once, but the outputs do not hold any more.
    Damaged,
}

impl State {
    /// In the order in which counts are shown.
    pub const ALL: [State; 15] = [
        State::Succeeded,
        State::NotNeeded,
        State::Running,
        State::Queued,
        State::Submitting,
        State::FinishedUnconfirmed,
        State::Checkpointed,
        State::Deferred,
        State::Planned,
        State::Blocked,
        State::Hopeless,
        State::Failed,
        State::Lost,
        State::Damaged,
        State::Cancelled,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Planned => "planned",
            State::Blocked => "blocked",
            State::Deferred => "deferred",
            State::Submitting => "submitting",
            State::Queued => "queued",
            State::Hopeless => "hopeless",
            State::Running => "running",
            State::FinishedUnconfirmed => "finished-unconfirmed",
            State::Succeeded => "succeeded",
            State::NotNeeded => "not-needed",
            State::Checkpointed => "checkpointed",
            State::Failed => "failed",
            State::Lost => "lost",
            State::Cancelled => "cancelled",
            State::Damaged => "damaged",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// One character for terminals.
    #[must_use]
    pub fn mark(self) -> char {
        match self {
            State::Succeeded | State::NotNeeded => '✓',
            State::Running => '▶',
            State::Failed | State::Lost | State::Damaged => '✗',
            State::Cancelled => '⊘',
            State::Checkpointed => '↻',
            State::Blocked | State::Hopeless => '‖',
            State::FinishedUnconfirmed | State::Submitting => '?',
            State::Queued => '…',
            State::Deferred | State::Planned => '·',
        }
    }

    /// Something a person should look at.
    #[must_use]
    pub fn is_trouble(self) -> bool {
        use State as S;
        matches!(self, S::Failed | S::Lost | S::Cancelled | S::Damaged | S::Blocked | S::Hopeless)
    }

    /// Class name in the HTML report: five looks are enough to tell states apart.
    pub(crate) fn look(self) -> &'static str {
        match self {
            State::Succeeded | State::NotNeeded => "ok",
            State::Running => "run",
            State::Failed | State::Lost | State::Cancelled | State::Damaged => "bad",
            State::Checkpointed | State::FinishedUnconfirmed | State::Submitting | State::Hopeless => "half",
            State::Planned | State::Blocked | State::Deferred | State::Queued => "wait",
        }
    }
}

/// What the ledger knows about a task and the files do not say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Note {
    pub state: Option<State>,
    /// One line for people: the scheduler's reason, what to do.
    pub detail: String,
    pub class: Option<FailureClass>,
    /// The scheduler's id of the newest attempt.
    pub job_id: String,
}
