//! Reading and writing corpora.

use crate::{Problem, Row, Set, split_name};
use record::params::Split;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Why a corpus could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    #[error("cannot access {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}:{line}:{column}: {why}", path = path.display())]
    Malformed { path: PathBuf, line: usize, column: usize, why: String },
    #[error(
        "the {split} split can have at most {available} problems, {asked} were asked for: lower it under `params:`"
    )]
    TooMany { split: &'static str, asked: u32, available: usize },
    #[error("parameter {name}: {why}")]
    BadParameter { name: &'static str, why: String },
    #[error("the splits leak into each other ({count} findings), first: {first}", count = .0.len(), first = .0[0])]
    Leaks(Vec<crate::Leak>),
}

/// `manifest.json`: how the set was made and what is in it, so that a report can say what was trained and measured on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub generator: String,
    pub seed: u64,
    /// Split name -> number of problems.
    pub problems: BTreeMap<String, usize>,
    /// Split name -> family -> number of problems.
    pub families: BTreeMap<String, BTreeMap<String, usize>>,
    pub demonstrations: usize,
    /// Demonstrations that pass every test.
    pub correct_demonstrations: usize,
    /// File -> SHA-256.
    pub sha256: BTreeMap<String, String>,
}

pub const DEMONSTRATIONS: &str = "demonstrations.jsonl";
pub const MANIFEST: &str = "manifest.json";

/// `problems.<split>.jsonl`.
#[must_use]
pub fn problems_file(split: Split) -> String {
    format!("problems.{}.jsonl", split_name(split))
}

/// Reads a JSON Lines file; blank lines are skipped.
///
/// # Errors
/// I/O errors with the path, malformed lines with file:line:column.
pub fn read_jsonl<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, CorpusError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| CorpusError::Io { path: path.to_owned(), source })?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| {
            serde_json::from_str(line).map_err(|e| CorpusError::Malformed {
                path: path.to_owned(),
                line: i + 1,
                column: e.column(),
                why: e.to_string(),
            })
        })
        .collect()
}

/// Writes a JSON Lines file atomically and returns its bytes' SHA-256.
///
/// # Errors
/// I/O errors with the path.
pub fn write_jsonl<'a, T: Serialize + 'a>(
    path: &Path,
    rows: impl IntoIterator<Item = &'a T>,
) -> Result<String, CorpusError> {
    let io = |source| CorpusError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut bytes, row).map_err(|e| io(std::io::Error::other(e)))?;
        bytes.push(b'\n');
    }
    record::atomic::write(path, &bytes).map_err(io)?;
    Ok(record::key::sha256_hex(&bytes))
}

/// The problems of one split of a corpus directory.
///
/// # Errors
/// As [`read_jsonl`].
pub fn read_problems(dir: &Path, split: Split) -> Result<Vec<Problem>, CorpusError> {
    read_jsonl(&dir.join(problems_file(split)))
}

/// The demonstrations of a corpus directory.
///
/// # Errors
/// As [`read_jsonl`].
pub fn read_demonstrations(dir: &Path) -> Result<Vec<Row>, CorpusError> {
    read_jsonl(&dir.join(DEMONSTRATIONS))
}

impl Set {
    /// Writes the whole corpus directory: problems, demonstrations, manifest (last).
    ///
    /// # Errors
    /// I/O errors with the path.
    pub fn write(&self, dir: &Path) -> Result<Manifest, CorpusError> {
        let mut sha256 = BTreeMap::new();
        let mut problems = BTreeMap::new();
        let mut families: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        for (split, rows) in self.splits() {
            let name = problems_file(split);
            sha256.insert(name.clone(), write_jsonl(&dir.join(&name), rows)?);
            problems.insert(split_name(split).to_owned(), rows.len());
            let counts = families.entry(split_name(split).to_owned()).or_default();
            for p in rows {
                *counts.entry(p.family.clone()).or_default() += 1;
            }
        }
        sha256
            .insert(DEMONSTRATIONS.to_owned(), write_jsonl(&dir.join(DEMONSTRATIONS), &self.demonstrations)?);
        let manifest = Manifest {
            format: record::FORMAT,
            generator: format!("bessemer-corpus {}", env!("CARGO_PKG_VERSION")),
            seed: self.seed,
            problems,
            families,
            demonstrations: self.demonstrations.len(),
            correct_demonstrations: self.demonstrations.iter().filter(|r| r.correct == Some(true)).count(),
            sha256,
        };
        let path = dir.join(MANIFEST);
        record::atomic::write_json(&path, &manifest).map_err(|source| CorpusError::Io { path, source })?;
        Ok(manifest)
    }

    /// Reads a corpus directory back.
    ///
    /// # Errors
    /// As [`read_jsonl`].
    pub fn read(dir: &Path) -> Result<Self, CorpusError> {
        let path = dir.join(MANIFEST);
        let manifest: Manifest = record::atomic::read_json(&path)
            .and_then(|m| m.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound)))
            .map_err(|source| CorpusError::Io { path, source })?;
        Ok(Set {
            seed: manifest.seed,
            train: read_problems(dir, Split::Train)?,
            validation: read_problems(dir, Split::Validation)?,
            held_out: read_problems(dir, Split::HeldOut)?,
            demonstrations: read_demonstrations(dir)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::params::CorpusParams;

    #[test]
    fn a_corpus_survives_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let params = CorpusParams { train: 30, validation: 8, held_out: 12, ..CorpusParams::default() };
        let set = crate::generate(&params).unwrap();
        let manifest = set.write(dir.path()).unwrap();
        assert_eq!(Set::read(dir.path()).unwrap(), set);
        assert_eq!(manifest.problems["held-out"], 12);
        let file = dir.path().join("problems.train.jsonl");
        assert_eq!(record::key::sha256_file(&file).unwrap(), manifest.sha256["problems.train.jsonl"]);
    }

    #[test]
    fn a_malformed_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.jsonl");
        std::fs::write(&path, "\n{\"problem_id\": 3}\n").unwrap();
        let error = read_jsonl::<Row>(&path).unwrap_err().to_string();
        assert!(error.contains("x.jsonl:2:"), "{error}");
    }
}
