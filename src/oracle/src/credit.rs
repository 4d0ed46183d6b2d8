//! From executed tests to the functional reward (specs: securecoderl.md 6).

use record::params::{Profile, RewardMode};
use serde::{Deserialize, Serialize};

/// How far a program came; the ladder of partial credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// No program, or one that does not parse.
    Invalid,
    /// Parses, but no test ends well.
    Parses,
    /// Some test ends with status 0.
    Runs,
    /// Some test ends with status 0 and printed something.
    Prints,
    /// Some test passes.
    PassesSome,
    PassesAll,
}

impl Stage {
    pub const ALL: [Stage; 6] =
        [Stage::Invalid, Stage::Parses, Stage::Runs, Stage::Prints, Stage::PassesSome, Stage::PassesAll];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Invalid => "invalid",
            Stage::Parses => "parses",
            Stage::Runs => "runs",
            Stage::Prints => "prints",
            Stage::PassesSome => "passes_some",
            Stage::PassesAll => "passes_all",
        }
    }
}

/// What one test showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TestRun {
    /// Left by itself with status 0.
    pub exit_ok: bool,
    /// Printed something that is not blank. A run that was stopped for time has printed nothing: its output is not
    /// whole.
    pub printed: bool,
    /// The output is the expected one, whatever the exit status.
    pub matched: bool,
}

impl TestRun {
    /// Right output and a clean exit.
    #[must_use]
    pub fn passed(self) -> bool {
        self.exit_ok && self.matched
    }
}

/// What all tests of a program showed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Execution {
    pub parses: bool,
    /// One entry per test of the problem; empty only where the problem has none or the program does not parse.
    pub tests: Vec<TestRun>,
    /// Printed the same non-blank text in every test of a problem whose answers differ: a guess, not a program.
    #[serde(default)]
    pub constant: bool,
    /// Milliseconds of the runs themselves.
    #[serde(default)]
    pub run_ms: f64,
}

impl Execution {
    /// Text that is no program.
    #[must_use]
    pub fn invalid() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn passed(&self) -> usize {
        self.tests.iter().filter(|t| t.passed()).count()
    }

    /// The highest stage that any test reached.
    #[must_use]
    pub fn stage(&self) -> Stage {
        let any = |holds: fn(&TestRun) -> bool| self.tests.iter().any(holds);
        match self.passed() {
            _ if !self.parses => Stage::Invalid,
            n if n > 0 && n == self.tests.len() => Stage::PassesAll,
            n if n > 0 => Stage::PassesSome,
            _ if any(|t| t.exit_ok && t.printed) => Stage::Prints,
            _ if any(|t| t.exit_ok) => Stage::Runs,
            _ => Stage::Parses,
        }
    }
}

/// The functional reward in 0..=1. `None`: the problem has no tests, so nothing was shown (`corrected` only; the
/// published rule pays 1 for anything that compiles then).
///
/// `corrected` partial credit is the mean over tests of that test's stage: 0.2 it parses, 0.4 it ends with status 0, 0.6
/// and printed something, 1.0 and that is right. `as-published` adds the stages up over tests with "any" and does not
/// ask for the exit status of a pass (specs: securecoderl.md 6.1, 21.13).
#[must_use]
pub fn functional(profile: Profile, mode: RewardMode, run: &Execution) -> Option<f64> {
    let tests = &run.tests;
    if !run.parses {
        return Some(0.0);
    }
    if tests.is_empty() {
        return match profile {
            Profile::Corrected => None,
            Profile::AsPublished => Some(1.0),
        };
    }
    let n = tests.len() as f64;
    Some(match (profile, mode) {
        // in both profiles: every test exits 0 and matches
        (_, RewardMode::Binary) => f64::from(u8::from(tests.iter().all(|t| t.passed()))),
        (Profile::Corrected, RewardMode::PartialCredit) => {
            tests
                .iter()
                .map(|t| match t {
                    t if t.passed() => 1.0,
                    t if t.exit_ok && t.printed => 0.6,
                    t if t.exit_ok => 0.4,
                    _ => 0.2,
                })
                .sum::<f64>()
                / n
        }
        (Profile::AsPublished, RewardMode::PartialCredit) => {
            let step = |reached: bool| if reached { 0.2 } else { 0.0 };
            let matched = tests.iter().filter(|t| t.matched).count() as f64;
            let reward = 0.2
                + step(tests.iter().any(|t| t.exit_ok))
                + step(tests.iter().any(|t| t.printed))
                + 0.4 * matched / n;
            reward.min(1.0)
        }
    })
}

/// The joint reward `alpha * R_func + (1 - alpha) * R_sec`. In the `corrected` profile security counts only for programs
/// that parse: otherwise garbage earns the whole security part (specs: securecoderl.md 21.12).
#[must_use]
pub fn joint(profile: Profile, alpha: f64, functional: f64, security: f64, parses: bool) -> f64 {
    let security = if profile == Profile::Corrected && !parses { 0.0 } else { security };
    alpha * functional + (1.0 - alpha) * security
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASS: TestRun = TestRun { exit_ok: true, printed: true, matched: true };
    const WRONG: TestRun = TestRun { exit_ok: true, printed: true, matched: false };
    const SILENT: TestRun = TestRun { exit_ok: true, printed: false, matched: false };
    const CRASH: TestRun = TestRun { exit_ok: false, printed: false, matched: false };
    const PRINT_CRASH: TestRun = TestRun { exit_ok: false, printed: true, matched: false };
    const RIGHT_CRASH: TestRun = TestRun { exit_ok: false, printed: true, matched: true };
    const BLANK_RIGHT: TestRun = TestRun { exit_ok: true, printed: false, matched: true };

    fn reward(profile: Profile, mode: RewardMode, tests: &[TestRun]) -> f64 {
        let run = Execution { parses: true, tests: tests.to_vec(), ..Execution::default() };
        functional(profile, mode, &run).unwrap()
    }
    fn published(tests: &[TestRun]) -> f64 {
        reward(Profile::AsPublished, RewardMode::PartialCredit, tests)
    }
    fn corrected(tests: &[TestRun]) -> f64 {
        reward(Profile::Corrected, RewardMode::PartialCredit, tests)
    }
    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    }

    #[test]
    fn the_published_table_holds() {
        close(published(&[CRASH, CRASH]), 0.2);
        close(published(&[PRINT_CRASH, PRINT_CRASH]), 0.4);
        close(published(&[SILENT, SILENT]), 0.4);
        close(published(&[WRONG, WRONG]), 0.6);
        close(published(&[RIGHT_CRASH, RIGHT_CRASH]), 0.8);
        close(published(&[SILENT, PRINT_CRASH]), 0.6);
        close(published(&[PASS, WRONG, WRONG]), 0.2 + 0.2 + 0.2 + 0.4 / 3.0);
        close(published(&[PASS, WRONG, CRASH]), 0.733_333_333_333);
        close(published(&[BLANK_RIGHT, BLANK_RIGHT]), 0.8);
        close(published(&[PASS]), 1.0);
    }

    #[test]
    fn corrected_credit_is_the_mean_of_each_tests_own_stage() {
        close(corrected(&[PASS, WRONG, CRASH]), (1.0 + 0.6 + 0.2) / 3.0);
        close(corrected(&[PRINT_CRASH, PRINT_CRASH]), 0.2);
        close(corrected(&[RIGHT_CRASH, RIGHT_CRASH]), 0.2);
        close(corrected(&[SILENT, PRINT_CRASH]), 0.3);
        close(corrected(&[BLANK_RIGHT]), 1.0);
        close(corrected(&[PASS, PASS]), 1.0);
    }

    #[test]
    fn corrected_credit_never_falls_when_a_test_does_better() {
        let ladder = [CRASH, SILENT, WRONG, PASS];
        for others in [[CRASH, PASS], [WRONG, SILENT]] {
            let scores: Vec<f64> = ladder.iter().map(|t| corrected(&[*t, others[0], others[1]])).collect();
            assert!(scores.windows(2).all(|w| w[0] < w[1]), "{scores:?}");
        }
    }

    #[test]
    fn binary_needs_every_test_and_a_clean_exit_in_both_profiles() {
        for profile in [Profile::AsPublished, Profile::Corrected] {
            let binary = |tests: &[TestRun]| reward(profile, RewardMode::Binary, tests);
            close(binary(&[PASS, PASS]), 1.0);
            close(binary(&[PASS, WRONG]), 0.0);
            close(binary(&[PASS, RIGHT_CRASH]), 0.0);
        }
    }

    #[test]
    fn text_that_does_not_parse_earns_nothing_and_no_tests_show_nothing() {
        let empty = Execution { parses: true, ..Execution::default() };
        for mode in [RewardMode::Binary, RewardMode::PartialCredit] {
            for profile in [Profile::AsPublished, Profile::Corrected] {
                assert_eq!(functional(profile, mode, &Execution::invalid()), Some(0.0));
            }
            assert_eq!(functional(Profile::Corrected, mode, &empty), None);
            assert_eq!(functional(Profile::AsPublished, mode, &empty), Some(1.0));
        }
    }

    #[test]
    fn joint_rewards_agree_with_the_published_arithmetic() {
        let p = Profile::AsPublished;
        close(joint(p, 0.6, 0.733_333_333_333, 0.5, true), 0.64);
        for (functional, expected) in [(0.0, 0.4), (0.2, 0.52), (0.4, 0.64), (0.6, 0.76), (1.0, 1.0)] {
            close(joint(p, 0.6, functional, 1.0, functional > 0.0), expected);
        }
        close(joint(p, 0.6, 1.0, 0.0, true), 0.6);
        close(joint(Profile::Corrected, 0.6, 0.0, 1.0, false), 0.0);
    }

    #[test]
    fn stages_are_the_highest_that_any_test_reached() {
        let stage = |tests: &[TestRun]| {
            Execution { parses: true, tests: tests.to_vec(), ..Execution::default() }.stage()
        };
        assert_eq!(Execution::invalid().stage(), Stage::Invalid);
        assert_eq!(stage(&[CRASH, PRINT_CRASH, RIGHT_CRASH]), Stage::Parses);
        assert_eq!(stage(&[CRASH, SILENT]), Stage::Runs);
        assert_eq!(stage(&[CRASH, WRONG]), Stage::Prints);
        assert_eq!(stage(&[CRASH, PASS]), Stage::PassesSome);
        assert_eq!(stage(&[PASS, BLANK_RIGHT]), Stage::PassesAll);
        assert_eq!(stage(&[]), Stage::Parses);
    }
}
