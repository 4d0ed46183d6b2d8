//! What lies outside of the job file. Planning itself reads nothing: the caller says what a reference means.

use record::Source;
use record::source::HubRef;
use serde_json::Value;

/// A reference that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub source: Source,
    /// `config.json`, if it is a model: its memory is predicted from it.
    pub config: Option<Value>,
    /// Whether it can stand where a model is wanted.
    pub is_model: bool,
}

/// Why a reference cannot be used, and what to type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub message: String,
    pub help: String,
}

/// Who knows what `hf://...` and paths mean.
pub trait Outside {
    /// # Errors
    /// [`Missing`]
    fn find(&self, reference: &str) -> Result<Found, Missing>;
}

/// Nothing is looked up: a reference stands for itself. For checking a job file's form.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsWritten;

impl Outside for AsWritten {
    fn find(&self, reference: &str) -> Result<Found, Missing> {
        let identity = reference.parse::<HubRef>().map_or_else(|_| reference.to_owned(), |of| of.to_string());
        let source = Source { reference: reference.to_owned(), identity, path: reference.into() };
        Ok(Found { source, config: None, is_model: true })
    }
}
