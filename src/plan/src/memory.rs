//! How much memory a task will need at its peak: arithmetic over a decoder's sizes and a task's parameters.
//!
//! The formulas and what they were checked against are in docs/MEMORY.md. A prediction assumes rows as long as the job
//! file allows; shorter ones need less.

mod advice;
mod fit;
mod generation;
mod parts;
mod shape;

pub(crate) use fit::check;
pub use parts::{Where, estimate};
pub use shape::Shape;

use serde::{Deserialize, Serialize};

/// One term of an estimate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub name: String,
    pub bytes: u64,
}

/// Peak memory of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// On the GPU; else resident in main memory.
    pub gpu: bool,
    pub bytes: u64,
    /// What is alive at the peak, largest first; adds up to `bytes`.
    pub parts: Vec<Part>,
    /// Tokens of the largest pass through the model.
    pub pass_tokens: u64,
}

impl Estimate {
    pub(crate) fn of(gpu: bool, pass_tokens: u64, parts: Vec<(&str, u64)>) -> Self {
        let mut parts: Vec<Part> = parts
            .into_iter()
            .filter(|(_, bytes)| *bytes > 0)
            .map(|(name, bytes)| Part { name: name.to_owned(), bytes })
            .collect();
        parts.sort_by_key(|p| std::cmp::Reverse(p.bytes));
        Self { gpu, bytes: parts.iter().map(|p| p.bytes).sum(), parts, pass_tokens }
    }

    /// In MB (10^6 bytes), rounded up.
    #[must_use]
    pub fn megabytes(&self) -> u64 {
        self.bytes.div_ceil(1_000_000)
    }

    /// `9.4 GB: weights 2.7, activations 5.1, ...`
    #[must_use]
    pub fn words(&self) -> String {
        let shown: Vec<&Part> = self.parts.iter().take(4).filter(|p| p.bytes > self.bytes / 100).collect();
        let parts: Vec<String> = shown.iter().map(|p| format!("{} {}", p.name, gigabytes(p.bytes))).collect();
        let more = if self.parts.len() > shown.len() { ", ..." } else { "" };
        format!("{} GB ({}{more})", gigabytes(self.bytes), parts.join(", "))
    }
}

/// `9.41`, `12.3`
#[allow(clippy::cast_precision_loss)]
pub(crate) fn gigabytes(bytes: u64) -> String {
    let gb = bytes as f64 / 1e9;
    if gb < 9.95 { format!("{gb:.2}") } else { format!("{gb:.1}") }
}
