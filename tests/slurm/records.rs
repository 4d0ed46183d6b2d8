//! Records, not schedulers, say what succeeded: purged jobs, lost jobs, with and without accounting.

use super::lab::{Lab, slurm_is_here, wait_for};
use super::sweeps;

/// Three tasks: two succeed, one takes its supervisor down with it and leaves no record.
fn one_is_lost(lab: &Lab) {
    let flag = lab.dir.join("second");
    let script =
        format!("[ \"$1\" != 1 ] || [ -e {0} ] || {{ touch {0}; kill -9 $PPID; sleep 30; }}", flag.display());
    lab.job(&sweeps::many(lab, 3, &script));
    lab.submit().code(0);
    wait_for("all jobs are gone from the queue", || lab.marks().len() == 3 && lab.job_names().is_empty());
}

#[test]
fn finished_jobs_that_left_the_queue_are_judged_by_their_records() {
    if !slurm_is_here() {
        return;
    }
    let lab = Lab::new(&["--set", "MinJobAge=2"]);
    lab.site("limits: {min_poll: 1s, max_array: 1}\n");
    one_is_lost(&lab);
    let status = lab.until("the lost one is lost", |s| s.state("work i=1") == "lost");
    assert_eq!((status.state("work i=0"), status.state("work i=2")), ("succeeded", "succeeded"));
    lab.resume_until_done();
    assert_eq!(lab.marks(), ["work 0", "work 1", "work 1", "work 2"]);
}

#[test]
fn the_accounting_explains_but_does_not_decide() {
    if !slurm_is_here() {
        return;
    }
    let lab = Lab::new(&["--accounting", "--set", "MinJobAge=2"]);
    lab.site("limits: {min_poll: 1s, max_array: 1}\n");
    one_is_lost(&lab);
    let status =
        lab.until("the lost one is not a success", |s| ["lost", "failed"].contains(&s.state("work i=1")));
    assert_eq!((status.state("work i=0"), status.state("work i=2")), ("succeeded", "succeeded"));
    // the accounting goes away: what is known stays known, and the sweep goes on
    lab.ctl("stop", "slurmdbd");
    lab.resume_until_done();
    assert_eq!(lab.marks(), ["work 0", "work 1", "work 1", "work 2"]);
}
