//! `bessemer plan`: what a job file means, before anything runs.

mod outline;
mod reuse;

use crate::cli::Plan;
use crate::context::Context;
use crate::engine::{self, SiteFile};
use crate::failure::{Failure, Result};
use crate::job::{self, Job};
use cluster::site::Scheduler;
use record::exit;
use reuse::{Fate, Will};
use std::path::{Path, PathBuf};

pub fn run(context: &mut Context, args: &Plan) -> Result {
    let job = job::load(&args.job, &args.changes)?;
    let site = engine::site(args.site.as_deref())?;
    let run_dir = engine::run_dir(context, &job.graph.sweep)?;
    if args.dry_run {
        return dry_run(context, args, &job, &site, &run_dir);
    }
    let fates = reuse::fates(&job.graph, &run_dir);
    if args.json {
        let doc = json(&job, &site, &fates);
        context.out.line(serde_json::to_string_pretty(&doc).map_err(std::io::Error::other)?);
        return Ok(exit::DONE);
    }
    outline::show(context, &job.graph, &fates);
    let next = match (site.site.scheduler, &args.site) {
        (Scheduler::Local, _) | (_, None) => format!("bessemer run {}", args.job.display()),
        (_, Some(s)) => format!("bessemer submit {} --site {}", args.job.display(), s.display()),
    };
    let run = fates.iter().filter(|f| f.will == Will::Run).count();
    if run > 0 {
        context.out.line(format_args!("next: {next}"));
    }
    Ok(exit::DONE)
}

/// docs/CLI.md, "plan --json".
fn json(job: &Job, site: &SiteFile, fates: &[Fate]) -> serde_json::Value {
    let runs = |t: &plan::Task| fates.iter().any(|f| f.task.key == t.key && f.will == Will::Run);
    serde_json::json!({
        "format": record::FORMAT,
        "kind": "plan",
        "sweep": job.graph.sweep,
        "site": site.site.name.to_string(),
        "totals": job.graph.totals(),
        "to_run": job.graph.totals_of(runs),
        "tasks": fates
            .iter()
            .map(|f| serde_json::json!({"task": f.task.key, "title": f.task.title(), "will": f.will, "why": f.why}))
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
