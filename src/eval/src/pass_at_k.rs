//! pass@k, unbiased.

/// Probability that at least one of `k` answers drawn without replacement from `n`, of which `c` pass, passes:
/// 1 - C(n-c, k) / C(n, k), computed as a product so that nothing overflows (Chen et al. 2021, equation 1).
///
/// `None` when `n < k` or `c > n`: the estimator does not exist, and any stand-in would be biased.
#[must_use]
pub fn pass_at_k(n: u64, c: u64, k: u64) -> Option<f64> {
    if k == 0 || n < k || c > n {
        return None;
    }
    if n - c < k {
        return Some(1.0);
    }
    // product over the passing ones: each takes one chance of drawing only failures away
    let miss: f64 = (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product();
    Some(1.0 - miss)
}

/// pass@k of each problem from its answers' verdicts; problems with fewer than `k` judged answers give `None`.
#[must_use]
pub fn pass_at_k_of(verdicts: &[Vec<bool>], k: u64) -> Vec<Option<f64>> {
    verdicts.iter().map(|v| pass_at_k(v.len() as u64, v.iter().filter(|p| **p).count() as u64, k)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: Option<f64>, b: f64) {
        assert!((a.unwrap() - b).abs() < 1e-12, "{a:?} is not {b}");
    }

    #[test]
    fn small_cases_agree_with_counting_by_hand() {
        close(pass_at_k(5, 2, 1), 0.4);
        // of the C(5,2) = 10 pairs, C(3,2) = 3 hold no passing answer
        close(pass_at_k(5, 2, 2), 0.7);
        close(pass_at_k(4, 1, 3), 0.75);
        close(pass_at_k(10, 0, 7), 0.0);
        close(pass_at_k(10, 10, 1), 1.0);
        close(pass_at_k(3, 2, 2), 1.0);
    }

    #[test]
    fn one_draw_is_the_share_even_with_very_many_answers() {
        close(pass_at_k(10_000_000, 2_500_000, 1), 0.25);
        assert!(pass_at_k(100_000, 50, 1000).unwrap() < 1.0);
    }

    #[test]
    fn what_cannot_be_estimated_is_none() {
        assert_eq!(pass_at_k(3, 1, 4), None);
        assert_eq!(pass_at_k(3, 1, 0), None);
        assert_eq!(pass_at_k(3, 4, 1), None);
        assert_eq!(pass_at_k_of(&[vec![true, false], vec![true]], 2), [Some(1.0), None]);
    }
}
