//! Choosing the next token from one row of logits. Plain Rust: the same everywhere, testable without a model.

use generate::{EngineError, Sampling};

/// Counter-based random numbers (SplitMix64): draw `index` of stream `seed` needs no state, so neither the batch nor a
/// restart can change it.
#[must_use]
pub fn uniform(seed: u64, index: u64) -> f64 {
    // 53 bits: every value is a multiple of 2^-53 in [0, 1)
    (bits(seed, index) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// 64 random bits: draw `index` of stream `seed`.
#[must_use]
pub fn bits(seed: u64, index: u64) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    // the seed goes through the mixer first: streams of neighbouring seeds must not overlap
    mix(mix(seed.wrapping_add(GOLDEN)).wrapping_add((index.wrapping_add(1)).wrapping_mul(GOLDEN)))
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A shuffled `0..n`, the same for the same seed.
#[must_use]
pub fn permutation(n: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        // multiply-shift; the bias of 2^-64 n is far below what could be seen
        let j = (u128::from(bits(seed, i as u64)) * (i as u128 + 1)) >> 64;
        order.swap(i, j as usize);
    }
    order
}

/// Checks a request's parameters.
///
/// # Errors
/// [`EngineError::BadParameter`] with the name and the allowed range.
pub fn check(s: &Sampling) -> Result<(), EngineError> {
    let ranges = [
        ("temperature", s.temperature, s.temperature >= 0.0 && s.temperature.is_finite(), "0 or more"),
        ("top_p", s.top_p, s.top_p > 0.0 && s.top_p <= 1.0, "more than 0, at most 1"),
        ("min_p", s.min_p, (0.0..1.0).contains(&s.min_p), "0 or more, less than 1"),
        (
            "repetition_penalty",
            s.repetition_penalty,
            s.repetition_penalty > 0.0 && s.repetition_penalty.is_finite(),
            "more than 0",
        ),
    ];
    for (name, value, ok, allowed) in ranges {
        if !ok {
            return Err(EngineError::BadParameter {
                name,
                why: format!("{value} is not allowed, must be {allowed}"),
            });
        }
    }
    if s.max_new_tokens == 0 {
        return Err(EngineError::BadParameter { name: "max_new_tokens", why: "must be at least 1".into() });
    }
    Ok(())
}

/// The chosen token and its log-probability under the unmodified distribution of `logits`. `history` (prompt and answer so
/// far) is for the repetition penalty; `u` in [0, 1) decides.
///
/// The order is that of transformers: repetition penalty, temperature, top-k, top-p, min-p. `None` when the row is not
/// finite.
#[must_use]
pub fn choose(logits: &[f32], s: &Sampling, history: &[u32], u: f64) -> Option<(u32, f32)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !max.is_finite() || logits.iter().any(|x| x.is_nan()) {
        return None;
    }
    let log_sum = f64::from(max) + logits.iter().map(|&x| f64::from(x - max).exp()).sum::<f64>().ln();
    let token = pick(logits, s, history, u);
    Some((token as u32, (f64::from(logits[token]) - log_sum) as f32))
}

fn pick(logits: &[f32], s: &Sampling, history: &[u32], u: f64) -> usize {
    let penalised;
    let row = if s.repetition_penalty == 1.0 {
        logits
    } else {
        penalised = penalise(logits, s.repetition_penalty as f32, history);
        &penalised
    };
    if s.temperature == 0.0 {
        return first_max(row);
    }
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |x: f32| (f64::from(x - max) / s.temperature).exp();
    if s.top_k == 0 && s.top_p >= 1.0 && s.min_p == 0.0 {
        let weights: Vec<f64> = row.iter().map(|&x| weight(x)).collect();
        return draw(weights.iter().copied().enumerate(), weights.iter().sum(), u);
    }
    let mut kept: Vec<(usize, f64)> = row.iter().map(|&x| weight(x)).enumerate().collect();
    // ties by index, so that the cut does not depend on the sort
    kept.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if s.top_k > 0 {
        kept.truncate(s.top_k as usize);
    }
    if s.top_p < 1.0 {
        let total: f64 = kept.iter().map(|k| k.1).sum();
        // a token stays while the mass before it is below top_p: at least one does
        let (mut before, mut n) = (0.0, 0);
        while n < kept.len() && before < s.top_p * total {
            before += kept[n].1;
            n += 1;
        }
        kept.truncate(n.max(1));
    }
    if s.min_p > 0.0 {
        let floor = s.min_p * kept[0].1;
        kept.retain(|k| k.1 >= floor);
    }
    let total = kept.iter().map(|k| k.1).sum();
    draw(kept.iter().copied(), total, u)
}

/// First index whose cumulated weight passes `u * total`.
fn draw(weights: impl Iterator<Item = (usize, f64)>, total: f64, u: f64) -> usize {
    let (mut sum, mut last) = (0.0, 0);
    for (i, w) in weights {
        if w > 0.0 {
            sum += w;
            last = i;
            if sum > u * total {
                return i;
            }
        }
    }
    last
}

fn first_max(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, &x) in row.iter().enumerate() {
        if x > row[best] {
            best = i;
        }
    }
    best
}

fn penalise(logits: &[f32], penalty: f32, history: &[u32]) -> Vec<f32> {
    let mut row = logits.to_vec();
    let mut seen = std::collections::HashSet::new();
    for &t in history {
        if let Some(x) = row.get_mut(t as usize).filter(|_| seen.insert(t)) {
            *x = if *x < 0.0 { *x * penalty } else { *x / penalty };
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [1.0, -0.5, 2.0, 0.0, 1.5, -3.0];

    fn frequencies(s: &Sampling, draws: u64) -> Vec<f64> {
        let mut n = vec![0u64; LOGITS.len()];
        for i in 0..draws {
            n[choose(&LOGITS, s, &[], uniform(7, i)).unwrap().0 as usize] += 1;
        }
        n.into_iter().map(|c| c as f64).collect()
    }

    #[test]
    fn draws_follow_the_softmax_by_chi_square() {
        let draws = 100_000;
        for temperature in [1.0, 0.7, 2.0] {
            let s = Sampling { temperature, ..Sampling::default() };
            let e: Vec<f64> = LOGITS.iter().map(|&x| (f64::from(x) / temperature).exp()).collect();
            let total: f64 = e.iter().sum();
            let chi: f64 = frequencies(&s, draws)
                .iter()
                .zip(&e)
                .map(|(n, e)| {
                    let want = draws as f64 * e / total;
                    (n - want).powi(2) / want
                })
                .sum();
            assert!(chi < 20.5, "chi-square {chi} with 5 degrees of freedom exceeds the 0.999 quantile");
        }
    }

    #[test]
    fn truncation_keeps_what_transformers_keeps() {
        let support = |s: &Sampling| -> Vec<usize> {
            frequencies(s, 20_000).iter().enumerate().filter(|(_, n)| **n > 0.0).map(|(i, _)| i).collect()
        };
        let base = Sampling::default();
        assert_eq!(support(&Sampling { top_k: 2, ..base.clone() }), [2, 4]);
        // probabilities: 0.413 0.250 0.152 0.056 0.034 0.003 in the order 2 4 0 3 1 5
        assert_eq!(support(&Sampling { top_p: 0.5, ..base.clone() }), [2, 4]);
        assert_eq!(support(&Sampling { top_p: 0.01, ..base.clone() }), [2]);
        assert_eq!(support(&Sampling { min_p: 0.3, ..base }), [0, 2, 4]);
    }

    #[test]
    fn greedy_takes_the_first_maximum_and_the_penalty_moves_it() {
        let s = Sampling { temperature: 0.0, ..Sampling::default() };
        assert_eq!(choose(&LOGITS, &s, &[], 0.9).unwrap().0, 2);
        assert_eq!(choose(&[1.0, 1.0], &s, &[], 0.9).unwrap().0, 0);
        let s = Sampling { repetition_penalty: 2.0, ..s };
        assert_eq!(choose(&LOGITS, &s, &[2, 2], 0.9).unwrap().0, 4);
    }

    #[test]
    fn the_logprob_is_of_the_unmodified_distribution() {
        let s = Sampling { temperature: 0.1, top_k: 1, ..Sampling::default() };
        let (token, logprob) = choose(&LOGITS, &s, &[], 0.3).unwrap();
        let sum: f64 = LOGITS.iter().map(|&x| f64::from(x).exp()).sum();
        assert!((f64::from(logprob) - (2.0 - sum.ln())).abs() < 1e-6 && token == 2);
        assert!(choose(&[f32::NAN, 0.0], &s, &[], 0.3).is_none());
    }

    #[test]
    fn permutations_are_whole_and_differ_by_seed() {
        let mut p = permutation(50, 3);
        assert_ne!(p, permutation(50, 4));
        assert_eq!(p, permutation(50, 3));
        p.sort_unstable();
        assert_eq!(p, (0..50).collect::<Vec<_>>());
    }
}
