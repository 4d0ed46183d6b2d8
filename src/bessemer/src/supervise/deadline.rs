//! When to ask the worker to leave, and when to make it.

use std::time::Duration;

/// Seconds of our own since the job began, without the time in which the whole job was stopped (a suspended job's
/// limit stands still; specs: section 3.2). Fed with the monotonic clock; pure, so that it can be tested.
#[derive(Debug, Clone)]
pub struct Elapsed {
    total: Duration,
    last: Duration,
}

/// A gap between two looks at the clock that no busy machine explains: the job was suspended.
const STOPPED: Duration = Duration::from_secs(30);

impl Elapsed {
    /// `already` has passed before the supervisor started (set-up lines of the site); `now` is the monotonic clock.
    pub fn new(already: Duration, now: Duration) -> Self {
        Self { total: already, last: now }
    }

    /// Takes a look at the clock; `expected` is how long we meant to sleep since the last look.
    pub fn tick(&mut self, now: Duration, expected: Duration) -> Duration {
        let dt = now.saturating_sub(self.last);
        self.last = now;
        self.total += if dt > expected + STOPPED { expected } else { dt };
        self.total
    }

    pub fn total(&self) -> Duration {
        self.total
    }
}

/// The two moments of a deadline, in elapsed time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// Ask for a checkpoint.
    pub ask: Duration,
    /// Kill, so that there is time left to write the record before the scheduler kills us.
    pub kill: Duration,
}

impl Deadline {
    /// A margin as long as the walltime leaves the worker half the walltime rather than nothing.
    pub fn new(walltime: Duration, margin: Duration) -> Self {
        let margin = if margin < walltime { margin } else { walltime / 2 };
        let last = (margin / 5).min(Duration::from_secs(20));
        Self { ask: walltime - margin, kill: walltime - last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_suspended_job_does_not_age() {
        let mut e = Elapsed::new(s(5), s(1000));
        assert_eq!(e.tick(s(1002), s(2)), s(7));
        assert_eq!(e.tick(s(1010), s(2)), s(15), "a busy machine is no suspension");
        assert_eq!(e.tick(s(5010), s(2)), s(17), "an hour asleep counts as the two seconds asked for");
    }

    #[test]
    fn the_worker_is_asked_a_margin_early_and_killed_before_the_scheduler_does() {
        assert_eq!(Deadline::new(s(3600), s(300)), Deadline { ask: s(3300), kill: s(3580) });
        assert_eq!(Deadline::new(s(60), s(52)).ask, s(8), "a wide margin is the user's wish");
        assert_eq!(Deadline::new(s(60), s(300)), Deadline { ask: s(30), kill: s(54) });
    }
}
