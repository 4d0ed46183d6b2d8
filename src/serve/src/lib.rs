//! OpenAI-compatible server over any [`generate::Engine`], the lease by which it is found, and the client.
//!
//! One thread owns the engine and steps it ([`engine_loop`]); HTTP runs on its own small runtime and talks to that
//! thread through channels, so requests join and leave a running batch. [`run_service`] is a whole service task: bind
//! port 0, publish token and lease, serve, leave when the last consumer is done. Without the feature `server` only the
//! client is built.

#[cfg(feature = "server")]
mod api;
pub mod client;
#[cfg(feature = "server")]
mod engine_loop;
#[cfg(feature = "server")]
mod fields;
#[cfg(feature = "server")]
mod http;
#[cfg(feature = "server")]
mod lease;
#[cfg(feature = "server")]
mod metrics;
#[cfg(feature = "server")]
mod prompt;
#[cfg(feature = "server")]
mod service;
#[cfg(feature = "server")]
mod stream;

pub use client::{Chat, Client, ClientError, Endpoint, Reply};
#[cfg(feature = "server")]
pub use lease::{Keeper, LeaseError, advertised_host, bind_address};
#[cfg(feature = "server")]
pub use service::{Left, Report, Service, ServiceError, run_service};

/// Limits of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Sequences that wait or run beyond which a request is answered 429.
    pub sequences: usize,
    /// Most new tokens of one answer, whatever a request asks.
    pub max_new_tokens: u32,
    /// Largest request body in bytes.
    pub body: usize,
    /// Most choices of one request.
    pub choices: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sequences: 1056, max_new_tokens: 1024, body: 4 << 20, choices: 256 }
    }
}
