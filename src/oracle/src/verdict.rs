//! What an oracle says about one answer.

use serde::{Deserialize, Serialize};

/// Three values: what could not be judged is never a success and never a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Pass,
    Fail,
    Unscored,
}

/// One oracle's word on one answer: a cell of the reward ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// Name of the oracle.
    pub oracle: String,
    pub verdict: Verdict,
    /// In 0..=1; `None` exactly when the verdict is unscored.
    pub score: Option<f64>,
    /// Why, for people.
    pub reason: String,
    /// Milliseconds that judging took; 0 for a verdict that was looked up.
    #[serde(default)]
    pub ms: f64,
    /// What the oracle saw, for programs: stage and counts, findings, labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<serde_json::Value>,
}

impl Scored {
    /// Something that nobody could judge.
    #[must_use]
    pub fn unscored(oracle: &str, reason: impl Into<String>) -> Self {
        Self {
            oracle: oracle.to_owned(),
            verdict: Verdict::Unscored,
            score: None,
            reason: reason.into(),
            ms: 0.0,
            facts: None,
        }
    }

    /// A score; it is a pass at 1.
    #[must_use]
    pub fn of(oracle: &str, score: f64, reason: impl Into<String>) -> Self {
        let verdict = if score >= 1.0 { Verdict::Pass } else { Verdict::Fail };
        Self {
            oracle: oracle.to_owned(),
            verdict,
            score: Some(score),
            reason: reason.into(),
            ms: 0.0,
            facts: None,
        }
    }
}
