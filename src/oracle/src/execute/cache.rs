//! Executions already seen, by what decides them.
//!
//! Small models write the same programs again and again, and the variants of a sweep write each other's. So executions
//! are kept in memory and, where a directory is given, shared with the other tasks of the sweep: every process appends
//! to a file of its own and reads what the others have appended. One writer per file means that nothing needs a lock,
//! on network file systems too. Unscored results are never kept.

use crate::credit::Execution;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The cache's files cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the verdict cache {path}: {source}; it may be removed at any time", path = path.display())]
pub struct CacheError {
    pub path: PathBuf,
    pub source: io::Error,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    run: Execution,
}

/// See the module's documentation.
#[derive(Default)]
pub struct VerdictCache {
    seen: HashMap<String, Execution>,
    shared: Option<Shared>,
}

struct Shared {
    dir: PathBuf,
    own: PathBuf,
    out: BufWriter<File>,
    /// How far each of the others' files has been read, in bytes.
    read: HashMap<PathBuf, u64>,
}

impl VerdictCache {
    /// Keeps verdicts in this process only.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Shares verdicts through a directory. `name` must be this process' own (an attempt's token).
    ///
    /// # Errors
    /// When the directory or the file cannot be made.
    pub fn shared(dir: &Path, name: &str) -> Result<Self, CacheError> {
        let own = dir.join(format!("{name}.jsonl"));
        let fail = |source| CacheError { path: own.clone(), source };
        std::fs::create_dir_all(dir).map_err(fail)?;
        let out = BufWriter::new(File::options().create(true).append(true).open(&own).map_err(fail)?);
        let shared = Shared { dir: dir.to_owned(), own: own.clone(), out, read: HashMap::new() };
        let mut cache = Self { shared: Some(shared), ..Self::default() };
        cache.read_all(true)?;
        Ok(cache)
    }

    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Execution> {
        self.seen.get(key)
    }

    /// Executions known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Remembers; `share` also tells the others, after [`VerdictCache::flush`].
    pub(crate) fn put(&mut self, key: &str, run: &Execution, share: bool) {
        if let Some(shared) = self.shared.as_mut().filter(|_| share) {
            let line = Line { key: key.to_owned(), run: run.clone() };
            // a failed write shows at the flush
            if serde_json::to_writer(&mut shared.out, &line).is_ok() {
                let _ = shared.out.write_all(b"\n");
            }
        }
        self.seen.insert(key.to_owned(), run.clone());
    }

    /// Hands what was put to the file system.
    ///
    /// # Errors
    /// I/O errors with the path.
    pub(crate) fn flush(&mut self) -> Result<(), CacheError> {
        match &mut self.shared {
            Some(s) => s.out.flush().map_err(|source| CacheError { path: s.own.clone(), source }),
            None => Ok(()),
        }
    }

    /// Reads what the other processes have appended since.
    ///
    /// # Errors
    /// I/O errors with the path.
    pub(crate) fn refresh(&mut self) -> Result<(), CacheError> {
        self.read_all(false)
    }

    fn read_all(&mut self, own_too: bool) -> Result<(), CacheError> {
        let Some(shared) = &mut self.shared else { return Ok(()) };
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| CacheError { path, source }
        };
        let entries = std::fs::read_dir(&shared.dir).map_err(fail(&shared.dir))?;
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            let ours = path == shared.own;
            if (ours && !own_too) || path.extension().is_none_or(|e| e != "jsonl") {
                continue;
            }
            let at = shared.read.entry(path.clone()).or_insert(0);
            let mut file = File::open(&path).map_err(fail(&path))?;
            file.seek(SeekFrom::Start(*at)).map_err(fail(&path))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(fail(&path))?;
            // what follows the last line break is still being written
            let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
            *at += whole as u64;
            for line in bytes[..whole].split(|b| *b == b'\n') {
                if let Ok(line) = serde_json::from_slice::<Line>(line) {
                    self.seen.insert(line.key, line.run);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ms: f64) -> Execution {
        Execution { parses: true, run_ms: ms, ..Execution::default() }
    }

    #[test]
    fn tasks_see_each_others_verdicts_and_survive_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut a = VerdictCache::shared(dir.path(), "a").unwrap();
        let mut b = VerdictCache::shared(dir.path(), "b").unwrap();
        a.put("one", &run(1.0), true);
        a.put("private", &run(2.0), false);
        a.flush().unwrap();
        b.refresh().unwrap();
        assert_eq!((b.get("one"), b.get("private")), (Some(&run(1.0)), None));
        // a writer that was killed in the middle of a line
        let mut torn = File::options().append(true).open(dir.path().join("a.jsonl")).unwrap();
        torn.write_all(b"{\"key\": \"two\", \"ru").unwrap();
        b.refresh().unwrap();
        torn.write_all(b"n\": {\"parses\": true, \"tests\": []}}\n").unwrap();
        b.refresh().unwrap();
        assert!(b.get("two").is_some());
        // the next attempt of the same task reads its predecessor's file
        assert_eq!(VerdictCache::shared(dir.path(), "a").unwrap().len(), 2);
    }
}
