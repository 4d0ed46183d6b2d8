//! SHA-256 of the user's own files and model directories, which decides content keys. Those of large files are kept from
//! one command to the next: a model of 13 GB would else be read whole by every `plan`.

use record::key::{sha256_file, sha256_hex};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Smaller files are read every time.
const KEPT_FROM: u64 = 4 << 20;

/// A file that was changed as recently as this when it was read may change again within the same tick of its clock.
const SETTLED_NS: i128 = 2_000_000_000;

/// More files than any model has: a home directory was named by mistake.
const MOST_FILES: usize = 5_000;

/// What a file was when it was read. Every change of its content moves `changed_ns`, which no user can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        let ns = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified_ns: ns(meta.mtime(), meta.mtime_nsec()),
            changed_ns: ns(meta.ctime(), meta.ctime_nsec()),
        }
    }

    fn is_settled(&self, now_ns: i128) -> bool {
        now_ns - self.modified_ns.max(self.changed_ns) > SETTLED_NS
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept(BTreeMap<PathBuf, (Stamp, String)>);

/// Digests, and where those of large files are kept.
#[derive(Debug, Default)]
pub struct Digests {
    store: Option<PathBuf>,
    kept: RefCell<Option<Kept>>,
}

impl Digests {
    /// Kept in this file; `None`: nowhere. A store that cannot be read or written costs time, never correctness.
    #[must_use]
    pub fn new(store: Option<PathBuf>) -> Self {
        Self { store, kept: RefCell::new(None) }
    }

    /// `bessemer/digests.json` in the user's cache directory.
    #[must_use]
    pub fn store(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
        let absolute = |name: &str| env(name).map(PathBuf::from).filter(|d| d.is_absolute());
        let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(cache.join("bessemer/digests.json"))
    }

    /// SHA-256 of a file's content, lower-case hexadecimal.
    ///
    /// # Errors
    /// I/O errors.
    pub fn file(&self, path: &Path) -> io::Result<String> {
        let before = Stamp::of(&path.metadata()?);
        if before.bytes < KEPT_FROM {
            return sha256_file(path);
        }
        if let Some(known) = self.known(path, &before) {
            return Ok(known);
        }
        let digest = sha256_file(path)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let now = i128::try_from(now).unwrap_or(0);
        if Stamp::of(&path.metadata()?) == before && before.is_settled(now) {
            self.keep(path, before, &digest);
        }
        Ok(digest)
    }

    /// SHA-256 of what `sha256sum` would print of every file below a directory, by relative path in byte order. Hidden
    /// files and directories do not count; a link counts as the file that it leads to.
    ///
    /// # Errors
    /// I/O errors; no files, far too many, or a link to a directory (what it leads to could not be told apart from a loop).
    pub fn directory(&self, dir: &Path) -> io::Result<String> {
        let mut files = Vec::new();
        walk(dir, dir, &mut files)?;
        if files.is_empty() {
            return Err(io::Error::other("has no files in it"));
        }
        files.sort();
        let mut listing = String::new();
        for relative in files {
            let _ = writeln!(listing, "{}  {relative}", self.file(&dir.join(&relative))?);
        }
        Ok(sha256_hex(listing.as_bytes()))
    }

    fn known(&self, path: &Path, stamp: &Stamp) -> Option<String> {
        let mut kept = self.kept.borrow_mut();
        let kept = kept.get_or_insert_with(|| {
            let read = |s: &PathBuf| record::atomic::read_json(s).ok().flatten();
            self.store.as_ref().and_then(read).unwrap_or_default()
        });
        kept.0.get(path).filter(|(was, _)| was == stamp).map(|(_, digest)| digest.clone())
    }

    fn keep(&self, path: &Path, stamp: Stamp, digest: &str) {
        let Some(store) = &self.store else { return };
        let mut kept = self.kept.borrow_mut();
        let kept = kept.get_or_insert_default();
        kept.0.insert(path.to_owned(), (stamp, digest.to_owned()));
        kept.0.retain(|path, _| path.exists());
        if let Some(dir) = store.parent()
            && std::fs::create_dir_all(dir).is_ok()
        {
            let _ = record::atomic::write_json(store, kept);
        }
    }
}

fn walk(root: &Path, dir: &Path, files: &mut Vec<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            walk(root, &path, files)?;
            continue;
        }
        let relative = path.strip_prefix(root).unwrap_or(&path);
        let named = |why: &str| io::Error::other(format!("{}: {why}", relative.display()));
        let meta = path.metadata().map_err(|e| named(&e.to_string()))?;
        if meta.is_dir() {
            return Err(named("is a link to a directory; name that directory, or copy it"));
        }
        if !meta.is_file() {
            return Err(named("is no regular file"));
        }
        files.push(relative.to_str().ok_or_else(|| named("its name is not UTF-8"))?.to_owned());
        if files.len() > MOST_FILES {
            return Err(io::Error::other(format!(
                "has more than {MOST_FILES} files in it: name a smaller directory"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_directorys_digest_is_that_of_sha256sums_listing_and_hidden_files_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("sub/.git")).unwrap();
        fs::write(dir.path().join("b"), "2").unwrap();
        fs::write(dir.path().join("sub/a"), "1").unwrap();
        fs::write(dir.path().join("sub/.git/x"), "3").unwrap();
        std::os::unix::fs::symlink("b", dir.path().join("link")).unwrap();
        let listing =
            format!("{}  b\n{}  link\n{}  sub/a\n", sha256_hex(b"2"), sha256_hex(b"2"), sha256_hex(b"1"));
        let digests = Digests::new(None);
        let first = digests.directory(dir.path()).unwrap();
        assert_eq!(first, sha256_hex(listing.as_bytes()));
        fs::write(dir.path().join("b"), "4").unwrap();
        assert_ne!(digests.directory(dir.path()).unwrap(), first);
        std::os::unix::fs::symlink("..", dir.path().join("sub/loop")).unwrap();
        let words = digests.directory(dir.path()).unwrap_err().to_string();
        assert!(words.contains("sub/loop: is a link to a directory"), "{words}");
    }

    #[test]
    fn only_files_that_have_settled_are_kept_and_a_changed_one_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let (store, big) = (dir.path().join("cache/digests.json"), dir.path().join("big"));
        fs::write(&big, vec![1u8; 5 << 20]).unwrap();
        let stamp = Stamp::of(&big.metadata().unwrap());
        assert!(!stamp.is_settled(stamp.changed_ns + SETTLED_NS));
        assert!(stamp.is_settled(stamp.changed_ns + SETTLED_NS + 1));
        let digests = Digests::new(Some(store.clone()));
        let true_digest = digests.file(&big).unwrap();
        assert!(digests.known(&big, &stamp).is_none(), "it was written a moment ago");
        // what is kept counts as long as the stamp is the same, in the next command too
        digests.keep(&big, stamp, "kept");
        let next = Digests::new(Some(store.clone()));
        assert_eq!(next.file(&big).unwrap(), "kept");
        fs::File::options().append(true).open(&big).unwrap().set_modified(UNIX_EPOCH).unwrap(); // touched: the same bytes
        assert_eq!(next.file(&big).unwrap(), true_digest);
        fs::write(&store, "{ damaged").unwrap();
        assert_eq!(Digests::new(Some(store)).file(&big).unwrap(), true_digest);
    }
}
