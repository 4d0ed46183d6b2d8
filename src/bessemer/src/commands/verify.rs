//! `bessemer verify`: are the results what was recorded?

use crate::cli::Verify;
use crate::context::Context;
use crate::engine;
use crate::failure::Result;
use ledger::Filter;
use record::exit;
use record::verify::Depth;

pub fn run(context: &mut Context, args: &Verify) -> Result {
    let mut opened = engine::open(context, args.sweep.as_deref())?;
    let depth = if args.quick { Depth::Size } else { Depth::Hash };
    let report = opened.engine.verify(&Filter::all(), depth)?;
    for (title, why) in &report.damaged {
        context.out.line(format_args!("{title}: {why}"));
    }
    let how = if args.quick { "sizes" } else { "hashes" };
    let sweep = opened.engine.sweep().name.clone();
    context.out.line(format_args!(
        "{sweep}: {} results hold ({how} compared), {} damaged",
        report.whole,
        report.damaged.len()
    ));
    if report.damaged.is_empty() {
        return Ok(exit::DONE);
    }
    context
        .out
        .line(format_args!("damaged results are not used; to make them again: bessemer resume {sweep}"));
    Ok(exit::FAILED)
}
