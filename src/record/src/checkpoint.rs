//! Checkpoints of a task: directories `ckpt/step-<k>` of its attempts, each whole or absent.
//!
//! A checkpoint is written under a hidden temporary name, every file fsynced, closed by a manifest with the sizes, and
//! renamed into place. The next attempt continues from the newest whole one of *any* attempt of the same task.

use crate::key::ContentKey;
use crate::layout;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the manifest inside a checkpoint.
pub const MANIFEST: &str = "checkpoint.json";

/// `checkpoint.json`: what a whole checkpoint consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub key: ContentKey,
    pub step: u64,
    /// File name -> size in bytes.
    pub files: BTreeMap<String, u64>,
}

/// A whole checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub step: u64,
    pub attempt: u32,
    pub dir: PathBuf,
}

/// Where one attempt writes its checkpoints and finds those of the earlier ones.
#[derive(Debug, Clone)]
pub struct Store {
    pub key: ContentKey,
    pub task_dir: PathBuf,
    pub attempt_dir: PathBuf,
    /// Whole checkpoints that stay in this attempt's directory.
    pub keep: usize,
}

impl Store {
    /// The newest whole checkpoint of the task: largest step, then largest attempt.
    ///
    /// # Errors
    /// I/O errors of listing. Damaged and foreign checkpoints are passed over.
    pub fn newest(&self) -> io::Result<Option<Found>> {
        newest(&self.task_dir, &self.key)
    }

    /// Writes checkpoint `step`: `fill` puts plain files into the directory it is given; then everything is synced,
    /// renamed into place, and older checkpoints of this attempt beyond `keep` are removed.
    ///
    /// # Errors
    /// What `fill` or the file system says; nothing is left in place then.
    pub fn write<E: From<io::Error>>(
        &self,
        step: u64,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let root = self.attempt_dir.join(layout::CKPT);
        std::fs::create_dir_all(&root)?;
        let tmp = root.join(format!(".step-{step}.{}.tmp", std::process::id()));
        let dir = root.join(format!("step-{step}"));
        let _ = std::fs::remove_dir_all(&tmp);
        std::fs::create_dir(&tmp)?;
        let result = fill(&tmp).and_then(|()| Ok(self.close(step, &tmp)?)).and_then(|()| {
            // a directory can only replace an empty one: the same step again (after a resume) is the same content
            if dir.exists() {
                std::fs::remove_dir_all(&dir)?;
            }
            std::fs::rename(&tmp, &dir)?;
            Ok(crate::atomic::sync_dir(&dir)?)
        });
        if let Err(e) = result {
            let _ = std::fs::remove_dir_all(&tmp);
            return Err(e);
        }
        self.prune()?;
        Ok(dir)
    }

    fn close(&self, step: u64, tmp: &Path) -> io::Result<()> {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(tmp)? {
            let entry = entry?;
            let file = File::open(entry.path())?;
            file.sync_all()?;
            files.insert(entry.file_name().to_string_lossy().into_owned(), file.metadata()?.len());
        }
        let manifest = Manifest { format: crate::FORMAT, key: self.key.clone(), step, files };
        crate::atomic::write_json(&tmp.join(MANIFEST), &manifest)
    }

    fn prune(&self) -> io::Result<()> {
        let mut own = whole_in(&self.attempt_dir, &self.key)?;
        own.sort_unstable_by_key(|(step, _)| std::cmp::Reverse(*step));
        for (_, dir) in own.into_iter().skip(self.keep.max(1)) {
            // the manifest first: a half-removed checkpoint must not look whole
            let _ = std::fs::remove_file(dir.join(MANIFEST));
            std::fs::remove_dir_all(dir)?;
        }
        Ok(())
    }
}

/// The newest whole checkpoint of a task, over all attempts.
///
/// # Errors
/// I/O errors of listing.
pub fn newest(task_dir: &Path, key: &ContentKey) -> io::Result<Option<Found>> {
    let mut best: Option<Found> = None;
    for attempt in layout::attempts(task_dir)? {
        for (step, dir) in whole_in(&layout::attempt_dir(task_dir, attempt), key)? {
            if best.as_ref().is_none_or(|b| (step, attempt) >= (b.step, b.attempt)) {
                best = Some(Found { step, attempt, dir });
            }
        }
    }
    Ok(best)
}

fn whole_in(attempt_dir: &Path, key: &ContentKey) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match std::fs::read_dir(attempt_dir.join(layout::CKPT)) {
        Ok(e) => e,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    Ok(entries
        .filter_map(Result::ok)
        .filter_map(|e| {
            let step: u64 = e.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
            is_whole(&e.path(), step, key).then(|| (step, e.path()))
        })
        .collect())
}

fn is_whole(dir: &Path, step: u64, key: &ContentKey) -> bool {
    let Ok(Some(m)) = crate::atomic::read_json::<Manifest>(&dir.join(MANIFEST)) else { return false };
    m.format <= crate::FORMAT
        && m.step == step
        && m.key == *key
        && m.files
            .iter()
            .all(|(name, size)| std::fs::metadata(dir.join(name)).is_ok_and(|meta| meta.len() == *size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(task_dir: &Path, attempt: u32) -> Store {
        Store {
            key: ContentKey("k".repeat(20)),
            task_dir: task_dir.into(),
            attempt_dir: layout::attempt_dir(task_dir, attempt),
            keep: 2,
        }
    }

    fn put(s: &Store, step: u64) -> PathBuf {
        s.write(step, |d| std::fs::write(d.join("w"), step.to_string())).unwrap()
    }

    #[test]
    fn the_newest_whole_checkpoint_of_any_attempt_is_found_and_damage_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (store(dir.path(), 1), store(dir.path(), 2));
        assert_eq!(a.newest().unwrap(), None);
        put(&a, 10);
        let damaged = put(&a, 20);
        put(&b, 15);
        assert_eq!(b.newest().unwrap().unwrap().step, 20);
        std::fs::write(damaged.join("w"), "torn").unwrap();
        let found = b.newest().unwrap().unwrap();
        assert_eq!((found.step, found.attempt), (15, 2));
        let other = Store { key: ContentKey("x".repeat(20)), ..store(dir.path(), 2) };
        assert_eq!(other.newest().unwrap(), None, "a checkpoint of another task must not be taken");
    }

    #[test]
    fn only_the_last_two_stay_and_a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let s = store(dir.path(), 1);
        for step in [1, 2, 10] {
            put(&s, step);
        }
        let err = s.write(11, |d| {
            std::fs::write(d.join("w"), "half")?;
            Err(io::Error::other("disk full"))
        });
        assert!(err.is_err());
        let mut names: Vec<_> = std::fs::read_dir(s.attempt_dir.join("ckpt"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["step-10", "step-2"]);
    }
}
