//! Static security analysis of model-written code: findings with CWE numbers, from whatever analyzer there is.
//!
//! Three things are kept apart that the published systems mix: *no finding* (analysed and clean), *unparsable* (there was
//! nothing to analyse, which is not clean), and *unscored* (the analyzer itself failed). Code blocks of one answer are
//! analysed one by one: joined into one file, a single broken block would hide the findings of all the others.

pub mod bandit;
pub mod cache;
pub mod codeguru;
pub mod policy;
pub mod report;
pub mod sarif;

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Severity of a finding, ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    /// Reads the spellings of Bandit, CodeGuru and SARIF tools, in any case.
    #[must_use]
    pub fn read(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "info" | "informational" | "note" | "none" => Some(Severity::Info),
            "low" => Some(Severity::Low),
            "medium" | "moderate" | "warning" => Some(Severity::Medium),
            "high" | "error" => Some(Severity::High),
            "critical" => Some(Severity::Critical),
            _ => None,
        }
    }

    /// From a CVSS-like score, as code-scanning services do: 9, 7, 4 and above 0 are the lower bounds.
    #[must_use]
    pub fn of_score(score: f64) -> Self {
        match score {
            s if s >= 9.0 => Severity::Critical,
            s if s >= 7.0 => Severity::High,
            s if s >= 4.0 => Severity::Medium,
            s if s > 0.0 => Severity::Low,
            _ => Severity::Info,
        }
    }
}

/// One finding in one block of code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The analyzer's rule, e.g. `B602`, `py/sql-injection`.
    pub rule: String,
    /// `None` where the tool gave none or one that nobody knows; policies say what that counts.
    pub severity: Option<Severity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Severity>,
    /// CWE numbers by the analyzer's own account.
    pub cwes: BTreeSet<u32>,
    /// Lines in the block, from 1, both included.
    pub start_line: u32,
    pub end_line: u32,
    pub message: String,
}

/// A block of code to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Opaque; comes back with the outcome.
    pub id: String,
    pub code: String,
}

/// What became of one block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Outcome {
    /// Analysed; an empty list is clean.
    Analysed { findings: Vec<Finding> },
    /// The analyzer could not read the code. Not clean, and not the analyzer's fault.
    Unparsable { why: String },
    /// The analyzer failed, timed out or is missing. Never clean.
    Unscored { why: String },
}

/// Something that analyses blocks. `identity` names program, version and rule set: it is part of every score and of every
/// cache key.
pub trait Analyzer {
    fn identity(&self) -> String;

    /// One outcome per unit, in order. Never fails as a whole: what could not be analysed is [`Outcome::Unscored`].
    fn analyse(&mut self, units: &[Unit]) -> Vec<Outcome>;
}

impl Analyzer for Box<dyn Analyzer + Send> {
    fn identity(&self) -> String {
        (**self).identity()
    }

    fn analyse(&mut self, units: &[Unit]) -> Vec<Outcome> {
        (**self).analyse(units)
    }
}
