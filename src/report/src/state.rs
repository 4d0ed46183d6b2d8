//! How far a task is, as people and programs are told.

use record::FailureClass;
use serde::{Deserialize, Serialize};

/// A task's state. The names are API (`status --json`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No attempt yet.
    Pending,
    /// Waits because something upstream has failed.
    Blocked,
    /// To be handed in again: a limit was reached or the scheduler was away.
    Deferred,
    /// Intent written, fate of the submission not known yet.
    Submitting,
    /// The scheduler holds it.
    Submitted,
    Running,
    /// Over by the scheduler's account; the record has not been seen yet.
    FinishedUnconfirmed,
    Succeeded,
    /// Stopped with a checkpoint, to be continued.
    Checkpointed,
    Failed,
    /// Died without a record and nothing explains it.
    Lost,
    Cancelled,
}

impl State {
    pub const ALL: [State; 12] = [
        State::Succeeded,
        State::Running,
        State::Submitted,
        State::Submitting,
        State::FinishedUnconfirmed,
        State::Checkpointed,
        State::Deferred,
        State::Pending,
        State::Blocked,
        State::Failed,
        State::Lost,
        State::Cancelled,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Blocked => "blocked",
            State::Deferred => "deferred",
            State::Submitting => "submitting",
            State::Submitted => "submitted",
            State::Running => "running",
            State::FinishedUnconfirmed => "finished-unconfirmed",
            State::Succeeded => "succeeded",
            State::Checkpointed => "checkpointed",
            State::Failed => "failed",
            State::Lost => "lost",
            State::Cancelled => "cancelled",
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
            State::Succeeded => '✓',
            State::Running => '▶',
            State::Failed | State::Lost => '✗',
            State::Cancelled => '⊘',
            State::Checkpointed => '↻',
            State::Blocked => '‖',
            State::FinishedUnconfirmed | State::Submitting => '?',
            State::Submitted => '…',
            State::Deferred | State::Pending => '·',
        }
    }

    /// Something a person should look at.
    #[must_use]
    pub fn is_trouble(self) -> bool {
        matches!(self, State::Failed | State::Lost | State::Cancelled | State::Blocked)
    }

    /// Class name in the HTML report: five looks are enough to tell states apart.
    pub(crate) fn look(self) -> &'static str {
        match self {
            State::Succeeded => "ok",
            State::Running => "run",
            State::Failed | State::Lost | State::Cancelled => "bad",
            State::Checkpointed | State::FinishedUnconfirmed | State::Submitting => "half",
            State::Pending | State::Blocked | State::Deferred | State::Submitted => "wait",
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
