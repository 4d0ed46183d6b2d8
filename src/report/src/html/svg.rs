//! Scales and ticks.

use crate::units::number;

/// A linear map from data to pixels.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub low: f64,
    pub high: f64,
    pub from: f64,
    pub to: f64,
}

impl Scale {
    /// Covers `values` and a little more; never empty, so that a constant can be drawn. `within` bounds the little more:
    /// an axis of rates must not suggest that there is something below 0 or above 1.
    pub fn around(
        values: impl IntoIterator<Item = f64>,
        margin: f64,
        within: (f64, f64),
        from: f64,
        to: f64,
    ) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for v in values.into_iter().filter(|v| v.is_finite()) {
            low = low.min(v);
            high = high.max(v);
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let pad = match high - low {
            0.0 if high == 0.0 => 1.0,
            0.0 => high.abs() * 0.05,
            span => span * margin,
        };
        let (padded_low, padded_high) = (low - pad, high + pad);
        Self {
            low: if low >= within.0 { padded_low.max(within.0) } else { padded_low },
            high: if high <= within.1 { padded_high.min(within.1) } else { padded_high },
            from,
            to,
        }
    }

    pub fn at(&self, v: f64) -> f64 {
        if self.high <= self.low {
            return f64::midpoint(self.from, self.to);
        }
        self.from + (v - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// About `count` round numbers inside the scale.
    pub fn ticks(&self, count: u32) -> Vec<f64> {
        let span = self.high - self.low;
        if !span.is_finite() || span <= 0.0 {
            return vec![self.low];
        }
        let rough = span / f64::from(count);
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough * 0.999);
        let step = step.unwrap_or(10.0 * power);
        let first = (self.low / step - 1e-9).ceil();
        (0..=50)
            .map(|i| (first + f64::from(i)) * step)
            .take_while(|v| *v <= self.high + step * 1e-9)
            .map(|v| if v.abs() < step * 1e-9 { 0.0 } else { v })
            .collect()
    }
}

/// A tick's label: no more digits than the ticks need.
pub fn tick_label(v: f64) -> String {
    let s = number(v);
    if s.contains('e') || !s.contains('.') {
        return if v.abs() >= 10_000.0 {
            format!("{}k", number(v / 1000.0).trim_end_matches(".0"))
        } else {
            s
        };
    }
    s.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let s = Scale { low: 0.13, high: 0.94, from: 0.0, to: 100.0 };
        assert_eq!(s.ticks(4).iter().map(|v| tick_label(*v)).collect::<Vec<_>>(), ["0.25", "0.5", "0.75"]);
        let s = Scale { low: 0.0, high: 150.0, from: 0.0, to: 100.0 };
        assert_eq!(s.ticks(3), [0.0, 50.0, 100.0, 150.0]);
        assert_eq!(tick_label(20_000.0), "20k");
    }

    #[test]
    fn a_scale_of_rates_stays_between_0_and_1_and_a_constant_can_be_drawn() {
        let s = Scale::around([0.0, 1.0], 0.1, (0.0, 1.0), 0.0, 10.0);
        assert_eq!((s.low, s.high), (0.0, 1.0));
        let s = Scale::around([2.0, 2.0], 0.1, (f64::MIN, f64::MAX), 0.0, 10.0);
        assert!(s.low < 2.0 && s.high > 2.0);
        assert!((s.at(2.0) - 5.0).abs() < 1e-9);
        let s = Scale::around([f64::NAN], 0.1, (f64::MIN, f64::MAX), 0.0, 10.0);
        assert!(s.at(0.5).is_finite());
    }
}
