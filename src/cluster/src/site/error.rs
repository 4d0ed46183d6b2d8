//! Mistakes in a site file, with their places.

use std::fmt;
use std::path::{Path, PathBuf};

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteError {
    pub file: PathBuf,
    /// From 1; 0 where no place is known (unreadable file).
    pub line: usize,
    pub column: usize,
    pub message: String,
}

impl fmt::Display for SiteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.file.display(), self.message)
        } else {
            write!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.message)
        }
    }
}

/// All mistakes found in one file, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteErrors(pub Vec<SiteError>);

impl fmt::Display for SiteErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, e) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{e}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SiteErrors {}

impl SiteErrors {
    pub(super) fn unreadable(file: &Path, e: &std::io::Error) -> Self {
        let message =
            format!("cannot read the site file: {e}; the sites that come with bessemer are in slurm/");
        Self(vec![SiteError { file: file.into(), line: 0, column: 0, message }])
    }

    pub(super) fn from_yaml(file: &Path, text: &str, e: &serde_yaml::Error) -> Self {
        let said = e.to_string();
        // the place is printed in front, in the form that editors jump to
        let said = said.split(" at line ").next().unwrap_or(&said);
        // of a key that stands twice the parser tells where the mapping begins
        let twice = said.split_once("duplicate field `").and_then(|(_, rest)| rest.split('`').next());
        let (line, column) = match (twice, e.location()) {
            (Some(key), _) => last_place_of(text, key),
            (None, Some(l)) => (l.line(), l.column()),
            (None, None) => (1, 1),
        };
        Self(vec![SiteError { file: file.into(), line, column, message: with_nearest(said) }])
    }

    pub(super) fn at_keys(file: &Path, text: &str, wrong: Vec<(&[&str], String)>) -> Self {
        let errors = wrong.into_iter().map(|(path, message)| {
            let (line, column) = place_of(text, path);
            SiteError { file: file.into(), line, column, message }
        });
        Self(errors.collect())
    }
}

/// Adds "did you mean" to serde's "unknown field `x`, expected one of `a`, `b`".
fn with_nearest(message: &str) -> String {
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let unknown = message.contains("unknown field") || message.contains("unknown variant");
    let best = match names.split_first() {
        Some((given, allowed)) if unknown => allowed
            .iter()
            .map(|name| (strsim::damerau_levenshtein(given, name), *name))
            .min()
            .filter(|(distance, name)| *distance <= 2.max(name.len() / 3)),
        _ => None,
    };
    match best {
        Some((_, name)) => format!("{message}; did you mean `{name}`?"),
        None => message.to_owned(),
    }
}

/// Where a key stands for the last time.
fn last_place_of(text: &str, key: &str) -> (usize, usize) {
    let hits = text.lines().enumerate().filter(|(_, line)| is_key(line, key));
    hits.last().map_or((1, 1), |(n, line)| (n + 1, line.len() - line.trim_start().len() + 1))
}

fn is_key(line: &str, key: &str) -> bool {
    line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(':'))
}

/// Line and column of a key in block style; the top of the file where it is not found (flow style, absent key).
fn place_of(text: &str, path: &[&str]) -> (usize, usize) {
    let mut from = 0;
    let mut found = (1, 1);
    for key in path {
        let hit = text.lines().enumerate().skip(from).find(|(_, line)| is_key(line, key));
        let Some((n, line)) = hit else { break };
        found = (n + 1, line.len() - line.trim_start().len() + 1);
        from = n + 1;
    }
    found
}
