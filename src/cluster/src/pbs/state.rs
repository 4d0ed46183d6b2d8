//! PBS states and exit statuses. The same number means different things in the two families (specs: 3.4), so the flavor
//! must be known.

use super::qstat::Job;
use crate::backend::JobState;
use crate::site::Flavor;

/// The state of one `qstat -f` row.
#[must_use]
pub fn state(flavor: Flavor, job: &Job) -> JobState {
    use JobState as S;
    match job.get("job_state").trim() {
        "Q" if job.get("comment").starts_with("Can Never Run") => S::Hopeless,
        "Q" | "W" | "T" => S::Waiting,
        // `s` with a dependency is the server's own hold; `u`, `o` are somebody's
        "H" if !job.get("depend").is_empty() && !job.get("Hold_Types").contains(['u', 'o']) => S::Waiting,
        "H" => S::Hopeless,
        "R" if job.number("substate") == Some(41) => S::Starting,
        "R" | "E" | "B" => S::Running,
        "S" | "U" => S::Suspended,
        "F" | "C" | "X" => ended(flavor, job),
        _ => S::Unknown,
    }
}

/// Exit code and signal of a job that ran.
#[must_use]
pub fn exit(job: &Job) -> Option<(i32, i32)> {
    match job.number("Exit_status").or_else(|| job.number("exit_status"))? {
        code @ 0..=255 => Some((code, 0)),
        code if code >= 256 => Some((0, code - 256)),
        _ => None,
    }
}

/// State, comment and exit status for people.
pub(super) fn spell(job: &Job) -> String {
    let mut s = job.get("job_state").trim().to_owned();
    if let Some(n) = job.number("Exit_status").or_else(|| job.number("exit_status")) {
        s.push_str(&format!(" Exit_status={n}"));
    }
    if !job.get("comment").is_empty() {
        s.push_str(&format!(" ({})", job.get("comment")));
    }
    s
}

fn ended(flavor: Flavor, job: &Job) -> JobState {
    use JobState as S;
    let comment = job.get("comment");
    let Some(status) = job.number("Exit_status").or_else(|| job.number("exit_status")) else {
        // It never ran: deleted, or its dependency failed and the server deleted it (specs: F10).
        return S::Cancelled;
    };
    if comment.contains("exceeded resource walltime") || comment.contains("exceeded resource cput") {
        return S::TimedOut;
    }
    if comment.contains("exceeded resource mem") || comment.contains("exceeded resource vmem") {
        return S::OutOfMemory;
    }
    // substate 91: terminated by qdel; the trap's own exit code does not show (specs: F32)
    let deleted = job.number("substate") == Some(91);
    match (status, flavor) {
        (0, _) => S::Completed,
        (271 | 265, _) if deleted || flavor == Flavor::Torque => S::Cancelled,
        (1.., _) => S::Failed,
        (-29 | -28, Flavor::PbsPro) | (-11 | -12, Flavor::Torque) => S::TimedOut,
        (-27 | -26, Flavor::PbsPro) | (-10, Flavor::Torque) => S::OutOfMemory,
        // ncpus over the limit, bad user or password, rejected by a hook: not the node's fault
        (-24 | -25 | -10 | -13 | -16, Flavor::PbsPro) => S::Failed,
        // could not be started, lost its MOM, to be run again: something about the node
        _ => S::NodeFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::super::qstat;
    use super::*;
    use Flavor::{PbsPro, Torque};
    use JobState as S;

    fn job(attributes: &[(&str, &str)]) -> Job {
        let lines: String = attributes.iter().map(|(k, v)| format!("    {k} = {v}\n")).collect();
        qstat::parse(&format!("Job Id: 1.s\n{lines}")).unwrap().remove(0)
    }

    #[test]
    fn every_letter() {
        let s = |attributes: &[(&str, &str)]| state(PbsPro, &job(attributes));
        assert_eq!(s(&[("job_state", "Q")]), S::Waiting);
        let never = "Can Never Run: Insufficient amount of resource: ngpus (R: 9 A: 4 T: 4)";
        assert_eq!(s(&[("job_state", "Q"), ("comment", never)]), S::Hopeless);
        assert_eq!(s(&[("job_state", "H"), ("Hold_Types", "s"), ("depend", "afterok:4.s@s")]), S::Waiting);
        assert_eq!(s(&[("job_state", "H"), ("Hold_Types", "u")]), S::Hopeless);
        assert_eq!(s(&[("job_state", "R"), ("substate", "41")]), S::Starting);
        assert_eq!(s(&[("job_state", "R"), ("substate", "42")]), S::Running);
        for (letter, want) in [
            ("W", S::Waiting),
            ("T", S::Waiting),
            ("E", S::Running),
            ("B", S::Running),
            ("S", S::Suspended),
            ("U", S::Suspended),
            ("M", S::Unknown),
            ("?", S::Unknown),
        ] {
            assert_eq!(s(&[("job_state", letter)]), want, "{letter}");
        }
    }

    #[test]
    fn a_job_that_ended_without_exit_status_never_ran_and_is_no_success() {
        assert_eq!(state(PbsPro, &job(&[("job_state", "F"), ("substate", "92")])), S::Cancelled);
        assert_eq!(
            state(PbsPro, &job(&[("job_state", "F"), ("substate", "92"), ("Exit_status", "0")])),
            S::Completed
        );
    }

    #[test]
    fn the_same_number_differs_between_the_families() {
        let of = |flavor, n: &str| {
            state(flavor, &job(&[("job_state", "F"), ("substate", "93"), ("Exit_status", n)]))
        };
        for (n, pro, torque) in [
            ("0", S::Completed, S::Completed),
            ("7", S::Failed, S::Failed),
            ("139", S::Failed, S::Failed),
            ("271", S::Failed, S::Cancelled),
            ("-29", S::TimedOut, S::NodeFailed),
            ("-11", S::NodeFailed, S::TimedOut),
            ("-10", S::Failed, S::OutOfMemory),
            ("-27", S::OutOfMemory, S::NodeFailed),
            ("-13", S::Failed, S::NodeFailed),
            ("-3", S::NodeFailed, S::NodeFailed),
        ] {
            assert_eq!((of(PbsPro, n), of(Torque, n)), (pro, torque), "{n}");
        }
        let deleted = job(&[("job_state", "F"), ("substate", "91"), ("Exit_status", "271")]);
        assert_eq!((state(PbsPro, &deleted), exit(&deleted)), (S::Cancelled, Some((0, 15))));
        let walltime = job(&[
            ("job_state", "F"),
            ("Exit_status", "271"),
            ("comment", "... and exceeded resource walltime"),
        ]);
        assert_eq!(state(PbsPro, &walltime), S::TimedOut);
        let torque = job(&[("job_state", "C"), ("exit_status", "3")]);
        assert_eq!((state(Torque, &torque), exit(&torque)), (S::Failed, Some((3, 0))));
    }
}
