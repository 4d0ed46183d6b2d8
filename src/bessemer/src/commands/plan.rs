//! `bessemer plan`: what a job file means, before anything runs.

use crate::cli::Plan;
use crate::context::Context;
use crate::engine::{self, SiteFile};
use crate::failure::{Failure, Result};
use crate::job::{self, Job};
use cluster::site::{Scheduler, Site};
use ledger::Filter;
use ledger::view::TaskState;
use plan::{Graph, Known, Verdict, Why};
use record::verify::{self, Depth};
use record::{ContentKey, atomic, exit, layout};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub fn run(context: &mut Context, args: &Plan) -> Result {
    let site = engine::site(args.site.as_deref())?;
    let job = job::load(&args.job, &args.changes, &site.site)?;
    job::check_options(&args.job, &job, &site.site)?;
    let run_dir = engine::run_dir(context, &job.graph.sweep)?;
    if args.dry_run {
        return dry_run(context, args, &job, &site, &run_dir);
    }
    let previous: Option<Graph> = atomic::read_json(&run_dir.join(layout::PLAN)).ok().flatten();
    let why = plan::why(&job.graph, &known(context, &job.graph, &run_dir), previous.as_ref());
    if args.json {
        let doc = json(&job, &site, &why);
        context.out.line(serde_json::to_string_pretty(&doc).map_err(std::io::Error::other)?);
        return Ok(exit::DONE);
    }
    context.out.text(plan::explain(&job.graph, Some(&why)));
    if context.verbose > 0 {
        context.out.text(format_args!("\n{}", plan::task_list(&job.graph, Some(&why))));
    }
    for sentence in hopeless(&job.graph, &site.site, None) {
        context.out.line(format_args!("warning: {sentence}"));
    }
    if why.iter().any(|w| w.verdict == Verdict::Run) {
        let next = match (site.site.scheduler, &args.site) {
            (Scheduler::Local, _) | (_, None) => format!("bessemer run {}", args.job.display()),
            (_, Some(s)) => format!("bessemer submit {} --site {}", args.job.display(), s.display()),
        };
        context.out.line(format_args!("\nnext: {next}"));
    } else {
        context.out.line("\nnothing to do");
    }
    Ok(exit::DONE)
}

/// What is known about tasks: by the ledger if it knows the sweep, else by the files alone.
fn known(context: &Context, graph: &Graph, run_dir: &Path) -> HashMap<ContentKey, Known> {
    if !run_dir.join("tasks").is_dir() {
        return HashMap::new();
    }
    let view = engine::open(context, run_dir.to_str()).ok().and_then(|o| o.engine.view(&Filter::all()).ok());
    if let Some(view) = view {
        let known = |s: TaskState| match s {
            TaskState::Succeeded => Some(Known::Succeeded),
            TaskState::Queued
            | TaskState::Running
            | TaskState::Submitting
            | TaskState::FinishedUnconfirmed => Some(Known::Running),
            TaskState::Failed | TaskState::Lost | TaskState::Cancelled | TaskState::Damaged => {
                Some(Known::Failed)
            }
            _ => None,
        };
        return view.tasks.into_iter().filter_map(|t| Some((t.key, known(t.state)?))).collect();
    }
    let found = graph.tasks.iter().filter_map(|t| {
        let dir = layout::task_dir(run_dir, &t.key);
        if verify::result(&dir, &t.key, Depth::Size).is_ok() {
            return Some((t.key.clone(), Known::Succeeded));
        }
        let tried = layout::attempts(&dir).is_ok_and(|a| !a.is_empty());
        tried.then(|| (t.key.clone(), Known::Failed))
    });
    found.collect()
}

/// Tasks that a site can never run, one sentence per phase and reason.
pub fn hopeless(graph: &Graph, site: &Site, live: Option<&cluster::check::Live>) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    let mut asked: Vec<(&str, &record::Resources)> = Vec::new();
    for t in &graph.tasks {
        let this = (t.phase.as_str(), &t.resources);
        if asked.contains(&this) {
            continue;
        }
        asked.push(this);
        said.extend(
            cluster::check(site, &t.resources, live).into_iter().map(|why| format!("{}: {why}", t.phase)),
        );
    }
    said
}

/// docs/CLI.md, "plan --json".
fn json(job: &Job, site: &SiteFile, why: &[Why]) -> serde_json::Value {
    let verdict = |v: Verdict| match v {
        Verdict::Run => "run",
        Verdict::Running => "running",
        Verdict::Reuse => "reuse",
    };
    let reused: std::collections::HashSet<&ContentKey> =
        why.iter().filter(|w| w.verdict == Verdict::Reuse).map(|w| &w.key).collect();
    serde_json::json!({
        "format": record::FORMAT,
        "kind": "plan",
        "sweep": job.graph.sweep,
        "site": site.site.name.to_string(),
        "totals": job.graph.totals(),
        "to_do": job.graph.totals_of(|t| !reused.contains(&t.key)),
        "tasks": job.graph
            .tasks
            .iter()
            .zip(why)
            .map(|(t, w)| serde_json::json!({
                "task": t.key, "title": t.title(), "verdict": verdict(w.verdict), "reason": w.reason,
            }))
            .collect::<Vec<_>>(),
        "graph": job.graph,
    })
}

/// In a directory that a dry run made: it may be made anew.
const MARK: &str = "DRY-RUN";

const MARK_TEXT: &str =
    "Written by `bessemer plan --dry-run`: what `bessemer submit` would write. Nothing was handed in.\n";

fn dry_run(context: &mut Context, args: &Plan, job: &Job, site: &SiteFile, run_dir: &Path) -> Result {
    let out = match &args.out {
        Some(dir) => dir.clone(),
        None => context.runs_dir.join(format!("{}.dry-run", job.graph.sweep)),
    };
    make_empty(&out)?;
    std::fs::create_dir_all(&out)
        .and_then(|()| std::fs::write(out.join(MARK), MARK_TEXT))
        .map_err(|e| Failure::new(exit::FAILED, format!("cannot write to {}: {e}", out.display())))?;
    let arrays = if site.site.scheduler == Scheduler::Slurm { site.site.limits.max_array } else { 1 };
    let options = engine::options(&site.site)?;
    let report = ledger::dry_run(&job.graph, &site.site, run_dir, Some(&out), arrays, &options)?;
    if context.verbose > 0 {
        for script in &report.scripts {
            context.out.line(script.display());
        }
    }
    context.out.line(format_args!(
        "{} scripts for {} tasks of {} in {}; nothing was handed in",
        report.scripts.len(),
        report.tasks,
        job.graph.sweep,
        out.display()
    ));
    Ok(exit::DONE)
}

/// A dry run goes into an empty place, so that no file of an earlier plan is taken for one of this.
fn make_empty(out: &Path) -> Result<()> {
    let entries: Vec<PathBuf> =
        std::fs::read_dir(out).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())).collect();
    if entries.is_empty() {
        return Ok(());
    }
    if !out.join(MARK).is_file() {
        return Err(Failure::usage(format!(
            "{} is not empty and was not made by a dry run: name another directory with --out",
            out.display()
        )));
    }
    std::fs::remove_dir_all(out).map_err(|e| {
        Failure::new(exit::FAILED, format!("cannot remove the last dry run in {}: {e}", out.display()))
    })
}
