//! A cancellation that somebody asks of whoever works the sweep: a file in the run directory, which the driver obeys under
//! its own lease and answers beside it. A file and not a row: where the ledger lies on a network file system its holder is
//! the only one who can open it.

use crate::db::lease::Lease;
use crate::engine::cancel::CancelReport;
use crate::engine::submit::Round;
use crate::engine::{Engine, frozen};
use crate::error::{Error, Result};
use crate::filter::Filter;
use record::atomic;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What is asked: the words that the user typed behind the sweep's name.
#[derive(Debug, Serialize, Deserialize)]
struct Asked {
    words: Vec<String>,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answered {
    Done(CancelReport),
    Not(String),
}

const ASKED: &str = "cancel";
const ANSWERED: &str = "answer";

/// A request of ours, until it is answered or withdrawn.
#[derive(Debug)]
pub struct Request {
    path: PathBuf,
}

impl Request {
    /// Asks for the cancellation of what `words` name.
    ///
    /// # Errors
    /// I/O errors of the run directory.
    pub fn cancel(run_dir: &Path, words: &[String]) -> Result<Self> {
        let dir = run_dir.join(frozen::REQUESTS);
        std::fs::create_dir_all(&dir).map_err(Error::io(format!("cannot create {}", dir.display())))?;
        let path = dir.join(format!("{}-{}.{ASKED}", record::now_ms(), std::process::id()));
        atomic::write_json(&path, &Asked { words: words.to_vec() })
            .map_err(Error::io(format!("cannot write {}", path.display())))?;
        Ok(Self { path })
    }

    /// The driver's answer, if it is there: a report, or why nothing was cancelled.
    ///
    /// # Errors
    /// I/O errors.
    pub fn answer(&self) -> Result<Option<std::result::Result<CancelReport, String>>> {
        let path = self.path.with_extension(ANSWERED);
        let answer: Option<Answered> =
            atomic::read_json(&path).map_err(Error::io(format!("cannot read {}", path.display())))?;
        Ok(answer.map(|a| match a {
            Answered::Done(report) => Ok(report),
            Answered::Not(why) => Err(why),
        }))
    }
}

impl Drop for Request {
    /// Answered or given up: nothing may be left that a later driver could obey.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(self.path.with_extension(ANSWERED));
    }
}

/// Requests in the order in which they were made.
fn open(run_dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(run_dir.join(frozen::REQUESTS)) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    found.retain(|p| p.extension().is_some_and(|e| e == ASKED));
    found.sort();
    found
}

impl Engine {
    /// Requests of before are void: who made them has seen that nobody answered, and cancelled by itself or given up.
    pub(super) fn forget_requests(&self) {
        for path in open(&self.sweep.run_dir) {
            let _ = std::fs::remove_file(path);
        }
    }

    pub(super) fn is_asked(&self) -> bool {
        !open(&self.sweep.run_dir).is_empty()
    }

    /// Obeys what was asked meanwhile. What is named is not handed in any more by this driver either, or the next free
    /// slot would undo the wish.
    pub(super) fn obey(&mut self, lease: &Lease, round: &mut Round) -> Result<()> {
        for path in open(&self.sweep.run_dir) {
            let asked: Option<Asked> = atomic::read_json(&path).unwrap_or_else(|e| {
                round.report.warnings.push(format!("a request to cancel cannot be read: {e}"));
                None
            });
            // taken up: whatever happens now, it is not obeyed twice
            let _ = std::fs::remove_file(&path);
            let Some(asked) = asked else { continue };
            let phases: Vec<String> = round.board.tasks.iter().map(|t| t.phase.clone()).collect();
            let filter = Filter::from_words(asked.words.iter().map(String::as_str), &phases);
            let answer = match self.cancel_leased(lease, &filter) {
                Ok(report) => {
                    round.board = self.board()?;
                    round.withhold(&filter);
                    Answered::Done(report)
                }
                Err(e @ Error::NoMatch { .. }) => Answered::Not(e.to_string()),
                Err(e) => return Err(e),
            };
            let path = path.with_extension(ANSWERED);
            if let Err(e) = atomic::write_json(&path, &answer) {
                round.report.warnings.push(format!("cannot answer a request to cancel: {e}"));
            }
        }
        Ok(())
    }
}
