//! Rows of data sets, whatever the file: JSON Lines, JSON, CSV, TSV (each also as `.gz`), parquet. One iterator of JSON
//! objects; every error has the file and the line or row. JSON Lines, CSV and parquet are read as a stream; a JSON array is
//! read whole.

mod columns;
mod find;
mod read;
mod table;

pub use columns::{Shaped, shape};
pub use find::files;
pub use read::{Format, Rows, open};

use serde_json::{Map, Value};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub type Result<T> = std::result::Result<T, DataError>;

/// Why data cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("cannot read {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{at}: {why}")]
    Row { at: Place, why: String },
    #[error("{path}: {why}", path = path.display())]
    File { path: PathBuf, why: String },
}

/// Where a row stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub path: Arc<Path>,
    /// Counts from 1: a line of a text file, else a row.
    pub number: u64,
    pub line: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        if self.line { write!(f, "{path}:{}", self.number) } else { write!(f, "{path}: row {}", self.number) }
    }
}

/// One row: column -> value.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub at: Place,
    pub values: Map<String, Value>,
}
