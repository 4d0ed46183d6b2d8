//! The ledger: what was handed in, what became of it, and what may be done next.
//!
//! [`state`], [`submission`], [`retry`] and [`board`] decide and are pure; [`db`] remembers; [`files`] reads what attempts
//! leave behind; [`engine`] is the only place where they meet the scheduler. `docs/LEDGER.md` tells the story.

pub mod board;
pub mod db;
pub mod engine;
pub mod error;
pub mod files;
pub mod filter;
pub mod fsys;
pub mod host;
pub mod retry;
pub mod state;
pub mod submission;
pub mod view;

pub use db::Db;
pub use db::rows::SweepRow;
pub use engine::{Engine, NewSweep, Options, ResumeOptions, Timing, dry_run};
pub use error::{Error, Result};
pub use filter::Filter;
pub use retry::Who;
pub use view::{Progress, TaskState, TaskView, View};
