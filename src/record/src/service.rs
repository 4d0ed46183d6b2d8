//! How a service task (a judge server) is found: one lease file that it rewrites, and a token file that only its owner
//! can read.

use serde::{Deserialize, Serialize};

/// `service.json` in the service's task directory, rewritten by the server every few seconds. Clients re-read it
/// whenever a call fails: after a restart the URL is another (specs: F40).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceLease {
    pub format: u32,
    /// `http://HOST:PORT`; the port is chosen by the kernel.
    pub url: String,
    /// File (mode 0600) with the bearer token, relative to the service's task directory.
    pub token_file: String,
    /// Model name to send in requests.
    pub model: String,
    /// Which attempt of the service task wrote this.
    pub attempt: u32,
    pub host: String,
    pub pid: u32,
    pub started_ms: i64,
    /// A lease whose heartbeat is older than [`STALE_MS`] is dead, whatever it says.
    pub heartbeat_ms: i64,
    /// Set while the server finishes what it has and takes nothing new.
    pub draining: bool,
}

/// Age of a heartbeat after which a lease counts as dead. Generous: clocks of nodes differ and NFS caches attributes.
pub const STALE_MS: i64 = 60_000;

/// How often the server rewrites its lease.
pub const HEARTBEAT_MS: u64 = 5_000;
