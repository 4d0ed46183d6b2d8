//! Token-wise comparison by the flags of problem packages (`validator_flags` of the Kattis and ICPC formats).

use serde::{Deserialize, Serialize};

/// How tokens between white space are compared. The expected output is the judge's answer.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, try_from = "Written")]
pub struct Validator {
    /// Letters of different case differ.
    pub case_sensitive: bool,
    /// White space has to be the same, byte for byte.
    pub space_change_sensitive: bool,
    /// Numbers may differ by this much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub float_absolute_tolerance: Option<f64>,
    /// Numbers may differ by this much of the expected one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub float_relative_tolerance: Option<f64>,
}

/// As it may be written: fields, or the flags as they stand in a problem package.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected flags as text, or a mapping of them")]
enum Written {
    Flags(String),
    Fields(Fields),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    case_sensitive: bool,
    #[serde(default)]
    space_change_sensitive: bool,
    float_absolute_tolerance: Option<f64>,
    float_relative_tolerance: Option<f64>,
    float_tolerance: Option<f64>,
}

impl TryFrom<Written> for Validator {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Flags(text) => text.parse(),
            Written::Fields(f) => {
                let made = Self {
                    case_sensitive: f.case_sensitive,
                    space_change_sensitive: f.space_change_sensitive,
                    float_absolute_tolerance: f.float_absolute_tolerance.or(f.float_tolerance),
                    float_relative_tolerance: f.float_relative_tolerance.or(f.float_tolerance),
                };
                made.check().map(|()| made)
            }
        }
    }
}

impl std::str::FromStr for Validator {
    type Err = String;

    /// `case_sensitive space_change_sensitive float_tolerance 1e-6 float_absolute_tolerance E float_relative_tolerance E`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut made = Self::default();
        let mut words = text.split_ascii_whitespace();
        while let Some(word) = words.next() {
            let mut number = || {
                let value = words.next().ok_or(format!("{word} has no number behind it"))?;
                value.parse::<f64>().map_err(|_| format!("{word}: {value:?} is no number"))
            };
            match word {
                "case_sensitive" => made.case_sensitive = true,
                "space_change_sensitive" => made.space_change_sensitive = true,
                "float_absolute_tolerance" => made.float_absolute_tolerance = Some(number()?),
                "float_relative_tolerance" => made.float_relative_tolerance = Some(number()?),
                "float_tolerance" => {
                    let both = Some(number()?);
                    (made.float_absolute_tolerance, made.float_relative_tolerance) = (both, both);
                }
                other => {
                    return Err(format!(
                        "{other:?} is none of case_sensitive, space_change_sensitive, float_tolerance, \
                         float_absolute_tolerance, float_relative_tolerance"
                    ));
                }
            }
        }
        made.check().map(|()| made)
    }
}

impl Validator {
    /// Tolerances must be numbers from 0 up.
    ///
    /// # Errors
    /// The one that is not.
    pub fn check(&self) -> Result<(), String> {
        let both = [
            ("float_absolute_tolerance", self.float_absolute_tolerance),
            ("float_relative_tolerance", self.float_relative_tolerance),
        ];
        match both
            .into_iter()
            .find_map(|(name, v)| Some((name, v.filter(|v| !(v.is_finite() && *v >= 0.0))?)))
        {
            Some((name, v)) => Err(format!("{name} is {v}; it must be a number from 0 up")),
            None => Ok(()),
        }
    }

    /// Whether `got` is as good as `expected`.
    #[must_use]
    pub fn matches(&self, got: &[u8], expected: &[u8]) -> bool {
        let (mut a, mut b) = (Pieces(got), Pieces(expected));
        loop {
            match (a.next(), b.next()) {
                (None, None) => return true,
                (Some((space, token)), Some((wanted_space, wanted)))
                    if (!self.space_change_sensitive || space == wanted_space)
                        && self.same(token, wanted) => {}
                // What is left may be white space only.
                (rest, wanted) => {
                    let blank = |p: Option<(&[u8], &[u8])>| p.is_none_or(|(_, token)| token.is_empty());
                    return !self.space_change_sensitive && blank(rest) && blank(wanted);
                }
            }
        }
    }

    fn same(&self, got: &[u8], wanted: &[u8]) -> bool {
        let equal = if self.case_sensitive { got == wanted } else { got.eq_ignore_ascii_case(wanted) };
        if equal || (self.float_absolute_tolerance.is_none() && self.float_relative_tolerance.is_none()) {
            return equal;
        }
        let number = |t: &[u8]| std::str::from_utf8(t).ok()?.parse::<f64>().ok().filter(|n| n.is_finite());
        let (Some(x), Some(y)) = (number(got), number(wanted)) else { return false };
        let off = (x - y).abs();
        self.float_absolute_tolerance.is_some_and(|t| off <= t)
            || self.float_relative_tolerance.is_some_and(|t| off <= t * y.abs())
    }
}

/// White space and the token behind it, one after the other; the last token is empty where the text ends in white space.
struct Pieces<'a>(&'a [u8]);

impl<'a> Iterator for Pieces<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        // As C's isspace.
        let space = |b: &u8| matches!(b, b' ' | b'\t'..=b'\r');
        let start = self.0.iter().position(|b| !space(b)).unwrap_or(self.0.len());
        let (blank, rest) = self.0.split_at(start);
        let end = rest.iter().position(space).unwrap_or(rest.len());
        let (token, rest) = rest.split_at(end);
        self.0 = rest;
        Some((blank, token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(flags: &str, got: &str, expected: &str) -> bool {
        flags.parse::<Validator>().expect("flags").matches(got.as_bytes(), expected.as_bytes())
    }

    #[test]
    fn without_flags_case_and_layout_do_not_matter_and_numbers_are_words() {
        assert!(check("", "yes  1\n", "YES\n1"));
        assert!(check("", "\n", ""));
        assert!(check("", "a", "a\n\n"));
        assert!(!check("", "yes 1.0", "yes 1"));
        assert!(!check("", "yes", "yes 1"));
        assert!(!check("", "yes 1", "yes"));
    }

    #[test]
    fn case_and_white_space_matter_where_the_flags_say_so() {
        assert!(!check("case_sensitive", "yes", "YES"));
        assert!(check("case_sensitive", " YES", "YES\n"));
        assert!(check("space_change_sensitive", "a  b\n", "A  b\n"));
        assert!(!check("space_change_sensitive", "a b\n", "a  b\n"));
        assert!(!check("space_change_sensitive", "a", "a\n"));
        assert!(!check("space_change_sensitive", "a\n", "a"));
    }

    #[test]
    fn absolute_and_relative_tolerance_are_two_things() {
        assert!(check("float_absolute_tolerance 0.01", "0.005", "0"));
        assert!(!check("float_relative_tolerance 0.01", "0.005", "0"));
        assert!(check("float_relative_tolerance 0.01", "1005", "1000"));
        assert!(!check("float_absolute_tolerance 0.01", "1005", "1000"));
        assert!(check("float_tolerance 0.01", "1005 0.005 Word", "1000 0 word"));
        // relative to the judge's answer, not to the larger one
        assert!(!check("float_relative_tolerance 0.5", "2.1", "1.05"));
        assert!(!check("float_tolerance 1", "nan", "1") && !check("float_tolerance 1", "inf", "1"));
        assert!(check("float_tolerance 1e-9", "inf", "INF"));
    }

    #[test]
    fn it_is_written_as_flags_or_as_fields_and_mistakes_are_named() {
        let read = |text: &str| serde_json::from_str::<Validator>(text).map_err(|e| e.to_string());
        let flags = read(r#""case_sensitive float_tolerance 1e-6""#).expect("flags");
        assert_eq!(Ok(flags), read(r#"{"case_sensitive": true, "float_tolerance": 1e-6}"#));
        let again = serde_json::to_string(&flags).expect("JSON");
        assert_eq!(Ok(flags), read(&again));
        assert!(read(r#""float_tolerance""#).expect_err("no number").contains("no number behind"));
        assert!(read(r#""float_tolerance -1""#).expect_err("negative").contains("from 0 up"));
        assert!(read(r#""tolerance 1""#).expect_err("unknown").contains("\"tolerance\""));
        assert!(read(r#"{"tolerance": 1}"#).is_err());
    }
}
