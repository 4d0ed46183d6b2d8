//! Which of two programs a generative judge prefers (CodeFavor's reading of free text; specs: codefavor.md 9).

use super::{Malformed, Mode};
use serde::{Deserialize, Serialize};

/// The program that the judge calls better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Preference {
    A,
    B,
}

/// Reads the preference out of a judge's last message.
///
/// `Compat` is the published rule: sentence by sentence from the end, "label ... BETTER ... label" (strength 2) beats a
/// lone label with BETTER (strength 1); a later sentence beats an earlier one of the same strength. It knows no negation.
///
/// `Strict` takes the same reading but refuses what the rule is known to get wrong: a sentence that decides while it
/// negates ("not better"), and sentences of full strength that contradict each other.
///
/// # Errors
/// [`Malformed`] when no sentence decides; in `Strict` mode also for negation and contradiction.
pub fn preference(answer: &str, mode: Mode) -> Result<Preference, Malformed> {
    let text = after_result(super::after_thinking(answer));
    let mut best: Option<(Preference, u8)> = None;
    let mut strong: Vec<Preference> = Vec::new();
    for piece in text.split('.').rev() {
        let Some((winner, strength)) = decide(piece) else { continue };
        if mode == Mode::Strict && negated(piece) {
            return Err(Malformed(format!("a negated comparison cannot be read: {:?}", piece.trim())));
        }
        if strength == 2 {
            strong.push(winner);
        }
        if best.is_none_or(|(_, s)| strength > s) {
            best = Some((winner, strength));
        }
    }
    if mode == Mode::Strict && strong.windows(2).any(|w| w[0] != w[1]) {
        return Err(Malformed("two comparisons contradict each other".into()));
    }
    best.map(|(winner, _)| winner).ok_or_else(|| Malformed("no sentence says which program is better".into()))
}

/// The part that holds the verdict: after the last `RESULT` or `Result`, in these two spellings only.
fn after_result(text: &str) -> &str {
    let at = text.rfind("RESULT").max(text.rfind("Result"));
    at.map_or(text, |at| &text[at + "RESULT".len()..])
}

fn decide(piece: &str) -> Option<(Preference, u8)> {
    let flat: String = piece.to_uppercase().chars().filter(|c| c.is_alphanumeric()).collect();
    if flat.contains("NEITHER") {
        return None;
    }
    let (first, second) = [("CODE1", "CODE2"), ("CODEA", "CODEB")]
        .into_iter()
        .map(|(a, b)| (flat.rfind(a), flat.rfind(b)))
        .find(|(a, b)| a.is_some() || b.is_some())?;
    let better = flat.rfind("BETTER")?;
    Some(match (first, second) {
        (Some(_), None) => (Preference::A, 1),
        (None, Some(_)) => (Preference::B, 1),
        (Some(a), Some(b)) if a < better && better < b => (Preference::A, 2),
        (Some(a), Some(b)) if b < better && better < a => (Preference::B, 2),
        (Some(a), Some(b)) => (if a < b { Preference::A } else { Preference::B }, 1),
        (None, None) => return None,
    })
}

fn negated(piece: &str) -> bool {
    piece
        .to_lowercase()
        .split(|c: char| !c.is_alphanumeric() && c != '\'')
        .any(|w| matches!(w, "not" | "isn't" | "no" | "never" | "nor" | "hardly"))
}

#[cfg(test)]
mod tests {
    use super::Preference::{A, B};
    use super::*;

    #[test]
    fn the_published_rule_case_by_case() {
        for (text, want) in [
            ("[FEEDBACK] it closes the file. [RESULT] [CODE_B] is better than [CODE_A] here.", Some(B)),
            ("Result: code a is better", Some(A)),
            ("[RESULT] Code 2 beats nothing; CODE_2 better", Some(B)),
            ("[RESULT] Neither [CODE_A] nor [CODE_B] is better.", None),
            ("[RESULT] [CODE_B] is worse than [CODE_A].", None),
            ("[RESULT] [CODE_A] is not better than [CODE_B].", Some(A)),
            ("[CODE_A] is better. [RESULT] they tie", None),
            // strength 2 beats a later strength 1
            ("[RESULT] [CODE_B] is better than [CODE_A]. All in all [CODE_A] looks better.", Some(B)),
            // of equal strength the later one
            ("[RESULT] [CODE_B] is better than [CODE_A]. But [CODE_A] is better than [CODE_B].", Some(A)),
            // both labels on one side of BETTER: the one that stands first, weakly
            ("[RESULT] Between [CODE_B] and [CODE_A] the first is better", Some(B)),
            ("", None),
        ] {
            assert_eq!(preference(text, Mode::Compat).ok(), want, "{text}");
        }
    }

    #[test]
    fn strict_refuses_what_the_rule_gets_wrong() {
        for text in [
            "[RESULT] [CODE_A] is not better than [CODE_B].",
            "[RESULT] [CODE_B] is better than [CODE_A]. But [CODE_A] is better than [CODE_B].",
            "[RESULT] both are fine",
        ] {
            assert!(preference(text, Mode::Strict).is_err(), "{text}");
        }
        assert_eq!(preference("[RESULT] [CODE_B] is better than [CODE_A].", Mode::Strict), Ok(B));
    }

    #[test]
    fn text_beyond_ascii_does_not_shift_positions() {
        assert_eq!(
            preference("Résultat … [RESULT] «[CODE_A]» is better than ß [CODE_B]", Mode::Compat),
            Ok(A)
        );
    }
}
