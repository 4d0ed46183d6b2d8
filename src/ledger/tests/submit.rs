//! Submitting, reconciling and watching against a scheduler whose every answer the test decides.

mod common;

use cluster::backend::JobState;
use common::{Fault, Lab, chain, expect, graph, task};
use ledger::engine::Stop;
use ledger::{Filter, ResumeOptions, Who};
use record::{FailureClass, Status};

#[test]
fn a_chain_goes_out_at_once_with_dependencies_and_ends_succeeded() {
    let lab = Lab::new(chain());
    let report = lab.create().submit().unwrap();
    assert_eq!((report.submitted, report.jobs, report.left), (3, 3, 0));
    assert_eq!(report.exit_code(), 0);
    let (a, b) = (lab.job_of("a"), lab.job_of("b"));
    assert_eq!(lab.fake.job(&b).after_ok, vec![a.clone()]);
    assert_eq!(lab.fake.job(&lab.job_of("c")).after_ok, vec![b.clone()]);
    assert_eq!(lab.states(), expect(&[("a", "queued"), ("b", "queued"), ("c", "queued")]));
    lab.fake.start(&a);
    assert_eq!(lab.states()["a"], "running");
    for id in [a, b, lab.job_of("c")] {
        lab.fake.succeed(&id);
    }
    assert_eq!(lab.states(), expect(&[("a", "succeeded"), ("b", "succeeded"), ("c", "succeeded")]));
    let result = record::verify::result(
        &record::layout::task_dir(&lab.run_dir(), &lab.graph.tasks[0].key),
        &lab.graph.tasks[0].key,
        record::verify::Depth::Hash,
    );
    assert!(result.is_ok(), "the supervisor died before it published: the ledger heals that; {result:?}");
    let before = lab.fake.with(|w| w.queries);
    lab.states();
    assert_eq!(lab.fake.with(|w| w.queries), before, "nothing is live: nothing is asked");
    assert_eq!(lab.open().submit().unwrap().submitted, 0);
}

#[test]
fn one_status_is_one_look_at_the_queue() {
    let lab = Lab::new(chain());
    lab.create().submit().unwrap();
    let before = lab.fake.with(|w| w.queries);
    lab.states();
    assert_eq!(lab.fake.with(|w| w.queries), before + 1);
}

#[test]
fn an_accepted_submission_whose_answer_was_lost_is_adopted_and_never_repeated() {
    let lab = Lab::new(chain());
    lab.fake.fault(Fault::AcceptedUnheard);
    let report = lab.create().submit().unwrap();
    assert!(matches!(report.stopped, Some(Stop::Uncertain(_))), "{report:?}");
    assert_eq!(report.exit_code(), 75);
    assert_eq!(lab.fake.live().len(), 1);
    let report = lab.open().submit().unwrap();
    assert_eq!((report.submitted, report.uncertain), (2, 0));
    assert_eq!(lab.fake.live().len(), 3, "adopted, not repeated");
    assert_eq!(lab.fake.job(&lab.job_of("b")).after_ok, [lab.job_of("a")]);
}

#[test]
fn a_lost_submission_goes_out_again_under_the_same_token_once_absence_is_proven() {
    let mut lab = Lab::new(chain());
    lab.timing.settle_ms = 40;
    lab.fake.fault(Fault::LostUnheard);
    lab.create().submit().unwrap();
    let token = lab.open().view(&Filter::all()).unwrap().tasks[0].token.clone().unwrap();
    assert_eq!(lab.states()["a"], "submitting", "one look proves nothing");
    lab.fake.with(|w| w.queue_down = true);
    assert!(lab.open().submit().is_err());
    lab.fake.with(|w| w.queue_down = false);
    assert_eq!(lab.open().submit().unwrap().submitted, 3);
    let view = lab.open().view(&Filter::all()).unwrap();
    assert_eq!((view.tasks[0].token.as_ref().unwrap(), view.tasks[0].attempt), (&token, Some(1)));
    assert_eq!(lab.fake.live().len(), 3);
}

#[test]
fn of_two_jobs_under_one_token_the_oldest_stays_and_the_others_are_cancelled_by_id() {
    let lab = Lab::new(graph(vec![task("a", "a", &[])]));
    lab.fake.fault(Fault::AcceptedUnheard);
    lab.create().submit().unwrap();
    lab.fake.with(|w| {
        let copy = common::Job { id: "950".into(), ..w.jobs[0].clone() };
        w.jobs.push(copy);
    });
    let report = lab.open().submit().unwrap();
    assert!(report.warnings.iter().any(|w| w.contains("2 jobs carry the name")), "{report:?}");
    assert_eq!(lab.fake.live(), ["101"]);
    assert_eq!(lab.job_of("a"), "101");
    assert!(
        lab.fake.with(|w| w.cancels.iter().all(|j| j.id == "950")),
        "never by name: it is the survivor's too"
    );
}

#[test]
fn a_claim_proves_the_acceptance_even_when_the_queue_has_forgotten_the_job() {
    let lab = Lab::new(graph(vec![task("a", "a", &[])]));
    lab.fake.fault(Fault::AcceptedUnheard);
    lab.create().submit().unwrap();
    let id = lab.fake.live()[0].clone();
    lab.fake.succeed(&id);
    let report = lab.open().submit().unwrap();
    assert_eq!((report.submitted, report.done), (0, 1));
    assert_eq!(lab.fake.with(|w| w.submits), 1);
}

#[test]
fn a_limit_is_back_pressure_and_nothing_is_forgotten() {
    let lab = Lab::new(graph((0..5).map(|i| task("a", &format!("t{i}"), &[])).collect()));
    lab.fake.with(|w| w.max_submit = Some(2));
    let report = lab.create().submit().unwrap();
    assert_eq!((report.submitted, report.left), (2, 3));
    assert!(matches!(report.stopped, Some(Stop::Limit(_))));
    assert_eq!(report.exit_code(), 75);
    for id in lab.fake.live() {
        lab.fake.succeed(&id);
    }
    assert_eq!(lab.open().submit().unwrap().submitted, 2);
    for id in lab.fake.live() {
        lab.fake.succeed(&id);
    }
    let last = lab.open().submit().unwrap();
    assert_eq!((last.submitted, last.left, last.exit_code()), (1, 0, 0));
    assert!(lab.states().values().all(|s| s == "succeeded" || s == "queued"));
}

#[test]
fn equal_tasks_become_one_array_split_by_its_size_and_halved_at_the_limit() {
    let root = task("root", "root", &[]);
    let mut tasks = vec![root.clone()];
    tasks.extend((0..10).map(|i| task("fan", &format!("t{i}"), &[&root])));
    let lab = Lab::new(graph(tasks));
    lab.fake.with(|w| w.max_array = 4);
    let report = lab.create().submit().unwrap();
    assert_eq!((report.submitted, report.jobs), (11, 4), "1 + arrays of 4, 4, 2");
    let ids = lab.fake.live();
    assert!(ids.contains(&"102_3".to_owned()) && ids.contains(&"104_1".to_owned()), "{ids:?}");
    assert_eq!(lab.fake.job("102_0").after_ok, ["101"]);
    for id in ids {
        lab.fake.succeed(&id);
    }
    assert!(lab.states().values().all(|s| s == "succeeded"));

    let lab = Lab::new(graph((0..10).map(|i| task("fan", &format!("t{i}"), &[])).collect()));
    lab.fake.with(|w| (w.max_array, w.max_submit) = (100, Some(6)));
    let report = lab.create().submit().unwrap();
    assert_eq!((report.submitted, report.left), (5, 5), "10 did not fit, 5 did");
    assert_eq!(report.exit_code(), 75);
    for id in lab.fake.live() {
        lab.fake.succeed(&id);
    }
    assert_eq!(lab.open().submit().unwrap().submitted, 5);
}

#[test]
fn an_array_whose_answer_was_lost_is_adopted_element_by_element() {
    let lab = Lab::new(graph((0..3).map(|i| task("fan", &format!("t{i}"), &[])).collect()));
    lab.fake.with(|w| w.max_array = 100);
    lab.fake.fault(Fault::AcceptedUnheard);
    lab.create().submit().unwrap();
    let report = lab.open().submit().unwrap();
    assert_eq!((report.submitted, report.live), (0, 3));
    assert_eq!(lab.job_of("t2"), "101_2");
    lab.fake.fail("101_1", FailureClass::UserError);
    lab.fake.succeed("101_0");
    assert_eq!(lab.states(), expect(&[("t0", "succeeded"), ("t1", "failed"), ("t2", "queued")]));
}

#[test]
fn a_refusal_stops_its_like_and_says_so() {
    let lab = Lab::new(graph(vec![task("a", "a1", &[]), task("a", "a2", &[]), task("b", "b", &[])]));
    lab.fake.fault(Fault::Refuse("Invalid account"));
    let report = lab.create().submit().unwrap();
    assert_eq!(report.stopped, Some(Stop::Refused("Invalid account".into())));
    assert_eq!((report.submitted, report.exit_code()), (1, 65), "b has another shape");
    assert_eq!(lab.states(), expect(&[("a1", "failed"), ("a2", "deferred"), ("b", "queued")]));
    let view = lab.open().view(&Filter::all()).unwrap();
    assert_eq!(view.tasks[0].message, "Invalid account");
    assert!(
        view.tasks[1].message.starts_with("not handed in"),
        "its intent was withdrawn: {:?}",
        view.tasks[1]
    );
    assert_eq!(lab.fake.with(|w| w.submits), 2, "and it was never called for");
    let resume = ResumeOptions { filter: Filter::all(), who: Who::Person };
    assert_eq!(lab.open().resume(&resume).unwrap().submitted, 2);
}

#[test]
fn a_job_that_vanishes_is_lost_and_never_done() {
    let mut lab = Lab::new(graph(vec![task("a", "a", &[])]));
    lab.create().submit().unwrap();
    let id = lab.fake.live()[0].clone();
    lab.fake.start(&id);
    lab.states();
    lab.fake.set(&id, JobState::Completed, "COMPLETED 0:0");
    lab.timing.record_grace_ms = 3_600_000;
    assert_eq!(lab.states()["a"], "finished-unconfirmed", "the record may be late");
    lab.timing.record_grace_ms = 0;
    assert_eq!(lab.states()["a"], "lost", "exit 0 without a record is no success");
    lab.fake.leave_record(&id, Status::Ok, None, None);
    let resume = ResumeOptions { filter: Filter::all(), who: Who::Person };
    let report = lab.open().resume(&resume).unwrap();
    assert_eq!(report.submitted, 0, "a late success counts before anything is repeated: {report:?}");
    assert_eq!(lab.states()["a"], "succeeded");
}

#[test]
fn a_record_without_its_outputs_is_no_success() {
    let lab = Lab::new(graph(vec![task("a", "a", &[])]));
    lab.create().submit().unwrap();
    let id = lab.fake.live()[0].clone();
    lab.fake.start(&id);
    lab.fake.leave_record(&id, Status::Ok, None, None);
    std::fs::write(lab.fake.attempt_dir(&id).join("out/data"), "cut").unwrap();
    std::fs::remove_file(lab.fake.attempt_dir(&id).join("out/data")).unwrap();
    lab.fake.set(&id, JobState::Completed, "COMPLETED");
    lab.states();
    assert_eq!(lab.states()["a"], "failed");
    assert!(!lab.run_dir().join("tasks").join(lab.graph.tasks[0].key.as_str()).join("result.json").exists());
}

#[test]
fn an_edited_job_file_keeps_what_has_succeeded_and_leaves_the_rest_behind() {
    let a = task("a", "a", &[]);
    let old = task("b", "old", &[&a]);
    let new = task("b", "new", &[&a]);
    let lab = Lab::new(graph(vec![a.clone(), old]));
    lab.create().submit().unwrap();
    lab.fake.succeed(&lab.job_of("a"));
    lab.states();
    let mut engine = lab.create_with(&graph(vec![a, new]));
    let report = engine.submit().unwrap();
    assert_eq!((report.submitted, report.done), (1, 1));
    drop(engine);
    assert!(lab.fake.job(&lab.job_of("new")).after_ok.is_empty(), "a is known to be finished: no dependency");
    assert_eq!(lab.states(), expect(&[("a", "succeeded"), ("new", "queued")]));
}

#[test]
fn a_lost_state_file_does_not_run_what_has_a_result() {
    let lab = Lab::new(chain());
    lab.create().submit().unwrap();
    lab.fake.succeed(&lab.job_of("a"));
    lab.states();
    std::fs::remove_dir_all(lab.state_dir()).unwrap();
    let report = lab.create().submit().unwrap();
    assert_eq!(
        (report.submitted, report.done, report.live),
        (0, 1, 2),
        "b and c are found in the queue: {report:?}"
    );
}

#[test]
fn a_second_copy_that_found_its_task_done_counts_as_done() {
    let lab = Lab::new(chain());
    lab.create().submit().unwrap();
    let first = lab.job_of("a");
    lab.fake.with(|w| w.jobs.iter_mut().find(|j| j.id == first).unwrap().hidden = true);
    assert_eq!(lab.states()["a"], "lost");
    lab.fake.with(|w| w.jobs.iter_mut().for_each(|j| j.hidden = false));
    let all = ResumeOptions { filter: Filter::all(), who: Who::Person };
    lab.open().resume(&all).unwrap();
    let second = lab.job_of("a");
    assert_ne!(first, second);
    assert!(
        !lab.fake.live().contains(&first),
        "the lost one had come back: it must not run beside its successor"
    );
    // ... but it had finished before it heard of that
    lab.fake.succeed(&first);
    publish(&lab.fake.spec(&first));
    lab.fake.with(|w| {
        let j = w.jobs.iter_mut().find(|j| j.id == second).unwrap();
        (j.state, j.exit, j.raw) = (JobState::Completed, Some((0, 0)), "COMPLETED 0:0".into());
    });
    assert_eq!(lab.states()["a"], "succeeded", "its supervisor had nothing to do and left no record");
}

#[test]
fn a_lost_element_is_ended_by_its_id_and_its_siblings_are_left_alone() {
    let lab = Lab::new(graph((0..3).map(|i| task("fan", &format!("t{i}"), &[])).collect()));
    lab.fake.with(|w| w.max_array = 4);
    lab.create().submit().unwrap();
    assert_eq!(lab.fake.live(), ["101_0", "101_1", "101_2"]);
    let hide =
        |hidden| lab.fake.with(|w| w.jobs.iter_mut().find(|j| j.id == "101_1").unwrap().hidden = hidden);
    hide(true);
    lab.states();
    hide(false);
    let all = ResumeOptions { filter: Filter::all(), who: Who::Person };
    assert_eq!(lab.open().resume(&all).unwrap().submitted, 1);
    assert_eq!(lab.fake.live(), ["101_0", "101_2", "102"]);
}

#[test]
fn a_late_double_that_claimed_the_attempt_is_followed_and_not_repeated() {
    let lab = Lab::new(graph(vec![task("a", "a", &[])]));
    lab.create().submit().unwrap();
    let ours = lab.job_of("a");
    // a submission that waited in the controller's socket comes out after ours was accepted, and starts first
    lab.fake.with(|w| {
        let double = common::Job { id: "950".into(), ..w.jobs[0].clone() };
        w.jobs.push(double);
    });
    lab.fake.start("950");
    lab.fake.with(|w| {
        let j = w.jobs.iter_mut().find(|j| j.id == ours).unwrap();
        (j.state, j.exit, j.raw) = (JobState::Failed, Some((75, 0)), "FAILED 75:0".into());
    });
    assert_eq!(lab.states()["a"], "running", "ours was turned away by the claim");
    let all = ResumeOptions { filter: Filter::all(), who: Who::Person };
    assert_eq!(lab.open().resume(&all).unwrap().submitted, 0);
    lab.fake.succeed("950");
    assert_eq!(lab.states()["a"], "succeeded");
}

#[test]
fn a_controller_that_gives_an_id_out_again_confuses_nobody() {
    let a = task("a", "a", &[]);
    let c = task("c", "c", &[&a]);
    let lab = Lab::new(graph(vec![a, task("b", "b", &[]), c]));
    // killed within seconds of the first submission, it has forgotten that one and counts from there
    lab.fake.fault(Fault::Limit);
    lab.create().submit().unwrap();
    lab.fake.with(|w| w.max_submit = Some(1));
    lab.open().submit().unwrap();
    assert_eq!(lab.job_of("a"), "101");
    lab.fake.with(|w| {
        w.jobs.clear();
        w.next_id = 100;
        w.max_submit = None;
    });
    lab.open().submit().unwrap();
    assert_eq!(lab.job_of("b"), "101", "the same number, another name");
    assert_eq!(lab.states(), expect(&[("a", "lost"), ("b", "queued"), ("c", "blocked")]));
    let all = ResumeOptions { filter: Filter::all(), who: Who::Person };
    lab.open().resume(&all).unwrap();
    assert!(lab.fake.live().contains(&"101".to_owned()), "ending the lost one did not hit its namesake");
    assert_eq!(lab.fake.job(&lab.job_of("c")).after_ok, [lab.job_of("a")]);
    for name in ["a", "b", "c"] {
        lab.fake.succeed(&lab.job_of(name));
    }
    assert!(lab.states().values().all(|s| s == "succeeded"));
}

/// The supervisor's very last act.
fn publish(spec: &record::TaskSpec) {
    let record = std::fs::read(spec.attempt_dir.join("record.json")).unwrap();
    let pointer = record::ResultPointer {
        format: record::FORMAT,
        key: spec.key.clone(),
        attempt: spec.attempt,
        token: spec.token.clone(),
        record_sha256: record::key::sha256_hex(&record),
    };
    record::atomic::write_json(&spec.task_dir.join("result.json"), &pointer).unwrap();
}

#[test]
fn absent_nodes_are_waiting_at_first_and_after_the_sites_patience_an_error_with_its_age() {
    let lab = Lab::new(graph(vec![task("a", "a", &[])]));
    lab.create().submit().unwrap();
    lab.fake.set(&lab.job_of("a"), JobState::Unavailable, "PENDING ReqNodeNotAvail, UnavailableNodes:n4");
    assert_eq!(lab.states()["a"], "queued");
    let view = lab.open().view(&Filter::all()).unwrap();
    assert!(view.tasks[0].message.contains("UnavailableNodes:n4, seen for 0 min: it may pass"), "{view:?}");

    // seven hours ago, by hand
    let conn = rusqlite::Connection::open(lab.db().path()).unwrap();
    conn.execute("UPDATE attempt SET stuck_since_ms = stuck_since_ms - 7 * 3600000", []).unwrap();
    // other nodes by now: the same trouble
    lab.fake.set(&lab.job_of("a"), JobState::Unavailable, "PENDING ReqNodeNotAvail, UnavailableNodes:n5");
    assert_eq!(lab.states()["a"], "hopeless");
    let view = lab.open().view(&Filter::all()).unwrap();
    assert!(
        view.tasks[0].message.contains("seen for 7 h: longer than the site's `limits.unavailable`"),
        "{view:?}"
    );

    lab.fake.set(&lab.job_of("a"), JobState::Waiting, "PENDING Priority");
    assert_eq!(lab.states()["a"], "queued");
    let view = lab.open().view(&Filter::all()).unwrap();
    assert_eq!(view.tasks[0].message, "", "the nodes are back");
}

#[test]
fn a_planner_that_dies_with_two_intents_open_adopts_what_was_taken_and_repeats_what_was_not() {
    // The call of the second is never made, since the first kills the planner after its effect.
    let lab = Lab::new(graph(vec![
        task("a", "a", &[]),
        task("b", "b", &[&task("a", "a", &[])]),
        task("x", "x", &[]),
    ]));
    lab.fake.with(|w| w.crash_after_submit = true);
    let mut engine = lab.create();
    let crashed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(engine.submit())));
    assert!(crashed.is_err());
    drop(engine);
    let conn = rusqlite::Connection::open(lab.db().path()).unwrap();
    let open: i64 =
        conn.query_row("SELECT count(*) FROM submission WHERE state = 'open'", [], |r| r.get(0)).unwrap();
    assert_eq!(open, 2, "both intents are durable, and nobody knows the answer of either");
    conn.execute("DELETE FROM lease", []).unwrap();
    lab.fake.with(|w| w.crash_after_submit = false);
    let report = lab.open().submit().unwrap();
    assert_eq!((report.live, report.submitted), (1, 2), "{report:?}");
    assert_eq!(lab.fake.with(|w| w.submits), 3, "three tasks, three calls");
    assert_eq!(lab.fake.job(&lab.job_of("b")).after_ok, [lab.job_of("a")], "the adopted id carries on");
}
