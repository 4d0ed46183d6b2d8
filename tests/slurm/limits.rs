//! Submit limits are back-pressure: exit code 75, nothing forgotten, nothing twice.

use super::lab::{Lab, slurm_is_here};
use super::sweeps;
use std::collections::BTreeSet;

#[test]
fn a_users_submit_limit_is_waited_for() {
    if !slurm_is_here() {
        return;
    }
    let lab = Lab::new(&["--accounting", "--submit-limit", "5"]);
    lab.site("qos: tiny\nlimits: {min_poll: 1s, max_array: 1}\n");
    lab.job(&sweeps::many(&lab, 12, "sleep 1"));
    let first = lab.submit().code(75);
    assert!(first.err.contains("limit") || first.out.contains("limit"), "says why: {first}");
    let status = lab.status();
    assert_eq!(status.tasks().len(), 12);
    assert_eq!(status.count("deferred") + status.count("planned"), 7, "{status:#?}");
    lab.resume_until_done();
    let marks = lab.marks();
    assert_eq!(marks.len(), 12, "{marks:#?}");
    assert_eq!(marks.iter().collect::<BTreeSet<_>>().len(), 12);
}

#[test]
fn a_full_controller_is_waited_for() {
    if !slurm_is_here() {
        return;
    }
    // finished jobs count too, until they are purged; sbatch itself waits up to two minutes for a place
    let lab = Lab::new(&["--set", "MaxJobCount=5", "--set", "MinJobAge=2"]);
    lab.site("limits: {min_poll: 1s, max_array: 1}\n");
    lab.job(&sweeps::many(&lab, 8, "true"));
    let first = lab.submit();
    assert!([0, 75].contains(&first.code), "{first}");
    assert!(lab.controller_log().contains("MaxJobCount"), "the limit was never met\n{}", lab.evidence());
    lab.resume_until_done();
    let marks = lab.marks();
    assert_eq!(marks.len(), 8, "{marks:#?}");
    assert_eq!(marks.iter().collect::<BTreeSet<_>>().len(), 8);
}
