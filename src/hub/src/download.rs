//! One blob: continued where an earlier try stopped, compared with its hash, renamed into place when it is whole.

use crate::cache::{RepoDir, make_parent};
use crate::client::{Client, FileInfo};
use crate::error::{HubError, Result};
use crate::fetch::Progress;
use record::source::HubRef;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Connections in a row that brought nothing before a download gives up.
const FRUITLESS: u32 = 5;

/// The hash that a blob's name promises.
enum Hash {
    Sha256(Sha256),
    /// Git's: over `blob LENGTH\0` and the content.
    Git(Sha1),
}

impl Hash {
    fn of(etag: &str, bytes: u64) -> Self {
        if etag.len() == 64 {
            return Hash::Sha256(Sha256::new());
        }
        let mut hash = Sha1::new();
        hash.update(format!("blob {bytes}\0"));
        Hash::Git(hash)
    }

    fn update(&mut self, part: &[u8]) {
        match self {
            Hash::Sha256(h) => h.update(part),
            Hash::Git(h) => h.update(part),
        }
    }

    fn hex(self) -> String {
        let digest = match self {
            Hash::Sha256(h) => h.finalize().to_vec(),
            Hash::Git(h) => h.finalize().to_vec(),
        };
        digest.iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// Whether the content of `path` is what `etag` promises; else what it is.
///
/// # Errors
/// I/O errors with the path.
pub(crate) fn verify(path: &Path, etag: &str) -> Result<std::result::Result<(), String>> {
    let cannot = || format!("cannot read {}", path.display());
    let mut file = File::open(path).map_err(HubError::io(cannot()))?;
    let bytes = file.metadata().map_err(HubError::io(cannot()))?.len();
    let mut hash = Hash::of(etag, bytes);
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(HubError::io(cannot()))? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let got = hash.hex();
    Ok(if got == etag { Ok(()) } else { Err(got) })
}

/// What a blob needs to be fetched.
pub(crate) struct Wanted<'a> {
    pub client: &'a Client,
    pub repo: &'a RepoDir,
    /// At its commit.
    pub of: &'a HubRef,
    pub file: &'a FileInfo,
    /// Another file has failed: leave.
    pub stop: &'a AtomicBool,
    pub progress: &'a dyn Progress,
}

impl Wanted<'_> {
    /// Brings the blob; its etag and size.
    pub fn fetch(&self) -> Result<(String, u64)> {
        let path = &self.file.path;
        let (etag, bytes) = match (&self.file.etag, self.file.bytes) {
            (Some(etag), Some(bytes)) => (etag.clone(), bytes),
            _ => self.ask()?,
        };
        let blob = self.repo.blob(&etag);
        if blob.is_file() {
            return Ok((etag, bytes));
        }
        make_parent(&blob)?;
        let _lock = self.repo.lock(&etag, &mut || {
            self.progress.note(&format!("{path}: another fetch is bringing it; waiting"));
        })?;
        if blob.is_file() {
            self.progress.add(bytes);
            return Ok((etag, bytes));
        }
        let part = self.repo.dir().join("blobs").join(format!("{etag}.incomplete"));
        let mut got = String::new();
        // a damaged beginning from an earlier try deserves one more from the start
        for _ in 0..2 {
            self.fill(&part, bytes)?;
            match verify(&part, &etag)? {
                Ok(()) => {
                    let sync = || File::open(&part)?.sync_all();
                    sync().map_err(HubError::io(format!("cannot sync {}", part.display())))?;
                    std::fs::rename(&part, &blob)
                        .and_then(|()| record::atomic::sync_dir(&blob))
                        .map_err(HubError::io(format!("cannot make {}", blob.display())))?;
                    return Ok((etag, bytes));
                }
                Err(other) => {
                    self.progress.note(&format!(
                        "{path}: wrong content (a damaged download?), once more from the start"
                    ));
                    self.progress.take_back(bytes);
                    std::fs::remove_file(&part)
                        .map_err(HubError::io(format!("cannot remove {}", part.display())))?;
                    got = other;
                }
            }
        }
        Err(HubError::Checksum { file: path.clone(), want: etag, got })
    }

    /// Hash and size of a file that the listing does not describe.
    fn ask(&self) -> Result<(String, u64)> {
        let path = &self.file.path;
        let opened = self.client.patiently(|| self.client.open(self.of, path, 0))?;
        match (opened.etag, opened.bytes) {
            (Some(etag), Some(bytes)) => Ok((etag, bytes)),
            _ => Err(HubError::Protocol {
                url: format!("{}: {path}", self.client.settings.endpoint),
                why: "the server tells neither hash nor size, so that nothing could be checked".into(),
            }),
        }
    }

    /// Appends to `part` until it has `bytes`. Every connection that brings something counts as progress.
    fn fill(&self, part: &Path, bytes: u64) -> Result<()> {
        let name = &self.file.path;
        let cannot = || format!("cannot write {}", part.display());
        let mut fruitless = 0;
        let mut counted = 0;
        loop {
            let mut have = std::fs::metadata(part).map_or(0, |m| m.len());
            if have > bytes {
                std::fs::remove_file(part).map_err(HubError::io(cannot()))?;
                have = 0;
            }
            if have > counted {
                // of an earlier fetch
                self.progress.add(have - counted);
                counted = have;
            }
            if have == bytes {
                if bytes == 0 {
                    File::create(part).map_err(HubError::io(cannot()))?;
                }
                return Ok(());
            }
            let before = have;
            let attempt = self.append(part, have, &mut counted);
            let now = std::fs::metadata(part).map_or(0, |m| m.len());
            let why = match attempt {
                Ok(()) if now == bytes => continue,
                Ok(()) => {
                    self.client.network(&format!("the connection ended at byte {now} of {bytes} of {name}"))
                }
                Err(HubError::Status { status: 416, .. }) => {
                    // what lies here is not a beginning of what the server has
                    std::fs::remove_file(part).map_err(HubError::io(cannot()))?;
                    self.progress.take_back(counted);
                    counted = 0;
                    self.client.network("the server refuses to continue the file")
                }
                Err(e) if e.passes() => e,
                Err(e) => return Err(e),
            };
            fruitless = if now > before { 0 } else { fruitless + 1 };
            if fruitless >= FRUITLESS {
                return Err(why);
            }
            self.client.wait(fruitless + 1, &why);
        }
    }

    /// One connection: everything that it brings is written, also when it breaks.
    fn append(&self, part: &Path, have: u64, counted: &mut u64) -> Result<()> {
        let cannot = || format!("cannot write {}", part.display());
        let mut opened = self.client.open(self.of, &self.file.path, have)?;
        let mut file =
            OpenOptions::new().create(true).append(true).open(part).map_err(HubError::io(cannot()))?;
        if opened.from != have {
            // the server knows no ranges: from the start
            file.set_len(0).map_err(HubError::io(cannot()))?;
            self.progress.take_back(*counted);
            *counted = 0;
            if opened.from != 0 {
                return Err(self.client.network("the server continued at the wrong place"));
            }
        }
        let mut buffer = vec![0u8; 256 << 10];
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(HubError::Stopped);
            }
            let n = match opened.body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.client.network(&e.to_string())),
            };
            file.write_all(&buffer[..n]).map_err(HubError::io(cannot()))?;
            *counted += n as u64;
            self.progress.add(n as u64);
        }
    }
}
