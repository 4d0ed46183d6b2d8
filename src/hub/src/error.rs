//! What can go wrong with the Hub, and what to type then.

use record::source::{HubRef, Repo};
use std::io;
use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, HubError>;

#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error(
        "{endpoint} does not say whether {what} exists: it is private or gated, or misspelt. Log in (`hf auth login`, or \
         HF_TOKEN=... in the environment; a token is made at {endpoint}/settings/tokens), then fetch again"
    )]
    WhoAreYou { endpoint: String, what: String },
    #[error(
        "{endpoint} refuses the token for {what}: is it expired, or without the right to read? A new one: \
         {endpoint}/settings/tokens; it was read from {token_from}"
    )]
    BadToken { endpoint: String, what: String, token_from: String },
    #[error(
        "access to {what} is granted one by one: open {page} in a browser, logged in as the account of the token{hint}, \
         accept the conditions, then fetch again"
    )]
    Gated { what: String, page: String, hint: &'static str },
    #[error("there is no {} `{id}` at {endpoint}{}", repo.noun(), other_kind(*.repo, id))]
    NoRepo { endpoint: String, repo: Repo, id: String },
    #[error("{what} has no revision `{revision}`: branches, tags and commits are listed at {page}")]
    NoRevision { what: String, revision: String, page: String },
    #[error("{what} has no file {file}")]
    NoFile { what: String, file: String },
    #[error(
        "cannot reach {endpoint}: {why}. Compute nodes have no network: fetch on a login node. Behind a proxy: \
         HTTPS_PROXY=...; a mirror: HF_ENDPOINT=..."
    )]
    Network { endpoint: String, why: String },
    #[error(
        "HF_HUB_OFFLINE is set: nothing is fetched. Unset it on a machine with a network, then fetch again"
    )]
    Offline,
    #[error("{endpoint} wants us to wait (429){}: fetch again later, what is here stays", wait.map(|s| format!(" {s} s")).unwrap_or_default())]
    TooMany { endpoint: String, wait: Option<u64> },
    #[error("{url}: status {status}{}", if said.is_empty() { String::new() } else { format!(": {said}") })]
    Status { url: String, status: u16, said: String },
    #[error("{url}: {why}")]
    Protocol { url: String, why: String },
    #[error(
        "{file} arrived twice with the wrong content ({got} instead of {want}): the server or a proxy between changes it; \
         nothing of it was kept"
    )]
    Checksum { file: String, want: String, got: String },
    #[error(
        "{what} needs {need} more in {dir}, which has {have} free: make room, or put the cache elsewhere \
         (HF_HUB_CACHE=/scratch/...; jobs must see the same)"
    )]
    Disk { what: String, need: String, have: String, dir: PathBuf },
    #[error("{what} has no {wanted}: it has {has}. Name what you want with --include")]
    NothingToFetch { what: String, wanted: &'static str, has: String },
    #[error("--include/--exclude `{pattern}`: {why}")]
    Pattern { pattern: String, why: String },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("{path}: {why}", path = path.display())]
    Pins { path: PathBuf, why: String },
    #[error("{0}")]
    Reference(String),
    #[error("stopped: another file failed")]
    Stopped,
}

impl HubError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| HubError::Io { what, source }
    }

    /// Whether the same request may work a little later.
    pub(crate) fn passes(&self) -> bool {
        match self {
            HubError::Network { .. } | HubError::TooMany { .. } => true,
            HubError::Status { status, .. } => matches!(status, 408 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}

fn other_kind(repo: Repo, id: &str) -> String {
    match repo {
        Repo::Model => format!("; is it a data set? hf://datasets/{id}"),
        Repo::Dataset => format!("; is it a model? hf://{id}"),
    }
}

/// The repository at its revision, for sentences.
pub(crate) fn named(of: &HubRef) -> String {
    HubRef { path: None, ..of.clone() }.to_string()
}

/// `4.2 GB`.
pub(crate) fn bytes(n: u64) -> String {
    #[allow(clippy::cast_precision_loss)]
    let n = n as f64;
    for (unit, size) in [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)] {
        if n >= size {
            return format!("{:.1} {unit}", n / size);
        }
    }
    format!("{n:.0} B")
}
