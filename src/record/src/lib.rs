//! The types that cross a process border, and the files that carry them.
//!
//! Three parties meet here and nowhere else: the planner (writes [`TaskSpec`]s, reads records), the attempt's
//! supervisor (`bessemer task run`, writes [`StartRecord`], [`AttemptRecord`], [`ResultPointer`]) and the worker
//! (reads the spec, writes [`Outcome`] and [`Event`]s). Nobody but the planner opens the ledger: all of this is files,
//! each written by temp + fsync + rename.

pub mod atomic;
pub mod attempt;
pub mod checkpoint;
pub mod event;
pub mod exit;
pub mod key;
pub mod layout;
pub mod metric;
pub mod params;
pub mod service;
pub mod source;
pub mod spec;
pub mod verify;

pub use attempt::{
    AttemptRecord, FailureClass, Outcome, OutputFile, ResultPointer, StartRecord, Status, Usage,
};
pub use event::Event;
pub use key::{ContentKey, Token};
pub use metric::MetricRow;
pub use params::{Kind, Params};
pub use source::Source;
pub use spec::{Input, Resources, TaskSpec};

/// Version of every file format in this crate. A reader refuses a larger one and says so.
pub const FORMAT: u32 = 1;

/// Milliseconds since the Unix epoch, UTC: the only clock that is ever stored (specs: F38).
#[must_use]
pub fn now_ms() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}
