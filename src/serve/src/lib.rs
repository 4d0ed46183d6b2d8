//! OpenAI-compatible server over any [`generate::Engine`], the lease by which it is found, and the client.
//!
//! One thread owns the engine and steps it ([`engine_loop`]); HTTP runs on its own small runtime and talks to that
//! thread through channels, so requests join and leave a running batch. [`run_service`] is a whole service task: bind
//! port 0, publish token and lease, serve, leave when the last consumer is done.

mod api;
pub mod client;
mod engine_loop;
mod fields;
mod http;
mod lease;
mod metrics;
mod prompt;
mod service;
mod stream;

pub use client::{Chat, Client, ClientError, Endpoint, Reply};
pub use lease::{Keeper, LeaseError, advertised_host, bind_address};
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
