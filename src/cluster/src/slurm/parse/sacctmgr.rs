//! `sacctmgr -nP show assoc|qos format=...`: fields between bars, empty where nothing is set.

use crate::parse::ParseError;

/// Rows of exactly `columns` fields. (No field asked for is free text.)
///
/// # Errors
/// A line with another number of fields.
pub fn parse(stdout: &str, columns: usize) -> Result<Vec<Vec<String>>, ParseError> {
    let mut rows = Vec::new();
    for (n, line) in stdout.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let row: Vec<String> = line.split('|').map(|f| f.trim().to_owned()).collect();
        if row.len() != columns {
            return Err(ParseError { command: "sacctmgr", line: n + 1, text: line.to_owned() });
        }
        rows.push(row);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::parse;
    use proptest::prelude::*;

    #[test]
    fn empty_fields_are_kept_and_odd_lines_refused() {
        assert_eq!(parse("test|5||normal,tiny\n", 4).unwrap(), [["test", "5", "", "normal,tiny"]]);
        assert_eq!(parse("a|b\na\n", 2).unwrap_err().line, 2);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(?s).{0,200}", n in 0usize..5) { let _ = parse(&text, n); }
    }
}
