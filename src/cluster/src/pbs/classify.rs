//! What a `qsub` that gave no id means (specs: 3.4, F16, F34).

use crate::backend::Submitted;
use crate::runner::CmdOut;
use crate::site::{Pattern, Patterns};

const UNAVAILABLE: &[&str] = &[
    "cannot connect to server",
    "annot connect to specified server host",
    "Couldn't connect to cluster",
    "Connection refused",
    "Unknown Host",
    "No route to host",
    "errno=15010",
    "errno=15008",
    "Server shutting down",
];

/// The server was there and then it was not.
const UNCERTAIN: &[&str] = &[
    "Communication failure",
    "End of File",
    "Premature end of message",
    "Protocol (ASN.1) error",
    "Connection timed out",
    "timed out",
    "Connection reset",
    "Broken pipe",
];

const LIMIT: &[&str] = &[
    "would exceed",
    "Maximum number of jobs already in queue",
    "maximum number of jobs",
    "exceeds the maximum number of jobs",
    "Resource temporarily unavailable",
];

/// Exit statuses of OpenPBS's `qsub` that are an answer: PBS error number modulo 256 (specs: 3.4).
const SERVER_SAID_NO: &[i32] = &[155, 159, 166, 170, 173, 187, 188];
/// ... and of options and script files, before the server is asked.
const USAGE: &[i32] = &[2, 3, 5];

/// Whether a command found no server at all.
pub(super) fn unreachable(out: &CmdOut) -> bool {
    out.code != Some(0)
        && out.stderr.lines().any(|l| UNAVAILABLE.iter().chain(UNCERTAIN).any(|t| l.contains(t)))
}

/// `out` is a `qsub` that ended by itself; its stdout held no id, or it did not exit 0. Some print errors on stdout.
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
    let Some(code) = out.code.filter(|c| *c != 0) else {
        return Submitted::Uncertain(format!("qsub printed no job id: {}", said()));
    };
    if any(UNAVAILABLE) {
        return Submitted::Unavailable(said());
    }
    if any(UNCERTAIN) {
        return Submitted::Uncertain(said());
    }
    if code == 38 || any(LIMIT) {
        return Submitted::Limit(said());
    }
    // any other sentence of qsub's own is the server's or the option parser's no
    if SERVER_SAID_NO.contains(&code) || USAGE.contains(&code) || lines().any(|l| l.starts_with("qsub:")) {
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

    #[test]
    fn what_the_server_refuses_is_final() {
        for (code, text) in [
            (170, "qsub: Unknown queue\n"),
            (173, "qsub: Queue is not enabled\n"),
            (188, "qsub: Job violates queue and/or server resource limits\n"),
            (166, "qsub: Illegal attribute or resource value Resource_List.walltime\n"),
            (187, "qsub: Unknown resource: nosuchres\n"),
            (2, "qsub: Cannot be used with select or place: nodes\n"),
            (5, "qsub: \"-lresource=\" cannot be used with \"select\" or \"place\", resource is: ncpus\n"),
            (1, "qsub: script file:: No such file or directory\n"),
            (1, "qsub: submit error (Unauthorized Request MSG=group ACL is not satisfied)\n"),
        ] {
            assert!(matches!(said(code, text), Submitted::Refused(_)), "{text}");
        }
    }

    #[test]
    fn limits_absence_and_doubt_are_told_apart() {
        assert!(matches!(
            said(38, "qsub: would exceed queue generic's per-user limit\n"),
            Submitted::Limit(_)
        ));
        let torque = "qsub: submit error (Maximum number of jobs already in queue MSG=total number of current user's jobs exceeds the queue limit)\n";
        assert!(matches!(said(1, torque), Submitted::Limit(_)));
        let down = "Connection refused\nqsub: cannot connect to server pbs1 (errno=15010)\n";
        assert!(matches!(said(162, down), Submitted::Unavailable(_)));
        assert!(matches!(said(1, "qsub: End of File\n"), Submitted::Uncertain(_)));
        assert!(matches!(said(0, ""), Submitted::Uncertain(_)));
        assert!(matches!(said(9, "never seen\n"), Submitted::Uncertain(_)));
    }

    #[test]
    fn a_wrapper_that_complains_on_stdout_is_heard() {
        let out = CmdOut {
            code: Some(1),
            stdout: "qsub: Invalid partition name specified\n".into(),
            stderr: String::new(),
        };
        assert!(matches!(classify(&Patterns::default(), &out), Submitted::Refused(_)));
    }

    proptest! {
        #[test]
        fn an_unknown_text_is_never_called_accepted(text in "(?s).{0,200}", code in 0i32..256) {
            prop_assert!(!matches!(said(code, &text), Submitted::Accepted(_)));
        }
    }
}
