//! Learning curves from `events.jsonl`.

use record::Event;
use std::collections::BTreeMap;

/// One reported value over the steps of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// `loss`, `reward`, ...
    pub name: String,
    /// (step, value), ascending steps, finite values only.
    pub points: Vec<(u64, f64)>,
    /// Values that were not finite (a diverged run): shown as a number, they cannot be drawn.
    pub not_finite: usize,
}

/// Curves over all attempts of one task, in order of attempts. A later attempt goes on from a checkpoint: whatever an
/// earlier one reported at or beyond the later one's first step was thrown away with its process, and is left out.
#[must_use]
pub fn merge(attempts: &[Vec<Event>]) -> Vec<Curve> {
    let mut values: BTreeMap<&str, BTreeMap<u64, f64>> = BTreeMap::new();
    for events in attempts {
        let stepped = || events.iter().filter_map(|e| e.step.map(|step| (step, &e.values)));
        let Some(first) = stepped().filter(|(_, v)| !v.is_empty()).map(|(step, _)| step).min() else {
            continue;
        };
        for points in values.values_mut() {
            points.split_off(&first);
        }
        for (step, reported) in stepped() {
            for (name, value) in reported {
                values.entry(name).or_default().insert(step, *value);
            }
        }
    }
    values
        .into_iter()
        .map(|(name, points)| {
            let all = points.len();
            let points: Vec<_> = points.into_iter().filter(|(_, v)| v.is_finite()).collect();
            Curve { name: name.to_owned(), not_finite: all - points.len(), points }
        })
        .collect()
}

impl Curve {
    /// Centred moving average over `2 * half + 1` points (fewer at the ends), for noisy per-step values.
    #[must_use]
    pub fn smoothed(&self, half: usize) -> Vec<(u64, f64)> {
        let mut sums = Vec::with_capacity(self.points.len() + 1);
        sums.push(0.0);
        for (_, v) in &self.points {
            sums.push(sums[sums.len() - 1] + v);
        }
        (0..self.points.len())
            .map(|i| {
                // the same number on both sides, so that a trend is not bent at its ends
                let h = half.min(i).min(self.points.len() - 1 - i);
                let (from, to) = (i - h, i + h + 1);
                #[allow(clippy::cast_precision_loss)]
                (self.points[i].0, (sums[to] - sums[from]) / (to - from) as f64)
            })
            .collect()
    }
}

/// At most about `2 * buckets` points that keep every extreme: smallest and largest value of each bucket, in order of steps.
#[must_use]
pub fn thinned(points: &[(u64, f64)], buckets: usize) -> Vec<(u64, f64)> {
    if points.len() <= buckets * 2 {
        return points.to_vec();
    }
    let size = points.len().div_ceil(buckets);
    let mut out = Vec::with_capacity(buckets * 2);
    for bucket in points.chunks(size) {
        let by_value = |a: &&(u64, f64), b: &&(u64, f64)| a.1.total_cmp(&b.1);
        let (Some(low), Some(high)) = (bucket.iter().min_by(by_value), bucket.iter().max_by(by_value)) else {
            continue;
        };
        let (first, second) = if low.0 <= high.0 { (low, high) } else { (high, low) };
        out.push(*first);
        if first.0 != second.0 {
            out.push(*second);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(step: u64, loss: f64) -> Event {
        Event {
            at: 0,
            step: Some(step),
            of: None,
            values: BTreeMap::from([("loss".to_owned(), loss)]),
            note: None,
        }
    }

    #[test]
    fn a_resumed_attempt_replaces_what_it_did_again() {
        let first = vec![event(1, 5.0), event(2, 4.0), event(3, 3.0), event(4, f64::NAN)];
        let second = vec![event(3, 3.5), event(4, 2.5)];
        let curves = merge(&[first, second]);
        assert_eq!(curves[0].points, [(1, 5.0), (2, 4.0), (3, 3.5), (4, 2.5)]);
        assert_eq!(curves[0].not_finite, 0);
    }

    #[test]
    fn an_attempt_that_reported_nothing_erases_nothing() {
        let note = Event { at: 0, step: Some(0), of: Some(9), values: BTreeMap::new(), note: None };
        let curves = merge(&[vec![event(1, 1.0)], vec![note]]);
        assert_eq!(curves[0].points, [(1, 1.0)]);
    }

    #[test]
    fn values_that_cannot_be_drawn_are_counted() {
        let curves = merge(&[vec![event(1, 1.0), event(2, f64::INFINITY)]]);
        assert_eq!((curves[0].points.len(), curves[0].not_finite), (1, 1));
    }

    #[test]
    fn smoothing_keeps_a_straight_line_straight() {
        let points: Vec<_> = (0..50).map(|i| (i, 2.0 * i as f64)).collect();
        let curve = Curve { name: "x".into(), points: points.clone(), not_finite: 0 };
        for (a, b) in curve.smoothed(5).iter().zip(&points) {
            assert!((a.1 - b.1).abs() < 1e-9, "{a:?} {b:?}");
        }
    }

    #[test]
    fn thinning_keeps_the_extremes_and_the_order() {
        let mut points: Vec<_> = (0..10_000).map(|i| (i, (i as f64).sin())).collect();
        points[7777].1 = 100.0;
        let thin = thinned(&points, 100);
        assert!(thin.len() <= 200);
        assert!(thin.contains(&(7777, 100.0)));
        assert!(thin.windows(2).all(|w| w[0].0 < w[1].0));
    }
}
