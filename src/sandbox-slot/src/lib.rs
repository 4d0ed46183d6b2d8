//! The trusted side of a sandbox slot.
//!
//! A slot is one set of namespaces, built once, in which programs run one after the other. Three processes take part:
//!
//! - the *supervisor* (crate `sandbox`), any program, threaded or not. It execs this crate's binary and talks to the
//!   slot over one `SOCK_SEQPACKET` socket ([`wire`]);
//! - the *keeper* ([`keeper`]): the exec'd binary. It makes process 1 in new namespaces, writes its uid map, and kills
//!   it when the supervisor is gone;
//! - *process 1* of the slot: builds the root file system ([`root`]), gives up every privilege ([`privilege`]), takes on
//!   Landlock rules ([`landlock`]) and the system-call filter ([`filter`]) that all programs inherit, and serves runs
//!   ([`serve`]).
//!
//! Where there are no user namespaces and the policy accepts less, a slot is a directory of the host ([`outside`]), and each
//! program takes a narrower lock on for itself ([`jail`]).
//!
//! This crate has few dependencies because it is the whole of what has to be trusted inside.

pub mod clean;
pub mod filter;
pub mod filter_list;
pub mod jail;
pub mod keeper;
pub mod landlock;
pub mod limits;
pub mod net;
pub mod observe;
pub mod outside;
pub mod privilege;
pub mod root;
pub mod run;
pub mod serve;
pub mod soon;
pub mod spawn;
pub mod wait;
pub mod wire;

/// Error of a step inside the slot: what was tried and what the kernel said. It travels to the supervisor as text.
#[derive(Debug)]
pub struct SlotError(pub String);

impl std::fmt::Display for SlotError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SlotError {}

/// Result of a step inside the slot.
pub type Result<T> = std::result::Result<T, SlotError>;

/// Adds what was tried to an error of the kernel.
pub trait Context<T> {
    /// Turns the error into a [`SlotError`] that starts with `what`.
    ///
    /// # Errors
    /// The error that was there, with the text in front.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: std::fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| SlotError(format!("{}: {e}", what())))
    }
}
