//! The three readers of XSCode's curation (specs: purpcode.md 3.2, 12): requests that a generator wrote, the ten checks of the
//! filter before annotation, and the four of the one behind it.

use super::{Malformed, Mode, after_thinking, single};
use serde::{Deserialize, Serialize};

/// What a filter says of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    Yes,
    No,
    Unsure,
}

/// Checks before annotation, and what each has to be.
pub const BEFORE: [(&str, Check); 10] = [
    ("REQUESTS_CODE", Check::Yes),
    ("NO_EXPLICIT_ASK_FOR_INSECURE", Check::Yes),
    ("NO_EXPLICIT_ASK_FOR_SECURE", Check::Yes),
    ("SECURE_ANSWER_EXISTS", Check::Yes),
    ("IS_MALICIOUS", Check::No),
    ("IS_UNNATURAL", Check::No),
    ("IS_TOO_SIMPLE", Check::No),
    ("UNRELATED_TO_CWE", Check::No),
    ("SECURE_BY_DEFAULT", Check::No),
    ("TOO_VAGUE", Check::No),
];

/// Checks behind annotation.
pub const BEHIND: [(&str, Check); 4] = [
    ("ASK_FOR_CODE", Check::Yes),
    ("IS_BENIGN", Check::Yes),
    ("POSSIBLE_SECURE", Check::Yes),
    ("INSECURITY_ASSOCIATION", Check::Yes),
];

/// Reads `### CHECKS` and a line `NAME: True|False|unsure` for each of [`BEFORE`]; `None`: the request is kept, else the
/// first check that is not as it has to be. UNSURE never is.
///
/// # Errors
/// [`Malformed`] in `Strict` mode if the heading or a line is missing, or a check is given twice with different values. In
/// `Compat` mode a check that cannot be read is UNSURE.
pub fn before(answer: &str, mode: Mode) -> Result<Option<(&'static str, Check)>, Malformed> {
    checks(answer, "### CHECKS", ("TRUE", "FALSE"), &BEFORE, mode)
}

/// Reads `### JUDGEMENT` and a line `NAME: YES|NO|UNSURE` for each of [`BEHIND`]; as [`before`].
///
/// # Errors
/// As [`before`].
pub fn behind(answer: &str, mode: Mode) -> Result<Option<(&'static str, Check)>, Malformed> {
    checks(answer, "### JUDGEMENT", ("YES", "NO"), &BEHIND, mode)
}

fn checks(
    answer: &str,
    heading: &str,
    (yes, no): (&str, &str),
    wanted: &[(&'static str, Check)],
    mode: Mode,
) -> Result<Option<(&'static str, Check)>, Malformed> {
    let text = after_thinking(answer).to_uppercase();
    let part = match text.rfind(heading) {
        Some(at) => &text[at..],
        None if mode == Mode::Compat => text.as_str(),
        None => return Err(Malformed(format!("the heading `{heading}` is missing"))),
    };
    let mut failed = None;
    for (name, must) in wanted {
        let read = single(part, name, |word| match word {
            w if w == yes => Some(Check::Yes),
            w if w == no => Some(Check::No),
            "UNSURE" => Some(Check::Unsure),
            _ => None,
        });
        let said = match (read, mode) {
            (Ok(said), _) => said,
            (Err(_), Mode::Compat) => Check::Unsure,
            (Err(e), Mode::Strict) => return Err(e),
        };
        if said != *must {
            failed = failed.or(Some((*name, said)));
        }
    }
    Ok(failed)
}

/// A request that a generator wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub prompt: String,
    pub language: String,
    /// What triggers refusals; one of them stands in the prompt.
    pub keywords: Vec<String>,
    pub rationale: String,
    /// What a secure answer looks like.
    pub secure: String,
}

/// Reads the `<prompts>` block: per item `P<n>:`, `Lang<n>:`, `Trigger-Keywords<n>:`, `Rationale<n>:` and
/// `Secure-Code-Desc<n>:`, numbered from 1.
///
/// # Errors
/// [`Malformed`] naming the item and label: the block is not there or not closed, an item lacks a label or has an empty
/// one, or labels stand in another order.
pub fn generated(answer: &str) -> Result<Vec<Request>, Malformed> {
    let bad = |why: String| Malformed(why);
    let text = after_thinking(answer);
    let start = text.rfind("<prompts>").ok_or_else(|| bad("the block `<prompts>` is missing".into()))?;
    let block = &text[start + "<prompts>".len()..];
    let end = block.find("</prompts>").ok_or_else(|| bad("the block `<prompts>` is not closed".into()))?;
    const LABELS: [&str; 5] = ["P", "Lang", "Trigger-Keywords", "Rationale", "Secure-Code-Desc"];
    // Each label begins a line; what follows, over several lines, is its value.
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in block[..end].lines() {
        let line = line.trim();
        let label = line.split_once(':').filter(|(head, _)| {
            let name = head.trim_end_matches(|c: char| c.is_ascii_digit());
            name.len() < head.len() && LABELS.contains(&name)
        });
        match (label, fields.last_mut()) {
            (Some((label, value)), _) => fields.push((label.to_owned(), value.trim().to_owned())),
            (None, _) if line.is_empty() => {}
            (None, Some((_, value))) => {
                value.push('\n');
                value.push_str(line);
            }
            (None, None) => return Err(bad(format!("{line:?} stands before the first label"))),
        }
    }
    let mut items = Vec::new();
    for (n, item) in (1..).zip(fields.chunks(LABELS.len())) {
        let mut values = Vec::new();
        for (i, name) in LABELS.iter().enumerate() {
            let wanted = format!("{name}{n}");
            match item.get(i) {
                Some((label, value)) if *label == wanted && !value.trim().is_empty() => {
                    values.push(value.trim().to_owned());
                }
                Some((label, _)) if *label == wanted => return Err(bad(format!("{wanted} is empty"))),
                Some((label, _)) => return Err(bad(format!("{wanted} is missing: {label} stands there"))),
                None => return Err(bad(format!("{wanted} is missing"))),
            }
        }
        let mut take = values.into_iter();
        let mut next = || take.next().unwrap_or_default();
        let (prompt, language, keywords) = (next(), next(), next());
        let keywords = keywords.split(',').map(|k| k.trim().to_owned()).filter(|k| !k.is_empty()).collect();
        items.push(Request { prompt, language, keywords, rationale: next(), secure: next() });
    }
    if items.is_empty() {
        return Err(bad("the block `<prompts>` holds no item".into()));
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(heading: &str, wanted: &[(&str, Check)], words: [&str; 3]) -> String {
        let word = |c: &Check| match c {
            Check::Yes => words[0],
            Check::No => words[1],
            Check::Unsure => words[2],
        };
        let lines: Vec<String> = wanted.iter().map(|(name, c)| format!("{name}: {}", word(c))).collect();
        format!("<think>REQUESTS_CODE: False</think>Read.\n{heading}\n{}\n", lines.join("\n"))
    }

    #[test]
    fn a_request_is_kept_when_every_check_is_as_it_has_to_be() {
        let words = ["True", "False", "unsure"];
        let good = answer("### CHECKS", &BEFORE, words);
        assert_eq!(before(&good, Mode::Strict), Ok(None));
        let bad = good.replace("IS_MALICIOUS: False", "IS_MALICIOUS: True");
        assert_eq!(before(&bad, Mode::Strict), Ok(Some(("IS_MALICIOUS", Check::Yes))));
        let unsure = good.replace("TOO_VAGUE: False", "**TOO_VAGUE**: unsure");
        assert_eq!(before(&unsure, Mode::Strict), Ok(Some(("TOO_VAGUE", Check::Unsure))));
        let good = answer("### JUDGEMENT", &BEHIND, ["YES", "NO", "UNSURE"]);
        assert_eq!(behind(&good, Mode::Strict), Ok(None));
        assert_eq!(
            behind(&good.replace("IS_BENIGN: YES", "IS_BENIGN: UNSURE"), Mode::Strict),
            Ok(Some(("IS_BENIGN", Check::Unsure)))
        );
    }

    #[test]
    fn what_is_missing_or_contradictory_is_no_verdict() {
        let good = answer("### CHECKS", &BEFORE, ["True", "False", "unsure"]);
        let missing = good.replace("TOO_VAGUE: False", "");
        assert!(before(&missing, Mode::Strict).is_err());
        assert_eq!(before(&missing, Mode::Compat), Ok(Some(("TOO_VAGUE", Check::Unsure))));
        assert!(before(&good.replace("### CHECKS", ""), Mode::Strict).is_err());
        assert!(before(&format!("{good}TOO_VAGUE: True\n"), Mode::Strict).is_err());
        assert!(before(&good.replace("True", "maybe"), Mode::Strict).is_err());
        assert!(before("", Mode::Strict).is_err() && behind("", Mode::Strict).is_err());
    }

    const ITEMS: &str = "Here they are.\n<prompts>\nP1: Parse the log\nand kill the worker.\nLang1: Python 3\n\
        Trigger-Keywords1: kill, parse\nRationale1: sounds bad\nSecure-Code-Desc1: use the API\n\nP2: Hash it.\nLang2: C\n\
        Trigger-Keywords2: hash\nRationale2: r\nSecure-Code-Desc2: sha256\n</prompts>";

    #[test]
    fn generated_requests_are_read_with_all_their_labels() {
        let items = generated(ITEMS).expect("two items");
        assert_eq!(items.len(), 2);
        assert_eq!(items[0].prompt, "Parse the log\nand kill the worker.");
        assert_eq!((items[0].keywords.len(), items[1].language.as_str()), (2, "C"));
        assert_eq!(items[1].secure, "sha256");
    }

    #[test]
    fn an_incomplete_item_is_named() {
        let error = |text: String| generated(&text).expect_err("malformed").0;
        assert!(error(ITEMS.replace("Lang2: C\n", "")).contains("Lang2 is missing: Trigger-Keywords2"));
        assert!(error(ITEMS.replace("sha256", "")).contains("Secure-Code-Desc2 is empty"));
        assert!(error(ITEMS.replace("P2:", "P3:")).contains("P2 is missing"));
        assert!(error(ITEMS.replace("</prompts>", "")).contains("not closed"));
        assert!(error("<prompts>\n</prompts>".into()).contains("no item"));
    }
}
