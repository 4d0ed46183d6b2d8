//! The metrics of one evaluation run.

use crate::bootstrap::mean_interval;
use crate::pass_at_k::pass_at_k;
use oracle::Stage;
use record::MetricRow;
use record::metric::ProblemScores;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One judged answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub problem: String,
    /// Part of the split that is also reported by itself (`new-values`, `new-family`).
    #[serde(default)]
    pub group: Option<String>,
    /// `None`: nobody could judge it.
    pub stage: Option<Stage>,
    /// Tests passed and tests in all; meaningful where `stage` is known.
    pub passed: u32,
    pub total: u32,
    /// Partial credit in 0..1.
    pub credit: Option<f64>,
    /// The token limit ended the answer.
    pub truncated: bool,
    /// It does nothing at all, or prints the same whatever it reads: credit that is no progress.
    #[serde(default)]
    pub hollow: bool,
    /// The declared reward, where the run declares one; `Some(None)`: it could not be judged.
    #[serde(default)]
    pub reward: Option<Option<f64>>,
}

/// Names of the metrics that a results table shows first.
#[must_use]
pub fn headline() -> [&'static str; 4] {
    ["partial_credit", "all_tests_pass_rate", "any_test_pass_rate", "syntax_rate"]
}

/// All metrics of a run: over everything, and over every group by itself (`partial_credit_new_values`).
///
/// Rates are means over problems of the mean over that problem's judged answers, so that a problem with unscored answers
/// weighs as much as the others. `resamples` and `seed` are the bootstrap's.
#[must_use]
pub fn metrics(samples: &[Sample], resamples: u32, seed: u64) -> Vec<MetricRow> {
    let all: Vec<&Sample> = samples.iter().collect();
    let mut rows = of_part(&all, "", resamples, seed);
    let mut groups: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    for s in samples {
        if let Some(group) = &s.group {
            groups.entry(group).or_default().push(s);
        }
    }
    for (group, part) in groups {
        rows.extend(of_part(&part, &format!("_{}", group.replace('-', "_")), resamples, seed));
    }
    rows
}

fn of_part(samples: &[&Sample], suffix: &str, resamples: u32, seed: u64) -> Vec<MetricRow> {
    let mut problems: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    for s in samples {
        problems.entry(&s.problem).or_default().push(s);
    }
    let unscored = samples.iter().filter(|s| s.stage.is_none()).count() as u64;
    let scored = samples.len() as u64 - unscored;
    let row = |metric: &str, per_problem: Vec<f64>, n: u64| {
        let interval = mean_interval(&per_problem, resamples, seed);
        MetricRow {
            metric: format!("{metric}{suffix}"),
            value: interval.map(|i| i.value),
            low: interval.map(|i| i.low),
            high: interval.map(|i| i.high),
            n,
            unscored,
        }
    };
    let mean_of = |value: &dyn Fn(&Sample) -> Option<f64>| -> Vec<f64> {
        problems
            .values()
            .filter_map(|answers| {
                let values: Vec<f64> = answers.iter().filter_map(|s| value(s)).collect();
                (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
            })
            .collect()
    };

    let mut rows: Vec<MetricRow> =
        BASIC.iter().map(|(metric, value)| row(metric, mean_of(value), scored)).collect();
    rows.extend(pass_rows(&problems, &row));
    if samples.iter().any(|s| s.reward.is_some()) {
        let judged = samples.iter().filter(|s| matches!(s.reward, Some(Some(_)))).count() as u64;
        let unscored = samples.len() as u64 - judged;
        let mean = mean_of(&|s| s.reward.flatten());
        rows.push(MetricRow { unscored, ..row("reward", mean, judged) });
    }
    if suffix.is_empty() {
        let truncated = mean_of(&|s| Some(f64::from(u8::from(s.truncated))));
        rows.push(MetricRow { unscored: 0, ..row("truncation_rate", truncated, samples.len() as u64) });
        let hollow = mean_of(&|s| s.stage.map(|_| f64::from(u8::from(s.hollow))));
        rows.push(row("hollow_rate", hollow, scored));
        for stage in Stage::ALL {
            rows.push(row(
                &format!("stage_{}", stage.name()),
                mean_of(&|s| s.stage.map(|reached| f64::from(u8::from(reached == stage)))),
                scored,
            ));
        }
    }
    rows
}

/// The basic metrics of every problem by itself, for paired comparisons of two runs over the same problems.
#[must_use]
pub fn problem_scores(samples: &[Sample]) -> Vec<ProblemScores> {
    let mut problems: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    for s in samples {
        problems.entry(&s.problem).or_default().push(s);
    }
    problems
        .into_iter()
        .map(|(problem, answers)| {
            let mut scores = BTreeMap::new();
            for (metric, value) in BASIC {
                let values: Vec<f64> = answers.iter().filter_map(|s| value(s)).collect();
                if !values.is_empty() {
                    scores.insert(metric.to_owned(), values.iter().sum::<f64>() / values.len() as f64);
                }
            }
            let n = answers.iter().filter(|s| s.stage.is_some()).count() as u64;
            ProblemScores { problem: problem.to_owned(), scores, n, unscored: answers.len() as u64 - n }
        })
        .collect()
}

/// A metric of one answer.
type OfSample = fn(&Sample) -> Option<f64>;

/// The metrics that exist for a single problem.
const BASIC: [(&str, OfSample); 5] = [
    ("partial_credit", |s| s.stage.and(s.credit)),
    ("all_tests_pass_rate", |s| at_least(s, Stage::PassesAll)),
    ("any_test_pass_rate", |s| at_least(s, Stage::PassesSome)),
    ("syntax_rate", |s| at_least(s, Stage::Parses)),
    ("test_pass_fraction", |s| s.stage.and(fraction(s))),
];

fn at_least(s: &Sample, stage: Stage) -> Option<f64> {
    s.stage.map(|reached| f64::from(u8::from(reached >= stage)))
}

fn fraction(s: &Sample) -> Option<f64> {
    (s.total > 0).then(|| f64::from(s.passed) / f64::from(s.total))
}

/// pass@k for k = 1, 2, 4, ... up to the number of answers per problem.
fn pass_rows(
    problems: &BTreeMap<&str, Vec<&Sample>>,
    row: &dyn Fn(&str, Vec<f64>, u64) -> MetricRow,
) -> Vec<MetricRow> {
    let most = problems.values().map(Vec::len).max().unwrap_or(0) as u64;
    let mut rows = Vec::new();
    let mut k = 1;
    while k <= most {
        let mut n = 0;
        let values: Vec<f64> = problems
            .values()
            .filter_map(|answers| {
                let stages: Vec<Stage> = answers.iter().filter_map(|s| s.stage).collect();
                let passed = stages.iter().filter(|s| **s == Stage::PassesAll).count() as u64;
                let value = pass_at_k(stages.len() as u64, passed, k)?;
                n += stages.len() as u64;
                Some(value)
            })
            .collect();
        rows.push(row(&format!("pass_at_{k}"), values, n));
        k *= 2;
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(problem: &str, stage: Option<Stage>, passed: u32, credit: Option<f64>) -> Sample {
        let group = Some(if problem.starts_with('n') { "new-family" } else { "new-values" }.to_owned());
        Sample {
            problem: problem.into(),
            group,
            stage,
            passed,
            total: 4,
            credit,
            truncated: false,
            hollow: false,
            reward: None,
        }
    }

    fn value(rows: &[MetricRow], name: &str) -> Option<f64> {
        rows.iter().find(|r| r.metric == name).unwrap_or_else(|| panic!("no {name}")).value
    }

    /// Two problems, two answers each, one of them unscored.
    fn run() -> Vec<Sample> {
        vec![
            sample("a", Some(Stage::PassesAll), 4, Some(1.0)),
            sample("a", Some(Stage::Invalid), 0, Some(0.0)),
            sample("n", Some(Stage::PassesSome), 1, Some(0.7)),
            sample("n", None, 0, None),
        ]
    }

    #[test]
    fn rates_agree_with_counting_by_hand() {
        let rows = metrics(&run(), 200, 1);
        assert_eq!(value(&rows, "all_tests_pass_rate"), Some(0.25));
        assert_eq!(value(&rows, "any_test_pass_rate"), Some(0.75));
        assert_eq!(value(&rows, "syntax_rate"), Some(0.75));
        assert_eq!(value(&rows, "partial_credit"), Some(0.6));
        assert_eq!(value(&rows, "test_pass_fraction"), Some((0.5 + 0.25) / 2.0));
        assert_eq!(value(&rows, "pass_at_1"), Some(0.25));
        // only problem a has two judged answers
        assert_eq!(value(&rows, "pass_at_2"), Some(1.0));
        assert_eq!(value(&rows, "stage_passes_some"), Some(0.5));
        assert_eq!(value(&rows, "all_tests_pass_rate_new_values"), Some(0.5));
        assert_eq!(value(&rows, "all_tests_pass_rate_new_family"), Some(0.0));
    }

    #[test]
    fn unscored_answers_are_counted_apart_and_judge_nothing() {
        let rows = metrics(&run(), 200, 1);
        let credit = rows.iter().find(|r| r.metric == "partial_credit").unwrap();
        assert_eq!((credit.n, credit.unscored), (3, 1));
        let nothing = metrics(&[sample("a", None, 0, None)], 200, 1);
        let credit = nothing.iter().find(|r| r.metric == "partial_credit").unwrap();
        assert_eq!((credit.value, credit.low, credit.n, credit.unscored), (None, None, 0, 1));
    }

    #[test]
    fn stage_shares_add_up_to_one() {
        let rows = metrics(&run(), 50, 1);
        let sum: f64 = Stage::ALL.iter().filter_map(|s| value(&rows, &format!("stage_{}", s.name()))).sum();
        assert!((sum - 1.0).abs() < 1e-12);
    }

    #[test]
    fn truncation_is_a_rate_over_all_answers() {
        let mut samples = run();
        samples[3].truncated = true;
        assert_eq!(value(&metrics(&samples, 50, 1), "truncation_rate"), Some(0.25));
    }

    #[test]
    fn scores_of_single_problems_average_to_the_metric() {
        let scores = problem_scores(&run());
        assert_eq!(scores.iter().map(|s| (s.n, s.unscored)).collect::<Vec<_>>(), [(2, 0), (1, 1)]);
        let mean = scores.iter().map(|s| s.scores["partial_credit"]).sum::<f64>() / 2.0;
        assert_eq!(value(&metrics(&run(), 50, 1), "partial_credit"), Some(mean));
        let nothing = problem_scores(&[sample("a", None, 0, None)]);
        assert!(nothing[0].scores.is_empty() && nothing[0].unscored == 1);
    }

    #[test]
    fn headline_metrics_exist() {
        let rows = metrics(&run(), 50, 1);
        for name in headline() {
            value(&rows, name);
        }
    }
}
