//! `squeue -h -r -t all -o FORMAT`.

use crate::parse::{ParseError, SEPARATOR, epoch, indices};

/// Fields that [`parse`] reads, in order: id, array id, array index, state, reason, submit, start, nodes, name. The only
/// free text (the name) is last.
const FIELDS: [&str; 9] = ["%i", "%F", "%K", "%T", "%r", "%V", "%S", "%N", "%j"];

/// For `-o`.
#[must_use]
pub fn format() -> String {
    FIELDS.join(&SEPARATOR.to_string())
}

/// One job, or one element of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `4711` or `4711_3`: never the raw id of an array element, which can be the array's own (specs: slurm-pbs 2).
    pub id: String,
    pub state: String,
    pub reason: String,
    pub submit: Option<i64>,
    pub start: Option<i64>,
    pub nodes: Vec<String>,
    pub name: String,
}

/// # Errors
/// A line with another number of fields. Lines without any separator are a banner (before the first row) or the rest
/// of a name with a newline in it, and are passed over: neither can be a job of ours.
pub fn parse(stdout: &str) -> Result<Vec<Row>, ParseError> {
    let mut rows = Vec::new();
    for (n, line) in stdout.lines().enumerate() {
        if !line.contains(SEPARATOR) {
            continue;
        }
        let wrong = || ParseError { command: "squeue", line: n + 1, text: line.to_owned() };
        let fields: Vec<&str> = line.splitn(FIELDS.len(), SEPARATOR).collect();
        let [id, array, index, state, reason, submit, start, nodes, name] = fields[..] else {
            return Err(wrong());
        };
        if state.is_empty() || !id.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(wrong());
        }
        let row = |id: String| Row {
            id,
            state: state.to_owned(),
            reason: reason.to_owned(),
            submit: epoch(submit),
            start: epoch(start),
            nodes: crate::parse::hosts(nodes),
            name: name.to_owned(),
        };
        // %K is N/A outside arrays; -r gives one row per element, but a folded row must not be misread as one job
        match indices(index.trim_matches(['[', ']'])) {
            Some(list) => rows.extend(list.into_iter().map(|k| row(format!("{array}_{k}")))),
            None if index == "N/A" => rows.push(row(id.to_owned())),
            None => return Err(wrong()),
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(fields: [&str; 9]) -> String {
        fields.join("\u{1f}") + "\n"
    }

    #[test]
    fn single_jobs_and_array_elements_are_told_apart() {
        let text = line(["5", "5", "N/A", "RUNNING", "None", "100", "101", "n[1-2]", "bs-a"])
            + &line(["103_499", "103", "499", "PENDING", "Resources", "100", "N/A", "", "ba-x"])
            + &line(["603_[2-3%2]", "603", "2-3%2", "PENDING", "JobArrayTaskLimit", "1", "0", "", "w"]);
        let rows = parse(&text).unwrap();
        let ids: Vec<&str> = rows.iter().map(|r| r.id.as_str()).collect();
        assert_eq!(ids, ["5", "103_499", "603_2", "603_3"]);
        assert_eq!(rows[0].nodes, ["n1", "n2"]);
        assert_eq!((rows[0].start, rows[1].start), (Some(101), None));
    }

    #[test]
    fn odd_names_and_reasons_stay_in_their_fields() {
        let text = String::from("Welcome to the cluster\n")
            + &line([
                "7",
                "7",
                "N/A",
                "PENDING",
                "ReqNodeNotAvail, UnavailableNodes:n4",
                "1",
                "",
                "",
                "a|b c,\"q\"",
            ])
            + "second line of a name\n"
            + &line(["8", "8", "N/A", "RUNNING", "None", "1", "2", "n1", "x\u{1f}y"]);
        let rows = parse(&text).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].reason, "ReqNodeNotAvail, UnavailableNodes:n4");
        assert_eq!(rows[1].name, "x\u{1f}y");
    }

    #[test]
    fn a_row_that_is_cut_or_foreign_is_an_error_with_its_line() {
        let good = line(["5", "5", "N/A", "RUNNING", "None", "1", "2", "n1", "a"]);
        let e = parse(&(good.clone() + "5\u{1f}5\u{1f}N/A\n")).unwrap_err();
        assert_eq!((e.command, e.line), ("squeue", 2));
        let cut = line(["5_[1,3...", "5", "1,3...", "PENDING", "None", "1", "2", "", "a"]);
        assert!(parse(&cut).is_err());
        assert!(parse(&line(["", "5", "N/A", "RUNNING", "", "", "", "", ""])).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(?s).{0,300}", parts in prop::collection::vec("[0-9A-Z_/,:%\\[\\]-]{0,8}", 0..30)) {
            let _ = parse(&text);
            let _ = parse(&parts.join("\u{1f}"));
        }
    }
}
