//! The response contract of the rule-learning recipe: `## Analysis`, reasoning, `## Answer`, answer
//! (specs: purpcode.md 3), and the gate that every reward passes first.

use crate::judge::Mode;

/// Fewest characters of the analysis and of the answer.
const MIN_ANALYSIS: usize = 16;
const MIN_ANSWER: usize = 8;
/// A window of this many characters that occurs this often is a loop.
const WINDOW: usize = 32;
const MAX_REPEATS: usize = 8;

const ANALYSIS: &str = "## Analysis";
const ANSWER: &str = "## Answer";

/// A response in its two parts, headings left out, ends trimmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a> {
    pub analysis: &'a str,
    pub answer: &'a str,
}

/// Why a response breaks the contract; its reward is 0 and no oracle runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("there is no line `## Answer`")]
    NoAnswer,
    #[error("the analysis has fewer than {MIN_ANALYSIS} characters")]
    ShortAnalysis,
    #[error("the answer has fewer than {MIN_ANSWER} characters")]
    ShortAnswer,
    #[error("a piece of {WINDOW} characters occurs {MAX_REPEATS} times or more")]
    Repetition,
}

/// Checks the whole contract: structure, lengths, no repetition.
///
/// The heading `## Analysis` may be missing, since generation can be prefilled with it. The modes differ in repetition
/// (`Compat` counts overlapping windows anywhere, so a ruler of 39 equal characters fails; `Strict` leaves fenced code and
/// runs of one character out and counts windows that do not overlap) and in the prefix: `Compat` strips *any* leading
/// characters that occur in the heading, as the published code does; `Strict` strips the heading.
///
/// # Errors
/// The first [`Violation`].
pub fn check(response: &str, mode: Mode) -> Result<Parts<'_>, Violation> {
    let body = match mode {
        Mode::Compat => response.trim_start_matches(|c| ANALYSIS.contains(c)),
        Mode::Strict => {
            let text = response.trim_start();
            text.strip_prefix(ANALYSIS).unwrap_or(text)
        }
    };
    let at = answer_line(body).ok_or(Violation::NoAnswer)?;
    let analysis = body[..at].trim();
    let answer = body[at + ANSWER.len()..].trim();
    if analysis.chars().count() < MIN_ANALYSIS {
        return Err(Violation::ShortAnalysis);
    }
    if answer.chars().count() < MIN_ANSWER {
        return Err(Violation::ShortAnswer);
    }
    let repeats = match mode {
        Mode::Compat => overlapping_repeats(response),
        Mode::Strict => separate_repeats(response),
    };
    if repeats { Err(Violation::Repetition) } else { Ok(Parts { analysis, answer }) }
}

/// Byte offset of the first line that is exactly `## Answer`.
fn answer_line(text: &str) -> Option<usize> {
    text.match_indices(ANSWER).map(|(at, _)| at).find(|&at| {
        let starts_line = at == 0 || text[..at].ends_with('\n');
        let rest = &text[at + ANSWER.len()..];
        starts_line && rest.split('\n').next().is_some_and(|tail| tail.trim().is_empty())
    })
}

/// The published rule: a window sliding one character at a time, overlaps counted.
fn overlapping_repeats(text: &str) -> bool {
    let mut counts = std::collections::HashMap::new();
    let starts: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
    starts.windows(WINDOW + 1).any(|w| {
        let n = counts.entry(&text[w[0]..w[WINDOW]]).or_insert(0usize);
        *n += 1;
        *n >= MAX_REPEATS
    })
}

/// Windows that do not overlap, in prose only: code repeats itself for good reasons (specs: PurpCode D11).
fn separate_repeats(text: &str) -> bool {
    let prose = without_fences(text);
    let mut seen: std::collections::HashMap<&str, (usize, usize)> = std::collections::HashMap::new();
    let starts: Vec<usize> = prose.char_indices().map(|(i, _)| i).chain([prose.len()]).collect();
    for (position, w) in starts.windows(WINDOW + 1).enumerate() {
        let piece = &prose[w[0]..w[WINDOW]];
        if is_ruler(piece) {
            continue;
        }
        let (n, free_from) = seen.entry(piece).or_insert((0, 0));
        if position >= *free_from {
            *n += 1;
            *free_from = position + WINDOW;
            if *n >= MAX_REPEATS {
                return true;
            }
        }
    }
    false
}

/// One character, or white space and one character: indentation, rules, table lines.
fn is_ruler(piece: &str) -> bool {
    let mut marks = piece.chars().filter(|c| !c.is_whitespace());
    marks.next().is_none_or(|first| marks.all(|c| c == first))
}

fn without_fences(text: &str) -> String {
    let mut inside = false;
    text.split_inclusive('\n')
        .filter(|line| {
            let fence = line.trim_start().starts_with("```");
            inside ^= fence;
            !inside && !fence
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "## Analysis\nThe request is harmless and asks for a sum.\n## Answer\nUse the builtin sum().\n";

    #[test]
    fn both_modes_accept_the_contract_with_and_without_the_prefilled_heading() {
        for mode in [Mode::Compat, Mode::Strict] {
            assert_eq!(check(GOOD, mode).unwrap().answer, "Use the builtin sum().");
            let prefilled = GOOD.strip_prefix("## Analysis").unwrap();
            assert_eq!(
                check(prefilled, mode).unwrap().analysis,
                "The request is harmless and asks for a sum."
            );
        }
    }

    #[test]
    fn each_violation_is_named() {
        for mode in [Mode::Compat, Mode::Strict] {
            assert_eq!(check("", mode), Err(Violation::NoAnswer));
            assert_eq!(
                check("## Analysis\nlong enough to be one\nsee ## Answer\nx", mode),
                Err(Violation::NoAnswer)
            );
            assert_eq!(
                check("## Analysis\nshort\n## Answer\nUse sum() here.", mode),
                Err(Violation::ShortAnalysis)
            );
            assert_eq!(
                check("## Analysis\nlong enough to be one\n## Answer\nno", mode),
                Err(Violation::ShortAnswer)
            );
            let looping = GOOD.to_owned() + &"I think that I should think again about it. ".repeat(9);
            assert_eq!(check(&looping, mode), Err(Violation::Repetition));
        }
    }

    #[test]
    fn rulers_and_code_are_no_loops_in_strict_mode() {
        let ruler = GOOD.to_owned() + &"=".repeat(80);
        assert_eq!(check(&ruler, Mode::Compat), Err(Violation::Repetition));
        assert!(check(&ruler, Mode::Strict).is_ok());
        let code =
            GOOD.to_owned() + "```python\n" + &"result.append(transform(the_value, 1))\n".repeat(9) + "```\n";
        assert!(check(&code, Mode::Strict).is_ok());
    }

    #[test]
    fn exactly_39_equal_characters_fail_the_published_rule() {
        assert!(check(&(GOOD.to_owned() + &"-".repeat(38)), Mode::Compat).is_ok());
        assert!(check(&(GOOD.to_owned() + &"-".repeat(39)), Mode::Compat).is_err());
    }

    #[test]
    fn the_published_prefix_rule_eats_text_and_strict_does_not() {
        // every letter of "Analysis " occurs in the heading, so the published rule strips the word; the `o` stops it
        let text = "Analysis of sail and lanai data follows.\n## Answer\nUse sum() here.";
        assert_eq!(check(text, Mode::Strict).unwrap().analysis, "Analysis of sail and lanai data follows.");
        assert_eq!(check(text, Mode::Compat).unwrap().analysis, "of sail and lanai data follows.");
    }
}
