//! The documents of `report --json` and `status --json` (docs/REPORT.md).
//!
//! Both carry their main table as `schema` + `data`, the "table" orientation of pandas:
//! `pandas.read_json(path, orient="table")` is a data frame of it. Everything else stands beside it under its own key.

use crate::paired::differences;
use crate::rows::rows;
use crate::state::State;
use crate::sweep::{Cost, Sweep};
use record::{ContentKey, FailureClass};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Columns that every result row has; further ones are the sweep's other axes.
const RESULT_COLUMNS: [(&str, &str); 11] = [
    ("phase", "string"),
    ("variant", "string"),
    ("seed", "any"),
    ("metric", "string"),
    ("value", "number"),
    ("low", "number"),
    ("high", "number"),
    ("n", "integer"),
    ("unscored", "integer"),
    ("task", "string"),
    ("attempt", "integer"),
];

/// Result rows as a plain array, `"format"` in each: `pandas.read_json(path)`.
#[must_use]
pub fn result_rows(sweep: &Sweep) -> Value {
    let axes = axes(sweep);
    Value::Array(
        rows(sweep)
            .map(|row| {
                let mut o = Map::new();
                o.insert("format".into(), json!(crate::FORMAT));
                o.insert("phase".into(), json!(row.phase()));
                o.insert("variant".into(), row.variant().map_or(Value::Null, |v| json!(plan::plain(v))));
                o.insert("seed".into(), row.seed().cloned().unwrap_or_default());
                for axis in &axes {
                    o.insert(column(axis), row.task.task.labels.get(*axis).cloned().unwrap_or_default());
                }
                let m = row.metric;
                o.insert("metric".into(), json!(m.metric));
                for (name, value) in [("value", m.value), ("low", m.low), ("high", m.high)] {
                    o.insert(name.into(), json!(value));
                }
                o.insert("n".into(), json!(m.n));
                o.insert("unscored".into(), json!(m.unscored));
                o.insert("task".into(), json!(row.task.task.key));
                o.insert("attempt".into(), json!(row.task.result.as_ref().map(|r| r.attempt)));
                Value::Object(o)
            })
            .collect(),
    )
}

/// The axes that are neither `variant` nor `seed`.
fn axes(sweep: &Sweep) -> BTreeSet<&str> {
    let all = sweep.graph.tasks.iter().flat_map(|t| t.labels.keys()).map(String::as_str);
    all.filter(|a| *a != "variant" && *a != "seed").collect()
}

/// An axis whose name is one of the fixed columns gets a prefix.
fn column(axis: &str) -> String {
    let taken = axis == "format" || RESULT_COLUMNS.iter().any(|(c, _)| *c == axis);
    if taken { format!("axis_{axis}") } else { axis.to_owned() }
}

/// Everything the HTML report shows, for programs.
#[must_use]
pub fn report(sweep: &Sweep) -> Value {
    let (pairs, warnings) = differences(sweep);
    let mut fields: Vec<Value> = vec![json!({"name": "format", "type": "integer"})];
    fields.extend(RESULT_COLUMNS.iter().map(|(n, t)| json!({"name": n, "type": t})));
    let others = axes(sweep).into_iter().map(|a| json!({"name": column(a), "type": "any"}));
    fields.extend(others);
    let pairs: Vec<Value> = pairs
        .iter()
        .map(|d| {
            json!({"phase": d.phase, "a": d.a, "b": d.b, "metric": d.metric, "difference": d.difference,
                   "low": d.low, "high": d.high, "n": d.n, "better": d.better, "worse": d.worse})
        })
        .collect();
    let curves: Vec<Value> = sweep
        .tasks
        .iter()
        .flat_map(|t| t.curves.iter().map(move |c| (t, c)))
        .map(|(t, c)| {
            let (steps, values): (Vec<u64>, Vec<f64>) = c.points.iter().copied().unzip();
            json!({"task": t.task.key, "name": c.name, "steps": steps, "values": values})
        })
        .collect();
    json!({
        "format": crate::FORMAT,
        "kind": "report",
        "sweep": sweep.name,
        "run_dir": sweep.run_dir,
        "read_ms": sweep.read_ms,
        "job_sha256": sweep.graph.job_sha256,
        "counts": counts(sweep.counts()),
        "cost": cost(sweep.cost()),
        "schema": {"fields": fields},
        "data": result_rows(sweep),
        "paired": pairs,
        "tasks": sweep.tasks.iter().map(task).collect::<Vec<_>>(),
        "curves": curves,
        "warnings": sweep.warnings.iter().cloned().chain(warnings).collect::<Vec<_>>(),
    })
}

fn counts(counts: Vec<(State, usize)>) -> Value {
    counts.into_iter().map(|(s, n)| (s.name().to_owned(), json!(n))).collect::<Map<_, _>>().into()
}

fn cost(c: Cost) -> Value {
    json!({
        "wall_s": c.wall_s,
        "cpu_h": c.cpu_s / 3600.0,
        "gpu_h": c.gpu_s / 3600.0,
        "peak_rss_mb": c.peak_rss_mb,
        "attempts": c.attempts,
        "attempts_without_record": c.unknown,
    })
}

fn task(t: &crate::TaskRun) -> Value {
    let result = t.result.as_ref();
    json!({
        "task": t.task.key,
        "phase": t.task.phase,
        "labels": t.task.labels,
        "work": t.task.work,
        "inputs": t.task.needs().map(|(role, r)| json!({"role": role, "task": r.key})).collect::<Vec<_>>(),
        "state": t.state,
        "detail": t.detail,
        "cost": cost(t.cost()),
        "host": result.map(|r| r.host.as_str()),
        "program": result.map(|r| r.program.as_str()),
        "facts": result.map(|r| &r.facts),
    })
}

/// One task of `status --json`, filled by the caller from what it knows already (no file is read here).
#[derive(Debug, Clone)]
pub struct StatusRow<'a> {
    pub task: &'a ContentKey,
    pub phase: &'a str,
    pub labels: &'a BTreeMap<String, Value>,
    pub state: State,
    /// Number of the newest attempt; 0 before the first.
    pub attempt: u32,
    pub job_id: &'a str,
    pub class: Option<FailureClass>,
    pub detail: &'a str,
    pub step: Option<u64>,
    pub of: Option<u64>,
    pub eta_s: Option<f64>,
}

/// `status --json`.
#[must_use]
pub fn status(sweep: &str, run_dir: &std::path::Path, read_ms: i64, tasks: &[StatusRow]) -> Value {
    const COLUMNS: [(&str, &str); 13] = [
        ("task", "string"),
        ("phase", "string"),
        ("variant", "string"),
        ("seed", "any"),
        ("labels", "any"),
        ("state", "string"),
        ("attempt", "integer"),
        ("job_id", "string"),
        ("class", "string"),
        ("detail", "string"),
        ("step", "any"),
        ("of", "any"),
        ("eta_s", "number"),
    ];
    let mut by_state: BTreeMap<State, usize> = BTreeMap::new();
    for t in tasks {
        *by_state.entry(t.state).or_default() += 1;
    }
    let data: Vec<Value> = tasks
        .iter()
        .map(|t| {
            json!({
                "task": t.task, "phase": t.phase,
                "variant": t.labels.get("variant").map(plan::plain), "seed": t.labels.get("seed"),
                "labels": t.labels, "state": t.state, "attempt": t.attempt, "job_id": t.job_id,
                "class": t.class, "detail": t.detail, "step": t.step, "of": t.of, "eta_s": t.eta_s,
            })
        })
        .collect();
    json!({
        "format": crate::FORMAT,
        "kind": "status",
        "sweep": sweep,
        "run_dir": run_dir,
        "read_ms": read_ms,
        "counts": counts(by_state.into_iter().collect()),
        "schema": {"fields": COLUMNS.iter().map(|(n, t)| json!({"name": n, "type": t})).collect::<Vec<_>>()},
        "data": data,
    })
}
