//! Job file -> matrix -> graph of tasks with content keys.
//!
//! Pure: text in, [`Graph`] or [`Diagnostic`]s out. No file, no clock, no environment is read here.

pub mod diagnostic;
pub mod graph;

pub use diagnostic::Diagnostic;
pub use graph::{Axis, Graph, Point, Retry, Task, TaskRef, Totals, plain};

/// What the command line adds to a job file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `--profile NAME`: an overlay from the job file's `profiles:`.
    pub profile: Option<String>,
    /// `--set PATH=VALUE`, e.g. `("phases.rl.params.episodes", "5")`; the value is YAML. Applied after the profile.
    pub set: Vec<(String, String)>,
    /// Plan only these phases and what they need; empty is all.
    pub only: Vec<String>,
}

/// Reads, checks and expands a job file. `file_name` is only for messages.
///
/// # Errors
/// Every mistake that was found, in the order of the file.
pub fn load(file_name: &str, text: &str, options: &Options) -> Result<Graph, Vec<Diagnostic>> {
    let _ = (text, options);
    Err(vec![Diagnostic {
        file: file_name.to_owned(),
        line: 1,
        column: 1,
        message: "the planner is not on this branch yet".into(),
        help: "rebase on main in a while".into(),
    }])
}
