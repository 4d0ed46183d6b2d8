//! The Hub's cache on disk, as `huggingface_hub` lays it out:
//!
//! ```text
//! models--ORG--NAME/blobs/ETAG                    content, once
//!                  /snapshots/COMMIT/config.json  -> ../../blobs/ETAG
//!                  /refs/main                     the commit that the branch had
//! .locks/models--ORG--NAME/ETAG.lock              flock(2), held while a blob is written
//! ```

use crate::error::{HubError, Result};
use nix::fcntl::{Flock, FlockArg};
use record::source::{HubRef, Repo, is_commit};
use std::fs::{File, OpenOptions};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// One repository in the cache.
#[derive(Debug, Clone)]
pub struct RepoDir {
    root: PathBuf,
    folder: String,
}

impl RepoDir {
    /// `cache` is the directory of [`crate::settings::cache`].
    #[must_use]
    pub fn new(cache: &Path, of: &HubRef) -> Self {
        let kind = match of.repo {
            Repo::Model => "models",
            Repo::Dataset => "datasets",
        };
        Self { root: cache.to_owned(), folder: format!("{kind}--{}", of.id.replace('/', "--")) }
    }

    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.root.join(&self.folder)
    }

    /// The files of a commit, under their own names.
    #[must_use]
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir().join("snapshots").join(commit)
    }

    #[must_use]
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.dir().join("blobs").join(etag)
    }

    /// The commit of a branch or tag when it was last fetched here.
    #[must_use]
    pub fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = std::fs::read_to_string(self.dir().join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|c| is_commit(c))
    }

    /// Notes what a branch or tag points to.
    ///
    /// # Errors
    /// I/O errors with the path.
    pub fn set_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) || self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.dir().join("refs").join(revision);
        make_parent(&path)?;
        record::atomic::write(&path, commit.as_bytes()).map_err(HubError::io("cannot note the revision"))
    }

    /// Keeps other fetches (ours and Python's) from writing the same blob; waits for them. `waits` is called before.
    ///
    /// # Errors
    /// I/O errors with the path.
    pub fn lock(&self, etag: &str, waits: &mut dyn FnMut()) -> Result<Flock<File>> {
        let path = self.root.join(".locks").join(&self.folder).join(format!("{etag}.lock"));
        make_parent(&path)?;
        let open = || {
            OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(false)
                .open(&path)
                .map_err(HubError::io(format!("cannot open {}", path.display())))
        };
        let refused = |e: nix::errno::Errno| HubError::Io {
            what: format!("cannot lock {} (is the cache on a file system without flock?)", path.display()),
            source: e.into(),
        };
        let mut file = match Flock::lock(open()?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => file,
            Err((_, e)) => return Err(refused(e)),
        };
        waits();
        loop {
            match Flock::lock(file, FlockArg::LockExclusive) {
                Ok(lock) => return Ok(lock),
                Err((again, nix::errno::Errno::EINTR)) => file = again,
                Err((_, e)) => return Err(refused(e)),
            }
        }
    }

    /// Lets a name in a snapshot point to its blob.
    ///
    /// # Errors
    /// I/O errors; a name that leaves the snapshot.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<PathBuf> {
        if !is_inside(file) {
            return Err(HubError::Reference(format!(
                "the hub names a file {file:?}, which is no place inside of a repository"
            )));
        }
        let path = self.snapshot(commit).join(file);
        let up = "../".repeat(file.split('/').count() + 1);
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        if std::fs::read_link(&path).is_ok_and(|t| t == target) {
            return Ok(path);
        }
        make_parent(&path)?;
        // another fetch may be making the same name, on another node with the same process id
        static LINKS: AtomicU64 = AtomicU64::new(0);
        let (n, now) = (LINKS.fetch_add(1, Ordering::Relaxed), SystemTime::now());
        let nanos = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let temp = path.with_file_name(format!(".link-{}-{n}-{nanos:x}", std::process::id()));
        // file systems without symbolic links (some FUSE mounts) get a second name of the same file
        std::os::unix::fs::symlink(&target, &temp)
            .or_else(|_| std::fs::hard_link(self.blob(etag), &temp))
            .and_then(|()| std::fs::rename(&temp, &path))
            .map_err(HubError::io(format!("cannot make {}", path.display())))?;
        Ok(path)
    }
}

/// No absolute path, no `..`.
#[must_use]
pub fn is_inside(file: &str) -> bool {
    !file.is_empty() && Path::new(file).components().all(|c| matches!(c, Component::Normal(_)))
}

pub(crate) fn make_parent(path: &Path) -> Result<()> {
    let Some(dir) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(dir).map_err(HubError::io(format!("cannot make {}", dir.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_snapshot_lead_to_their_blobs_and_never_out() {
        let dir = tempfile::tempdir().unwrap();
        let repo = RepoDir::new(dir.path(), &"hf://org/name".parse().unwrap());
        assert!(repo.dir().ends_with("models--org--name"));
        std::fs::create_dir_all(repo.dir().join("blobs")).unwrap();
        std::fs::write(repo.blob("e1"), "hello").unwrap();
        let commit = "a".repeat(40);
        for file in ["config.json", "deep/er/x.json"] {
            let path = repo.link(&commit, file, "e1").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "hello");
            repo.link(&commit, file, "e1").unwrap();
        }
        for bad in ["../x", "/etc/x", "a/../../x", ""] {
            assert!(repo.link(&commit, bad, "e1").is_err(), "{bad}");
        }
        repo.set_ref("main", &commit).unwrap();
        assert_eq!(repo.commit_of("main"), Some(commit.clone()));
        assert_eq!(repo.commit_of("other"), None);
        assert_eq!(repo.commit_of(&commit), Some(commit));
    }
}
