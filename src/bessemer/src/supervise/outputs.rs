//! Makes outputs durable and fingerprints them: only what has been fsynced is named in a record.

use record::{OutputFile, key};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Lists, fsyncs and hashes every file below `out`, in the order of their paths. Directories are fsynced too, so that
/// the names survive a crash as well as the bytes.
///
/// # Errors
/// A sentence naming the file: I/O errors, names that are not UTF-8, links that lead nowhere.
pub fn seal(out: &Path) -> Result<Vec<OutputFile>, String> {
    let mut files = Vec::new();
    let mut todo: Vec<PathBuf> = vec![out.to_owned()];
    while let Some(dir) = todo.pop() {
        let fail = |e: io::Error| format!("cannot read the outputs in {}: {e}", dir.display());
        for entry in fs::read_dir(&dir).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let link = fs::symlink_metadata(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            let meta = fs::metadata(&path).map_err(|e| {
                format!("output {} cannot be read (a link that leads nowhere?): {e}", path.display())
            })?;
            if meta.is_dir() {
                // a linked directory is either inside `out` (seen anyway) or none of the task's making
                if !link.is_symlink() {
                    todo.push(path);
                }
            } else if meta.is_file() {
                files.push(one(out, &path)?);
            }
            // sockets, pipes and devices are leftovers, not outputs
        }
        File::open(&dir).and_then(|d| d.sync_all()).map_err(fail)?;
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn one(out: &Path, path: &Path) -> Result<OutputFile, String> {
    let name = path
        .strip_prefix(out)
        .ok()
        .and_then(Path::to_str)
        .ok_or_else(|| format!("output {} has a name that is not UTF-8: rename it", path.display()))?;
    let fail = |e: io::Error| format!("output {}: {e}", path.display());
    let file = File::open(path).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    let sha256 = key::sha256_file(path).map_err(fail)?;
    let bytes = file.metadata().map_err(fail)?.len();
    Ok(OutputFile { path: name.to_owned(), bytes, sha256 })
}

/// Removes what an earlier run of the same attempt (before a requeue) has left, so that nothing of it is taken for
/// ours. A copy that still writes there keeps its deleted files, and with them does no harm.
///
/// # Errors
/// A sentence naming the path.
pub fn clear(out: &Path) -> Result<(), String> {
    match fs::remove_dir_all(out) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(format!("cannot remove old outputs in {}: {e}", out.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_listed_once_in_order_and_a_dangling_link_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path();
        fs::create_dir_all(out.join("b/c")).unwrap();
        fs::write(out.join("b/c/x"), "1").unwrap();
        fs::write(out.join("a"), "22").unwrap();
        std::os::unix::fs::symlink(out.join("b"), out.join("again")).unwrap();
        let files = seal(out).unwrap();
        let names: Vec<_> = files.iter().map(|f| (f.path.as_str(), f.bytes)).collect();
        assert_eq!(names, [("a", 2), ("b/c/x", 1)]);
        assert_eq!(files[0].sha256, key::sha256_hex(b"22"));

        std::os::unix::fs::symlink("nowhere", out.join("dangling")).unwrap();
        assert!(seal(out).unwrap_err().contains("dangling"));
    }
}
