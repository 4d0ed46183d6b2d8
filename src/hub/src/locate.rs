//! Finding what was fetched, without a network.

use crate::cache::RepoDir;
use crate::fetch::whole;
use crate::pins::Pin;
use crate::settings;
use record::Source;
use record::source::HubRef;
use std::path::{Path, PathBuf};

/// Where a planned source is on *this* machine: where the plan saw it, else in the cache of this machine's environment.
///
/// # Errors
/// A sentence: what is missing, where it was looked for, what to type.
pub fn source(source: &Source, env: impl Fn(&str) -> Option<String>) -> Result<PathBuf, String> {
    if source.path.exists() {
        return Ok(source.path.clone());
    }
    let Some(of) = source.hub() else {
        return Err(format!(
            "{} ({}) is not there: is its file system mounted on this node?",
            source.reference,
            source.path.display()
        ));
    };
    let get = |name: &str| env(name).filter(|v| !v.is_empty());
    let cache = settings::cache(&get);
    let here = RepoDir::new(&cache, &of).snapshot(&of.revision);
    if here.is_dir() {
        return Ok(here);
    }
    Err(format!(
        "{} is neither at {} nor in the Hub's cache of this node ({}). On a login node: bessemer fetch '{of}'; the cache \
         must lie where compute nodes see it (HF_HUB_CACHE)",
        source.reference,
        source.path.display(),
        cache.display()
    ))
}

/// The snapshot of a pinned reference, if all of it is here.
///
/// # Errors
/// What is missing.
pub fn snapshot(cache: &Path, of: &HubRef, pin: &Pin) -> Result<PathBuf, String> {
    let dir = RepoDir::new(cache, of).snapshot(&pin.commit);
    if !dir.is_dir() {
        return Err(format!("commit {} is not in the cache {}", pin.commit, cache.display()));
    }
    whole(&dir, pin).map_err(|why| format!("in the cache {}: {why}", dir.display()))?;
    Ok(dir)
}
