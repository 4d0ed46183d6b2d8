//! Asking a judge model until its answer can be read, a bounded number of times.

use super::{Malformed, Mode};
use crate::judge::rubric::{self, Decision};
use record::params::Rubric;

/// What a model said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub text: String,
    /// The token limit ended it.
    pub truncated: bool,
}

/// Why a model said nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// It may be there later: asking about other answers now makes no sense.
    #[error("{0}")]
    Away(String),
    /// It does not take this request.
    #[error("{0}")]
    Refused(String),
}

/// A connection to a judge model. It retries what may pass (lost connections, 429, 5xx) by itself and samples at
/// temperature 0.
pub trait Asker: Send + Sync {
    /// Model and place.
    fn identity(&self) -> String;

    /// One answer to one user message.
    ///
    /// # Errors
    /// See [`AskError`].
    fn ask(&self, prompt: &str, max_tokens: u32) -> Result<Said, AskError>;
}

/// How a question is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    pub rubric: Rubric,
    pub mode: Mode,
    pub max_tokens: u32,
    /// Answers that are asked for before the matter is unscored.
    pub tries: u32,
}

/// Why there is no decision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoDecision {
    #[error("{tries} answers of the judge could not be read, the last: {last}")]
    Malformed { tries: u32, last: String },
    #[error(transparent)]
    Ask(#[from] AskError),
}

/// Asks until an answer can be read. At temperature 0 the same question brings the same answer, so from the second try on
/// it says what was wrong with the last one.
///
/// # Errors
/// See [`NoDecision`].
pub fn decide(asker: &dyn Asker, manner: &Manner, question: &str) -> Result<Decision, NoDecision> {
    let mut last = Malformed("nothing was asked".to_owned());
    for attempt in 0..manner.tries.max(1) {
        let prompt = if attempt == 0 {
            question.to_owned()
        } else {
            format!(
                "{question}\n\nAn earlier answer to this could not be read ({last}). {}",
                rubric::format_of(manner.rubric)
            )
        };
        let said = asker.ask(&prompt, manner.max_tokens)?;
        match rubric::read(manner.rubric, &said.text, manner.mode) {
            Ok(decision) => return Ok(decision),
            Err(e) if said.truncated => last = Malformed(format!("{}, and the token limit cut it", e.0)),
            Err(e) => last = e,
        }
    }
    Err(NoDecision::Malformed { tries: manner.tries.max(1), last: last.to_string() })
}
