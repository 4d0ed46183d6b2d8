//! Learning rate by step.

use record::params::Schedule;

/// Learning rate of step `step` (from 0) of `steps`, as a share of the peak: linear warm-up over `warmup` steps, then the
/// schedule down to 0 at the end. The same numbers as transformers' schedulers give for this step.
#[must_use]
pub fn share(schedule: Schedule, step: u64, warmup: u64, steps: u64) -> f64 {
    if step < warmup {
        return step as f64 / warmup.max(1) as f64;
    }
    let progress = (step - warmup) as f64 / (steps.saturating_sub(warmup)).max(1) as f64;
    match schedule {
        Schedule::Constant => 1.0,
        Schedule::Linear => (1.0 - progress).max(0.0),
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos()),
        // reflected exponential (Chen et al. 2021) with the constants that axolotl uses
        Schedule::Rex => {
            let left = (1.0 - progress).max(0.0);
            left / (0.1 + 0.9 * left)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_rises_to_the_peak_and_the_schedule_falls_to_zero() {
        let row = |s| [0, 1, 2, 6, 10].map(|k| share(s, k, 2, 10));
        assert_eq!(row(Schedule::Constant), [0.0, 0.5, 1.0, 1.0, 1.0]);
        assert_eq!(row(Schedule::Linear), [0.0, 0.5, 1.0, 0.5, 0.0]);
        let cosine = row(Schedule::Cosine);
        assert!((cosine[3] - 0.5).abs() < 1e-12 && cosine[4].abs() < 1e-12);
        assert_eq!(share(Schedule::Linear, 0, 0, 4), 1.0);
        let rex = row(Schedule::Rex);
        assert_eq!((rex[0], rex[2], rex[4]), (0.0, 1.0, 0.0));
        assert!((rex[3] - 0.5 / 0.55).abs() < 1e-12, "stays high for long, then falls: {rex:?}");
    }
}
