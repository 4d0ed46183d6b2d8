//! The planner's product: a graph of tasks in topological order. Frozen as `runs/<sweep>/plan.json`.

use record::{ContentKey, FailureClass, Params, Resources, Source};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// One combination of the matrix' values: axis -> value.
pub type Point = BTreeMap<String, Value>;

/// A checked and expanded job file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// [`record::FORMAT`] of the program that wrote this.
    pub format: u32,
    /// `name:` of the job file.
    pub sweep: String,
    /// Lower-case hexadecimal SHA-256 of the job file's bytes.
    pub job_sha256: String,
    /// Top-level axes after profile and `--set`, in the job file's order.
    pub matrix: Vec<Axis>,
    /// Topological order: every input and service of a task stands before it. Keys are unique.
    pub tasks: Vec<Task>,
    /// Predicted peak memory (docs/MEMORY.md): of each phase that holds a model of known shape, the largest task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memory: Vec<Predicted>,
}

/// Peak memory of a phase's largest task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Predicted {
    pub phase: String,
    pub task: ContentKey,
    /// The task's `memory`, in MB (10^6 bytes).
    pub memory_mb: u64,
    #[serde(flatten)]
    pub estimate: crate::memory::Estimate,
}

/// One axis of the matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Axis {
    pub name: String,
    pub values: Vec<Value>,
}

/// A phase with every parameter fixed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub key: ContentKey,
    pub phase: String,
    /// Other phases whose tasks turned out to be this very one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// The axes that decide this task's content and have a single value over all its points: for people and tables.
    pub labels: BTreeMap<String, Value>,
    /// The matrix points that need this task if they are several, reduced to the axes that decide its content (directly
    /// or through what is upstream). Empty for a single point: `labels` is it then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<Point>,
    /// How many points of the *whole* matrix share this task.
    pub shared_by: u64,
    /// Kind and parameters, defaults filled in.
    #[serde(flatten)]
    pub work: Params,
    /// Role -> upstream tasks whose outputs are read.
    pub inputs: BTreeMap<String, Vec<TaskRef>>,
    /// Role -> what no phase of the sweep made: repositories of the Hub, files of the user's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, Vec<Source>>,
    /// Role -> service task that must be up while this one runs.
    #[serde(default)]
    pub services: BTreeMap<String, TaskRef>,
    /// For services only: the tasks that need it.
    #[serde(default)]
    pub consumers: Vec<ContentKey>,
    pub resources: Resources,
    /// Scheduler options, verbatim; of two that contradict each other the later one wins.
    #[serde(default)]
    pub extra: Vec<String>,
    pub retry: Retry,
    /// How long the user expects the task to run, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate_s: Option<u64>,
    /// Checkpoint and leave this many seconds before the walltime ends.
    pub margin_s: u64,
}

impl Task {
    /// `phase axis=value axis=value`, for people.
    #[must_use]
    pub fn title(&self) -> String {
        let mut title = self.phase.clone();
        for (axis, value) in &self.labels {
            title.push_str(&format!(" {axis}={}", plain(value)));
        }
        title
    }

    /// What the planner counts for this task: the user's estimate, else the walltime. Seconds.
    #[must_use]
    pub fn expected_s(&self) -> u64 {
        self.estimate_s.unwrap_or(self.resources.walltime_s)
    }

    /// Every task that must be there before this one: inputs, then services.
    pub fn needs(&self) -> impl Iterator<Item = (&str, &TaskRef)> {
        self.inputs
            .iter()
            .flat_map(|(role, refs)| refs.iter().map(move |r| (role.as_str(), r)))
            .chain(self.services.iter().map(|(role, r)| (role.as_str(), r)))
    }
}

/// A value as a person writes it: strings without quotes.
#[must_use]
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// Another task of the same graph.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskRef {
    pub phase: String,
    pub key: ContentKey,
}

/// When a failed attempt is tried again. Each limit is the number of attempts that may end in that class before the
/// task counts as failed: 1 means "no second try". `user-error`, `upstream-missing` and `cancelled` are never retried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts that may end with an error nobody can name (also `lost`).
    pub error: u32,
    /// Attempts that may meet an unfit node; each further try excludes the nodes that proved unfit.
    pub node_unfit: u32,
    /// Attempts that may run out of memory.
    pub oom: u32,
    /// Memory of the next attempt = memory of this one times this.
    pub oom_factor: f64,
    /// Memory never grows beyond this, in MB (10^6 bytes).
    pub oom_cap_mb: u64,
    /// Attempts that may reach the time limit *without a newer checkpoint than the attempt before*. While there is
    /// progress, a task is continued without limit.
    pub timeout: u32,
    /// Attempts that may be preempted; `None` is unlimited.
    pub preempted: Option<u32>,
    /// Attempts that may end with "not now".
    pub try_again: u32,
    /// Attempts whose set-up may fail.
    pub setup: u32,
    /// Seconds before the second attempt of a class; doubles with each further one.
    pub backoff_s: u64,
    /// Longest such wait, in seconds.
    pub backoff_max_s: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            error: 2,
            node_unfit: 3,
            oom: 3,
            oom_factor: 1.5,
            oom_cap_mb: 64_000,
            timeout: 2,
            preempted: None,
            try_again: 10,
            setup: 1,
            backoff_s: 30,
            backoff_max_s: 1800,
        }
    }
}

impl Retry {
    /// How many attempts may end in `class`; `None` is unlimited.
    #[must_use]
    pub fn limit(&self, class: FailureClass) -> Option<u32> {
        match class {
            FailureClass::UserError | FailureClass::UpstreamMissing | FailureClass::Cancelled => Some(1),
            FailureClass::OutOfMemory => Some(self.oom),
            FailureClass::Timeout => Some(self.timeout),
            FailureClass::Preempted => self.preempted,
            FailureClass::NodeUnfit => Some(self.node_unfit),
            FailureClass::TryAgain => Some(self.try_again),
            FailureClass::Setup => Some(self.setup),
            FailureClass::Lost | FailureClass::Error => Some(self.error),
        }
    }

    /// Seconds to wait after the `failures`-th failure of one class (counts from 1).
    #[must_use]
    pub fn backoff(&self, failures: u32) -> u64 {
        let doubled =
            self.backoff_s.saturating_mul(1u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX));
        doubled.min(self.backoff_max_s)
    }

    /// Memory in MB after an attempt with `memory_mb` ran out of it; `None` when it cannot grow any more.
    #[must_use]
    pub fn more_memory(&self, memory_mb: u64) -> Option<u64> {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let wanted = (memory_mb as f64 * self.oom_factor).ceil() as u64;
        let granted = wanted.min(self.oom_cap_mb);
        (granted > memory_mb).then_some(granted)
    }
}

/// Sums over a graph, by the estimates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    pub tasks: u64,
    /// Cores times hours.
    pub cpu_hours: f64,
    /// GPUs times hours.
    pub gpu_hours: f64,
    /// Length of the longest chain: with a machine of any size the sweep cannot be faster.
    pub hours: f64,
}

impl Graph {
    /// Sums over all tasks.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals_of(|_| true)
    }

    /// Sums over the tasks that `counts` names (the others cost nothing: they are already done).
    #[must_use]
    pub fn totals_of(&self, mut counts: impl FnMut(&Task) -> bool) -> Totals {
        let mut totals = Totals::default();
        // start and end of each task on an unlimited machine, in seconds
        let mut span = std::collections::HashMap::with_capacity(self.tasks.len());
        for task in &self.tasks {
            let counted = counts(task);
            let length = if counted { task.expected_s() } else { 0 };
            let ready = task.inputs.values().flatten().filter_map(|r| span.get(&r.key)).map(|&(_, end)| end);
            // a service need only have started
            let up = task.services.values().filter_map(|r| span.get(&r.key)).map(|&(start, _)| start);
            let start: u64 = ready.chain(up).max().unwrap_or(0);
            let end = start.saturating_add(length);
            span.insert(&task.key, (start, end));
            if counted {
                totals.tasks += 1;
                totals.cpu_hours += hours(length) * f64::from(task.resources.cpus);
                totals.gpu_hours += hours(length) * f64::from(task.resources.gpus);
                totals.hours = totals.hours.max(hours(end));
            }
        }
        totals
    }
}

#[allow(clippy::cast_precision_loss)]
fn hours(seconds: u64) -> f64 {
    seconds as f64 / 3600.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_grows_up_to_the_cap_and_then_gives_up() {
        let retry = Retry { oom_cap_mb: 2000, ..Retry::default() };
        assert_eq!(retry.more_memory(1000), Some(1500));
        assert_eq!(retry.more_memory(1500), Some(2000));
        assert_eq!(retry.more_memory(2000), None);
    }

    #[test]
    fn the_wait_doubles_up_to_its_limit() {
        let retry = Retry { backoff_s: 30, backoff_max_s: 100, ..Retry::default() };
        assert_eq!([1, 2, 3, 200].map(|n| retry.backoff(n)), [30, 60, 100, 100]);
    }

    #[test]
    fn mistakes_of_the_user_are_never_retried() {
        let retry = Retry::default();
        assert_eq!(retry.limit(FailureClass::UserError), Some(1));
        assert_eq!(retry.limit(FailureClass::UpstreamMissing), Some(1));
        assert_eq!(retry.limit(FailureClass::Preempted), None);
        assert_eq!(retry.limit(FailureClass::Error), Some(2));
    }
}
