//! Writes that survive a crash at any moment, on local and network file systems.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes `bytes` to `path` so that a reader sees the old file or the new one, never a part: temp file in the same
/// directory, fsync, rename, fsync of the directory.
///
/// # Errors
/// Any I/O error, with the path in its text. The temp file is removed on failure.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes)?;
    sync_dir(path).map_err(|e| with_path(e, path))
}

/// [`write`] without the fsync of the directory: for several files of one directory, whose names the caller makes durable
/// with one [`sync_dir`] at the end.
///
/// # Errors
/// As [`write`].
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = temp_name(path);
    let result = write_new(&tmp, bytes).and_then(|()| std::fs::rename(&tmp, path));
    if result.is_err() {
        let _ = std::fs::remove_file(&tmp);
    }
    result.map_err(|e| with_path(e, path))
}

/// Serialises `value` as pretty JSON with a trailing newline and [`write`]s it.
///
/// # Errors
/// As [`write`].
pub fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    bytes.push(b'\n');
    write(path, &bytes)
}

/// Like [`write`], but the first writer wins: `Ok(true)` if this call created `path`, `Ok(false)` if it was there.
/// Uses link(2), which is atomic on NFS where `O_EXCL` historically was not.
///
/// # Errors
/// As [`write`].
pub fn publish_once(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let tmp = temp_name(path);
    let result = write_new(&tmp, bytes).and_then(|()| match std::fs::hard_link(&tmp, path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    });
    let _ = std::fs::remove_file(&tmp);
    if matches!(result, Ok(true)) {
        sync_dir(path).map_err(|e| with_path(e, path))?;
    }
    result.map_err(|e| with_path(e, path))
}

/// Reads JSON from `path`. A missing file is `Ok(None)`.
///
/// The parent directory is opened first: that makes an NFS client revalidate it, so that a file another node has just
/// renamed into place is seen (specs: F29).
///
/// # Errors
/// I/O errors other than "not found", and malformed JSON, both with the path.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    if let Some(dir) = path.parent() {
        let _ = File::open(dir);
    }
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {e}", path.display()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(with_path(e, path)),
    }
}

/// Makes a rename in `path`'s directory durable.
///
/// # Errors
/// I/O errors of open and fsync.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

fn write_new(tmp: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut f = OpenOptions::new().write(true).create_new(true).open(tmp)?;
    f.write_all(bytes)?;
    f.sync_all()
}

/// Unique per process and call, hidden, in the same directory (rename must not cross file systems).
fn temp_name(path: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}.{:x}.{n}.tmp", std::process::id(), crate::now_ms()))
}

fn with_path(e: io::Error, path: &Path) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_replaces_whole_files_and_leaves_no_temp_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_first_publisher_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("result.json");
        assert!(publish_once(&path, b"first").unwrap());
        assert!(!publish_once(&path, b"second").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_the_path() {
        let e = write(Path::new("/nonexistent-dir/x"), b"").unwrap_err();
        assert!(e.to_string().contains("/nonexistent-dir/x"), "{e}");
    }
}
