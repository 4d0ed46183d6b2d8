//! Values with units, and strings that may go into a directive.

use serde::{Deserialize, Deserializer, de};
use std::fmt;

/// A length of time: `90s`, `30m`, `12h`, `2d`, `1d12h`, `36:00:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub u64);

/// An amount of memory, 10^6 bytes: `1500MB`, `16GB`, `1.5TB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Megabytes(pub u64);

/// A name that goes into a scheduler directive: letters, digits and `_ . + , : = @ / -`, not empty, no leading `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word(String);

/// A regular expression, checked when the site file is read.
#[derive(Debug, Clone)]
pub struct Pattern(pub regex::Regex);

/// A place for TMPDIR: an absolute path, or a variable that holds one (`$SLURM_TMPDIR`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scratch {
    Variable(String),
    Path(String),
}

impl Seconds {
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no length of time: write 90s, 30m, 12h, 2d, 1d12h or 36:00:00");
        if text.contains(':') {
            let parts: Vec<u64> =
                text.split(':').map(str::parse).collect::<Result<_, _>>().map_err(|_| bad())?;
            let [h, m, s] = parts[..] else { return Err(bad()) };
            if m > 59 || s > 59 {
                return Err(bad());
            }
            return h.checked_mul(3600).and_then(|h| h.checked_add(m * 60 + s)).map(Self).ok_or_else(bad);
        }
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("`{text}` has no unit: write {text}s, {text}m, {text}h or {text}d"));
        }
        let (mut total, mut rest, mut last) = (0u64, text, u64::MAX);
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let n: u64 = rest[..digits].parse().map_err(|_| bad())?;
            let unit = match rest[digits..].chars().next() {
                Some('s') => 1,
                Some('m') => 60,
                Some('h') => 3600,
                Some('d') => 86400,
                _ => return Err(bad()),
            };
            if unit >= last {
                return Err(bad());
            }
            last = unit;
            total = n.checked_mul(unit).and_then(|t| total.checked_add(t)).ok_or_else(bad)?;
            rest = &rest[digits + 1..];
        }
        Ok(Self(total))
    }

    #[must_use]
    pub fn duration(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.0)
    }
}

impl Megabytes {
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no amount of memory: write 1500MB, 16GB or 1.5TB");
        let at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(|| {
            format!("`{text}` has no unit: write {text}MB or {text}GB").replace("``", "an empty value")
        })?;
        let (number, unit) = text.split_at(at);
        let factor = match unit {
            "MB" | "M" => 1.0,
            "GB" | "G" => 1e3,
            "TB" | "T" => 1e6,
            _ => return Err(bad()),
        };
        let n: f64 = number.trim().parse().map_err(|_| bad())?;
        let mb = (n * factor).ceil();
        if !(mb.is_finite() && (0.0..1e12).contains(&mb)) {
            return Err(bad());
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 <= mb < 1e12 was checked"
        )]
        Ok(Self(mb as u64))
    }
}

impl Word {
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let ok = |b: u8| b.is_ascii_alphanumeric() || b"_.+,:=@/-".contains(&b);
        if text.is_empty() || text.starts_with('-') || !text.bytes().all(ok) {
            return Err(format!(
                "{text:?} cannot go into a scheduler directive: use letters, digits and _ . + , : = @ / -"
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// The pool of local slots unless a site names another.
    pub(super) fn machine() -> Self {
        Self("machine".to_owned())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Pattern {
    /// # Errors
    /// The regular expression's own mistake.
    pub fn parse(text: &str) -> Result<Self, String> {
        regex::Regex::new(text).map(Self).map_err(|e| format!("`{text}` is no regular expression: {e}"))
    }
}

impl Scratch {
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name_ok = |n: &str| {
            !n.is_empty()
                && !n.starts_with(|c: char| c.is_ascii_digit())
                && n.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        match text.strip_prefix('$') {
            Some(name) if name_ok(name) => Ok(Self::Variable(name.to_owned())),
            None if text.starts_with('/') && !text.chars().any(char::is_control) => {
                Ok(Self::Path(text.to_owned()))
            }
            _ => {
                Err(format!("{text:?} is no place for temporary files: write /an/absolute/path or $VARIABLE"))
            }
        }
    }
}

/// Deserialize through `parse`, so that serde_yaml adds line and column to the message.
macro_rules! from_text {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("text")
                    }
                    fn visit_str<E: de::Error>(self, v: &str) -> Result<$type, E> {
                        <$type>::parse(v).map_err(E::custom)
                    }
                    fn visit_u64<E: de::Error>(self, v: u64) -> Result<$type, E> {
                        self.visit_str(&v.to_string())
                    }
                    fn visit_i64<E: de::Error>(self, v: i64) -> Result<$type, E> {
                        self.visit_str(&v.to_string())
                    }
                    fn visit_f64<E: de::Error>(self, v: f64) -> Result<$type, E> {
                        self.visit_str(&v.to_string())
                    }
                }
                d.deserialize_any(Text)
            }
        }
    )*};
}
from_text!(Seconds, Megabytes, Word, Pattern, Scratch);
