//! Scratch on the node's own disk: private, and gone when the attempt ends.
//!
//! The job script has found a place and says which (`BESSEMER_SCRATCH`). Making and removing it here, and not there, saves
//! every task two processes; should we be killed, the script removes it.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub const VARIABLE: &str = "BESSEMER_SCRATCH";

/// A directory that only its owner may enter; removed with everything in it on drop.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes the directory that the script has named. One that is there already may be anybody's and is not used.
    ///
    /// # Errors
    /// I/O errors, "exists" among them, with the path.
    pub fn take(path: &Path) -> io::Result<Self> {
        let made = std::fs::DirBuilder::new().mode(0o700).create(path);
        made.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        Ok(Self { path: path.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.path) {
            super::say(&format!("cannot remove the scratch directory {}: {e}", self.path.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn scratch_is_private_gone_afterwards_and_never_somebody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let scratch = Scratch::take(&path).unwrap();
        assert_eq!(scratch.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::create_dir(path.join("sub")).unwrap();
        std::fs::write(path.join("sub/file"), "x").unwrap();
        assert!(Scratch::take(&path).is_err(), "it exists");
        drop(scratch);
        assert!(!path.exists());
        std::os::unix::fs::symlink(dir.path(), &path).unwrap();
        assert!(Scratch::take(&path).is_err(), "a link that somebody has put there");
    }
}
