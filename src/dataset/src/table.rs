//! Parquet, one row group at a time.

use crate::{DataError, Result};
use parquet::errors::ParquetError;
use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use serde_json::Value;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

pub(crate) struct Parquet {
    rows: RowIter<'static>,
}

/// The library checks less than it should in damaged files: its panics are errors of the file.
fn guarded<T>(f: impl FnOnce() -> T) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|_| "the file is damaged".to_owned())
}

fn words(e: &ParquetError) -> String {
    let text = e.to_string();
    if text.to_ascii_lowercase().contains("zstd")
        || text.contains("codec")
        || text.contains("Disabled feature")
    {
        return format!("{text}; compressions that are read here: none, snappy, gzip, lz4");
    }
    text
}

impl Parquet {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
        let wrong = |why: String| DataError::File { path: path.to_owned(), why };
        let reader =
            guarded(|| SerializedFileReader::new(file)).map_err(wrong)?.map_err(|e| wrong(words(&e)))?;
        let rows = guarded(|| RowIter::from_file_into(Box::new(reader))).map_err(wrong)?;
        Ok(Self { rows })
    }

    pub fn next(&mut self) -> Option<std::result::Result<Value, String>> {
        match guarded(|| self.rows.next()) {
            Ok(None) => None,
            Ok(Some(Ok(row))) => Some(guarded(|| row.to_json_value())),
            Ok(Some(Err(e))) => Some(Err(words(&e))),
            Err(why) => Some(Err(why)),
        }
    }
}
