//! `bessemer status`: one look.

use crate::cli::Status;
use crate::context::Context;
use crate::failure::Result;
use crate::{engine, notes};
use ledger::Filter;
use ledger::view::{TaskState, TaskView, View};
use record::exit;
use report::json::StatusRow;
use report::text::Table;
use std::collections::BTreeMap;
use std::path::Path;

pub fn run(context: &mut Context, args: &Status) -> Result {
    let mut opened = engine::open(context, args.sweep.as_deref())?;
    let view = if args.offline {
        opened.engine.view(&Filter::all())?
    } else {
        opened.engine.refresh(&Filter::all())?
    };
    if args.json {
        let doc = json(&view);
        context.out.line(serde_json::to_string_pretty(&doc).map_err(std::io::Error::other)?);
        return Ok(exit::DONE);
    }
    for w in &view.warnings {
        context.note(format_args!("warning: {w}"));
    }
    context.out.line(format_args!("{} on {}: {}", view.sweep, view.site, counts(&view)));
    if let Some(holder) = &view.held_by {
        context.out.line(format_args!("worked on by {holder}"));
    }
    table(context, &view, args.all || context.verbose > 0);
    if context.verbose > 0 {
        context.note(format_args!(
            "scheduler commands: {} now, {} for the sweep so far; files in {}",
            view.scheduler_calls_now, view.scheduler_calls, view.run_dir
        ));
    }
    advice(context, &view, opened.local);
    Ok(exit::DONE)
}

/// docs/REPORT.md, with what only the ledger knows beside the table.
fn json(view: &View) -> serde_json::Value {
    let labels: Vec<BTreeMap<String, serde_json::Value>> =
        view.tasks.iter().map(|t| t.labels.clone().into_iter().collect()).collect();
    let details: Vec<String> = view.tasks.iter().map(notes::detail).collect();
    let rows: Vec<StatusRow> = view
        .tasks
        .iter()
        .zip(labels.iter().zip(&details))
        .map(|(t, (labels, detail))| StatusRow {
            task: &t.key,
            phase: &t.phase,
            labels,
            state: notes::state(t.state),
            attempt: t.attempt.unwrap_or(0),
            job_id: t.job_id.as_deref().unwrap_or(""),
            class: notes::class(t),
            detail,
            step: t.progress.as_ref().and_then(|p| p.step),
            of: t.progress.as_ref().and_then(|p| p.of),
            eta_s: t.progress.as_ref().and_then(|p| p.eta_s()),
        })
        .collect();
    let mut doc = report::json::status(&view.sweep, Path::new(&view.run_dir), view.at_ms, &rows);
    doc["site"] = serde_json::json!(view.site);
    doc["done"] = serde_json::json!(view.is_done());
    doc["held_by"] = serde_json::json!(view.held_by);
    doc["scheduler_calls"] =
        serde_json::json!({"now": view.scheduler_calls_now, "total": view.scheduler_calls});
    doc["warnings"] = serde_json::json!(view.warnings);
    doc
}

fn counts(view: &View) -> String {
    view.counts.iter().map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", ")
}

fn table(context: &mut Context, view: &View, all: bool) {
    let quiet = |s: TaskState| matches!(s, TaskState::Succeeded | TaskState::NotNeeded | TaskState::Planned);
    let (shown, hidden): (Vec<&TaskView>, Vec<&TaskView>) =
        view.tasks.iter().partition(|t| all || view.tasks.len() <= 25 || !quiet(t.state));
    let rows = shown
        .iter()
        .map(|t| {
            let step = t.progress.as_ref().map_or_else(String::new, |p| match (p.step, p.of) {
                (Some(s), Some(of)) => format!("{s}/{of}"),
                (Some(s), None) => s.to_string(),
                _ => String::new(),
            });
            vec![
                format!("{} {}", notes::state(t.state).mark(), t.state.name()),
                t.title.clone(),
                t.attempt.map_or_else(String::new, |n| n.to_string()),
                t.job_id.clone().unwrap_or_default(),
                step,
                t.host.clone(),
                notes::detail(t),
            ]
        })
        .collect();
    let head = ["state", "task", "attempt", "job", "step", "host", ""].map(str::to_owned).to_vec();
    context.out.text(Table { head, rows, ..Table::default() }.render(context.width));
    if !hidden.is_empty() {
        context.out.line(format_args!("... and {} that are done or not yet handed in (--all)", hidden.len()));
    }
}

fn advice(context: &mut Context, view: &View, local: bool) {
    let any = |f: fn(TaskState) -> bool| view.tasks.iter().any(|t| f(t.state));
    let sweep = &view.sweep;
    if view.is_done() {
        context.out.line(format_args!("done: bessemer report {sweep}"));
    } else if any(|s| s.needs_help() && s != TaskState::Checkpointed) {
        context.out.line(format_args!("why: bessemer logs {sweep} TASK; then: bessemer resume {sweep}"));
    } else if any(|s| matches!(s, TaskState::Deferred | TaskState::Planned | TaskState::Checkpointed))
        && view.held_by.is_none()
    {
        context.out.line(format_args!("to go on: bessemer resume {sweep}"));
    } else if local && view.held_by.is_none() {
        context.out.line(format_args!("nobody drives it: bessemer resume {sweep}"));
    }
}
