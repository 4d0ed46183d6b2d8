//! `bessemer run` and `rehearse`: a sweep on this machine, driven from here.

use crate::cli::{Changes, Rehearse, Run};
use crate::context::Context;
use crate::engine;
use crate::failure::Result;
use crate::interrupts::Interrupts;
use crate::job;
use crate::live::Live;
use ledger::Engine;
use ledger::engine::Ended;
use record::{exit, layout};
use std::path::Path;
use std::sync::Arc;

pub fn run(context: &mut Context, args: &Run) -> Result {
    let site = engine::local_site(args.site.as_deref())?;
    let job = job::load(&args.job, &args.changes, &site.site)?;
    let run_dir = engine::run_dir(context, &job.graph.sweep)?;
    let engine = engine::create(context, &run_dir, &job, site)?;
    drive(context, engine, args.plain)
}

/// The `rehearse` profile under a name of its own: a rehearsal must not change the real sweep's plan.
pub fn rehearse(context: &mut Context, args: &Rehearse) -> Result {
    let site = engine::local_site(args.site.as_deref())?;
    let changes = Changes { profile: Some("rehearse".into()), set: args.set.clone(), only: vec![] };
    let mut job = job::load(&args.job, &changes, &site.site)?;
    job.graph.sweep.push_str("-rehearsal");
    let run_dir = engine::run_dir(context, &job.graph.sweep)?;
    let engine = engine::create(context, &run_dir, &job, site)?;
    let code = drive(context, engine, false)?;
    if code == exit::DONE {
        context.out.line(format_args!("everything fits together; now: bessemer run {}", args.job.display()));
    }
    Ok(code)
}

/// Works a local sweep to its end, shows it, and writes the report.
pub fn drive(context: &mut Context, mut engine: Engine, plain: bool) -> Result {
    let interrupts = Interrupts::listen(Some(engine.run_dir().to_owned()))?;
    let stop = Arc::clone(&interrupts.stop);
    let mut live = Live::new(context, plain);
    let mut told = 0;
    let outcome = engine.drive(&stop, |view| {
        let count = interrupts.count();
        let remark = match count {
            0 => "Ctrl-C: stop with checkpoints",
            1 => "stopping: running tasks write their checkpoints; Ctrl-C again kills them",
            _ => "killing the running tasks",
        };
        if count > told {
            told = count;
            if !live.draws() {
                context.note(remark);
            }
        }
        live.show(context, view, remark);
    })?;
    live.leave();
    let sweep = engine.sweep().name.clone();
    for w in &outcome.last.warnings {
        context.note(format_args!("warning: {w}"));
    }
    match outcome.ended {
        Ended::Done => {}
        Ended::Interrupted => {
            context.out.line(format_args!("stopped; to go on: bessemer resume {sweep}"));
            return Ok(exit::CHECKPOINTED);
        }
        Ended::Stuck => {
            context.out.line("not done:");
            super::submit::stuck(context, &outcome.last);
            context.out.line(format_args!(
                "look: bessemer logs {sweep} TASK; then, when the cause is mended: bessemer resume {sweep}"
            ));
        }
    }
    results(context, &mut engine)?;
    Ok(outcome.exit_code())
}

/// The end of a run: the table, the cost, and where the report lies.
fn results(context: &mut Context, engine: &mut Engine) -> Result<()> {
    let view = engine.view(&ledger::Filter::all())?;
    let report = super::report::read(engine.run_dir(), &view)?;
    let cost = report.cost();
    context.out.line(format_args!(
        "\n{}: {}; {:.2} CPU hours{}",
        report.name,
        report::text::counts(&report.counts()),
        cost.cpu_s / 3600.0,
        if cost.gpu_s > 0.0 { format!(", {:.2} GPU hours", cost.gpu_s / 3600.0) } else { String::new() },
    ));
    if report::rows::rows(&report).next().is_some() {
        context.out.text(format_args!("\n{}", report::text::results(&report, context.width)));
    }
    let path = engine.run_dir().join("report.html");
    super::report::write(&report, &path)?;
    context.out.line(format_args!("report: {}", path.display()));
    if context.verbose > 0 {
        log_place(context, engine.run_dir());
    }
    Ok(())
}

fn log_place(context: &Context, run_dir: &Path) {
    context.note(format_args!("everything lies in {}; results: */{}", run_dir.display(), layout::RESULT));
}
