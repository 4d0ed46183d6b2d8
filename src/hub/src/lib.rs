//! The Hugging Face Hub for machines of which only some have a network.
//!
//! `bessemer fetch` runs on a login node and fills the standard cache of the Hub ([`cache`]), which transformers on the
//! same cluster shares. What was fetched is pinned to a commit in a file beside the job file ([`pins`]), so that content
//! keys never depend on what a branch points to today. Workers only ever look into the cache ([`locate`]).
//!
//! The `hf-hub` crate was looked at (1.0.0) and not taken: 284 crates, and downloads that neither continue where they
//! stopped, nor compare SHA-256, nor look at the disk first. The protocol is small; ureq was here already.

pub mod cache;
mod client;
mod download;
mod error;
mod fetch;
pub mod locate;
pub mod pins;
mod select;
mod settings;

pub use client::{Client, FileInfo, RepoInfo};
pub use error::{HubError, Result};
pub use fetch::{Fetch, Fetched, Progress, Silent, fetch};
pub use select::Patterns;
pub use settings::{Settings, Token};
