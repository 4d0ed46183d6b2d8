//! The output file: appended to, and good for going on after a crash.

use super::ScoreRow;
use crate::verdict::Verdict;
use record::key::sha256_hex;
use serde::Deserialize;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The output cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error("cannot write {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path}:{line}: this is no row of `bessemer score`, so nothing is added to the file; name another one with \
         --out",
        path = path.display()
    )]
    Foreign { path: PathBuf, line: usize },
    #[error(
        "{path} was written by scorer {theirs}, this one is {ours}: another declaration, tool version or sandbox. \
         Rows of both in one file could not be compared: name another file with --out",
        path = path.display()
    )]
    Other { path: PathBuf, theirs: String, ours: String },
}

/// Where rows go. A file knows which ids it holds; a stream knows those of this run.
pub struct Output {
    to: Sink,
    /// First 16 bytes of each id's SHA-256: some tens of bytes a row, however long ids are.
    done: HashSet<[u8; 16]>,
    /// As `done`, of this run.
    begun: HashSet<[u8; 16]>,
}

enum Sink {
    File(PathBuf, BufWriter<File>),
    Stream(Box<dyn Write + Send>),
}

#[derive(Deserialize)]
struct Known {
    id: String,
    scorer: String,
    verdict: Verdict,
}

impl Output {
    /// Rows to a stream: nothing is known of earlier runs.
    #[must_use]
    pub fn stream(to: Box<dyn Write + Send>) -> Self {
        Self { to: Sink::Stream(to), done: HashSet::new(), begun: HashSet::new() }
    }

    /// Rows to the end of a file. What a crash left of a last line is cut off. `again`: rows that are unscored count as
    /// not done; they get a second row behind the first.
    ///
    /// # Errors
    /// See [`OutputError`].
    pub fn append(path: &Path, scorer: &str, again: bool) -> Result<Self, OutputError> {
        let fail = |source| OutputError::Io { path: path.to_owned(), source };
        let file = File::options().create(true).read(true).append(true).open(path).map_err(fail)?;
        let mut done = HashSet::new();
        let mut whole = 0u64;
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(fail)?;
            if !line.ends_with(b"\n") {
                break; // the end, or a torn line
            }
            whole += read as u64;
            let known: Known = serde_json::from_slice(&line)
                .map_err(|_| OutputError::Foreign { path: path.to_owned(), line: number })?;
            if known.scorer != scorer {
                return Err(OutputError::Other {
                    path: path.to_owned(),
                    theirs: known.scorer,
                    ours: scorer.to_owned(),
                });
            }
            if again && known.verdict == Verdict::Unscored {
                done.remove(&digest(&known.id));
            } else {
                done.insert(digest(&known.id));
            }
        }
        drop(reader);
        if file.metadata().map_err(fail)?.len() != whole {
            file.set_len(whole).map_err(fail)?;
        }
        Ok(Self { to: Sink::File(path.to_owned(), BufWriter::new(file)), done, begun: HashSet::new() })
    }

    /// Rows that an earlier run has written.
    #[must_use]
    pub fn resumed(&self) -> usize {
        self.done.len()
    }

    /// Whether an earlier run has written a row of this id.
    #[must_use]
    pub(super) fn was_done(&self, id: &str) -> bool {
        self.done.contains(&digest(id))
    }

    /// Notes that a row of this id is on its way; false when this run has one already.
    pub(super) fn begin(&mut self, id: &str) -> bool {
        self.begun.insert(digest(id))
    }

    /// Writes a batch, and has it on disk when it returns.
    ///
    /// # Errors
    /// [`OutputError::Io`].
    pub(super) fn push(&mut self, rows: &[ScoreRow]) -> Result<(), OutputError> {
        let (path, result) = match &mut self.to {
            Sink::Stream(to) => (PathBuf::from("standard output"), write(to, rows)),
            Sink::File(path, to) => (path.clone(), write(to, rows).and_then(|()| to.get_ref().sync_data())),
        };
        result.map_err(|source| OutputError::Io { path, source })
    }
}

fn write(to: &mut dyn Write, rows: &[ScoreRow]) -> io::Result<()> {
    for row in rows {
        let mut line = serde_json::to_vec(row).map_err(io::Error::other)?;
        line.push(b'\n');
        to.write_all(&line)?;
    }
    to.flush()
}

fn digest(id: &str) -> [u8; 16] {
    let hex = sha256_hex(id.as_bytes());
    let mut out = [0; 16];
    out.copy_from_slice(&hex.as_bytes()[..16]);
    out
}
