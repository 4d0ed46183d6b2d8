//! A repository at a revision, into the cache.

use crate::cache::RepoDir;
use crate::client::{Client, FileInfo};
use crate::download::{Wanted, verify};
use crate::error::{HubError, Result, bytes, named};
use crate::pins::{Pin, PinnedFile};
use crate::select::{Patterns, select};
use record::source::{HubRef, Repo};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Who watches a fetch.
pub trait Progress: Sync {
    /// So many bytes in so many files are to come, of which some may be here already.
    fn begin(&self, what: &str, files: usize, bytes: u64);
    /// More bytes are here.
    fn add(&self, bytes: u64);
    /// Bytes that were counted have to come again.
    fn take_back(&self, bytes: u64);
    /// A remark for people.
    fn note(&self, text: &str);
    /// A file is whole.
    fn done(&self, file: &str, bytes: u64);
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: usize, _: u64) {}
    fn add(&self, _: u64) {}
    fn take_back(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn done(&self, _: &str, _: u64) {}
}

/// What to fetch.
#[derive(Debug, Clone)]
pub struct Fetch<'a> {
    pub of: &'a HubRef,
    pub patterns: &'a Patterns,
    /// Read what is here already and compare it with its hash.
    pub check: bool,
    /// Files at a time.
    pub workers: usize,
}

/// What is here now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The reference at its commit.
    pub of: HubRef,
    pub snapshot: PathBuf,
    pub pin: Pin,
    /// Bytes that came over the network or from an earlier try.
    pub brought: u64,
}

/// Space that a fetch leaves on the disk.
const RESERVE: u64 = 64 << 20;

/// Fetches into the cache. What is here already is not fetched again; two fetches at a time share the work.
///
/// # Errors
/// [`HubError`]. What has arrived stays and is continued next time.
pub fn fetch(client: &Client, want: &Fetch, progress: &dyn Progress) -> Result<Fetched> {
    let repo = RepoDir::new(&client.settings.cache, want.of);
    let info = client.info(want.of)?;
    let of = want.of.at(&info.commit);
    let what = named(want.of);
    let shards = shards(client, &repo, &of, &info.files, want.patterns)?;
    let chosen = select(&what, of.repo, &info.files, shards.as_deref(), want.patterns)?;
    let missing = |f: &&&FileInfo| !f.etag.as_ref().is_some_and(|e| repo.blob(e).is_file());
    if want.check {
        for file in &chosen {
            recheck(&repo, file, progress)?;
        }
    }
    let absent: u64 = chosen.iter().filter(missing).filter_map(|f| f.bytes).sum();
    room(&repo, &chosen, absent, &what)?;
    progress.begin(&what, chosen.iter().filter(missing).count(), absent);
    let files = all(client, &repo, &of, &chosen, want.workers, progress)?;
    for (file, (etag, _)) in &files {
        repo.link(&info.commit, file, etag)?;
    }
    // last: a branch that points to a commit has what was asked of it
    repo.set_ref(&want.of.revision, &info.commit)?;
    let files: BTreeMap<String, PinnedFile> =
        files.into_iter().map(|(file, (etag, bytes))| (file, PinnedFile { bytes, etag })).collect();
    Ok(Fetched {
        snapshot: repo.snapshot(&info.commit),
        of,
        pin: Pin { commit: info.commit, files },
        brought: absent,
    })
}

/// Weight files by the index: repositories also have the same weights under other names.
fn shards(
    client: &Client,
    repo: &RepoDir,
    of: &HubRef,
    files: &[FileInfo],
    patterns: &Patterns,
) -> Result<Option<Vec<String>>> {
    const INDEX: &str = "model.safetensors.index.json";
    let Some(index) = files.iter().find(|f| f.path == INDEX) else { return Ok(None) };
    if of.repo != Repo::Model || patterns.chooses() {
        return Ok(None);
    }
    let stop = AtomicBool::new(false);
    let wanted = Wanted { client, repo, of, file: index, stop: &stop, progress: &Silent };
    let (etag, _) = wanted.fetch()?;
    let path = repo.blob(&etag);
    let bad = |why: String| HubError::Protocol { url: format!("{}: {INDEX}", named(of)), why };
    let text = std::fs::read_to_string(&path).map_err(HubError::io(path.display().to_string()))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    let map =
        json.get("weight_map").and_then(|m| m.as_object()).ok_or_else(|| bad("has no weight_map".into()))?;
    let mut shards: Vec<String> = map.values().filter_map(|v| v.as_str().map(str::to_owned)).collect();
    shards.sort();
    shards.dedup();
    if let Some(lost) = shards.iter().find(|s| !files.iter().any(|f| f.path == **s)) {
        return Err(bad(format!("names {lost}, which the repository has not")));
    }
    Ok(Some(shards))
}

/// `--check`: a blob that is not what its name says is removed, so that it comes again.
fn recheck(repo: &RepoDir, file: &FileInfo, progress: &dyn Progress) -> Result<()> {
    let Some(etag) = &file.etag else { return Ok(()) };
    let blob = repo.blob(etag);
    if !blob.is_file() || verify(&blob, etag)?.is_ok() {
        return Ok(());
    }
    progress.note(&format!("{}: damaged in the cache; fetched again", file.path));
    std::fs::remove_file(&blob).map_err(HubError::io(format!("cannot remove {}", blob.display())))
}

/// Refuses what the disk cannot hold, before anything is fetched.
fn room(repo: &RepoDir, chosen: &[&FileInfo], absent: u64, what: &str) -> Result<()> {
    let dir = repo.dir();
    std::fs::create_dir_all(&dir).map_err(HubError::io(format!(
        "cannot make the cache {} (HF_HUB_CACHE names another place)",
        dir.display()
    )))?;
    let parts = chosen.iter().filter_map(|f| f.etag.as_ref());
    let begun: u64 = parts
        .filter_map(|e| std::fs::metadata(dir.join("blobs").join(format!("{e}.incomplete"))).ok())
        .map(|m| m.len())
        .sum();
    let need = absent.saturating_sub(begun);
    // a file system that does not tell is no reason to refuse
    let Ok(stat) = nix::sys::statvfs::statvfs(dir.as_path()) else { return Ok(()) };
    #[allow(clippy::useless_conversion)] // the types differ between systems
    let have = u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
    if need > 0 && have < need.saturating_add(RESERVE) {
        return Err(HubError::Disk { what: what.to_owned(), need: bytes(need), have: bytes(have), dir });
    }
    Ok(())
}

type Files = BTreeMap<String, (String, u64)>;

/// Brings every file, a few at a time; the first error stops the others.
fn all(
    client: &Client,
    repo: &RepoDir,
    of: &HubRef,
    chosen: &[&FileInfo],
    workers: usize,
    progress: &dyn Progress,
) -> Result<Files> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let files: Mutex<Files> = Mutex::new(BTreeMap::new());
    let failed: Mutex<Option<HubError>> = Mutex::new(None);
    let work = || {
        while let Some(file) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let fresh = !file.etag.as_ref().is_some_and(|e| repo.blob(e).is_file());
            match (Wanted { client, repo, of, file, stop: &stop, progress }).fetch() {
                Ok((etag, bytes)) => {
                    if fresh {
                        progress.done(&file.path, bytes);
                    }
                    files
                        .lock()
                        .expect("no thread panics with the lock")
                        .insert(file.path.clone(), (etag, bytes));
                }
                Err(e) => {
                    stop.store(true, Ordering::Relaxed);
                    let mut failed = failed.lock().expect("no thread panics with the lock");
                    if failed.is_none() {
                        *failed = Some(e);
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers.clamp(1, 16).min(chosen.len().max(1)) {
            scope.spawn(work);
        }
    });
    match failed.into_inner().expect("no thread panics with the lock") {
        Some(e) => Err(e),
        None => Ok(files.into_inner().expect("no thread panics with the lock")),
    }
}

/// Whether every pinned file is in the snapshot with its size; else the first that is not.
///
/// # Errors
/// The file's name and what is wrong with it.
pub(crate) fn whole(snapshot: &Path, pin: &Pin) -> std::result::Result<(), String> {
    for (file, pinned) in &pin.files {
        match std::fs::metadata(snapshot.join(file)) {
            Ok(m) if m.len() == pinned.bytes => {}
            Ok(m) => return Err(format!("{file} has {} bytes instead of {}", m.len(), pinned.bytes)),
            Err(_) => return Err(format!("{file} is missing")),
        }
    }
    Ok(())
}
