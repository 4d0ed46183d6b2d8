//! `bessemer report`: a table here, one HTML file, or JSON.

use crate::cli::Report;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::{engine, notes, sweeps};
use ledger::Filter;
use ledger::view::View;
use record::exit;
use report::Sweep;
use std::collections::BTreeMap;
use std::path::Path;

pub fn run(context: &mut Context, args: &Report) -> Result {
    let sweep = match engine::open(context, args.sweep.as_deref()) {
        Ok(mut opened) => {
            let view = opened.engine.refresh(&Filter::all())?;
            for w in &view.warnings {
                context.note(format_args!("warning: {w}"));
            }
            read(opened.engine.run_dir(), &view)?
        }
        // a copied run directory, or a lost ledger: the files say enough for a report
        Err(e) if args.sweep.is_some() && e.code == exit::USAGE => {
            let dir = sweeps::run_dir(context, args.sweep.as_deref()).map_err(|_| e)?;
            Sweep::read(&dir, &BTreeMap::new(), record::now_ms())?
        }
        Err(e) => return Err(e),
    };
    for w in &sweep.warnings {
        context.note(format_args!("warning: {w}"));
    }
    if args.json {
        let doc = if args.rows { report::json::result_rows(&sweep) } else { report::json::report(&sweep) };
        context.out.line(serde_json::to_string_pretty(&doc).map_err(std::io::Error::other)?);
        return Ok(exit::DONE);
    }
    let width = context.width;
    for part in [
        report::text::counts(&sweep.counts()),
        report::text::results(&sweep, width),
        report::text::paired(&sweep, width),
        report::text::cost(&sweep, width),
    ] {
        if !part.trim().is_empty() {
            context.out.line(part.trim_end());
            context.out.line("");
        }
    }
    let path = args.output.clone().unwrap_or_else(|| sweep.run_dir.join("report.html"));
    write(&sweep, &path)?;
    context.out.line(format_args!("report: {}", path.display()));
    Ok(exit::DONE)
}

/// A sweep with what the ledger knows about it.
///
/// # Errors
/// The plan cannot be read.
pub fn read(run_dir: &Path, view: &View) -> Result<Sweep> {
    Ok(Sweep::read(run_dir, &notes::of(view), record::now_ms())?)
}

/// Writes the HTML file.
///
/// # Errors
/// I/O, with the path.
pub fn write(sweep: &Sweep, path: &Path) -> Result<()> {
    record::atomic::write(path, report::html(sweep).as_bytes()).map_err(|e| {
        Failure::new(exit::FAILED, format!("cannot write the report: {e}; choose a place with -o"))
    })
}
