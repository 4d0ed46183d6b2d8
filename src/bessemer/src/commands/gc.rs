//! `bessemer gc`.

use crate::cli::Gc;
use crate::context::Context;
use crate::engine;
use crate::failure::Result;
use record::exit;

pub fn run(context: &mut Context, args: &Gc) -> Result {
    let mut opened = engine::open(context, Some(&args.sweep))?;
    let report = opened.engine.gc(!args.dry_run)?;
    for w in &report.warnings {
        context.note(format_args!("warning: {w}"));
    }
    let verb = if args.dry_run { "would remove" } else { "removed" };
    for dir in &report.removed {
        context.out.line(format_args!("{verb} {}", dir.display()));
    }
    context.out.line(format_args!(
        "{verb} {} jobs from the queue, {verb} {} checkpoint directories",
        report.cancelled,
        report.removed.len()
    ));
    Ok(exit::DONE)
}
