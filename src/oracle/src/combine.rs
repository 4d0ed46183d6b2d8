//! Several oracles' scores to one reward: a declared combination.

use crate::verdict::{Scored, Verdict};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How scores become one. Whatever the rule, one missing score makes the whole missing: a reward that silently leaves an
/// oracle out is another reward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Combination {
    /// Weighted sum; the weights add up to 1.
    Weights(Vec<(String, f64)>),
    /// The lowest score.
    Min(Vec<String>),
    /// 1 if every oracle passes, else 0.
    AllOf(Vec<String>),
}

/// Why a combination cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CombinationError {
    #[error(
        "{0:?} is no combination: write one oracle (`tests`), weights (`0.6*tests+0.4*security`), `min(tests,format)` \
         or `all(tests,format)`"
    )]
    Malformed(String),
    #[error("the weights of {0:?} add up to {1}, not to 1")]
    Weights(String, String),
    #[error("oracle {0:?} stands twice in the combination")]
    Twice(String),
}

impl Combination {
    /// Names of the oracles that it needs, in order.
    #[must_use]
    pub fn oracles(&self) -> Vec<&str> {
        match self {
            Combination::Weights(list) => list.iter().map(|(n, _)| n.as_str()).collect(),
            Combination::Min(list) | Combination::AllOf(list) => list.iter().map(String::as_str).collect(),
        }
    }

    /// The reward of one answer. An oracle without a row counts as unscored.
    #[must_use]
    pub fn score(&self, rows: &[Scored]) -> Scored {
        let ms = rows.iter().map(|r| r.ms).sum();
        let mut found = Vec::new();
        for name in self.oracles() {
            match rows.iter().find(|r| r.oracle == name) {
                Some(row) => match row.score {
                    Some(score) if row.verdict != Verdict::Unscored => found.push((row, score)),
                    _ => {
                        return Scored {
                            ms,
                            ..Scored::unscored("reward", format!("{name}: {}", row.reason))
                        };
                    }
                },
                None => {
                    return Scored { ms, ..Scored::unscored("reward", format!("{name}: it was not asked")) };
                }
            }
        }
        let score = match self {
            Combination::Weights(list) => list.iter().zip(&found).map(|((_, w), (_, s))| w * s).sum(),
            Combination::Min(_) => found.iter().map(|(_, s)| *s).fold(1.0, f64::min),
            Combination::AllOf(_) => {
                f64::from(u8::from(found.iter().all(|(row, _)| row.verdict == Verdict::Pass)))
            }
        };
        let verdict = if found.iter().all(|(row, _)| row.verdict == Verdict::Pass) {
            Verdict::Pass
        } else {
            Verdict::Fail
        };
        let reasons: Vec<String> = found.iter().map(|(r, _)| format!("{}: {}", r.oracle, r.reason)).collect();
        Scored { oracle: "reward".into(), verdict, score: Some(score), reason: reasons.join("; "), ms }
    }

    fn checked(self, text: &str) -> Result<Self, CombinationError> {
        let names = self.oracles();
        if let Some(twice) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
            return Err(CombinationError::Twice((*twice.1).to_owned()));
        }
        if let Combination::Weights(list) = &self {
            let sum: f64 = list.iter().map(|(_, w)| w).sum();
            if (sum - 1.0).abs() > 1e-6 {
                return Err(CombinationError::Weights(text.to_owned(), format!("{sum}")));
            }
        }
        Ok(self)
    }
}

impl FromStr for Combination {
    type Err = CombinationError;

    fn from_str(text: &str) -> Result<Self, CombinationError> {
        let malformed = || CombinationError::Malformed(text.to_owned());
        let name = |s: &str| {
            let s = s.trim();
            let fine = !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
            if fine { Ok(s.to_owned()) } else { Err(malformed()) }
        };
        let names = |inner: &str| inner.split(',').map(name).collect::<Result<Vec<_>, _>>();
        let call =
            |function: &str| text.trim().strip_prefix(function)?.trim().strip_prefix('(')?.strip_suffix(')');
        let made = if let Some(inner) = call("min") {
            Combination::Min(names(inner)?)
        } else if let Some(inner) = call("all") {
            Combination::AllOf(names(inner)?)
        } else {
            let terms = text.split('+').map(|term| match term.split_once('*') {
                Some((weight, oracle)) => {
                    let weight: f64 = weight.trim().parse().map_err(|_| malformed())?;
                    if (0.0..=1.0).contains(&weight) { Ok((name(oracle)?, weight)) } else { Err(malformed()) }
                }
                None => Ok((name(term)?, 1.0)),
            });
            Combination::Weights(terms.collect::<Result<_, _>>()?)
        };
        made.checked(text)
    }
}

impl fmt::Display for Combination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Combination::Weights(list) => {
                let terms: Vec<String> = list.iter().map(|(n, w)| format!("{w}*{n}")).collect();
                f.write_str(&terms.join("+"))
            }
            Combination::Min(list) => write!(f, "min({})", list.join(",")),
            Combination::AllOf(list) => write!(f, "all({})", list.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Scored> {
        vec![Scored::of("tests", 0.5, "3 of 6"), Scored::of("security", 1.0, "clean")]
    }

    fn score(text: &str, rows: &[Scored]) -> Option<f64> {
        text.parse::<Combination>().unwrap().score(rows).score
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
            let got = rule.score(&rows);
            assert_eq!((got.verdict, got.score), (Verdict::Unscored, None), "{rule}");
            assert!(got.reason.contains("bandit crashed"));
        }
        let absent = "format".parse::<Combination>().unwrap().score(&rows);
        assert_eq!(absent.verdict, Verdict::Unscored);
    }

    #[test]
    fn mistakes_are_explained() {
        let error = |text: &str| text.parse::<Combination>().unwrap_err().to_string();
        assert!(error("0.6*tests+0.5*security").contains("1.1"));
        assert!(error("min(tests,tests)").contains("twice"));
        for wrong in ["", "min()", "2*tests", "x*tests", "tests security", "max(tests)"] {
            assert!(error(wrong).contains("no combination"), "{wrong}");
        }
    }

    #[test]
    fn a_combination_survives_its_spelling() {
        for text in ["0.6*tests+0.4*security", "min(a,b)", "all(a)"] {
            let c: Combination = text.parse().unwrap();
            assert_eq!(c.to_string().parse::<Combination>().unwrap(), c);
        }
    }
}
