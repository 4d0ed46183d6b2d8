//! Which tasks a command means.

use serde_json::{Map, Value};

/// Tasks by phase, matrix value, key or token. Empty: all. Different kinds narrow, values of one kind widen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub phases: Vec<String>,
    /// `("variant", "binary")`.
    pub labels: Vec<(String, String)>,
    /// Task keys (or their beginnings) and attempt tokens.
    pub ids: Vec<String>,
}

impl Filter {
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// From words as a user types them: `phase`, `axis=value`, or the beginning of a key or token.
    #[must_use]
    pub fn from_words<'a>(words: impl IntoIterator<Item = &'a str>, phases: &[String]) -> Self {
        let mut filter = Self::default();
        for word in words {
            match word.split_once('=') {
                Some((axis, value)) => filter.labels.push((axis.to_owned(), value.to_owned())),
                None if phases.iter().any(|p| p == word) => filter.phases.push(word.to_owned()),
                None => filter.ids.push(word.to_owned()),
            }
        }
        filter
    }

    /// Whether a task is meant. `labels` is a JSON object.
    #[must_use]
    pub fn matches(&self, phase: &str, labels: &Map<String, Value>, key: &str, token: Option<&str>) -> bool {
        let plain = |v: &Value| plan::plain(v);
        let phase_ok = self.phases.is_empty() || self.phases.iter().any(|p| p == phase);
        let id_ok = self.ids.is_empty()
            || self.ids.iter().any(|id| key.starts_with(id.as_str()) || token.is_some_and(|t| t == id));
        let labels_ok = self.labels.iter().all(|(axis, _)| {
            labels.get(axis).is_some_and(|have| {
                let have = plain(have);
                self.labels.iter().any(|(a, v)| a == axis && *v == have)
            })
        });
        phase_ok && id_ok && labels_ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_phases_labels_and_ids_and_narrow_each_other() {
        let phases = ["rl".to_owned(), "eval".to_owned()];
        let f = Filter::from_words(["rl", "seed=1", "seed=2", "variant=fresh"], &phases);
        let labels =
            |s: i64, v: &str| serde_json::json!({"seed": s, "variant": v}).as_object().unwrap().clone();
        assert!(f.matches("rl", &labels(2, "fresh"), "abc", None));
        assert!(!f.matches("rl", &labels(3, "fresh"), "abc", None));
        assert!(!f.matches("rl", &labels(1, "binary"), "abc", None));
        assert!(!f.matches("eval", &labels(1, "fresh"), "abc", None));
        let f = Filter::from_words(["abc"], &phases);
        assert!(
            f.matches("rl", &labels(1, "x"), "abcd", None) && !f.matches("rl", &labels(1, "x"), "bcd", None)
        );
        let f = Filter::from_words(["br-aaaaaaaaaaaa"], &phases);
        assert!(f.matches("rl", &labels(1, "x"), "zzz", Some("br-aaaaaaaaaaaa")));
        assert!(Filter::all().matches("rl", &labels(1, "x"), "zzz", None));
    }
}
