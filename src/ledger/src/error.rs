//! What can go wrong with the ledger and the engine; each text says what to type next.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state file is held or the file system cannot lock.
    #[error(
        "the state file {} cannot be locked ({what}); it lies on {file_system}. Another bessemer may be using it: try \
         again later. If this file system has no working locks, put the state on a local disk with `--state-dir DIR`",
        path.display()
    )]
    Busy { path: PathBuf, file_system: String, what: String },
    #[error("the state file {}: {source}", path.display())]
    Sqlite { path: PathBuf, source: rusqlite::Error },
    #[error(
        "the state file {} has version {found}, this program knows up to {known}: update bessemer, or name another \
         `--state-dir`",
        path.display()
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("{} is a SQLite file but not a ledger of bessemer: name another `--state-dir`", .0.display())]
    NotALedger(PathBuf),
    /// Exit code 75.
    #[error(
        "sweep {sweep:?} is being worked on by `{what}` (process {pid} on {host}, until {left_s} s from now at the \
         latest): wait for it, or stop it, then try again"
    )]
    Held { sweep: String, what: String, pid: u32, host: String, left_s: i64 },
    /// Exit code 75.
    #[error(
        "this process lost its lease on sweep {0:?} to another one (it was stopped or slept for too long): nothing more \
         was written; look with `bessemer status` and run the command again"
    )]
    LeaseLost(String),
    #[error("there is no sweep {name:?} in {}; it knows: {known}. `bessemer rebuild RUN_DIR` adds one from its files", path.display())]
    NoSweep { name: String, path: PathBuf, known: String },
    #[error("{count} sweeps are called {name:?}: name the run directory instead: {dirs}")]
    Ambiguous { name: String, count: usize, dirs: String },
    #[error("no task, attempt or token of sweep {sweep:?} matches {what:?}; phases: {phases}")]
    NoMatch { sweep: String, what: String, phases: String },
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("{}: {what}", path.display())]
    BadFile { path: PathBuf, what: String },
    #[error("the script for {task} cannot be written: {why}")]
    Render { task: String, why: String },
    #[error("the scheduler cannot be read: {0}. Nothing was changed; try again later")]
    Scheduler(String),
}

impl Error {
    /// Exit code of a command that ends with this error.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Busy { .. } | Error::Held { .. } | Error::LeaseLost(_) | Error::Scheduler(_) => {
                record::exit::TRY_AGAIN
            }
            Error::NoSweep { .. } | Error::Ambiguous { .. } | Error::NoMatch { .. } => record::exit::USAGE,
            Error::Render { .. } => record::exit::USER_ERROR,
            _ => record::exit::FAILED,
        }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}

pub type Result<T> = std::result::Result<T, Error>;
