//! `qselect`: one id a line.

use super::qsub::is_id;
use crate::parse::ParseError;

/// # Errors
/// A line that is no id.
pub fn parse(stdout: &str) -> Result<Vec<String>, ParseError> {
    let lines = stdout.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
    lines
        .map(|(n, l)| match l.trim() {
            id if is_id(id) => Ok(id.to_owned()),
            _ => Err(ParseError { command: "qselect", line: n + 1, text: l.to_owned() }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::parse;
    use proptest::prelude::*;

    #[test]
    fn ids_one_per_line_and_nothing_else() {
        assert_eq!(parse("0.pbs1\n1[].pbs1\n\n").unwrap(), ["0.pbs1", "1[].pbs1"]);
        assert_eq!(parse("0.pbs1\nhello\n").unwrap_err().line, 2);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(?s).{0,200}") { let _ = parse(&text); }
    }
}
