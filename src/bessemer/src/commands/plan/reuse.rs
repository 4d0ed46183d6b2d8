//! Which tasks will run, and why: what is there already, and what differs from the plan it was made with.

use plan::{Graph, Task, plain};
use record::verify::{self, Depth, Problem};
use record::{atomic, layout};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Will {
    Run,
    /// The result of an earlier attempt holds.
    Reuse,
    /// A service: up while somebody needs it.
    Serve,
}

/// One task's future.
#[derive(Debug)]
pub struct Fate<'a> {
    pub task: &'a Task,
    pub will: Will,
    pub why: String,
}

/// In the graph's order. Reads `run_dir`, which need not exist.
pub fn fates<'a>(graph: &'a Graph, run_dir: &Path) -> Vec<Fate<'a>> {
    let before: Option<Graph> = atomic::read_json(&run_dir.join(layout::PLAN)).ok().flatten();
    let known: HashMap<String, &Task> =
        before.as_ref().map(|g| g.tasks.iter().map(|t| (t.title(), t)).collect()).unwrap_or_default();
    // an empty run directory must cost nothing, however many tasks there are
    let fresh = !run_dir.join("tasks").is_dir();
    let mut fates: Vec<Fate> = Vec::with_capacity(graph.tasks.len());
    for task in &graph.tasks {
        let (will, why) = if fresh { (Will::Run, "new".to_owned()) } else { fate(task, run_dir, &known) };
        fates.push(Fate { task, will, why });
    }
    let running: HashMap<&str, bool> =
        fates.iter().map(|f| (f.task.key.as_str(), f.will == Will::Run)).collect();
    let services: Vec<(usize, bool)> = fates
        .iter()
        .enumerate()
        .filter(|(_, f)| f.task.work.kind().is_service())
        .map(|(i, f)| (i, f.task.consumers.iter().any(|c| running.get(c.as_str()).copied().unwrap_or(false))))
        .collect();
    for (i, needed) in services {
        let f = &mut fates[i];
        (f.will, f.why) = if needed {
            (Will::Serve, "somebody who will run needs it".into())
        } else {
            (Will::Reuse, "nobody who will run needs it".into())
        };
    }
    fates
}

fn fate(task: &Task, run_dir: &Path, known: &HashMap<String, &Task>) -> (Will, String) {
    let dir = layout::task_dir(run_dir, &task.key);
    match verify::result(&dir, &task.key, Depth::Size) {
        Ok(whole) => return (Will::Reuse, format!("attempt {} has succeeded", whole.pointer.attempt)),
        Err(Problem::NoResult(_)) => {}
        Err(damage) => return (Will::Run, format!("its result is damaged: {damage}")),
    }
    if let Some(n) = layout::attempts(&dir).ok().and_then(|a| a.last().copied()) {
        return (Will::Run, format!("attempt {n} has not succeeded (yet)"));
    }
    match known.get(&task.title()) {
        Some(old) if old.key != task.key => (Will::Run, difference(old, task)),
        Some(_) => (Will::Run, "not handed in yet".into()),
        None => (Will::Run, "new".into()),
    }
}

/// What makes a task another one than the one of the same title in the last plan.
fn difference(old: &Task, new: &Task) -> String {
    let as_map = |t: &Task| {
        let mut flat = BTreeMap::new();
        flatten("", &serde_json::to_value(&t.work).unwrap_or_default(), &mut flat);
        flat
    };
    let (was, is) = (as_map(old), as_map(new));
    let mut changes: Vec<String> = is
        .iter()
        .filter(|(k, v)| was.get(*k) != Some(v))
        .map(|(k, v)| format!("{k} {} -> {}", was.get(k).map_or("none".into(), plain), plain(v)))
        .collect();
    changes.extend(was.keys().filter(|k| !is.contains_key(*k)).map(|k| format!("{k} is gone")));
    let ups = |t: &Task| -> BTreeMap<String, Vec<String>> {
        let mut m: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (role, r) in t.needs() {
            m.entry(format!("{role} ({})", r.phase)).or_default().push(r.key.to_string());
        }
        m
    };
    let (was, is) = (ups(old), ups(new));
    changes
        .extend(is.iter().filter(|(k, v)| was.get(*k) != Some(v)).map(|(k, _)| format!("its {k} changed")));
    if changes.is_empty() { "the format of results changed".into() } else { changes.join(", ") }
}

fn flatten(path: &str, value: &Value, to: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => {
            for (k, v) in map {
                let path = if path.is_empty() { k.clone() } else { format!("{path}.{k}") };
                flatten(&path, v, to);
            }
        }
        v => {
            to.insert(path.to_owned(), v.clone());
        }
    }
}
