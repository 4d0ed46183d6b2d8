//! `bessemer cancel`.

use crate::cli::Cancel;
use crate::context::Context;
use crate::engine;
use crate::failure::Result;
use ledger::Filter;
use record::exit;

pub fn run(context: &mut Context, args: &Cancel) -> Result {
    let mut opened = engine::open(context, Some(&args.sweep))?;
    let phases = engine::phases(&mut opened.engine)?;
    let words = args.what.iter().flat_map(|w| w.split_whitespace());
    let filter = Filter::from_words(words, &phases);
    let report = opened.engine.cancel(&filter)?;
    for w in &report.warnings {
        context.note(format_args!("warning: {w}"));
    }
    let mut text = format!("{} attempts cancelled", report.cancelled);
    for (n, what) in [
        (report.ending, "told to end (they may still checkpoint)"),
        (report.succeeded, "had succeeded already"),
        (report.uncertain, "of unknown fate: cancelled as soon as they are found"),
    ] {
        if n > 0 {
            text.push_str(&format!(", {n} {what}"));
        }
    }
    context.out.line(text);
    if report.ending + report.uncertain > 0 {
        context.out.line(format_args!("see it through: bessemer status {}", args.sweep));
    }
    Ok(if report.uncertain > 0 { exit::TRY_AGAIN } else { exit::DONE })
}
