//! Holding an output against the expected one, outside the slot.

use crate::checker::Checker;
use crate::validator::Validator;
use serde::{Deserialize, Serialize};

/// How two outputs are compared.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Comparator {
    /// Both ends of the whole text stripped of white space, then equal bytes. What SecureCodeRL publishes.
    #[default]
    ExactStripped,
    /// CRLF as LF, each line stripped, trailing empty lines dropped, then equal.
    Lines,
    /// Equal sequences of tokens between white space.
    Tokens,
    /// As `tokens`, where letters of different case are the same.
    TokensIgnoreCase,
    /// By the flags of a problem package: absolute and relative tolerance, case, white space.
    Validator(Validator),
    /// As `tokens`, where two tokens that are both numbers may differ by this much, absolutely or relative to the
    /// larger one.
    Float {
        /// For example 1e-6.
        tolerance: f64,
    },
    /// SandboxFusion's judge: the same number of lines, each stripped and in lower case, or both numbers within 1e-5
    /// relative.
    SandboxFusion,
    /// A program decides, in a slot of its own; stdio tests only.
    Checker(Checker),
}

impl Comparator {
    /// Whether `got` is as good as `expected`. Never for a checker: only a [`crate::Sandbox`] can ask one.
    #[must_use]
    pub fn matches(&self, got: &[u8], expected: &[u8]) -> bool {
        match self {
            Self::ExactStripped => strip(got) == strip(expected),
            Self::Checker(_) => false,
            Self::Lines => lines(got) == lines(expected),
            Self::Tokens => tokens(got).eq(tokens(expected)),
            Self::TokensIgnoreCase => {
                same_length_all(tokens(got), tokens(expected), |a, b| lower(a) == lower(b))
            }
            Self::Validator(validator) => validator.matches(got, expected),
            Self::Float { tolerance } => same_length_all(tokens(got), tokens(expected), |a, b| {
                a == b || both_numbers(a, b).is_some_and(|(x, y)| close(x, y, *tolerance, *tolerance))
            }),
            Self::SandboxFusion => same_length_all(
                strip(got).split(|b| *b == b'\n'),
                strip(expected).split(|b| *b == b'\n'),
                |a, b| {
                    let (a, b) = (lower(strip(a)), lower(strip(b)));
                    a == b || both_numbers(&a, &b).is_some_and(|(x, y)| close(x, y, 0.0, 1e-5))
                },
            ),
        }
    }
}

/// What Python's `str.strip()` removes, for text; other bytes are never white space.
fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | 0x1c..=0x1f)
}

fn strip(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|b| !is_space(*b)).unwrap_or(text.len());
    let end = text.iter().rposition(|b| !is_space(*b)).map_or(start, |i| i + 1);
    &text[start..end]
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    // Stripping each line also takes the CR of a CRLF.
    let mut lines: Vec<_> = text.split(|b| *b == b'\n').map(strip).collect();
    while lines.last().is_some_and(|l| l.is_empty()) {
        lines.pop();
    }
    lines
}

fn tokens(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| is_space(*b)).filter(|t| !t.is_empty())
}

fn same_length_all<'a>(
    mut a: impl Iterator<Item = &'a [u8]>,
    mut b: impl Iterator<Item = &'a [u8]>,
    same: impl Fn(&[u8], &[u8]) -> bool,
) -> bool {
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(x), Some(y)) if same(x, y) => {}
            _ => return false,
        }
    }
}

fn lower(text: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(text) {
        Ok(t) => t.to_lowercase().into_bytes(),
        Err(_) => text.to_ascii_lowercase(),
    }
}

fn both_numbers(a: &[u8], b: &[u8]) -> Option<(f64, f64)> {
    let number = |t: &[u8]| std::str::from_utf8(t).ok()?.parse::<f64>().ok();
    Some((number(a)?, number(b)?))
}

fn close(x: f64, y: f64, absolute: f64, relative: f64) -> bool {
    // NaN is close to nothing; infinities only to themselves.
    x == y || (x - y).abs() <= absolute.max(relative * x.abs().max(y.abs())) && x.is_finite() && y.is_finite()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(c: &Comparator, got: &str, expected: &str) -> bool {
        c.matches(got.as_bytes(), expected.as_bytes())
    }

    #[test]
    fn exact_stripped_strips_the_ends_only() {
        let c = Comparator::ExactStripped;
        assert!(check(&c, "\n 1 2\n\n", "1 2"));
        assert!(!check(&c, "1  2", "1 2"));
        assert!(!check(&c, "1 \n2", "1\n2"));
        assert!(check(&c, "", " \n"));
    }

    #[test]
    fn lines_ignores_blanks_at_line_ends_and_carriage_returns() {
        let c = Comparator::Lines;
        assert!(check(&c, "a \r\n b\n\n\n", "a\nb"));
        assert!(!check(&c, "a\n\nb", "a\nb"));
    }

    #[test]
    fn tokens_ignores_how_they_are_laid_out() {
        assert!(check(&Comparator::Tokens, "1 2\n3", "1\n2 3\n"));
        assert!(!check(&Comparator::Tokens, "1 2", "1 2 3"));
    }

    #[test]
    fn case_may_be_ignored_in_any_alphabet() {
        assert!(check(&Comparator::TokensIgnoreCase, "YES\n\u{c4}", "yes \u{e4}"));
        assert!(!check(&Comparator::TokensIgnoreCase, "yes", "yes no"));
        assert!(!check(&Comparator::Tokens, "YES", "yes"));
    }

    #[test]
    fn float_tolerance_is_absolute_or_relative_and_not_for_words() {
        let c = Comparator::Float { tolerance: 1e-6 };
        assert!(check(&c, "0.3333333 yes", "0.33333333 yes"));
        assert!(check(&c, "1000000.5", "1000000.4"));
        assert!(!check(&c, "0.3333", "0.3334"));
        assert!(!check(&c, "nan", "nan2"));
        assert!(!check(&c, "nan", "1"));
        assert!(!check(&c, "inf", "1"));
        assert!(!check(&c, "1", "1 1"));
    }

    #[test]
    fn sandbox_fusions_rule_lowers_and_compares_numbers() {
        let c = Comparator::SandboxFusion;
        assert!(check(&c, "YES\n0.5000001\n", "yes\n0.5"));
        assert!(!check(&c, "yes", "yes\n1"));
        assert!(!check(&c, "0.51", "0.5"));
    }

    #[test]
    fn bytes_that_are_no_text_are_compared_as_they_are() {
        assert!(Comparator::ExactStripped.matches(b"\xff\xfe\n", b"\xff\xfe"));
        assert!(!Comparator::SandboxFusion.matches(b"\xff", b"\xfe"));
    }
}
