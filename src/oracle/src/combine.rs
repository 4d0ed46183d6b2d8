//! Several oracles' scores to one reward: a declared combination.

use crate::verdict::{Scored, Verdict};
pub use record::params::{Combination, CombinationError};

/// The reward of one answer by a declared rule. Whatever the rule, one missing score makes the whole missing: a reward
/// that silently leaves an oracle out is another reward. An oracle without a row counts as unscored.
#[must_use]
pub fn combine(rule: &Combination, rows: &[Scored]) -> Scored {
    let ms = rows.iter().map(|r| r.ms).sum();
    let mut found = Vec::new();
    for name in rule.oracles() {
        match rows.iter().find(|r| r.oracle == name) {
            Some(row) => match row.score {
                Some(score) if row.verdict != Verdict::Unscored => found.push((row, score)),
                _ => {
                    return Scored { ms, ..Scored::unscored("reward", format!("{name}: {}", row.reason)) };
                }
            },
            None => {
                return Scored { ms, ..Scored::unscored("reward", format!("{name}: it was not asked")) };
            }
        }
    }
    let score = match rule {
        Combination::Weights(list) => list.iter().zip(&found).map(|((_, w), (_, s))| w * s).sum(),
        Combination::Min(_) => found.iter().map(|(_, s)| *s).fold(1.0, f64::min),
        Combination::AllOf(_) => {
            f64::from(u8::from(found.iter().all(|(row, _)| row.verdict == Verdict::Pass)))
        }
    };
    let verdict =
        if found.iter().all(|(row, _)| row.verdict == Verdict::Pass) { Verdict::Pass } else { Verdict::Fail };
    let reasons: Vec<String> = found.iter().map(|(r, _)| format!("{}: {}", r.oracle, r.reason)).collect();
    Scored {
        oracle: "reward".into(),
        verdict,
        score: Some(score),
        reason: reasons.join("; "),
        ms,
        facts: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Scored> {
        vec![Scored::of("tests", 0.5, "3 of 6"), Scored::of("security", 1.0, "clean")]
    }

    fn score(text: &str, rows: &[Scored]) -> Option<f64> {
        combine(&text.parse().unwrap(), rows).score
    }

    #[test]
    fn rules_combine_as_declared() {
        assert_eq!(score("tests", &rows()), Some(0.5));
        assert_eq!(score("0.6*tests + 0.4*security", &rows()), Some(0.7));
        assert_eq!(score("min(tests, security)", &rows()), Some(0.5));
        assert_eq!(score("all(tests,security)", &rows()), Some(0.0));
        assert_eq!(score("all(security)", &rows()), Some(1.0));
    }

    #[test]
    fn one_missing_score_makes_the_reward_missing() {
        let mut rows = rows();
        rows[1] = Scored::unscored("security", "bandit crashed");
        for rule in ["0.6*tests+0.4*security", "min(tests,security)", "all(tests,security)", "tests*1"] {
            let Ok(rule) = rule.parse::<Combination>() else { continue };
            let got = combine(&rule, &rows);
            assert_eq!((got.verdict, got.score), (Verdict::Unscored, None), "{rule}");
            assert!(got.reason.contains("bandit crashed"));
        }
        let absent = combine(&"format".parse().unwrap(), &rows);
        assert_eq!(absent.verdict, Verdict::Unscored);
    }
}
