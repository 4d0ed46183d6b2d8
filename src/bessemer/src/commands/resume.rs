//! `bessemer resume`.

use crate::cli::Resume;
use crate::context::Context;
use crate::engine;
use crate::failure::Result;
use ledger::{Filter, ResumeOptions, Who};

pub fn run(context: &mut Context, args: &Resume) -> Result {
    let mut opened = engine::open(context, args.sweep.as_deref())?;
    let who = if args.force { Who::Force } else { Who::Person };
    if opened.local && !args.force {
        return super::run::drive(context, opened.engine, args.plain);
    }
    let report = opened.engine.resume(&ResumeOptions { filter: Filter::all(), who })?;
    if opened.local {
        return super::run::drive(context, opened.engine, args.plain);
    }
    super::submit::say(context, &opened.engine.sweep().name.clone(), &report);
    Ok(report.exit_code())
}
