//! `qstat -f -w` (OpenPBS) and `qstat -f -1` (Torque): text, since the JSON of many versions is broken (specs: 3.4).

use crate::parse::ParseError;
use std::collections::BTreeMap;

/// One job's attributes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Job {
    /// `12.pbs1`.
    pub id: String,
    attributes: BTreeMap<String, String>,
}

impl Job {
    /// The attribute's value, empty if it is not there.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    #[must_use]
    pub fn number(&self, name: &str) -> Option<i32> {
        self.get(name).trim().parse().ok()
    }
}

/// # Errors
/// A job without id or without state. Long lines may be wrapped (a tab begins the rest); other lines are passed over.
pub fn parse(stdout: &str) -> Result<Vec<Job>, ParseError> {
    let mut jobs: Vec<(usize, String, Job)> = Vec::new();
    let mut last: Option<String> = None;
    for (n, line) in stdout.lines().enumerate() {
        if let Some(id) = line.strip_prefix("Job Id:") {
            jobs.push((n + 1, line.to_owned(), Job { id: id.trim().to_owned(), ..Job::default() }));
            last = None;
            continue;
        }
        let Some((_, _, job)) = jobs.last_mut() else { continue };
        if let Some(rest) = line.strip_prefix('\t') {
            if let Some(value) = last.as_ref().and_then(|key| job.attributes.get_mut(key)) {
                value.push_str(rest);
            }
        } else if let Some((key, value)) = line.strip_prefix("    ").and_then(|l| l.split_once(" = ")) {
            last = Some(key.trim().to_owned());
            job.attributes.insert(key.trim().to_owned(), value.to_owned());
        }
    }
    let whole = |(line, text, job): (usize, String, Job)| {
        if job.id.is_empty() || job.get("job_state").is_empty() {
            return Err(ParseError { command: "qstat", line, text });
        }
        Ok(job)
    };
    jobs.into_iter().map(whole).collect()
}

/// Hosts of `exec_host`: `pbs1/0*2+pbs2/1`.
#[must_use]
pub fn nodes(exec_host: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for part in exec_host.split('+') {
        let host = part.split('/').next().unwrap_or("").trim();
        if !host.is_empty() && !out.iter().any(|h| h == host) {
            out.push(host.to_owned());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attributes_are_read_wrapped_or_not() {
        let text = "Job Id: 23.pbs1\n    Job_Name = bs-a\n    job_state = F\n    comment = Job run at 16:06 and exceeded res\n\
                    \tource walltime\n    Exit_status = -29\n    exec_host = pbs1/0*2+pbs2/1+pbs1/3\n\n\
                    Job Id: 24.pbs1\n    job_state = Q\n";
        let jobs = parse(text).unwrap();
        assert_eq!(jobs[0].get("comment"), "Job run at 16:06 and exceeded resource walltime");
        assert_eq!(jobs[0].number("Exit_status"), Some(-29));
        assert_eq!(nodes(jobs[0].get("exec_host")), ["pbs1", "pbs2"]);
        assert_eq!((jobs[1].id.as_str(), jobs[1].get("comment")), ("24.pbs1", ""));
    }

    #[test]
    fn a_value_with_a_newline_in_it_does_not_end_the_job() {
        let text = "Job Id: 1.s\n    Variable_List = NL=a\nb\tc,X=1\n    job_state = R\n";
        assert_eq!(parse(text).unwrap()[0].get("job_state"), "R");
    }

    #[test]
    fn a_job_without_a_state_is_an_error() {
        assert_eq!(parse("hello\nJob Id: 1.s\n    Job_Name = x\n").unwrap_err().line, 2);
        assert_eq!(parse("").unwrap(), []);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(?s).{0,300}", lines in prop::collection::vec("(Job Id: )?[ \t]{0,4}[a-z]{0,4}( = )?.{0,4}", 0..12)) {
            let _ = (parse(&text), nodes(&text));
            let _ = parse(&lines.join("\n"));
        }
    }
}
