//! Job file -> matrix -> graph of tasks with content keys.
//!
//! Pure: text in, [`Graph`] or [`Diagnostic`]s out. No file, no clock, no environment is read here.
//!
//! The way of a job file: `yaml` turns text into a tree that remembers its places; `document` checks every part
//! against the schema and merges profile and `--set`; `job` makes phases, axes and variants of it; `expand` walks
//! (phase, point) depth first, decodes parameters, computes content keys and shares what is equal.

mod body;
mod check;
pub mod diagnostic;
mod document;
mod expand;
mod explain;
pub mod graph;
mod job;
pub mod memory;
mod node;
pub mod outside;
mod roles;
mod schema;
mod template;
pub mod units;
mod upstream;
mod why;
mod yaml;

pub use diagnostic::Diagnostic;
pub use explain::{explain, task_list};
pub use graph::{Axis, Graph, Point, Predicted, Retry, Task, TaskRef, Totals, plain};
pub use schema::schema;
pub use why::{Known, Verdict, Why, why};

use diagnostic::{Report, allowed};
use document::Document;
use job::Job;
use node::{Node, Pos};
pub use outside::{Found, Missing, Outside};
use serde_json::Value;
use std::collections::HashSet;

/// What the command line adds to a job file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `--profile NAME`: an overlay from the job file's `profiles:`.
    pub profile: Option<String>,
    /// `--set PATH=VALUE`, e.g. `("phases.rl.params.episodes", "5")`; the value is YAML. Applied after the profile.
    pub set: Vec<(String, String)>,
    /// Plan only these phases and what they need; empty is all.
    pub only: Vec<String>,
    /// Memory of one of the site's GPUs, in MB (10^6 bytes): what does not fit is refused.
    pub gpu_memory_mb: Option<u64>,
}

/// Reads, checks and expands a job file. `file_name` is only for messages.
///
/// # Errors
/// Every mistake that was found, in the order of the file.
pub fn load(file_name: &str, text: &str, options: &Options) -> Result<Graph, Vec<Diagnostic>> {
    load_with(file_name, text, options, &outside::AsWritten)
}

/// As [`load()`]; `outside` knows what `hf://...` and paths under `inputs:` mean.
///
/// # Errors
/// Every mistake that was found, in the order of the file; what `outside` does not find is one.
pub fn load_with(
    file_name: &str,
    text: &str,
    options: &Options,
    outside: &dyn Outside,
) -> Result<Graph, Vec<Diagnostic>> {
    let mut report = Report::new(file_name);
    let graph = plan(text, options, outside, &mut report);
    match graph {
        Some(graph) if report.is_empty() => Ok(graph),
        _ => Err(report.finish()),
    }
}

fn plan(text: &str, options: &Options, outside: &dyn Outside, report: &mut Report) -> Option<Graph> {
    let document = document::read(text, options, report)?;
    let job = job::compile(&document, report);
    let start = Pos { source: 0, line: 1, column: 1 };
    let phases_at = document.merged.entry("phases").map_or(start, |e| e.at);
    for name in &options.only {
        let names = job.phases.iter().filter(|p| !p.kind.is_service()).map(|p| p.name.as_str());
        if !names.clone().any(|n| n == name) {
            let message = format!("there is no phase `{name}` to plan");
            report.error(phases_at, message, allowed(name, names.collect::<Vec<_>>()));
        }
    }
    let only: HashSet<&str> = options.only.iter().map(String::as_str).collect();
    let before = report.is_empty();
    let (tasks, configs) =
        expand::expand(&job, &|name| only.is_empty() || only.contains(name), outside, report);
    if before && report.is_empty() && only.is_empty() {
        unused_services(&job, &tasks, report);
    }
    let mut graph = Graph {
        format: record::FORMAT,
        sweep: document.merged.get("name").and_then(Node::as_str).unwrap_or_default().to_owned(),
        job_sha256: record::key::sha256_hex(text.as_bytes()),
        matrix: job.axes[..job.top_axes]
            .iter()
            .map(|a| Axis { name: a.name.clone(), values: a.values.clone() })
            .collect(),
        tasks,
        memory: Vec::new(),
    };
    if report.is_empty() {
        memory::check(&document, &mut graph, &configs, options.gpu_memory_mb, report);
        budget(&document, &graph, report);
    }
    Some(graph)
}

/// A service that nobody uses would be started for nothing, or be forgotten.
fn unused_services(job: &Job, tasks: &[Task], report: &mut Report) {
    let used: HashSet<&str> =
        tasks.iter().flat_map(|t| t.also.iter().map(String::as_str).chain([t.phase.as_str()])).collect();
    for phase in job.phases.iter().filter(|p| p.kind.is_service() && !used.contains(p.name.as_str())) {
        let help = "name it under the `services:` of a phase, or remove it".to_owned();
        report.error(phase.at, format!("nobody uses the service `{}`", phase.name), help);
    }
}

fn budget(document: &Document, graph: &Graph, report: &mut Report) {
    let Some(budget) = document.merged.get("budget") else { return };
    let totals = graph.totals();
    #[allow(clippy::cast_precision_loss)]
    let needs = [
        ("tasks", totals.tasks as f64, "tasks"),
        ("cpu_hours", totals.cpu_hours, "CPU-hours"),
        ("gpu_hours", totals.gpu_hours, "GPU-hours"),
        ("hours", totals.hours, "hours (longest chain)"),
    ];
    for (key, needed, unit) in needs {
        let Some(entry) = budget.entry(key) else { continue };
        let Some(limit) = entry.value.as_scalar().and_then(Value::as_f64) else { continue };
        if needed > limit {
            let needed = (needed * 100.0).ceil() / 100.0;
            report.error(
                entry.at,
                format!("the plan needs {needed} {unit}, the budget allows {limit}"),
                "shrink the matrix, give better `estimate:`s, or raise the budget".into(),
            );
        }
    }
}
