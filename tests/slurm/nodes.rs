//! Failing tasks, time limits, preemption, nodes that die.

use super::lab::{Lab, slurm_is_here, wait_for};
use super::sweeps;

#[test]
fn what_depends_on_a_failure_never_starts_and_resume_runs_each_of_it_once() {
    if !slurm_is_here() {
        return;
    }
    let lab = Lab::new(&[]);
    let flag = lab.dir.join("mended");
    let script = format!("[ -e {} ] || {{ echo 'no data' >&2; exit 65; }}", flag.display());
    lab.job(&sweeps::chain(&lab, &script, ""));
    lab.submit().code(0);
    let status = lab.until("a fails and the rest cannot start", |s| s.state("a") == "failed");
    assert_eq!(status.task("a")["class"], "user-error", "{status:#?}");
    assert_eq!(lab.marks(), ["a"]);
    let unmended = lab.run(&["resume"]);
    assert!(
        unmended.code != 0 || lab.marks().len() <= 2,
        "a user error is not retried by itself: {unmended}"
    );
    let before = lab.marks().len();

    std::fs::write(&flag, "").unwrap();
    let forced = lab.run(&["resume", "--force"]);
    assert!([0, 75].contains(&forced.code), "{forced}");
    lab.resume_until_done();
    let marks = lab.marks();
    assert_eq!(marks.iter().filter(|m| *m == "a").count(), before + 1);
    assert_eq!(&marks[marks.len() - 2..], ["b", "c"]);
}

/// Counts to 150 in steps of a quarter second; told to stop, it notes how far it is and says "continue me".
const COUNTING: &str = r#"n=$(cat "$BESSEMER_TASK_DIR/count" 2>/dev/null || echo 0); trap 'echo $n > "$BESSEMER_TASK_DIR/count"; exit 85' USR2 TERM; while [ $n -lt 150 ]; do sleep 0.25; n=$((n+1)); echo $n >> "$BESSEMER_TASK_DIR/steps"; done; echo $n > total"#;

#[test]
fn before_the_time_limit_a_task_checkpoints_and_a_new_attempt_continues() {
    if !slurm_is_here() {
        return;
    }
    let lab = Lab::new(&[]);
    lab.job(&sweeps::chain(&lab, COUNTING, "margin: 30s, resources: {walltime: 1m}"));
    lab.submit().code(0);
    let status = lab.until("a is checkpointed", |s| s.state("a") != "running" && s.state("a") != "queued");
    assert_eq!(status.state("a"), "checkpointed", "{status:#?}");
    let status = lab.resume_until_done();
    assert_eq!(status.task("a")["attempt"], 2);
    let key = status.task("a")["key"].as_str().or(status.task("a")["task"].as_str()).unwrap();
    let steps = std::fs::read_to_string(lab.dir.join(format!("runs/chain/tasks/{key}/steps"))).unwrap();
    let wanted: Vec<String> = (1..=150).map(|n| n.to_string()).collect();
    assert_eq!(steps.lines().collect::<Vec<_>>(), wanted, "no step was lost and none was done twice");
    assert_eq!(lab.marks(), ["a", "a", "b", "c"]);
}

#[test]
fn a_task_that_is_cut_off_at_the_time_limit_is_tried_again() {
    if !slurm_is_here() {
        return;
    }
    let lab = Lab::new(&[]);
    let flag = lab.dir.join("second");
    // ignores every request to stop the first time; a margin too short to matter
    let script = format!(
        "trap '' USR2 TERM; [ -e {0} ] || {{ touch {0}; while :; do sleep 1; done; }}",
        flag.display()
    );
    lab.job(&sweeps::chain(&lab, &script, "margin: 1s, resources: {walltime: 1m}"));
    lab.submit().code(0);
    let status = lab.until("a has reached its limit", |s| !["running", "queued"].contains(&s.state("a")));
    assert!(["failed", "lost", "finished-unconfirmed"].contains(&status.state("a")), "{status:#?}");
    let status = lab.resume_until_done();
    assert_eq!(status.task("a")["attempt"], 2);
    assert_eq!(lab.marks(), ["a", "a", "b", "c"]);
}

#[test]
fn a_preempted_task_goes_on_from_where_it_was() {
    if !slurm_is_here() {
        return;
    }
    let lab = Lab::new(&["--nodes", "1"]);
    lab.site("queue: lowcancel\n");
    lab.job(&sweeps::chain(&lab, COUNTING, ""));
    lab.submit().code(0);
    lab.until("a runs", |s| s.state("a") == "running");
    wait_for("a has started to count", || lab.marks().len() == 1);
    let urgent = lab.slurm(
        "sbatch",
        &["--parsable", "-p", "batch", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 600"],
    );
    let status = lab.until("a is preempted", |s| !["running", "queued"].contains(&s.state("a")));
    assert!(["checkpointed", "failed", "finished-unconfirmed"].contains(&status.state("a")), "{status:#?}");
    lab.slurm("scancel", &[&urgent]);
    let status = lab.resume_until_done();
    assert_eq!(status.task("a")["attempt"], 2);
    let key = status.task("a")["key"].as_str().or(status.task("a")["task"].as_str()).unwrap();
    let steps = std::fs::read_to_string(lab.dir.join(format!("runs/chain/tasks/{key}/steps"))).unwrap();
    assert_eq!(steps.lines().count(), 150, "continued, not started over: {steps}");
}

#[test]
fn a_node_that_loses_power_costs_one_attempt_and_nothing_else() {
    if !slurm_is_here() {
        return;
    }
    let lab = Lab::new(&["--set", "SlurmdTimeout=5"]);
    let flag = lab.dir.join("second");
    let script = format!("[ -e {0} ] || {{ touch {0}; sleep 600; }}", flag.display());
    lab.job(&sweeps::chain(&lab, &script, ""));
    lab.submit().code(0);
    lab.until("a runs", |s| s.state("a") == "running");
    let node = lab.slurm("squeue", &["-h", "-t", "running", "-o", "%N"]);
    wait_for("a is at work", || flag.exists());
    lab.ctl("crash", &node);
    let status = lab.until("the loss is noticed", |s| !["running", "queued"].contains(&s.state("a")));
    assert!(["failed", "lost", "finished-unconfirmed"].contains(&status.state("a")), "{status:#?}");
    let status = lab.resume_until_done();
    assert_eq!(status.task("a")["attempt"], 2);
    assert_eq!(lab.marks(), ["a", "a", "b", "c"]);
}
