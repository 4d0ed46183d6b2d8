//! What is wrong with a job file, where, and what to write instead.

use crate::node::Pos;
use std::collections::HashSet;
use std::fmt;

/// One mistake. `Display` is `FILE:LINE:COLUMN: MESSAGE; HELP`, which editors and terminals make clickable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// The job file as the user named it, or `--set NAME=VALUE`.
    pub file: String,
    /// Counts from 1.
    pub line: usize,
    /// Counts from 1, in characters.
    pub column: usize,
    pub message: String,
    /// What is allowed, the nearest spelling, what to do; may be empty.
    pub help: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        if !self.help.is_empty() {
            write!(f, "; {}", self.help)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

/// More mistakes than this are not collected: a job file whose matrix is wrong in every point needs no million lines.
const MOST: usize = 200;

/// Collects mistakes; the same words about the same place count once.
#[derive(Debug)]
pub(crate) struct Report {
    sources: Vec<String>,
    seen: HashSet<(Pos, String)>,
    found: Vec<(Pos, String, String)>,
}

impl Report {
    pub fn new(file: &str) -> Self {
        Report { sources: vec![file.to_owned()], seen: HashSet::new(), found: Vec::new() }
    }

    /// Registers a further source of text (`--set ...`); its number goes into [`Pos::source`].
    pub fn add_source(&mut self, name: String) -> u16 {
        self.sources.push(name);
        u16::try_from(self.sources.len() - 1).unwrap_or(u16::MAX)
    }

    pub fn error(&mut self, at: Pos, message: String, help: String) {
        if self.found.len() < MOST && self.seen.insert((at, message.clone())) {
            self.found.push((at, message, help));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.found.len() >= MOST
    }

    pub fn finish(mut self) -> Vec<Diagnostic> {
        self.found.sort();
        self.found
            .into_iter()
            .map(|(at, message, help)| Diagnostic {
                file: self.sources.get(usize::from(at.source)).cloned().unwrap_or_default(),
                line: at.line as usize,
                column: at.column as usize,
                message,
                help,
            })
            .collect()
    }
}

/// The candidate that a mistyped word most probably means. Case, `-` and `_` do not count.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let normal = |s: &str| s.to_lowercase().replace('-', "_");
    let word = normal(word);
    // a single letter is near to everything
    let most = match word.chars().count() {
        0 | 1 => 0,
        n => (n / 3).max(1),
    };
    candidates
        .into_iter()
        .map(|c| (strsim::osa_distance(&word, &normal(c)), c))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// `did you mean X? allowed: A, B, C`.
pub(crate) fn allowed<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    let list: Vec<&str> = candidates.clone().into_iter().collect();
    if list.is_empty() {
        return "nothing is allowed here".to_owned();
    }
    let hint = nearest(word, candidates).map(|c| format!("did you mean `{c}`? ")).unwrap_or_default();
    const SHOWN: usize = 40;
    let more = if list.len() > SHOWN { format!(", … ({} in all)", list.len()) } else { String::new() };
    format!("{hint}allowed: {}{more}", list[..list.len().min(SHOWN)].join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_spelling_is_offered_only_if_it_is_near() {
        let words = ["learning_rate", "epochs", "episodes"];
        assert_eq!(nearest("learning-rate", words), Some("learning_rate"));
        assert_eq!(nearest("leraning_rate", words), Some("learning_rate"));
        assert_eq!(nearest("epoch", words), Some("epochs"));
        assert_eq!(nearest("temperature", words), None);
    }
}
