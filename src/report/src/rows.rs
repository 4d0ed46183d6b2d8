//! The results as rows: one metric of one task.

use crate::sweep::{Sweep, TaskRun};
use plan::plain;
use record::{Kind, MetricRow};
use serde_json::Value;
use std::collections::BTreeMap;

/// One measured number with what it belongs to.
#[derive(Debug, Clone)]
pub struct Row<'a> {
    pub task: &'a TaskRun,
    pub metric: &'a MetricRow,
}

impl Row<'_> {
    #[must_use]
    pub fn phase(&self) -> &str {
        &self.task.task.phase
    }

    /// Value of the axis `variant`, where the sweep has one.
    #[must_use]
    pub fn variant(&self) -> Option<&Value> {
        self.task.task.labels.get("variant")
    }

    /// Value of the axis `seed`, where the sweep has one.
    #[must_use]
    pub fn seed(&self) -> Option<&Value> {
        self.task.task.labels.get("seed")
    }
}

/// Every metric of every task that has succeeded, in the graph's order. A task that has not succeeded has no rows.
pub fn rows(sweep: &Sweep) -> impl Iterator<Item = Row<'_>> {
    sweep
        .tasks
        .iter()
        .flat_map(|task| task.result.iter().flat_map(|r| &r.metrics).map(move |metric| Row { task, metric }))
}

/// Tasks of one phase that differ in the seed alone.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    /// `of=rl variant=binary`; the phase where there is no axis but the seed.
    pub name: String,
    pub labels: BTreeMap<&'a str, &'a Value>,
    /// In the graph's order.
    pub tasks: Vec<&'a TaskRun>,
}

/// The tasks with results of each phase, grouped over seeds; evaluations first, else in the graph's order.
#[must_use]
pub fn groups(sweep: &Sweep) -> Vec<(&str, Vec<Group<'_>>)> {
    let mut phases: Vec<(&str, Vec<Group>)> = Vec::new();
    for task in sweep.tasks.iter().filter(|t| t.result.as_ref().is_some_and(|r| !r.metrics.is_empty())) {
        let labels: BTreeMap<&str, &Value> =
            task.task.labels.iter().filter(|(k, _)| *k != "seed").map(|(k, v)| (k.as_str(), v)).collect();
        let phase = task.task.phase.as_str();
        let at = phases.iter().position(|(p, _)| *p == phase).unwrap_or_else(|| {
            phases.push((phase, Vec::new()));
            phases.len() - 1
        });
        let of_phase = &mut phases[at].1;
        match of_phase.iter_mut().find(|g| g.labels == labels) {
            Some(group) => group.tasks.push(task),
            None => of_phase.push(Group { name: group_name(phase, &labels), labels, tasks: vec![task] }),
        }
    }
    phases.sort_by_key(|(_, groups)| groups[0].tasks[0].task.work.kind() != Kind::Eval);
    phases
}

/// `of=sft` reads `sft`, a single axis needs no name; several axes are spelled out, `of` first.
fn group_name(phase: &str, labels: &BTreeMap<&str, &Value>) -> String {
    let of = labels.get("of").map(|v| plain(v));
    let mut rest: Vec<String> = labels
        .iter()
        .filter(|(k, _)| **k != "of")
        .map(|(k, v)| if *k == "variant" { plain(v) } else { format!("{k}={}", plain(v)) })
        .collect();
    rest.sort_by_key(|s| s.contains('=')); // the variant's bare name first
    match (of, rest.is_empty()) {
        (Some(of), true) => of,
        (Some(of), false) => format!("{of} {}", rest.join(" ")),
        (None, true) => phase.to_owned(),
        (None, false) => rest.join(" "),
    }
}

/// Metric names in the order in which the tasks report them.
#[must_use]
pub fn metric_names<'a>(tasks: impl IntoIterator<Item = &'a TaskRun>) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for metric in tasks.into_iter().filter_map(|t| t.result.as_ref()).flat_map(|r| &r.metrics) {
        if !names.contains(&metric.metric.as_str()) {
            names.push(&metric.metric);
        }
    }
    names
}

/// The named metric of a task.
#[must_use]
pub fn metric<'a>(task: &'a TaskRun, name: &str) -> Option<&'a MetricRow> {
    task.result.as_ref()?.metrics.iter().find(|m| m.metric == name)
}
