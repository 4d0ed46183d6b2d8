//! Percentile bootstrap.

use corpus::Rng;

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// Mean of per-problem values with the 95 % percentile interval over resampled problems. The same seed gives the same
/// interval. `None` without values; with `resamples` 0 the interval is the value itself.
#[must_use]
pub fn mean_interval(values: &[f64], resamples: u32, seed: u64) -> Option<Interval> {
    if values.is_empty() {
        return None;
    }
    let value = mean(values);
    let mut means = resampled_means(values, resamples, seed);
    if means.is_empty() {
        return Some(Interval { value, low: value, high: value });
    }
    means.sort_unstable_by(f64::total_cmp);
    Some(Interval { value, low: quantile(&means, 0.025), high: quantile(&means, 0.975) })
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

pub(crate) fn resampled_means(values: &[f64], resamples: u32, seed: u64) -> Vec<f64> {
    let mut rng = Rng::named(seed, "bootstrap");
    let n = values.len();
    (0..resamples).map(|_| (0..n).map(|_| values[rng.index(n)]).sum::<f64>() / n as f64).collect()
}

/// Quantile of sorted values by linear interpolation between order statistics (what NumPy calls `linear`).
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (at - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        let v = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(quantile(&v, 0.0), 1.0);
        assert_eq!(quantile(&v, 1.0), 4.0);
        assert_eq!(quantile(&v, 0.5), 2.5);
        assert!((quantile(&v, 0.1) - 1.3).abs() < 1e-12);
    }

    #[test]
    fn the_interval_of_a_rate_is_close_to_the_normal_approximation() {
        // 44 of 100: 1.96 * sqrt(0.44 * 0.56 / 100) = 0.0973
        let values: Vec<f64> = (0..100).map(|i| f64::from(u8::from(i < 44))).collect();
        let i = mean_interval(&values, 10_000, 42).unwrap();
        assert!((i.value - 0.44).abs() < 1e-12);
        assert!((i.value - i.low - 0.0973).abs() < 0.012, "{i:?}");
        assert!((i.high - i.value - 0.0973).abs() < 0.012, "{i:?}");
    }

    #[test]
    fn intervals_are_reproducible_and_collapse_without_variation() {
        let values = [0.2, 0.9, 0.4, 0.4];
        assert_eq!(mean_interval(&values, 500, 1), mean_interval(&values, 500, 1));
        assert_ne!(mean_interval(&values, 500, 1), mean_interval(&values, 500, 2));
        let same = mean_interval(&[0.5; 9], 100, 1).unwrap();
        assert_eq!((same.low, same.high), (0.5, 0.5));
        assert_eq!(mean_interval(&[], 100, 1), None);
    }

    /// Coverage: of many samples of a known rate, about 95 % of the intervals must hold it.
    #[test]
    fn about_nineteen_of_twenty_intervals_hold_the_truth() {
        let mut rng = Rng::new(7);
        let mut held = 0;
        for trial in 0..300 {
            let values: Vec<f64> = (0..60).map(|_| f64::from(u8::from(rng.unit() < 0.3))).collect();
            let i = mean_interval(&values, 400, trial).unwrap();
            held += u32::from(i.low <= 0.3 && 0.3 <= i.high);
        }
        assert!((270..=297).contains(&held), "{held} of 300");
    }
}
