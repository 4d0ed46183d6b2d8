//! From submit to report.

use super::lab::{Lab, slurm_is_here, wait_for};
use super::sweeps;
use serde_json::Value;

#[test]
fn the_quickstarts_shape_goes_from_submit_to_report() {
    if !slurm_is_here() {
        return;
    }
    let lab = Lab::new(&[]);
    lab.job(&sweeps::quickstart(&lab));
    lab.submit().code(0);
    let status = lab.until("every task succeeds", |s| s.all_in(&["succeeded"]));
    assert_eq!(status.tasks().len(), 4 + 6 + 8, "{status:#?}");
    let marks = lab.marks();
    assert_eq!(marks.len(), 18, "every task ran once: {marks:#?}");
    assert_eq!(marks.iter().filter(|m| *m == "rl continued 2").count(), 1);

    // the outputs travelled the whole way, and `continued` was built on the binary run of its own seed
    let doc = lab.run(&["report", "--json"]).code(0);
    let doc: Value = serde_json::from_str(&doc.out).unwrap();
    assert_eq!(doc["format"], 1);
    let rows = doc["data"].as_array().unwrap();
    assert_eq!(rows.len(), 8);
    for row in rows {
        assert_eq!((row["phase"].as_str(), row["metric"].as_str()), (Some("eval"), Some("pass")));
        assert_eq!(
            (row["value"].as_f64(), row["n"].as_u64(), row["unscored"].as_u64()),
            (Some(0.5), Some(10), Some(1))
        );
    }
    let last = rows
        .iter()
        .find(|r| r["variant"] == "continued" && r["seed"] == 2)
        .expect("eval of continued, seed 2");
    let key = last["task"].as_str().unwrap();
    let trace =
        std::fs::read_to_string(lab.dir.join(format!("runs/shape/tasks/{key}/attempt-1/out/trace"))).unwrap();
    for step in ["corpus  ", "base  ", "sample  ", "sft  ", "rl binary 2", "rl continued 2", "eval rl "] {
        assert!(trace.lines().any(|l| l == step), "{step:?} is not in\n{trace}");
    }
    assert!(!trace.contains("rl fresh") && !trace.contains("binary 1"), "{trace}");

    lab.run(&["report"]).code(0);
    let page = std::fs::read_to_string(lab.dir.join("runs/shape/report.html")).unwrap();
    assert!(page.contains("rl continued") && page.contains("reward") && page.contains("name</span>: shape"));

    // all is done: nothing to hand in, nothing runs again
    lab.run(&["resume"]).code(0);
    lab.run(&["verify"]).code(0);
    assert_eq!(lab.marks().len(), 18);
}

#[test]
fn three_hundred_equal_tasks_go_as_arrays_split_by_the_sites_limit() {
    if !slurm_is_here() {
        return;
    }
    let lab = Lab::new(&[]);
    lab.site("limits: {min_poll: 1s, max_array: 120}\n");
    lab.job(&sweeps::many(&lab, 300, "true"));
    lab.slurm("sdiag", &["--reset"]);
    lab.submit().code(0);
    let submits = submits(&lab);
    assert_eq!(submits, 3, "300 tasks in arrays of at most 120");
    lab.until("every task succeeds", |s| s.all_in(&["succeeded"]));
    let marks = lab.marks();
    assert_eq!(marks.len(), 300);
    let mut distinct = marks.clone();
    distinct.dedup();
    assert_eq!(distinct.len(), 300, "no element ran another one's task");
}

/// Submissions that the controller has answered since the last reset.
fn submits(lab: &Lab) -> u64 {
    let text = lab.slurm("sdiag", &[]);
    let line = text.lines().find(|l| l.contains("REQUEST_SUBMIT_BATCH_JOB"));
    let count = line.and_then(|l| l.split("count:").nth(1)?.split_whitespace().next()?.parse().ok());
    count.unwrap_or(0)
}

#[test]
fn cancel_stops_what_runs_and_what_waits_and_resume_starts_it_again() {
    if !slurm_is_here() {
        return;
    }
    let lab = Lab::new(&[]);
    let flag = lab.dir.join("go");
    lab.job(&sweeps::chain(&lab, &format!("while [ ! -e {} ]; do sleep 0.2; done", flag.display()), ""));
    lab.submit().code(0);
    wait_for("a is at work", || lab.marks().len() == 1);
    lab.run(&["cancel", "chain"]).code(0);
    lab.until("all are cancelled", |s| s.all_in(&["cancelled", "planned", "blocked"]));
    let live = lab.slurm("squeue", &["-h", "-t", "pending,running,suspended"]);
    assert_eq!(live, "", "nothing is left in the queue");
    std::fs::write(&flag, "").unwrap();
    lab.resume_until_done();
    assert_eq!(lab.marks(), ["a", "a", "b", "c"]);
}
