//! Choosing the next token from one row of logits. Plain Rust: the same everywhere, testable without a model.

use crate::native::{ops, simd};
use generate::{EngineError, Sampling};
use std::cell::RefCell;

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

/// Room for one row's weights, kept per thread.
#[derive(Default)]
struct Room {
    weights: Vec<f32>,
    /// Sums of [`ops::BLOCK`] weights.
    sums: Vec<f64>,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

impl Room {
    /// `exp((x - max) / temperature)` of a row.
    fn fill(&mut self, row: &[f32], max: f32, temperature: f64) {
        self.weights.resize(row.len(), 0.0);
        let scale = (1.0 / temperature) as f32;
        // SAFETY: the instruction set was found on this processor; both slices are of one length.
        unsafe { ops::exponentials(simd::isa(), row, max, scale, &mut self.weights, &mut self.sums) };
    }

    fn total(&self) -> f64 {
        self.sums.iter().sum()
    }

    /// First index whose cumulated weight passes `u` times the total.
    fn draw(&self, u: f64) -> usize {
        let (block, rest) = block_of(&self.sums, u);
        let from = block * ops::BLOCK;
        let to = self.weights.len().min(from + ops::BLOCK);
        from + draw(self.weights[from..to].iter().map(|&w| f64::from(w)).enumerate(), rest)
    }
}

/// First block whose cumulated weight passes `u` times the total, and how much of that falls into it.
pub(crate) fn block_of(sums: &[f64], u: f64) -> (usize, f64) {
    let wanted = u * sums.iter().sum::<f64>();
    let mut before = 0.0;
    for (block, sum) in sums.iter().enumerate() {
        if before + sum > wanted {
            return (block, wanted - before);
        }
        before += sum;
    }
    // rounding of the sums: the last one that can be drawn at all
    (sums.iter().rposition(|&sum| sum > 0.0).unwrap_or(0), f64::INFINITY)
}

/// The place in `block`, part of a row of logits whose largest is `max`, at which the weights pass `rest`.
pub(crate) fn draw_in(block: &[f32], max: f32, temperature: f64, rest: f64) -> usize {
    ROOM.with_borrow_mut(|room| {
        room.fill(block, max, temperature);
        draw(room.weights.iter().map(|&w| f64::from(w)).enumerate(), rest)
    })
}

/// The heaviest tokens of a row, heaviest first.
pub(crate) struct Head<'a> {
    pub ids: &'a [u32],
    pub logits: &'a [f32],
    /// The largest logit of the row.
    pub max: f32,
    /// Weight of the whole row at the sampling's temperature; only for top-p without top-k.
    pub mass: f64,
    /// There are no others.
    pub all: bool,
}

/// The place in `head` of what [`choose`] would draw from the whole row with a sampling that truncates; `None`: it takes more
/// of the row to tell.
pub(crate) fn draw_from(head: &Head<'_>, s: &Sampling, u: f64) -> Option<usize> {
    let weights: Vec<f64> = ROOM.with_borrow_mut(|room| {
        room.fill(head.logits, head.max, s.temperature);
        room.weights.iter().map(|&w| f64::from(w)).collect()
    });
    // what is not in the head weighs as much as its last one at the most
    let last = *weights.last()?;
    let mut order: Vec<usize> = (0..weights.len()).collect();
    let kept = if s.top_k == 0 && s.top_p >= 1.0 {
        let floor = s.min_p * weights[0];
        if !head.all && last >= floor {
            return None;
        }
        order.retain(|&i| weights[i] >= floor);
        order.sort_unstable_by_key(|&i| head.ids[i]);
        order
    } else {
        order
            .sort_unstable_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(head.ids[a].cmp(&head.ids[b])));
        let limit = if s.top_k > 0 { (s.top_k as usize).min(order.len()) } else { order.len() };
        let n = leading(order[..limit].iter().map(|&i| weights[i]), s, head.mass);
        // equal weights of which some are not here, or a nucleus that goes on beyond them
        if !head.all && weights[order[n - 1]] <= last {
            return None;
        }
        order.truncate(n);
        let floor = s.min_p * weights[order[0]];
        order.retain(|&i| weights[i] >= floor);
        order
    };
    let total: f64 = kept.iter().map(|&i| weights[i]).sum();
    let at = draw(kept.iter().map(|&i| weights[i]).enumerate(), u * total);
    kept.get(at).copied()
}

/// How many of the heaviest weights, which are those of top-k if that is asked for, top-p keeps: a token stays while the mass
/// before it is below top-p of the total. At least one.
fn leading(weights: impl Iterator<Item = f64> + Clone, s: &Sampling, mass: f64) -> usize {
    let total = if s.top_k > 0 { weights.clone().sum() } else { mass };
    let (mut before, mut n) = (0.0, 0);
    for w in weights {
        if s.top_p < 1.0 && before >= s.top_p * total {
            break;
        }
        before += w;
        n += 1;
    }
    n.max(1)
}

fn largest(row: &[f32]) -> f32 {
    // SAFETY: the instruction set was found on this processor.
    unsafe { ops::largest(simd::isa(), row) }
}

/// The chosen token and its log-probability under the unmodified distribution of `logits`. `history` (prompt and answer so
/// far) is for the repetition penalty; `u` in [0, 1) decides.
///
/// The order is that of transformers: repetition penalty, temperature, top-k, top-p, min-p. `None` when the row is not
/// finite.
#[must_use]
pub fn choose(logits: &[f32], s: &Sampling, history: &[u32], u: f64) -> Option<(u32, f32)> {
    let max = largest(logits);
    if !max.is_finite() {
        return None;
    }
    ROOM.with_borrow_mut(|room| {
        room.fill(logits, max, 1.0);
        let total = room.total();
        // a logit that is not a number makes the sum none either
        if !total.is_finite() {
            return None;
        }
        let log_sum = f64::from(max) + total.ln();
        let plain = s.repetition_penalty == 1.0 && s.temperature == 1.0;
        let token = if plain && !truncates(s) { room.draw(u) } else { pick(room, logits, s, history, u) };
        Some((token as u32, (f64::from(logits[token]) - log_sum) as f32))
    })
}

/// Whether only some of the tokens may be drawn.
pub(crate) fn truncates(s: &Sampling) -> bool {
    s.top_k > 0 || s.top_p < 1.0 || s.min_p > 0.0
}

fn pick(room: &mut Room, logits: &[f32], s: &Sampling, history: &[u32], u: f64) -> usize {
    let penalised;
    let row = if s.repetition_penalty == 1.0 {
        logits
    } else {
        penalised = penalise(logits, s.repetition_penalty as f32, history);
        &penalised
    };
    let max = largest(row);
    if s.temperature == 0.0 {
        return row.iter().position(|&x| x == max).unwrap_or(0);
    }
    room.fill(row, max, s.temperature);
    if !truncates(s) {
        return room.draw(u);
    }
    let kept = truncate(room, s);
    let total: f64 = kept.iter().map(|k| k.1).sum();
    draw(kept.iter().copied(), u * total)
}

/// Tokens that may be drawn with their weights.
fn truncate(room: &Room, s: &Sampling) -> Vec<(usize, f64)> {
    // ties by index, so that the cut does not depend on the sort
    let order = |a: &(usize, f64), b: &(usize, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let mut all: Vec<(usize, f64)> = room.weights.iter().map(|&w| f64::from(w)).enumerate().collect();
    if s.top_k == 0 && s.top_p >= 1.0 {
        let floor = s.min_p * all.iter().map(|k| k.1).fold(0.0, f64::max);
        all.retain(|k| k.1 >= floor);
        return all;
    }
    // sorting a whole vocabulary costs more than the step: the head of the list is enough nearly always
    let limit = if s.top_k > 0 { (s.top_k as usize).min(all.len()) } else { all.len() };
    let mut sorted = if s.top_k > 0 { limit } else { 512.min(limit) };
    let mass: f64 = if s.top_k > 0 { 0.0 } else { all.iter().map(|k| k.1).sum() };
    loop {
        if sorted < all.len() {
            all.select_nth_unstable_by(sorted, order);
        }
        all[..sorted].sort_unstable_by(order);
        let n = leading(all[..sorted].iter().map(|k| k.1), s, mass);
        if n == sorted && sorted < limit {
            sorted = (sorted * 8).min(limit);
            continue;
        }
        all.truncate(n);
        break;
    }
    let floor = s.min_p * all[0].1;
    all.retain(|k| k.1 >= floor);
    all
}

/// First index whose cumulated weight passes `wanted`.
fn draw(weights: impl Iterator<Item = (usize, f64)>, wanted: f64) -> usize {
    let (mut sum, mut last) = (0.0, 0);
    for (i, w) in weights {
        if w > 0.0 {
            sum += w;
            last = i;
            if sum > wanted {
                return i;
            }
        }
    }
    last
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
    fn truncation_of_a_large_vocabulary_equals_sorting_all_of_it() {
        let logits: Vec<f32> = (0..5000).map(|i| (uniform(3, i) * 4.0) as f32).collect();
        let all = Sampling { top_p: 0.9, ..Sampling::default() };
        for s in [
            all.clone(),
            Sampling { top_k: 700, ..all.clone() },
            Sampling { min_p: 0.2, ..all.clone() },
            Sampling { min_p: 0.2, top_p: 1.0, ..all.clone() },
            Sampling { top_p: 0.999, temperature: 2.0, ..all },
        ] {
            let mut want: Vec<(usize, f64)> =
                logits.iter().map(|&x| (f64::from(x) / s.temperature).exp()).enumerate().collect();
            want.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            want.truncate(if s.top_k > 0 { s.top_k as usize } else { 5000 });
            let total: f64 = want.iter().map(|w| w.1).sum();
            let mut before = 0.0;
            want.retain(|w| {
                before += w.1;
                before - w.1 < s.top_p * total
            });
            let floor = s.min_p * want[0].1;
            want.retain(|w| w.1 >= floor);
            let mut room = Room::default();
            room.fill(&logits, largest(&logits), s.temperature);
            let mut got = truncate(&room, &s);
            got.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let got: Vec<usize> = got.into_iter().map(|k| k.0).collect();
            // sums in another order may move the edge by one
            assert!(got.len().abs_diff(want.len()) <= 1, "{s:?}: {} {}", got.len(), want.len());
            assert!(got.iter().zip(&want).all(|(g, w)| *g == w.0), "{s:?}");
        }
    }

    #[test]
    fn draws_from_a_large_vocabulary_follow_the_softmax() {
        let logits: Vec<f32> = (0..3000).map(|i| (uniform(5, i) * 6.0) as f32).collect();
        let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        // 30 groups of 100 neighbours: 29 degrees of freedom
        let mut counts = [0u64; 30];
        let draws = 60_000;
        for i in 0..draws {
            let s = Sampling::default();
            counts[choose(&logits, &s, &[], uniform(11, i)).unwrap().0 as usize / 100] += 1;
        }
        let chi: f64 = counts
            .iter()
            .zip(logits.chunks(100))
            .map(|(&n, part)| {
                let want = draws as f64 * part.iter().map(|&x| f64::from(x).exp()).sum::<f64>() / total;
                (n as f64 - want).powi(2) / want
            })
            .sum();
        assert!(chi < 58.3, "chi-square {chi} with 29 degrees of freedom exceeds the 0.999 quantile");
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
