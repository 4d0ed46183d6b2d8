//! Work that goes problem by problem: which problems, and the answers so far as a checkpoint.

use crate::context::{Context, Failure};
use anyhow::Result;
use corpus::{Problem, files, split_name};
use evaluate::Row;
use record::params::Split;

/// The answers so far, in the checkpoint and (for sampling) below `out/`.
pub const CANDIDATES: &str = "candidates.jsonl";

/// The problems of a split of the task's corpus; at most `limit` of them, 0 is all.
///
/// # Errors
/// [`Failure`] `UserError` when the split is empty; whatever reading says.
pub fn problems(cx: &Context, split: Split, limit: u32) -> Result<Vec<Problem>> {
    let dir = cx.input("corpus")?;
    let mut problems = files::read_problems(&dir, split)?;
    if limit > 0 {
        problems.truncate(limit as usize);
    }
    if problems.is_empty() {
        let name = split_name(split);
        return Err(Failure::user(format!("the {name} split of {} has no problems", dir.display())).into());
    }
    Ok(problems)
}

/// Answers of the newest checkpoint of any attempt; none at the first.
///
/// # Errors
/// I/O errors and malformed files.
pub fn restore(cx: &Context) -> Result<Vec<Row>> {
    match cx.checkpoints().newest()? {
        Some(found) => Ok(corpus::read_jsonl(&found.dir.join(CANDIDATES))?),
        None => Ok(Vec::new()),
    }
}

/// Writes the answers to the first `done` problems as a checkpoint.
///
/// # Errors
/// I/O errors.
pub fn save(cx: &Context, done: u64, rows: &[Row]) -> Result<()> {
    cx.checkpoints().write(done, |dir| -> Result<()> {
        corpus::write_jsonl(&dir.join(CANDIDATES), rows)?;
        Ok(())
    })?;
    Ok(())
}
