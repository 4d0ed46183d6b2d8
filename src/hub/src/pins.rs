//! What a job file's references to the Hub mean: the commit of each, in a file beside the job file that belongs under
//! version control, as a lock file does. Written by `bessemer fetch --job`, read by everything that plans.

use crate::cache::is_inside;
use crate::error::{HubError, Result};
use record::source::is_commit;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One fetched reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub commit: String,
    /// The files that were fetched.
    pub files: BTreeMap<String, PinnedFile>,
}

/// A file at a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedFile {
    pub bytes: u64,
    /// SHA-256 of the content, or Git's hash of small files.
    pub etag: String,
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    pub format: u32,
    /// Reference, as [`record::source::HubRef`] writes it -> what it means.
    pub sources: BTreeMap<String, Pin>,
}

impl Default for Pins {
    fn default() -> Self {
        Self { format: record::FORMAT, sources: BTreeMap::new() }
    }
}

impl Pins {
    /// `jobs/x.yaml` -> `jobs/x.lock.json`.
    #[must_use]
    pub fn path(job: &Path) -> PathBuf {
        job.with_extension("lock.json")
    }

    /// The pins of a job file; none if there are none.
    ///
    /// # Errors
    /// A file that is malformed or of a newer program.
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |why: String| HubError::Pins { path: path.to_owned(), why };
        let again = "; remove it and run `bessemer fetch --job` again";
        let pins: Self =
            record::atomic::read_json(path).map_err(|e| bad(format!("{e}{again}")))?.unwrap_or_default();
        if pins.format > record::FORMAT {
            return Err(bad(format!("format {} is newer than this program: update bessemer", pins.format)));
        }
        for (name, pin) in &pins.sources {
            if !is_commit(&pin.commit) {
                return Err(bad(format!("{name}: {:?} is no commit{again}", pin.commit)));
            }
            if let Some(file) = pin.files.keys().find(|f| !is_inside(f)) {
                return Err(bad(format!("{name}: {file:?} is no place inside of a repository{again}")));
            }
        }
        Ok(pins)
    }

    /// # Errors
    /// I/O errors with the path.
    pub fn write(&self, path: &Path) -> Result<()> {
        record::atomic::write_json(path, self).map_err(HubError::io("cannot write the pins"))
    }
}
