//! A reserve of disk space that is given back to write the record (specs: F31).
//!
//! A quota that fills up while the task works would otherwise take its record with it, and the task would have run for
//! nothing and nobody would know why.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const BYTES: usize = 64 * 1024;

/// 64 KiB held in a hidden file of the attempt directory; freed by [`Reserve::release`] or on drop.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// Really written, not only allocated: not every network file system knows fallocate, and quotas count blocks.
    ///
    /// # Errors
    /// I/O errors, among them "no space left" and "quota exceeded".
    pub fn take(dir: &Path) -> io::Result<Self> {
        let path = dir.join(".reserve");
        let reserve = Self { path };
        let mut f = File::create(&reserve.path)?;
        // not zeros: compressing file systems would store nothing
        let mut x = 0x2545_f491_4f6c_dd1d_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()
        })
        .take(BYTES / 8)
        .flatten()
        .collect();
        f.write_all(&noise)?;
        f.sync_all()?;
        Ok(reserve)
    }

    /// Gives the space back.
    pub fn release(self) {}
}

impl Drop for Reserve {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
