//! A controller that is away, hangs, or forgets.

use super::lab::{Lab, slurm_is_here};
use super::sweeps;
use std::collections::BTreeSet;

#[test]
fn a_controller_that_is_down_during_submit_loses_nothing() {
    if !slurm_is_here() {
        return;
    }
    let lab = Lab::new(&["--set", "MessageTimeout=3"]);
    lab.job(&sweeps::chain(&lab, "true", ""));
    lab.ctl("stop", "slurmctld");
    lab.submit().code(75);
    assert_eq!(lab.marks(), [""; 0]);
    let offline = lab.status();
    assert_eq!(offline.tasks().len(), 3, "the sweep is known: {offline:#?}");
    lab.ctl("start", "slurmctld");
    lab.resume_until_done();
    assert_eq!(lab.marks(), ["a", "b", "c"]);
}

#[test]
fn a_controller_that_hangs_during_submit_gets_no_job_twice() {
    if !slurm_is_here() {
        return;
    }
    let lab = Lab::new(&["--set", "MessageTimeout=2"]);
    lab.site("limits: {min_poll: 1s, max_array: 1}\n");
    lab.job(&sweeps::many(&lab, 4, "true"));
    lab.ctl("freeze", "slurmctld");
    let hung = lab.submit();
    assert_ne!(hung.code, 0, "{hung}");
    lab.ctl("thaw", "slurmctld");
    lab.resume_until_done();
    let marks = lab.marks();
    assert_eq!(marks.len(), 4, "{marks:#?}");
    let names = lab.job_names();
    assert_eq!(
        names.len(),
        names.iter().collect::<BTreeSet<_>>().len(),
        "a job was handed in twice: {names:#?}"
    );
}
