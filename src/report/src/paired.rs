//! Differences between two models on the same problems, problem by problem.

use crate::rows::{Group, groups};
use crate::sweep::{Sweep, TaskRun};
use record::layout;
use record::metric::ProblemScores;
use std::collections::BTreeMap;

/// Resamples of the percentile bootstrap.
pub const RESAMPLES: usize = 10_000;

/// `a - b` of one metric over the problems that both scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    pub phase: String,
    pub a: String,
    pub b: String,
    pub metric: String,
    pub difference: f64,
    /// 95 % percentile bootstrap over problems; the seeds of each side are averaged per problem first.
    pub low: f64,
    pub high: f64,
    /// Problems that both sides scored.
    pub n: usize,
    /// Problems on which `a` is better / worse.
    pub better: usize,
    pub worse: usize,
}

/// Every pair of groups of every phase that left per-problem scores; with many groups, each against the first one.
/// The intervals are per comparison, not adjusted for their number. Files that could not be read are named in the
/// second part: their groups are left out.
#[must_use]
pub fn differences(sweep: &Sweep) -> (Vec<Difference>, Vec<String>) {
    const ALL_PAIRS_UP_TO: usize = 7;
    let mut found = Vec::new();
    let mut warnings = Vec::new();
    for (phase, of_phase) in groups(sweep) {
        let scored: Vec<(&str, Scores)> = of_phase
            .iter()
            .filter_map(|g| match scores_of(g) {
                Ok(scores) if scores.is_empty() => None,
                Ok(scores) => Some((g.name.as_str(), scores)),
                Err(e) => {
                    warnings.push(e);
                    None
                }
            })
            .collect();
        for (i, (b, of_b)) in scored.iter().enumerate() {
            if i > 0 && scored.len() > ALL_PAIRS_UP_TO {
                break;
            }
            for (a, of_a) in &scored[i + 1..] {
                for (metric, in_a) in of_a {
                    let Some(in_b) = of_b.get(metric) else { continue };
                    let pairs: Vec<f64> =
                        in_a.iter().filter_map(|(problem, x)| Some(x - in_b.get(problem)?)).collect();
                    if let Some((difference, low, high)) = bootstrap(&pairs, RESAMPLES) {
                        found.push(Difference {
                            phase: phase.to_owned(),
                            a: (*a).to_owned(),
                            b: (*b).to_owned(),
                            metric: metric.clone(),
                            difference,
                            low,
                            high,
                            n: pairs.len(),
                            better: pairs.iter().filter(|d| **d > 0.0).count(),
                            worse: pairs.iter().filter(|d| **d < 0.0).count(),
                        });
                    }
                }
            }
        }
    }
    (found, warnings)
}

/// Metric -> problem -> mean over samples and seeds.
type Scores = BTreeMap<String, BTreeMap<String, f64>>;

/// Averages the group's seeds per problem. A problem counts only where every seed scored it: else the sides would
/// differ in more than the model.
fn scores_of(group: &Group) -> Result<Scores, String> {
    let mut sums: BTreeMap<String, BTreeMap<String, (f64, usize)>> = BTreeMap::new();
    let mut read = 0;
    for task in &group.tasks {
        let Some(rows) = read_scores(task)? else { continue };
        read += 1;
        for row in rows {
            for (metric, value) in row.scores {
                let entry = sums.entry(metric).or_default().entry(row.problem.clone()).or_insert((0.0, 0));
                entry.0 += value;
                entry.1 += 1;
            }
        }
    }
    if read < group.tasks.len() {
        return Ok(Scores::new());
    }
    Ok(sums
        .into_iter()
        .map(|(metric, problems)| {
            let whole = problems.into_iter().filter(|(_, (_, n))| *n == read);
            #[allow(clippy::cast_precision_loss)]
            (metric, whole.map(|(p, (sum, n))| (p, sum / n as f64)).collect())
        })
        .collect())
}

/// `Ok(None)`: this task left no per-problem scores.
fn read_scores(task: &TaskRun) -> Result<Option<Vec<ProblemScores>>, String> {
    let Some(path) = task.out_dir.as_ref().map(|d| d.join(layout::SCORES)) else { return Ok(None) };
    let text = match std::fs::read_to_string(&path) {
        Ok(t) => t,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("cannot read {}: {e}", path.display())),
    };
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| serde_json::from_str(line).map_err(|e| format!("{}:{}: {e}", path.display(), i + 1)))
        .collect::<Result<_, _>>()
        .map(Some)
}

/// Mean and 95 % percentile interval of it; `None` with fewer than two values. Deterministic: the generator starts from
/// a constant, so that a report made twice shows the same numbers.
#[must_use]
pub fn bootstrap(values: &[f64], resamples: usize) -> Option<(f64, f64, f64)> {
    if values.len() < 2 || values.iter().any(|v| !v.is_finite()) {
        return None;
    }
    #[allow(clippy::cast_precision_loss)]
    let n = values.len() as f64;
    let mut rng = SplitMix(0x00be_55e3);
    let mut means: Vec<f64> = (0..resamples)
        .map(|_| (0..values.len()).map(|_| values[rng.below(values.len())]).sum::<f64>() / n)
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let at = |share: f64| means[((resamples - 1) as f64 * share).round() as usize];
    Some((values.iter().sum::<f64>() / n, at(0.025), at(0.975)))
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough for resampling, and the same everywhere.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0..n by multiplication; the bias is below n / 2^64.
    #[allow(clippy::cast_possible_truncation)]
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_difference_has_no_width_and_noise_around_zero_holds_zero() {
        assert_eq!(bootstrap(&[0.5; 40], 1000), Some((0.5, 0.5, 0.5)));
        let noise: Vec<f64> = (0..200).map(|i| if i % 2 == 0 { 0.3 } else { -0.3 }).collect();
        let (mean, low, high) = bootstrap(&noise, 2000).unwrap();
        assert!(mean.abs() < 1e-12 && low < 0.0 && high > 0.0);
        assert_eq!(bootstrap(&[1.0], 100), None, "one problem has no interval");
    }

    #[test]
    fn the_interval_has_the_width_of_the_normal_theory() {
        // mean of 400 values of +-1: standard error 0.05, so the interval is about +-0.098
        let values: Vec<f64> = (0..400).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let (_, low, high) = bootstrap(&values, RESAMPLES).unwrap();
        assert!((high - 0.098).abs() < 0.008 && (low + 0.098).abs() < 0.008, "{low} {high}");
    }
}
