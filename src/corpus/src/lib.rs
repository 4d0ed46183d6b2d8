//! Problem sets, splits, and code out of answers.
//!
//! A corpus is a directory of JSON Lines files: `problems.train.jsonl`, `problems.validation.jsonl`,
//! `problems.held-out.jsonl` ([`Problem`]), `demonstrations.jsonl` ([`Row`]) and `manifest.json` ([`Manifest`]).
//! [`generate`] makes the project's own set; [`check`] refuses a set whose splits leak into each other.
//!
//! Prompts are bare statements. Whoever talks to a model (training, sampling, RL, evaluation) sends them as one user
//! message through that model's chat template, so that no two stages phrase the same problem differently.

pub mod check;
pub mod extract;
mod families;
pub mod files;
pub mod generate;
pub mod rng;

pub use check::{Leak, check_splits};
pub use files::{CorpusError, Manifest, read_jsonl, write_jsonl};
pub use generate::{Set, generate};
pub use record::params::Split;
pub use rng::Rng;

use serde::{Deserialize, Serialize};

/// One run of a program: what it reads, and what it must print. The expected text never leaves the trusted side.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Test {
    pub stdin: String,
    pub expected: String,
}

/// What a held-out problem has in common with the training split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Novelty {
    /// A family that was trained on, with constants that no training prompt contains.
    NewValues,
    /// A family that was never trained on.
    NewFamily,
}

impl Novelty {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Novelty::NewValues => "new-values",
            Novelty::NewFamily => "new-family",
        }
    }
}

/// One programming problem that a program solves by reading stdin and writing stdout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Unique in the whole set: `<family>/<values>/<phrasing>`.
    pub id: String,
    pub family: String,
    /// The constants of the statement that an answer must copy.
    #[serde(default)]
    pub values: Vec<i64>,
    pub split: Split,
    /// Only for the held-out split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub novelty: Option<Novelty>,
    /// The statement, without any template.
    pub prompt: String,
    /// Hidden from the model.
    pub tests: Vec<Test>,
    /// A program that passes every test.
    pub reference: String,
}

/// One demonstration or kept sample: what supervised fine-tuning reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub problem_id: String,
    pub prompt: String,
    /// The solution only: it never repeats the prompt (specs: SecureCodeRL 21.3).
    pub completion: String,
    /// Whether it passes every test; `None` where nobody has run it.
    #[serde(default)]
    pub correct: Option<bool>,
}

/// Name of a split as it stands in file names.
#[must_use]
pub fn split_name(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Validation => "validation",
        Split::HeldOut => "held-out",
    }
}
