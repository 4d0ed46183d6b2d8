//! What a sweep showed: tables, curves, one HTML file, JSON documents, and progress for terminals.
//!
//! Everything here reads the files of a run directory and what the caller says about states (the ledger's knowledge), and
//! returns text. Nothing is written, no scheduler is asked, no clock is read but the caller's.
//!
//! ```no_run
//! let sweep = report::Sweep::read(std::path::Path::new("runs/quickstart"), &Default::default(), record::now_ms())?;
//! record::atomic::write(std::path::Path::new("report.html"), report::html(&sweep).as_bytes())?;
//! print!("{}", report::text::results(&sweep, 100));
//! # Ok::<(), std::io::Error>(())
//! ```

pub mod curves;
pub mod html;
pub mod json;
pub mod paired;
pub mod progress;
pub mod rows;
pub mod state;
pub mod sweep;
pub mod text;
mod units;

pub use html::html;
pub use rows::Row;
pub use state::{Note, State};
pub use sweep::{AttemptRun, Sweep, TaskRun};

/// Version of the documents of `report --json` and `status --json` (docs/REPORT.md).
pub const FORMAT: u32 = 1;
