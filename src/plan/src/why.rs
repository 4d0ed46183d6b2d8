//! Why a task will run or is reused: what is known about its key, and what changed since the plan before.

use crate::graph::{Graph, Task, TaskRef, plain};
use record::ContentKey;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// What the ledger (or the run directory) says about a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Known {
    /// A result is published and holds.
    Succeeded,
    /// An attempt waits or runs.
    Running,
    /// Every attempt so far failed.
    Failed,
}

/// What will happen to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    Run,
    /// In the queue or running already.
    Running,
    Reuse,
}

/// One task's verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    pub key: ContentKey,
    pub verdict: Verdict,
    /// `params.learning_rate changed 0.0001 -> 0.0002`, `input model (sft) changed`, `never run`, `reused`.
    pub reason: String,
}

/// A verdict for each task, in the graph's order. `previous` is the plan that the sweep had before, if there is one.
#[must_use]
pub fn why(graph: &Graph, known: &HashMap<ContentKey, Known>, previous: Option<&Graph>) -> Vec<Why> {
    let before = previous.map(Before::new);
    let mut all: Vec<Why> = graph
        .tasks
        .iter()
        .map(|task| {
            let (verdict, reason) = match known.get(&task.key) {
                Some(Known::Succeeded) => (Verdict::Reuse, "reused".to_owned()),
                Some(Known::Running) => (Verdict::Running, "running already".to_owned()),
                Some(Known::Failed) => (Verdict::Run, "failed before".to_owned()),
                None => (Verdict::Run, before.as_ref().map_or_else(|| NEVER.to_owned(), |b| b.changes(task))),
            };
            Why { key: task.key.clone(), verdict, reason }
        })
        .collect();
    // a service runs exactly when somebody who needs it does, whatever it did before
    let runs: HashSet<ContentKey> =
        all.iter().filter(|w| w.verdict != Verdict::Reuse).map(|w| w.key.clone()).collect();
    for (task, why) in graph.tasks.iter().zip(&mut all).filter(|(t, _)| t.work.kind().is_service()) {
        let needed = task.consumers.iter().filter(|c| runs.contains(c)).count();
        if needed == 0 && why.verdict == Verdict::Run {
            (why.verdict, why.reason) = (Verdict::Reuse, "nobody needs it any more".to_owned());
        } else if needed > 0 && why.verdict == Verdict::Reuse {
            let who = if needed == 1 { "1 task needs".to_owned() } else { format!("{needed} tasks need") };
            (why.verdict, why.reason) = (Verdict::Run, format!("{who} it again"));
        }
    }
    all
}

const NEVER: &str = "never run";

/// Lists longer than this are cut in a reason.
const MOST: usize = 4;

/// The plan before, for look-ups.
struct Before<'a> {
    keys: BTreeSet<&'a ContentKey>,
    /// The axes in the labels of a phase's tasks.
    axes: HashMap<&'a str, BTreeSet<&'a str>>,
    by_labels: HashMap<(&'a str, String), &'a Task>,
}

impl<'a> Before<'a> {
    fn new(graph: &'a Graph) -> Self {
        let mut axes: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        let mut by_labels = HashMap::new();
        for task in &graph.tasks {
            axes.entry(&task.phase).or_default().extend(task.labels.keys().map(String::as_str));
            by_labels.insert((task.phase.as_str(), spelled(task.labels.iter())), task);
        }
        Before { keys: graph.tasks.iter().map(|t| &t.key).collect(), axes, by_labels }
    }

    /// The task that stood in this one's place: same phase, same labels as far as the axes existed.
    fn counterpart(&self, task: &Task) -> Option<&'a Task> {
        let axes = self.axes.get(task.phase.as_str())?;
        let labels = spelled(task.labels.iter().filter(|(axis, _)| axes.contains(axis.as_str())));
        self.by_labels.get(&(task.phase.as_str(), labels)).copied()
    }

    fn changes(&self, task: &Task) -> String {
        if self.keys.contains(&task.key) {
            return NEVER.to_owned();
        }
        let Some(old) = self.counterpart(task) else { return NEVER.to_owned() };
        let mut found = Vec::new();
        if old.work.kind() != task.work.kind() {
            found.push(format!("kind changed {} -> {}", old.work.kind().name(), task.work.kind().name()));
        } else {
            found.extend(params_changes(old, task));
        }
        let roles: BTreeSet<&String> =
            [&old.inputs, &task.inputs].into_iter().flat_map(BTreeMap::keys).collect();
        for role in roles {
            found.extend(refs_change("input", role, old.inputs.get(role), task.inputs.get(role)));
        }
        let roles: BTreeSet<&String> =
            [&old.services, &task.services].into_iter().flat_map(BTreeMap::keys).collect();
        for role in roles {
            let (a, b) = (old.services.get(role), task.services.get(role));
            let list = |r: Option<&TaskRef>| r.map(|r| vec![r.clone()]);
            found.extend(refs_change("service", role, list(a).as_ref(), list(b).as_ref()));
        }
        if found.is_empty() {
            // nothing that a job file says: the formats of the program changed
            return "the program's formats changed".to_owned();
        }
        if found.len() > MOST {
            let more = found.len() - MOST;
            found.truncate(MOST);
            found.push(format!("{more} more changes"));
        }
        found.join(", ")
    }
}

fn spelled<'l>(labels: impl Iterator<Item = (&'l String, &'l Value)>) -> String {
    labels.map(|(axis, value)| format!("{axis}={value}\n")).collect()
}

fn params_changes(old: &Task, new: &Task) -> Vec<String> {
    let flat = |task: &Task| {
        let mut out = BTreeMap::new();
        // serialising plain structs of numbers and strings cannot fail
        let value = serde_json::to_value(&task.work).unwrap_or_default();
        flatten("params", value.get("params").unwrap_or(&Value::Null), &mut out);
        out
    };
    let (old, new) = (flat(old), flat(new));
    let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let word = |v: Option<&Value>| v.map_or_else(|| "nothing".to_owned(), plain);
    paths
        .into_iter()
        .filter(|path| old.get(*path) != new.get(*path))
        .map(|path| format!("{path} changed {} -> {}", word(old.get(path)), word(new.get(path))))
        .collect()
}

fn flatten(path: &str, value: &Value, out: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                flatten(&format!("{path}.{key}"), value, out);
            }
        }
        other => {
            out.insert(path.to_owned(), other.clone());
        }
    }
}

fn refs_change(
    what: &str,
    role: &str,
    old: Option<&Vec<TaskRef>>,
    new: Option<&Vec<TaskRef>>,
) -> Option<String> {
    let phases = |refs: &[TaskRef]| {
        let mut names: Vec<&str> = refs.iter().map(|r| r.phase.as_str()).collect();
        names.dedup();
        names.join("+")
    };
    match (old, new) {
        (Some(a), Some(b)) if a.iter().map(|r| &r.key).eq(b.iter().map(|r| &r.key)) => None,
        (Some(a), Some(b)) if phases(a) == phases(b) => {
            Some(format!("{what} {role} ({}) changed", phases(b)))
        }
        (Some(a), Some(b)) => Some(format!("{what} {role} is {} instead of {}", phases(b), phases(a))),
        (None, Some(b)) => Some(format!("{what} {role} ({}) is new", phases(b))),
        (Some(a), None) => Some(format!("{what} {role} ({}) is gone", phases(a))),
        (None, None) => None,
    }
}
