//! What an `sbatch` that gave no id means: the three-way split of specs F2, F15, F16.

use crate::backend::Submitted;
use crate::runner::CmdOut;
use crate::site::{Pattern, Patterns};

/// The controller may have taken the job although we heard nothing.
const UNCERTAIN: &[&str] = &[
    "Socket timed out",
    "Zero Bytes were transmitted or received",
    "Unexpected message received",
    "Message receive failure",
    "Message send failure",
    "Communication failure",
    "Communication connection failure after",
    "Connection timed out",
    "Connection reset",
    "Broken pipe",
    "Transport endpoint is not connected",
    "Insane message length",
    "Incomplete message",
    // of the answer: the request may have been taken
    "Protocol authentication error",
    "Munge decode failed",
];

/// The request never reached a controller that could take it.
const UNAVAILABLE: &[&str] = &[
    "Unable to contact slurm controller",
    "Communication connection failure",
    "Connection refused",
    "connect failure",
    "Slurm backup controller in standby mode",
    "Slurm controller in standby mode",
    "Munge encode failed",
    "Invalid authentication credential",
    "Slurmctld shutdown in progress",
    "No route to host",
    "Network is unreachable",
    "Name or service not known",
    "Could not establish a configuration source",
];

/// Counts of jobs: waiting helps.
const LIMIT: &[&str] = &[
    "SubmitJob",
    "MaxSubmit",
    "temporarily unable to accept job",
    "Resource temporarily unavailable",
    "Job violates accounting/QOS policy",
    "Too many jobs",
    "Maximum number of jobs",
    "RPC rate limit exceeded",
];

/// Refused by sbatch itself, before any controller was asked.
const REFUSED: &[&str] = &[
    "Batch script contains DOS line breaks",
    "This does not look like a batch script",
    "Batch script is empty!",
    "Unable to open file",
    "Invalid generic resource (gres) specification",
    "Pathname of a file, directory or other parameter too long",
    "unrecognized option",
    "Memory specification can not be satisfied",
];

/// `out` is an `sbatch` that ended by itself; its stdout held no id, or it did not exit 0.
#[must_use]
pub fn classify(site: &Patterns, out: &CmdOut) -> Submitted {
    let said = || out.complaint();
    let lines = || out.stderr.lines().chain(out.stdout.lines());
    let site_says = |patterns: &[Pattern]| lines().any(|l| patterns.iter().any(|p| p.0.is_match(l)));
    let any = |texts: &[&str]| lines().any(|l| texts.iter().any(|t| l.contains(t)));
    if site_says(&site.refuse) {
        return Submitted::Refused(said());
    }
    if site_says(&site.limit) {
        return Submitted::Limit(said());
    }
    if site_says(&site.transient) {
        return Submitted::Unavailable(said());
    }
    if out.code == Some(0) {
        return Submitted::Uncertain(format!("sbatch printed no job id: {}", said()));
    }
    if out.code.is_none() || any(UNCERTAIN) {
        return Submitted::Uncertain(said());
    }
    if any(UNAVAILABLE) {
        return Submitted::Unavailable(said());
    }
    // QOSMaxWallDurationPerJobLimit & co: this job breaks a limit of one job; the generic policy line comes with it
    let per_job = lines().any(|l| {
        (l.contains("QOS") || l.contains("Assoc"))
            && (l.contains("PerJob") || l.contains("QOSMin") || l.contains("WallDuration"))
    });
    if per_job {
        return Submitted::Refused(said());
    }
    if any(LIMIT) {
        return Submitted::Limit(said());
    }
    // The controller's answer, whatever its words, says no; 255 and the known texts are sbatch's own no.
    if out.code == Some(255) || any(&["Batch job submission failed:"]) || any(REFUSED) {
        return Submitted::Refused(said());
    }
    Submitted::Uncertain(said())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(code: i32, stderr: &str) -> Submitted {
        classify(
            &Patterns::default(),
            &CmdOut { code: Some(code), stdout: String::new(), stderr: stderr.into() },
        )
    }

    fn failed(reason: &str) -> Submitted {
        said(1, &format!("sbatch: error: Batch job submission failed: {reason}\n"))
    }

    #[test]
    fn refusals_of_the_controller_are_final() {
        for reason in [
            "Invalid partition name specified",
            "Invalid account or account/partition combination specified",
            "Invalid qos specification",
            "Requested node configuration is not available",
            "Requested time limit is invalid (missing or exceeds some limit)",
            "More processors requested than permitted",
            "Invalid job array specification",
            "Job dependency problem",
            "Some text of a site's own submit plugin",
        ] {
            assert!(matches!(failed(reason), Submitted::Refused(_)), "{reason}");
        }
    }

    #[test]
    fn sbatchs_own_refusals_are_final() {
        for (code, text) in [
            (255, "sbatch: error: Invalid --time specification\n"),
            (255, "sbatch: unrecognized option '--no-such-option=3'\nTry \"sbatch --help\"\n"),
            (1, "sbatch: error: Batch script contains DOS line breaks (\\r\\n)\n"),
            (1, "sbatch: error: Invalid generic resource (gres) specification\n"),
            (1, "sbatch: error: Unable to open file job.sh\n"),
        ] {
            assert!(matches!(said(code, text), Submitted::Refused(_)), "{text}");
        }
    }

    #[test]
    fn limits_mean_wait() {
        let policy = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)";
        let two = |first: &str| {
            said(
                1,
                &format!("sbatch: error: {first}\nsbatch: error: Batch job submission failed: {policy}\n"),
            )
        };
        for first in ["QOSMaxSubmitJobPerUserLimit", "AssocMaxSubmitJobLimit", "QOSGrpSubmitJobsLimit"] {
            assert!(matches!(two(first), Submitted::Limit(_)), "{first}");
        }
        assert!(matches!(failed(policy), Submitted::Limit(_)));
        let retried = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n\
                       sbatch: error: Batch job submission failed: Resource temporarily unavailable\n";
        assert!(matches!(said(1, retried), Submitted::Limit(_)));
        assert!(matches!(two("QOSMaxWallDurationPerJobLimit"), Submitted::Refused(_)));
    }

    #[test]
    fn time_outs_are_uncertain_and_an_absent_controller_is_not() {
        for reason in [
            "Socket timed out on send/recv operation",
            "Zero Bytes were transmitted or received",
            "Unexpected message received",
            "Protocol authentication error",
        ] {
            assert!(matches!(failed(reason), Submitted::Uncertain(_)), "{reason}");
        }
        assert!(matches!(
            failed("Unable to contact slurm controller (connect failure)"),
            Submitted::Unavailable(_)
        ));
        assert!(matches!(said(0, "welcome\n"), Submitted::Uncertain(_)));
        assert!(matches!(said(1, "something nobody has seen\n"), Submitted::Uncertain(_)));
        let killed = CmdOut { code: None, stdout: String::new(), stderr: String::new() };
        assert!(matches!(classify(&Patterns::default(), &killed), Submitted::Uncertain(_)));
    }

    #[test]
    fn a_sites_own_texts_come_first() {
        let p = |t: &str| vec![Pattern::parse(t).unwrap()];
        let site =
            Patterns { refuse: p("no budget"), limit: p("come back .* later"), transient: p("maintenance") };
        let out = |t: &str| CmdOut { code: Some(1), stdout: t.into(), stderr: String::new() };
        assert!(matches!(classify(&site, &out("you have no budget")), Submitted::Refused(_)));
        assert!(matches!(classify(&site, &out("come back a bit later")), Submitted::Limit(_)));
        assert!(matches!(classify(&site, &out("maintenance until noon")), Submitted::Unavailable(_)));
    }

    proptest! {
        #[test]
        fn an_unknown_text_is_never_called_accepted(text in "(?s).{0,200}", code in 0i32..256) {
            prop_assert!(!matches!(said(code, &text), Submitted::Accepted(_)));
        }
    }
}
