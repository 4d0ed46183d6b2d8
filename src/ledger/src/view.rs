//! A snapshot of a sweep for people and programs. Serialisable; `status --json` and the report are made of it.

use crate::board::{Board, Stand};
use crate::db::lease::Holder;
use crate::db::rows::{AttemptRow, SweepRow, stuck};
use crate::error::Result;
pub use crate::files::Progress;
use crate::filter::Filter;
use crate::state::AttemptState;
use record::ContentKey;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Version of this document; fields are only ever added within one version.
pub const VIEW_FORMAT: u32 = 1;

/// One sweep at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct View {
    pub format: u32,
    pub sweep: String,
    pub run_dir: String,
    pub site: String,
    /// Milliseconds since the epoch.
    pub at_ms: i64,
    /// Tasks in each state, by the state's name.
    pub counts: BTreeMap<String, u64>,
    pub cost: Cost,
    /// In topological order.
    pub tasks: Vec<TaskView>,
    /// Which command works on the sweep now, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
    /// Scheduler commands run for the sweep so far, and by this command alone.
    pub scheduler_calls: u64,
    pub scheduler_calls_now: u64,
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What attempts have used, measured by their supervisors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    pub wall_s: f64,
    pub cpu_s: f64,
    pub gpu_s: f64,
}

/// One task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    pub key: ContentKey,
    pub phase: String,
    pub kind: String,
    /// `phase axis=value ...`, for people.
    pub title: String,
    pub labels: Map<String, Value>,
    pub service: bool,
    pub state: TaskState,
    /// Number of the newest attempt; absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// Since when in this state, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<i64>,
    /// The scheduler's own words, verbatim.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Failure class, as in the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// One or two sentences: what happened, what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Key of the task that must be retried first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_by: Option<ContentKey>,
    /// Not handed in before this, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_step: Option<u64>,
    pub cost: Cost,
    /// Largest resident set of one process, MB (10^6 bytes).
    pub peak_rss_mb: f64,
    /// A cancellation was asked for and is not through yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelling: bool,
}

/// State of a task, as shown. The names are part of the JSON interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskState {
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
    /// A service that nobody needs (any more), or a task of no further use.
    NotNeeded,
    /// Stopped with a checkpoint, to be continued.
    Checkpointed,
    Failed,
    /// Gone without a record.
    Lost,
    Cancelled,
    /// Succeeded once, but the outputs do not hold any more.
    Damaged,
}

impl TaskState {
    #[must_use]
    pub fn name(self) -> &'static str {
        use TaskState as T;
        match self {
            T::Planned => "planned",
            T::Blocked => "blocked",
            T::Deferred => "deferred",
            T::Submitting => "submitting",
            T::Queued => "queued",
            T::Hopeless => "hopeless",
            T::Running => "running",
            T::FinishedUnconfirmed => "finished-unconfirmed",
            T::Succeeded => "succeeded",
            T::NotNeeded => "not-needed",
            T::Checkpointed => "checkpointed",
            T::Failed => "failed",
            T::Lost => "lost",
            T::Cancelled => "cancelled",
            T::Damaged => "damaged",
        }
    }

    /// Whether the task needs nothing more.
    #[must_use]
    pub fn is_done(self) -> bool {
        matches!(self, TaskState::Succeeded | TaskState::NotNeeded)
    }

    /// Whether somebody has to do something (`resume`, mend the job file) before the task goes on.
    #[must_use]
    pub fn needs_help(self) -> bool {
        use TaskState as T;
        matches!(
            self,
            T::Hopeless | T::Checkpointed | T::Failed | T::Lost | T::Cancelled | T::Damaged | T::Blocked
        )
    }
}

impl View {
    /// The view of a board.
    ///
    /// # Errors
    /// None today; rows are checked when they are read.
    pub fn of(
        sweep: &SweepRow,
        board: &Board,
        filter: &Filter,
        holder: Option<&Holder>,
        calls_now: u64,
    ) -> Result<Self> {
        let stands = board.stands();
        let mut view = View {
            format: VIEW_FORMAT,
            sweep: sweep.name.clone(),
            run_dir: sweep.run_dir.to_string_lossy().into_owned(),
            site: sweep.site.clone(),
            at_ms: record::now_ms(),
            counts: BTreeMap::new(),
            cost: Cost::default(),
            tasks: Vec::with_capacity(board.tasks.len()),
            held_by: holder.map(|h| format!("{} (process {} on {})", h.what, h.process.pid, h.process.host)),
            scheduler_calls: sweep.calls,
            scheduler_calls_now: calls_now,
            warnings: vec![],
        };
        for (k, task) in board.tasks.iter().enumerate() {
            let labels: Map<String, Value> = serde_json::from_str(&task.labels).unwrap_or_default();
            let newest = board.newest[k].as_ref();
            if !filter.matches(&task.phase, &labels, task.key.as_str(), newest.map(|a| a.token.as_str())) {
                continue;
            }
            let state = task_state(board, k, &stands[k]);
            let t = task_view(board, k, labels, state, &stands[k]);
            *view.counts.entry(state.name().to_owned()).or_default() += 1;
            view.cost.wall_s += t.cost.wall_s;
            view.cost.cpu_s += t.cost.cpu_s;
            view.cost.gpu_s += t.cost.gpu_s;
            view.tasks.push(t);
        }
        Ok(view)
    }

    /// Whether every task is done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.tasks.iter().all(|t| t.state.is_done())
    }
}

/// The shown state: the newest attempt's, corrected by what the graph says.
fn task_state(board: &Board, k: usize, stand: &Stand) -> TaskState {
    use AttemptState as S;
    let task = &board.tasks[k];
    let Some(a) = &board.newest[k] else {
        return match stand {
            Stand::Blocked(_) => TaskState::Blocked,
            Stand::Idle | Stand::Done => TaskState::NotNeeded,
            _ => TaskState::Planned,
        };
    };
    match &a.state {
        S::Succeeded if !task.damaged.is_empty() => TaskState::Damaged,
        S::Succeeded => TaskState::Succeeded,
        S::Checkpointed if task.service && matches!(stand, Stand::Done | Stand::Idle) => TaskState::NotNeeded,
        S::Submitting => TaskState::Submitting,
        S::Deferred => match stand {
            Stand::Blocked(_) => TaskState::Blocked,
            _ => TaskState::Deferred,
        },
        S::Submitted { .. } if matches!(a.stuck.as_str(), "" | stuck::UNAVAILABLE) => TaskState::Queued,
        S::Submitted { .. } => TaskState::Hopeless,
        S::Running { .. } => TaskState::Running,
        S::FinishedUnconfirmed { .. } => TaskState::FinishedUnconfirmed,
        S::Checkpointed => TaskState::Checkpointed,
        S::Failed { .. } => TaskState::Failed,
        S::Lost => TaskState::Lost,
        S::Cancelled => TaskState::Cancelled,
    }
}

fn task_view(
    board: &Board,
    k: usize,
    labels: Map<String, Value>,
    state: TaskState,
    stand: &Stand,
) -> TaskView {
    let task = &board.tasks[k];
    let mut title = task.phase.clone();
    for (axis, value) in &labels {
        title.push_str(&format!(" {axis}={}", plan::plain(value)));
    }
    let a = board.newest[k].as_ref();
    let blocked_by = match stand {
        Stand::Blocked(root) => Some(board.tasks[*root].key.clone()),
        _ => None,
    };
    let message = if state == TaskState::Damaged {
        task.damaged.clone()
    } else if let Some(text) = a.and_then(unavailable) {
        text
    } else {
        a.map(|a| a.message.clone()).unwrap_or_default()
    };
    TaskView {
        key: task.key.clone(),
        phase: task.phase.clone(),
        kind: task.kind.clone(),
        title,
        labels,
        service: task.service,
        state,
        attempt: a.map(|a| a.n),
        token: a.map(|a| a.token.0.clone()),
        job_id: a.and_then(|a| a.job_id.clone()).filter(|id| !id.is_empty()),
        since_ms: a.map(|a| a.since_ms),
        reason: a.map(|a| a.reason.clone()).unwrap_or_default(),
        class: a.filter(|a| matches!(a.state, AttemptState::Failed { .. })).and_then(|a| a.class.clone()),
        message,
        blocked_by,
        not_before_ms: a
            .filter(|a| a.state == AttemptState::Deferred && a.next_try_ms > 0)
            .map(|a| a.next_try_ms),
        host: a.map(|a| a.host.clone()).unwrap_or_default(),
        started_ms: a.and_then(|a| a.started_ms),
        ended_ms: a.and_then(|a| a.ended_ms),
        progress: a.and_then(progress),
        checkpoint_step: a.and_then(|a| a.checkpoint_step),
        cost: a.map_or_else(Cost::default, |a| Cost { wall_s: a.wall_s, cpu_s: a.cpu_s, gpu_s: a.gpu_s }),
        peak_rss_mb: a.map_or(0.0, |a| a.peak_rss_mb),
        cancelling: a.is_some_and(|a| a.cancel_asked && a.state.is_live()),
    }
}

/// What to think of a job that waits for nodes or a partition that are not there.
fn unavailable(a: &AttemptRow) -> Option<String> {
    let advice = match a.stuck.as_str() {
        _ if !matches!(a.state, AttemptState::Submitted { .. }) => return None,
        stuck::UNAVAILABLE => "it may pass",
        stuck::TOO_LONG => {
            "longer than the site's `limits.unavailable`: ask the site's staff, or `bessemer cancel` it and resume \
             with another `queue` or without the nodes it asks for"
        }
        _ => return None,
    };
    let minutes = (record::now_ms() - a.stuck_since_ms).max(0) / 60_000;
    let age = match minutes {
        0..120 => format!("{minutes} min"),
        120..2880 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 1440),
    };
    Some(format!("{}, seen for {age}: {advice}", a.reason))
}

fn progress(a: &AttemptRow) -> Option<Progress> {
    if a.progress.is_empty() { None } else { serde_json::from_str(&a.progress).ok() }
}
