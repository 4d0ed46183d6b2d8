//! `sacct -n -X -D -P --delimiter=US -o FIELDS`.

use crate::parse::{ParseError, SEPARATOR, epoch, hosts, indices};

/// For `-o`. Only fields that every release since 20.11 has (`Restarts` is not one).
pub const FIELDS: &str = "JobID,JobIDRaw,State,ExitCode,Submit,Start,End,ElapsedRaw,NodeList,Reason,JobName";

/// One job, one array element, or one earlier run of a requeued job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `4711` or `4711_3`.
    pub id: String,
    /// As printed: `CANCELLED by 1000`.
    pub state: String,
    /// Exit code and signal.
    pub exit: Option<(i32, i32)>,
    pub submit: Option<i64>,
    pub start: Option<i64>,
    pub end: Option<i64>,
    pub nodes: Vec<String>,
    pub reason: String,
    pub name: String,
    /// A *refused* submission leaves a row like a job that failed at once, though no id was ever given out (specs: F3).
    pub ghost: bool,
}

/// # Errors
/// A line with another number of fields. Lines without a separator are passed over (a banner, the rest of a name).
pub fn parse(stdout: &str) -> Result<Vec<Row>, ParseError> {
    let mut rows = Vec::new();
    let count = FIELDS.split(',').count();
    for (n, line) in stdout.lines().enumerate() {
        if !line.contains(SEPARATOR) {
            continue;
        }
        let wrong = || ParseError { command: "sacct", line: n + 1, text: line.to_owned() };
        let fields: Vec<&str> = line.splitn(count, SEPARATOR).collect();
        let [id, raw, state, exit, submit, start, end, elapsed, nodes, reason, name] = fields[..] else {
            return Err(wrong());
        };
        if state.is_empty() || !id.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(wrong());
        }
        if id.contains('.') || raw.contains('.') {
            continue; // a step: -X should have left it out
        }
        let never_placed = nodes.is_empty() || nodes == "None assigned";
        let ghost = state.starts_with("FAILED") && never_placed && matches!(elapsed, "" | "0");
        let row = |id: String| Row {
            id,
            state: state.to_owned(),
            exit: exit_code(exit),
            submit: epoch(submit),
            start: epoch(start),
            end: epoch(end),
            nodes: hosts(nodes),
            reason: reason.to_owned(),
            name: name.to_owned(),
            ghost,
        };
        match id.split_once('_') {
            None => rows.push(row(id.to_owned())),
            // elements that never started share one row: 6_[13-100%1]
            Some((array, rest)) if rest.starts_with('[') => {
                let list = indices(rest.trim_matches(['[', ']']));
                // a list that was cut at 64 bytes: its elements stay unseen, which decides nothing
                rows.extend(list.into_iter().flatten().map(|k| row(format!("{array}_{k}"))));
            }
            Some(_) => rows.push(row(id.to_owned())),
        }
    }
    Ok(rows)
}

/// `3:0`: exit code and signal.
pub(crate) fn exit_code(text: &str) -> Option<(i32, i32)> {
    let (code, signal) = text.split_once(':')?;
    Some((code.parse().ok()?, signal.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(fields: [&str; 11]) -> String {
        fields.join("\u{1f}") + "\n"
    }

    #[test]
    fn states_exit_codes_and_elements_are_read() {
        let text =
            line(["9", "9", "CANCELLED by 1002", "0:15", "100", "110", "120", "10", "n4", "None", "bs-a"])
                + &line(["10_9", "10", "COMPLETED", "0:0", "1", "2", "3", "1", "n1", "None", "ba"])
                + &line([
                    "6_[1-3%1]",
                    "6",
                    "CANCELLED by 0",
                    "0:0",
                    "1",
                    "1",
                    "1",
                    "0",
                    "None assigned",
                    "None",
                    "ba",
                ])
                + &line(["9.batch", "9.batch", "CANCELLED", "0:15", "1", "2", "3", "1", "n4", "", "batch"]);
        let rows = parse(&text).unwrap();
        let ids: Vec<&str> = rows.iter().map(|r| r.id.as_str()).collect();
        assert_eq!(ids, ["9", "10_9", "6_1", "6_2", "6_3"]);
        assert_eq!(rows[0].exit, Some((0, 15)));
        assert!(rows.iter().all(|r| !r.ghost));
        assert!(rows[2].nodes.is_empty());
    }

    #[test]
    fn a_refused_submission_is_marked_as_a_ghost() {
        let text =
            line(["7", "7", "FAILED", "1:0", "100", "100", "100", "0", "None assigned", "None", "bs-a"])
                + &line([
                    "8",
                    "8",
                    "FAILED",
                    "1:0",
                    "100",
                    "101",
                    "101",
                    "0",
                    "n1",
                    "NonZeroExitCode",
                    "bs-b",
                ]);
        let rows = parse(&text).unwrap();
        assert!(rows[0].ghost && !rows[1].ghost);
    }

    #[test]
    fn a_cut_list_yields_no_elements_and_a_cut_row_an_error() {
        let cut = line(["6_[1,3,...]", "6", "CANCELLED", "0:0", "1", "1", "1", "0", "", "", "ba"]);
        assert_eq!(parse(&cut), Ok(vec![]));
        assert_eq!(parse("1\u{1f}2\n").unwrap_err().line, 1);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(?s).{0,300}", parts in prop::collection::vec("[0-9A-Z_.:%\\[\\]-]{0,8}", 0..30)) {
            let _ = parse(&text);
            let _ = parse(&parts.join("\u{1f}"));
        }
    }
}
