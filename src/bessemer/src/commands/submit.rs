//! `bessemer submit`: hands a sweep to a scheduler and returns.

use crate::cli::Submit;
use crate::context::Context;
use crate::engine;
use crate::failure::{Failure, Result};
use crate::job;
use cluster::runner::{Real, Runner};
use cluster::site::Scheduler;
use ledger::engine::{Stop, SubmitReport};
use record::exit;

pub fn run(context: &mut Context, args: &Submit) -> Result {
    let site = engine::site(Some(&args.site))?;
    if site.site.scheduler == Scheduler::Local {
        return Err(Failure::usage(format!(
            "{} is this machine, where nothing queues: bessemer run {} --site {}",
            args.site.display(),
            args.job.display(),
            args.site.display()
        )));
    }
    let job = job::load(&args.job, &args.changes, &site.site)?;
    job::check_options(&args.job, &job, &site.site)?;
    if !args.no_check {
        let runner = Real::default();
        let live = cluster::probe::live(&site.site, &runner);
        if context.verbose > 0 {
            context.note(format_args!("scheduler commands before: {}", runner.calls()));
        }
        let wrong = super::plan::hopeless(&job.graph, &site.site, live.as_ref());
        if !wrong.is_empty() {
            let advice = "nothing was handed in; if you know better: --no-check".to_owned();
            return Err(Failure::many(exit::USER_ERROR, wrong.into_iter().chain([advice])));
        }
    }
    let run_dir = engine::run_dir(context, &job.graph.sweep)?;
    let mut engine = engine::create(context, &run_dir, &job, site)?;
    let report = engine.submit()?;
    say(context, &engine.sweep().name.clone(), &report);
    Ok(report.exit_code())
}

/// What a round of submissions did, in words.
pub fn say(context: &mut Context, sweep: &str, r: &SubmitReport) {
    for w in &r.warnings {
        context.note(format_args!("warning: {w}"));
    }
    let mut text = format!("{sweep}: {} tasks handed in", r.submitted);
    if r.jobs != r.submitted {
        text.push_str(&format!(" with {} submit commands", r.jobs));
    }
    for (n, what) in [
        (r.live, "were in the queue or running"),
        (r.done, "are done"),
        (r.left, "wait for the next `submit`"),
    ] {
        if n > 0 {
            text.push_str(&format!(", {n} {what}"));
        }
    }
    context.out.line(text);
    match &r.stopped {
        Some(Stop::Limit(why)) => context.out.line(format_args!(
            "a limit is reached, nothing is wrong: {why}. Later: bessemer resume {sweep} (exit code {})",
            exit::TRY_AGAIN
        )),
        Some(Stop::Unavailable(why)) => {
            context.out.line(format_args!("the scheduler is not there: {why}. Later: bessemer resume {sweep}"));
        }
        Some(Stop::Uncertain(why)) => context.out.line(format_args!(
            "nobody knows whether the last submission was accepted ({why}); the next command finds out before it hands in \
             anything: bessemer resume {sweep}"
        )),
        Some(Stop::Refused(why)) => {
            context.out.line(format_args!("the scheduler refused: {why}. Mend the job or site file, then submit again"));
        }
        None => {}
    }
    if !r.stuck.is_empty() {
        context.out.line("not handed in:");
        stuck(context, r);
    }
    if context.verbose > 0 {
        context.note(format_args!("scheduler commands: {}", r.calls));
    }
    if r.submitted > 0 {
        context.out.line(format_args!("next: bessemer status {sweep}, bessemer watch {sweep}"));
    }
}

/// Tasks that cannot go on, one a line; equal reasons once.
pub fn stuck(context: &mut Context, r: &SubmitReport) {
    const SHOWN: usize = 20;
    for (title, why) in r.stuck.iter().take(SHOWN) {
        context.out.line(format_args!("  {title}: {why}"));
    }
    if r.stuck.len() > SHOWN {
        context.out.line(format_args!("  ... and {} more", r.stuck.len() - SHOWN));
    }
}
