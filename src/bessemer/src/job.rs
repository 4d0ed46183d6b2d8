//! A job file as the command line changes it.

use crate::cli::Changes;
use crate::context::read_text;
use crate::failure::{Failure, Result};
use plan::{Graph, Options};
use record::exit;
use std::path::Path;

/// A job file that holds.
#[derive(Debug)]
pub struct Job {
    pub graph: Graph,
    /// Byte for byte as it was read.
    pub text: String,
}

/// Reads, checks and expands.
///
/// # Errors
/// Exit code 65 with every mistake; 2 for a `--set` that is none.
pub fn load(path: &Path, changes: &Changes) -> Result<Job> {
    let set = changes.set.iter().map(|s| assignment(s)).collect::<Result<_>>()?;
    let options = Options { profile: changes.profile.clone(), set, only: changes.only.clone() };
    let text = read_text(path, "job file")?;
    match plan::load(&path.to_string_lossy(), &text, &options) {
        Ok(graph) => Ok(Job { graph, text }),
        Err(mistakes) => Err(Failure::many(exit::USER_ERROR, mistakes.iter().map(ToString::to_string))),
    }
}

fn assignment(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((path, value)) if !path.trim().is_empty() => Ok((path.trim().to_owned(), value.to_owned())),
        _ => Err(Failure::usage(format!(
            "--set {text:?}: write PATH=VALUE, e.g. --set phases.rl.params.episodes=5"
        ))),
    }
}
