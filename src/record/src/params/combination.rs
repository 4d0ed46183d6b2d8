//! How several oracles' scores become one reward: the rule itself. It lives beside the parameters because the planner
//! must refuse a bad one on a login node; applying it to scores is the oracle crate's work.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// How scores become one; written as text (`0.6*tests+0.4*security`).
#[derive(Debug, Clone, PartialEq)]
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
            if is_name(s) { Ok(s.to_owned()) } else { Err(malformed()) }
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

/// Whether a text can name an oracle: letters, digits, `-` and `_`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
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

impl Serialize for Combination {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Combination {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Combination {
    fn schema_name() -> Cow<'static, str> {
        "Combination".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(serde_json::from_value::<Combination>(serde_json::to_value(&c).unwrap()).unwrap(), c);
        }
    }
}
