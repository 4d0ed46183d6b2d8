//! One number of the results, with its interval.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One row of `report --json`; `pandas.read_json(..., lines=False)` makes it a table row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MetricRow {
    /// Name of the metric, e.g. `all_tests_pass_rate`. Rates are in 0..1.
    pub metric: String,
    /// `None` when nothing could be scored: an unscored sample is never counted as a pass or a fail.
    pub value: Option<f64>,
    /// Lower end of the 95 % interval, where one was computed.
    pub low: Option<f64>,
    /// Upper end of the 95 % interval.
    pub high: Option<f64>,
    /// Samples behind `value`.
    pub n: u64,
    /// Samples that no oracle could judge; not part of `n`.
    #[serde(default)]
    pub unscored: u64,
}

/// What one problem scored in an evaluation, averaged over its scored samples: a line of `out/scores.jsonl`. Two
/// evaluations of the same problems are compared problem by problem, which sees far smaller differences than comparing
/// two intervals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProblemScores {
    /// Id of the problem; the same id is the same problem in every evaluation of a sweep.
    pub problem: String,
    /// Metric (as in [`MetricRow::metric`]) -> mean over the samples that could be scored.
    pub scores: BTreeMap<String, f64>,
    /// Samples behind the means.
    pub n: u64,
    #[serde(default)]
    pub unscored: u64,
}
