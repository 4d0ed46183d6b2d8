//! Which language a piece of text is in, by what it shows (specs: SecureCodeRL 16.5). Used only where no fence says so.

/// A language that can be told from text alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    Python,
    /// C or C++.
    C,
}

impl Detected {
    /// Whether text of this look can be a program in the language.
    #[must_use]
    pub fn may_be(self, language: &str) -> bool {
        match self {
            Detected::Python => !matches!(language, "c" | "cpp" | "rust" | "nodejs"),
            Detected::C => language != "python",
        }
    }
}

/// Points that a language must have; and how often one mark counts.
const ENOUGH: usize = 5;
const MOST: usize = 3;

/// The language with more points, if it has enough; Python wins a tie.
#[must_use]
pub fn detect(text: &str) -> Option<Detected> {
    let (python, c) = (python(text), c(text));
    match () {
        () if python >= ENOUGH && python >= c => Some(Detected::Python),
        () if c >= ENOUGH => Some(Detected::C),
        () => None,
    }
}

/// Weight times occurrences, the latter at most [`MOST`].
fn points(marks: &[(usize, usize)]) -> usize {
    marks.iter().map(|(weight, count)| weight * (*count).min(MOST)).sum()
}

/// Lines that hold.
fn lines(text: &str, holds: impl Fn(&str) -> bool) -> usize {
    text.lines().filter(|l| holds(l)).count()
}

/// Occurrences of any of the words, each standing alone at its start.
fn words(text: &str, list: &[&str]) -> usize {
    let alone = |at: usize| text[..at].chars().next_back().is_none_or(|c| !(c.is_alphanumeric() || c == '_'));
    list.iter().map(|w| text.match_indices(w).filter(|(at, _)| alone(*at)).count()).sum()
}

fn python(text: &str) -> usize {
    let starts = |word: &str| lines(text, |l| l.starts_with(word));
    let colon = |l: &str| l.trim_end().ends_with(':');
    points(&[
        (10, lines(text, |l| l.trim_start().starts_with("def ") && l.contains('('))),
        (10, lines(text, |l| l.trim_start().starts_with("class ") && colon(l))),
        (8, starts("import ")),
        (8, lines(text, |l| l.starts_with("from ") && l.contains(" import "))),
        (8, words(text, &["elif "])),
        (6, words(text, &["lambda "])),
        (6, words(text, &["__name__", "__init__", "__main__"])),
        (6, lines(text, |l| l.trim_start().starts_with("except") && colon(l))),
        (5, words(text, &["print("])),
        (5, lines(text, |l| l.trim_start().starts_with("for ") && l.contains(" in "))),
        (5, words(text, &["self."])),
        (4, words(text, &["list(", "dict(", "set(", "tuple("])),
        (4, text.matches(".append(").count() + text.matches(".extend(").count()),
        (3, lines(text, |l| l.trim_start().starts_with("if ") && colon(l))),
        (3, words(text, &["True", "False", "None"])),
        (3, words(text, &["range(", "len(", "str(", "int("])),
        (2, lines(text, colon)),
        (2, starts("    ")),
    ])
}

fn c(text: &str) -> usize {
    let include = |open: char| {
        lines(text, |l| {
            l.trim_start().strip_prefix("#include").is_some_and(|r| r.trim_start().starts_with(open))
        })
    };
    points(&[
        (10, include('<')),
        (10, include('"')),
        (10, words(text, &["int main"])),
        (8, words(text, &["printf("])),
        (8, words(text, &["scanf("])),
        (8, words(text, &["malloc(", "free("])),
        (7, words(text, &["struct "])),
        (7, lines(text, |l| l.trim_start().starts_with("#define "))),
        (6, words(text, &["void "])),
        (6, words(text, &["sizeof"])),
        (5, words(text, &["return 0;"])),
        (5, words(text, &["char "])),
        (5, words(text, &["float ", "double "])),
        (5, words(text, &["NULL"])),
        (5, lines(text, |l| l.contains("->") && l.trim_end().ends_with(';'))),
        (4, lines(text, |l| l.trim_start().starts_with("int ") && l.contains('='))),
        (2, lines(text, |l| l.trim_end().ends_with(';'))),
        (2, text.matches("&&").count() + text.matches("||").count()),
        (1, text.matches(['{', '}']).count()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_apart_and_prose_is_neither() {
        let c = "#include <stdio.h>\nint main() {\n  int n = 3;\n  printf(\"%d\", n);\n  return 0;\n}\n";
        assert_eq!(detect(c), Some(Detected::C));
        let python = "import sys\nfor line in sys.stdin:\n    print(len(line))\n";
        assert_eq!(detect(python), Some(Detected::Python));
        assert_eq!(detect("Add the two numbers and say what comes out."), None);
        assert_eq!(detect(""), None);
        // annotations are no pointers, dictionaries are no blocks
        let typed = "def f(x: int) -> dict:\n    return {'a': x}\n";
        assert_eq!(detect(typed), Some(Detected::Python));
    }

    #[test]
    fn one_mark_counts_three_times_at_the_most() {
        assert_eq!(python("x = True"), 3);
        assert_eq!(python(&"x = True\n".repeat(9)), 9);
    }
}
