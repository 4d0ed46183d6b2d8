//! What can go wrong with a model, in words that say what to do.

use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// A file is there but not what it should be.
    #[error("{path}: {what}")]
    Format { path: PathBuf, what: String },
    /// The architecture, or a setting of it, is not built.
    #[error("{path}: {what}")]
    Unsupported { path: PathBuf, what: String },
    /// libtorch's words.
    #[error("libtorch: {0}")]
    Torch(String),
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    #[error("chat template: {0}")]
    Template(String),
    /// A request that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A limit of the user's that leaves no room for the work.
    #[error("{0}")]
    Limit(String),
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.into(), source }
    }

    pub(crate) fn format(path: &Path, what: impl Into<String>) -> Self {
        Self::Format { path: path.into(), what: what.into() }
    }
}

impl From<tch::TchError> for Error {
    fn from(e: tch::TchError) -> Self {
        Self::Torch(e.to_string())
    }
}

impl From<std::io::Error> for Error {
    fn from(source: std::io::Error) -> Self {
        Self::Io { path: PathBuf::new(), source }
    }
}
