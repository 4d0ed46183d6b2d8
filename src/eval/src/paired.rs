//! Differences between two models on the same problems.

use crate::bootstrap::{Interval, mean, quantile};
use corpus::Rng;

/// Mean of `b - a` over problems.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    pub interval: Interval,
    /// Two-sided bootstrap p-value of "no difference": never 0, since the resamples are finite.
    pub p: f64,
    pub problems: usize,
}

/// Paired bootstrap: resamples problems and takes both models' values of each, which removes the problems' difficulty
/// from the noise. Entries of `a` and `b` belong together; pairs with a missing side are left out. `None` without pairs.
#[must_use]
pub fn paired_difference(
    a: &[Option<f64>],
    b: &[Option<f64>],
    resamples: u32,
    seed: u64,
) -> Option<Difference> {
    let differences: Vec<f64> = a.iter().zip(b).filter_map(|(a, b)| Some((*b)? - (*a)?)).collect();
    if differences.is_empty() {
        return None;
    }
    let n = differences.len();
    let mut rng = Rng::named(seed, "paired bootstrap");
    let mut means: Vec<f64> = (0..resamples.max(1))
        .map(|_| (0..n).map(|_| differences[rng.index(n)]).sum::<f64>() / n as f64)
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    let at_most = means.iter().filter(|m| **m <= 0.0).count();
    let at_least = means.iter().filter(|m| **m >= 0.0).count();
    let p = 2.0 * (at_most.min(at_least) + 1) as f64 / (means.len() + 1) as f64;
    Some(Difference {
        interval: Interval {
            value: mean(&differences),
            low: quantile(&means, 0.025),
            high: quantile(&means, 0.975),
        },
        p: p.min(1.0),
        problems: n,
    })
}

/// Exact two-sided McNemar test for one answer per problem: `gained` problems pass only with the second model, `lost`
/// only with the first. Under "no difference" each is a fair coin.
#[must_use]
pub fn mcnemar(gained: u64, lost: u64) -> f64 {
    let n = gained + lost;
    let few = gained.min(lost);
    // sum of C(n, i) / 2^n in logarithms: n may be thousands
    let ln_half_n = -(n as f64) * std::f64::consts::LN_2;
    let mut ln_choose = 0.0;
    let mut tail = 0.0;
    for i in 0..=few {
        if i > 0 {
            ln_choose += ((n - i + 1) as f64).ln() - (i as f64).ln();
        }
        tail += (ln_choose + ln_half_n).exp();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcnemar_agrees_with_coin_tosses_counted_by_hand() {
        assert!((mcnemar(0, 0) - 1.0).abs() < 1e-12);
        assert!((mcnemar(5, 0) - 2.0 / 32.0).abs() < 1e-12);
        assert!((mcnemar(0, 5) - mcnemar(5, 0)).abs() < 1e-15);
        // 2 * (1 + 8 + 28) / 256
        assert!((mcnemar(2, 6) - 74.0 / 256.0).abs() < 1e-12);
        assert!((mcnemar(4, 4) - 1.0).abs() < 1e-12);
        let many = mcnemar(3000, 2000);
        assert!(many > 0.0 && many < 1e-30, "{many}");
    }

    #[test]
    fn a_clear_difference_is_seen_and_none_is_not() {
        let a: Vec<Option<f64>> = (0..50).map(|i| Some(f64::from(i % 3) / 4.0)).collect();
        let better: Vec<Option<f64>> = a.iter().map(|v| v.map(|v| v + 0.2)).collect();
        let d = paired_difference(&a, &better, 2000, 1).unwrap();
        assert!((d.interval.value - 0.2).abs() < 1e-9 && (d.interval.low - 0.2).abs() < 1e-9);
        assert!(d.p < 0.01);
        let same = paired_difference(&a, &a, 2000, 1).unwrap();
        assert!((same.p - 1.0).abs() < 1e-12 && same.interval.low == 0.0);
    }

    #[test]
    fn pairs_with_a_missing_side_are_left_out() {
        let d =
            paired_difference(&[Some(0.0), None, Some(1.0)], &[Some(1.0), Some(1.0), None], 10, 1).unwrap();
        assert_eq!((d.problems, d.interval.value), (1, 1.0));
        assert_eq!(paired_difference(&[None], &[Some(1.0)], 10, 1), None);
    }
}
