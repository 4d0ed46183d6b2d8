//! `bessemer cancel`.

use crate::cli::Cancel;
use crate::context::Context;
use crate::engine;
use crate::failure::{Failure, Result};
use ledger::engine::{CancelReport, Request};
use ledger::{Engine, Filter};
use record::exit;
use std::time::{Duration, Instant};

/// How long whoever works the sweep may take to answer: jobs on this machine have a grace of their own to checkpoint.
const PATIENCE: Duration = Duration::from_secs(90);

pub fn run(context: &mut Context, args: &Cancel) -> Result {
    let mut opened = engine::open(context, Some(&args.sweep))?;
    let phases = engine::phases(&mut opened.engine)?;
    let words: Vec<String> = args.what.iter().flat_map(|w| w.split_whitespace()).map(str::to_owned).collect();
    let filter = Filter::from_words(words.iter().map(String::as_str), &phases);
    let report = match opened.engine.cancel(&filter) {
        Err(held @ ledger::Error::Held { .. }) => ask(context, &mut opened.engine, &words, &filter, held)?,
        other => other?,
    };
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

/// Somebody works the sweep: it is asked to cancel, and should it leave instead, we do it ourselves.
fn ask(
    context: &mut Context,
    engine: &mut Engine,
    words: &[String],
    filter: &Filter,
    held: ledger::Error,
) -> Result<CancelReport> {
    context.note(format_args!("{held}"));
    context.note("asking it to cancel");
    let request = Request::cancel(engine.run_dir(), words)?;
    let begun = Instant::now();
    let mut tried = begun;
    loop {
        if let Some(answer) = request.answer()? {
            return answer.map_err(Failure::usage);
        }
        if tried.elapsed() >= Duration::from_secs(1) {
            tried = Instant::now();
            match engine.cancel(filter) {
                Err(ledger::Error::Held { .. }) => {}
                other => return Ok(other?),
            }
        }
        if begun.elapsed() >= PATIENCE {
            return Err(held.into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
