//! The training rows of a task: a file of an upstream, a data set of the Hub, a file of the user's.

use crate::context::{Context, Failure};
use anyhow::{Context as _, Result};
use record::params::Columns;
use record::{FailureClass, Source};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Data files that an upstream may have, in the order of preference: kept samples, else demonstrations.
const MADE_HERE: [&str; 2] = ["data.jsonl", "demonstrations.jsonl"];

/// Rows of other origin, as this program's own training format; below the attempt's directory.
const ROWS: &str = "rows.jsonl";

/// The file with the rows of `inputs: {data: ...}`: JSON Lines of `{prompt, completion}` or `{messages}`.
///
/// # Errors
/// [`Failure`] `UserError` with file and line for data that is wrong, `UpstreamMissing` for data that is not here.
pub fn rows(cx: &mut Context, columns: Option<&Columns>) -> Result<PathBuf> {
    let made = cx.spec.inputs.contains_key("data");
    let sources: Vec<Source> = cx.spec.sources.get("data").cloned().unwrap_or_default();
    if made && !sources.is_empty() {
        let words = "input data: rows of phases and rows from elsewhere in one role; name one of them";
        return Err(Failure::user(words).into());
    }
    if !sources.is_empty() {
        let mut files = Vec::new();
        for source in &sources {
            let root = cx.source(source)?;
            let pattern = source.hub().and_then(|of| of.path);
            files.extend(dataset::files(&root, pattern.as_deref()).map_err(user)?);
        }
        return reshaped(cx, &files, columns);
    }
    let dir = cx.input("data")?;
    let ours = MADE_HERE.iter().map(|n| dir.join(n)).find(|p| p.exists());
    match (ours, columns) {
        (Some(file), None) => Ok(file),
        (Some(file), Some(_)) => reshaped(cx, &[file], columns),
        // a command's own data
        (None, _) => {
            let files = dataset::files(&dir, None).map_err(|e| {
                Failure::user(format!(
                    "input data: {e}; a phase of kind sample or corpus writes {}",
                    MADE_HERE.join(" or ")
                ))
            })?;
            reshaped(cx, &files, columns)
        }
    }
}

fn user(e: dataset::DataError) -> Failure {
    Failure::user(format!("input data: {e}"))
}

/// Writes the rows of `files` as training rows.
fn reshaped(cx: &mut Context, files: &[PathBuf], columns: Option<&Columns>) -> Result<PathBuf> {
    let path = cx.spec.attempt_dir.join(ROWS);
    let cannot = |e: std::io::Error| {
        Failure::new(FailureClass::Setup, format!("cannot write {}: {e}", path.display()))
    };
    let temp = path.with_extension("part");
    let mut out = BufWriter::new(File::create(&temp).map_err(cannot)?);
    let mut count = 0u64;
    for file in files {
        for row in dataset::open(file).map_err(user)? {
            let row = row.map_err(user)?;
            let shaped = dataset::shape(&row.values, columns)
                .map_err(|why| Failure::user(format!("input data: {}: {why}", row.at)))?;
            serde_json::to_writer(&mut out, &shaped).context("a row cannot be written")?;
            out.write_all(b"\n").map_err(cannot)?;
            count += 1;
        }
    }
    out.flush().and_then(|()| std::fs::rename(&temp, &path)).map_err(cannot)?;
    if count == 0 {
        return Err(Failure::user(format!("input data: no rows in {}", names(files))).into());
    }
    cx.note(format!("{count} rows from {}", names(files)))?;
    Ok(path)
}

fn names(files: &[PathBuf]) -> String {
    let shown: Vec<String> =
        files.iter().take(3).map(|f: &PathBuf| Path::new(f).display().to_string()).collect();
    let more = if files.len() > 3 { format!(" and {} more", files.len() - 3) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}
