//! Trying again, cancelling, services, rebuilding, verifying.

mod common;

use cluster::backend::JobState;
use common::{Lab, chain, expect, graph, task};
use ledger::engine::Ended;
use ledger::{Engine, Filter, ResumeOptions, Who};
use plan::TaskRef;
use record::params::ServeParams;
use record::{FailureClass, Params, Status};
use std::sync::atomic::AtomicBool;

fn resume(lab: &Lab, who: Who) -> ledger::engine::SubmitReport {
    lab.open().resume(&ResumeOptions { filter: Filter::all(), who }).unwrap()
}

#[test]
fn a_failed_task_gets_a_new_attempt_and_its_waiting_dependents_new_dependencies() {
    let lab = Lab::new(chain());
    lab.create().submit().unwrap();
    let (a, b, c) = (lab.job_of("a"), lab.job_of("b"), lab.job_of("c"));
    lab.fake.fail(&a, FailureClass::Error);
    lab.fake.set(&b, JobState::NeverSatisfied, "PENDING DependencyNeverSatisfied");
    assert_eq!(lab.states(), expect(&[("a", "failed"), ("b", "hopeless"), ("c", "queued")]));
    let report = resume(&lab, Who::Person);
    assert_eq!(report.submitted, 3, "{report:?}");
    assert_eq!(lab.fake.job(&b).state, JobState::Cancelled);
    assert_eq!(lab.fake.job(&c).state, JobState::Cancelled);
    let (a2, b2) = (lab.job_of("a"), lab.job_of("b"));
    assert!(a2 != a && b2 != b);
    assert_eq!(lab.fake.job(&b2).after_ok, vec![a2.clone()]);
    assert_eq!(lab.fake.job(&lab.job_of("c")).after_ok, [b2]);
    for name in ["a", "b", "c"] {
        lab.fake.succeed(&lab.job_of(name));
    }
    assert!(lab.states().values().all(|s| s == "succeeded"));
}

#[test]
fn a_mistake_of_the_user_is_not_repeated_unless_forced() {
    let lab = Lab::new(chain());
    lab.create().submit().unwrap();
    lab.fake.fail(&lab.job_of("a"), FailureClass::UserError);
    let report = resume(&lab, Who::Person);
    assert_eq!(report.submitted, 0);
    assert!(report.stuck[0].1.contains("mend the job file"), "{report:?}");
    assert_eq!(resume(&lab, Who::Force).submitted, 3);
}

#[test]
fn memory_grows_after_an_out_of_memory_and_unfit_nodes_are_left_out() {
    let lab = Lab::new(graph(vec![task("a", "a", &[])]));
    lab.create().submit().unwrap();
    let id = lab.job_of("a");
    lab.fake.fail(&id, FailureClass::OutOfMemory);
    lab.states();
    assert_eq!(resume(&lab, Who::Automatic).submitted, 1);
    let second = lab.job_of("a");
    assert_eq!(lab.fake.job(&second).memory_mb, 1500);
    assert_eq!(lab.fake.spec(&second).resources.memory_mb, 1500);
    lab.fake.fail(&second, FailureClass::NodeUnfit);
    lab.states();
    assert_eq!(resume(&lab, Who::Automatic).submitted, 1);
    let third = lab.fake.job(&lab.job_of("a"));
    assert_eq!((third.exclude, third.memory_mb), (vec!["node1".to_owned()], 1500));
}

#[test]
fn a_node_that_proved_unfit_is_left_out_by_every_later_task_of_the_site() {
    let lab = Lab::new(graph(vec![task("a", "a", &[]), task("b", "b", &[])]));
    lab.fake.with(|w| w.max_submit = Some(1));
    lab.create().submit().unwrap();
    lab.fake.fail(&lab.job_of("a"), FailureClass::NodeUnfit);
    lab.open().submit().unwrap();
    assert_eq!(lab.fake.job(&lab.job_of("b")).exclude, ["node1"]);
}

#[test]
fn checkpointed_tasks_go_on_while_they_make_progress_and_stop_when_they_do_not() {
    let lab = Lab::new(graph(vec![task("a", "a", &[])]));
    lab.create().submit().unwrap();
    for step in [Some(10), Some(20), Some(30), Some(30)] {
        let id = lab.job_of("a");
        lab.fake.start(&id);
        lab.fake.leave_record(&id, Status::Checkpointed, None, step);
        lab.fake.set(&id, JobState::Failed, "FAILED 85:0");
        assert_eq!(lab.states()["a"], "checkpointed");
        assert_eq!(resume(&lab, Who::Automatic).submitted, 1);
    }
    let id = lab.job_of("a");
    lab.fake.start(&id);
    lab.fake.leave_record(&id, Status::Checkpointed, None, Some(30));
    lab.fake.set(&id, JobState::Failed, "FAILED 85:0");
    let report = resume(&lab, Who::Automatic);
    assert_eq!(report.submitted, 0, "two attempts without a newer checkpoint");
    assert!(report.stuck[0].1.contains("without a newer checkpoint"), "{report:?}");
}

#[test]
fn automatic_retries_stop_at_the_limit_and_a_person_may_go_on() {
    let lab = Lab::new(graph(vec![task("a", "a", &[])]));
    lab.create().submit().unwrap();
    lab.fake.fail(&lab.job_of("a"), FailureClass::Error);
    assert_eq!(resume(&lab, Who::Automatic).submitted, 1);
    lab.fake.fail(&lab.job_of("a"), FailureClass::Error);
    assert_eq!(resume(&lab, Who::Automatic).submitted, 0, "retry.error is 2");
    assert_eq!(resume(&lab, Who::Person).submitted, 1);
    let lost = lab.job_of("a");
    lab.fake.start(&lost);
    lab.fake.with(|w| w.jobs.iter_mut().for_each(|j| (j.hidden, j.state) = (true, JobState::Completed)));
    assert_eq!(lab.states()["a"], "lost");
    assert_eq!(resume(&lab, Who::Automatic).submitted, 0, "lost is for a person to look at");
    assert_eq!(resume(&lab, Who::Person).submitted, 1);
}

#[test]
fn a_late_retry_is_handed_in_with_its_delay() {
    let mut a = task("a", "a", &[]);
    a.retry.backoff_s = 120;
    a.retry.backoff_max_s = 1000;
    let lab = Lab::new(graph(vec![a]));
    lab.create().submit().unwrap();
    lab.fake.fail(&lab.job_of("a"), FailureClass::Error);
    resume(&lab, Who::Person);
    let delay = lab.fake.job(&lab.job_of("a")).delay_s;
    assert!((110..=120).contains(&delay), "{delay}");
}

#[test]
fn cancel_names_a_part_and_a_success_that_came_first_counts() {
    let lab = Lab::new(graph(vec![task("a", "x", &[]), task("a", "y", &[]), task("b", "z", &[])]));
    lab.create().submit().unwrap();
    lab.fake.succeed(&lab.job_of("x"));
    let filter = Filter::from_words(["a"], &["a".to_owned(), "b".to_owned()]);
    let report = lab.open().cancel(&filter).unwrap();
    assert_eq!((report.cancelled, report.ending), (1, 0), "{report:?}");
    assert_eq!(lab.states(), expect(&[("x", "succeeded"), ("y", "cancelled"), ("z", "queued")]));
    assert_eq!(resume(&lab, Who::Automatic).submitted, 0);
    assert_eq!(resume(&lab, Who::Person).submitted, 1);
    let wrong = Filter::from_words(["nosuch"], &[]);
    assert_eq!(lab.open().cancel(&wrong).unwrap_err().exit_code(), record::exit::USAGE);
}

#[test]
fn cancelling_a_submission_of_unknown_fate_cancels_it_as_soon_as_it_is_found() {
    let lab = Lab::new(graph(vec![task("a", "a", &[])]));
    lab.fake.fault(common::Fault::AcceptedUnheard);
    lab.create().submit().unwrap();
    lab.fake.with(|w| w.queue_down = true);
    let report = lab.open().cancel(&Filter::all()).unwrap();
    assert_eq!(report.uncertain, 1);
    lab.fake.with(|w| w.queue_down = false);
    lab.states();
    assert!(lab.fake.live().is_empty(), "adopted and cancelled in one look");
    assert_eq!(lab.states()["a"], "cancelled");
}

fn served() -> Lab {
    let model = task("model", "model", &[]);
    let mut judge = task("judge", "judge", &[&model]);
    judge.work = Params::Serve(ServeParams::default());
    let mut user = task("use", "user", &[&model]);
    user.services.insert("generator".into(), TaskRef { phase: "judge".into(), key: judge.key.clone() });
    let mut second = task("use", "second", &[&user]);
    second.services.insert("generator".into(), TaskRef { phase: "judge".into(), key: judge.key.clone() });
    judge.consumers = vec![user.key.clone(), second.key.clone()];
    Lab::new(graph(vec![model, judge, user, second]))
}

#[test]
fn consumers_wait_for_the_start_of_their_service_and_resume_restarts_it_only_when_needed() {
    let lab = served();
    lab.create().submit().unwrap();
    assert_eq!(lab.fake.job(&lab.job_of("user")).after_start, [lab.job_of("judge")]);
    lab.fake.succeed(&lab.job_of("model"));
    let judge = lab.job_of("judge");
    lab.fake.start(&judge);
    lab.fake.succeed(&lab.job_of("user"));
    lab.fake.fail(&lab.job_of("second"), FailureClass::TryAgain);
    lab.fake.leave_record(&judge, Status::Checkpointed, None, None);
    lab.fake.set(&judge, JobState::Failed, "FAILED 85:0");
    lab.states();
    let report = resume(&lab, Who::Person);
    assert_eq!(report.submitted, 2, "the consumer and a new attempt of its service: {report:?}");
    let (judge2, second) = (lab.job_of("judge"), lab.job_of("second"));
    assert_ne!(judge, judge2);
    assert_eq!(lab.fake.job(&second).after_start, vec![judge2.clone()]);
    lab.fake.start(&judge2);
    lab.fake.succeed(&second);
    lab.fake.leave_record(&judge2, Status::Checkpointed, None, None);
    lab.fake.set(&judge2, JobState::Failed, "FAILED 85:0");
    assert_eq!(lab.states()["judge"], "not-needed");
    assert_eq!(resume(&lab, Who::Person).submitted, 0, "nobody needs it any more");
}

#[test]
fn rebuild_recreates_every_state_from_files_and_the_queue() {
    let mut tasks: Vec<_> = (0..3).map(|i| task("fan", &format!("t{i}"), &[])).collect();
    tasks.extend(["ok", "bad", "run", "wait"].map(|n| task(n, n, &[])));
    let lab = Lab::new(graph(tasks));
    lab.fake.with(|w| w.max_array = 10);
    lab.create().submit().unwrap();
    lab.fake.succeed(&lab.job_of("ok"));
    lab.fake.fail(&lab.job_of("bad"), FailureClass::UserError);
    lab.fake.start(&lab.job_of("run"));
    lab.fake.start(&lab.job_of("t1"));
    let before = lab.states();
    let jobs: Vec<String> = ["t0", "t1", "t2", "run", "wait"].iter().map(|n| lab.job_of(n)).collect();
    std::fs::remove_dir_all(lab.state_dir()).unwrap();
    let submits = lab.fake.with(|w| w.submits);
    let (engine, report) =
        Engine::rebuild(lab.db(), &lab.run_dir(), common::site(), lab.fake.clone(), lab.options()).unwrap();
    drop(engine);
    assert_eq!(report.attempts.values().sum::<u64>(), 7, "{report:?}");
    assert_eq!(lab.states(), before);
    let after: Vec<String> = ["t0", "t1", "t2", "run", "wait"].iter().map(|n| lab.job_of(n)).collect();
    assert_eq!(after, jobs);
    assert_eq!(lab.open().submit().unwrap().submitted, 0);
    assert_eq!(lab.fake.with(|w| w.submits), submits);
}

#[test]
fn damage_leaves_succeeded_and_resume_makes_the_result_again() {
    let lab = Lab::new(chain());
    lab.create().submit().unwrap();
    for name in ["a", "b", "c"] {
        lab.fake.succeed(&lab.job_of(name));
    }
    lab.states();
    let out = lab.fake.attempt_dir(&lab.job_of("b")).join("out/data");
    std::fs::write(&out, "xyz").unwrap();
    let sizes = lab.open().verify(&Filter::all(), record::verify::Depth::Size).unwrap();
    assert_eq!((sizes.whole, sizes.damaged.len()), (3, 0), "same size");
    let hashes = lab.open().verify(&Filter::all(), record::verify::Depth::Hash).unwrap();
    assert_eq!((hashes.whole, hashes.damaged.len()), (2, 1));
    assert_eq!(lab.states()["b"], "damaged");
    assert_eq!(resume(&lab, Who::Person).submitted, 1);
    lab.fake.succeed(&lab.job_of("b"));
    assert_eq!(lab.states()["b"], "succeeded");
    let again = lab.open().verify(&Filter::all(), record::verify::Depth::Hash).unwrap();
    assert_eq!((again.whole, again.damaged.len()), (3, 0));
}

#[test]
fn two_dry_runs_are_byte_identical_and_touch_no_ledger() {
    let lab = Lab::new(chain());
    let mut outputs = Vec::new();
    for name in ["one", "two"] {
        let out = lab.dir.path().join(name);
        let report =
            ledger::dry_run(&lab.graph, &common::site(), &lab.run_dir(), Some(&out), 1, &lab.options())
                .unwrap();
        assert_eq!((report.scripts.len(), report.tasks), (3, 3));
        let mut text = String::new();
        for s in &report.scripts {
            text += &std::fs::read_to_string(s).unwrap();
            text += &std::fs::read_to_string(s.with_file_name("task.json")).unwrap();
        }
        outputs.push(text);
    }
    assert_eq!(outputs[0], outputs[1]);
    assert!(outputs[0].contains(&lab.run_dir().display().to_string()));
    assert!(!lab.state_dir().exists());
    // leftovers of a dry run in the run directory itself are not taken for attempts
    ledger::dry_run(&lab.graph, &common::site(), &lab.run_dir(), None, 1, &lab.options()).unwrap();
    assert_eq!(lab.create().submit().unwrap().submitted, 3);
}

#[test]
fn a_second_planner_may_look_but_not_write() {
    let lab = Lab::new(chain());
    lab.create().submit().unwrap();
    let mut db = lab.db();
    let sweep = db.find_sweep("s").unwrap();
    let lease = db.acquire(sweep.id, "s", "bessemer run jobs/x.yaml", record::now_ms()).unwrap();
    let held = lab.open().submit().unwrap_err();
    assert_eq!(held.exit_code(), 75);
    assert!(held.to_string().contains("bessemer run jobs/x.yaml"), "{held}");
    let view = lab.open().refresh(&Filter::all()).unwrap();
    assert!(view.warnings[0].contains("only read") && view.held_by.is_some(), "{view:?}");
    db.release(&lease).unwrap();
    lab.open().submit().unwrap();
}

#[test]
fn driving_a_cluster_sweep_ends_when_all_is_done() {
    let lab = Lab::new(chain());
    let mut engine = lab.create();
    let fake = lab.fake.clone();
    let mut failed_once = false;
    let report = engine
        .drive(&AtomicBool::new(false), |_| {
            for id in fake.live() {
                let runnable =
                    fake.job(&id).after_ok.iter().all(|up| fake.job(up).state == JobState::Completed);
                if runnable && !failed_once {
                    failed_once = true;
                    fake.fail(&id, FailureClass::NodeUnfit);
                } else if runnable {
                    fake.succeed(&id);
                }
            }
        })
        .unwrap();
    assert_eq!((report.ended, report.exit_code()), (Ended::Done, 0), "{report:?}");
    drop(engine);
    assert!(lab.states().values().all(|s| s == "succeeded"));
}

#[test]
fn on_this_machine_a_service_starts_with_its_first_consumer_and_intents_are_written_only_where_there_is_room()
{
    let lab = served();
    lab.fake.with(|w| w.slots = Some(2));
    let mut engine = lab.create();
    let fake = lab.fake.clone();
    let mut seen_with_judge = Vec::new();
    let report = engine
        .drive(&AtomicBool::new(false), |_| {
            let live: Vec<_> = fake.live().iter().map(|id| (id.clone(), fake.spec(id).phase)).collect();
            assert!(live.len() <= 2);
            let judge = live.iter().find(|(_, phase)| phase == "judge").map(|(id, _)| id.clone());
            for (id, phase) in &live {
                if judge.is_some() && phase != "judge" {
                    seen_with_judge.push(phase.clone());
                }
                if phase != "judge" {
                    fake.succeed(id);
                } else if fake.job(id).state == JobState::Waiting {
                    fake.start(id);
                }
            }
            // the server leaves when the last of its consumers has a result
            if let Some(id) = judge.filter(|_| seen_with_judge.len() == 2) {
                fake.leave_record(&id, Status::Ok, None, None);
                fake.set(&id, JobState::Completed, "COMPLETED");
            }
        })
        .unwrap();
    assert_eq!(report.ended, Ended::Done, "{report:?}");
    assert_eq!(seen_with_judge, ["use", "use"], "the model was made before the judge started");
    assert_eq!(fake.with(|w| w.submits), 4, "one submission each: none was tried without room");
}

#[test]
fn a_service_that_takes_the_last_slot_is_ended_and_told_rather_than_waited_for() {
    let lab = served();
    lab.fake.with(|w| w.slots = Some(1));
    let mut engine = lab.create();
    let fake = lab.fake.clone();
    let report = engine
        .drive(&AtomicBool::new(false), |_| {
            for id in fake.live() {
                if fake.spec(&id).phase != "judge" {
                    fake.succeed(&id);
                } else if fake.job(&id).state == JobState::Waiting {
                    fake.start(&id);
                }
            }
        })
        .unwrap();
    assert_eq!(report.ended, Ended::Stuck);
    assert!(report.last.warnings.iter().any(|w| w.contains("leave no room")), "{report:?}");
    assert!(fake.live().is_empty());
    assert_eq!(lab.states()["judge"], "cancelled", "gone without a record, but by our wish: not lost");
}

#[test]
fn a_service_whose_consumers_failed_is_ended_and_not_waited_for() {
    let lab = served();
    lab.fake.with(|w| w.slots = Some(2));
    let mut engine = lab.create();
    let fake = lab.fake.clone();
    let mut rounds = 0;
    let report = engine
        .drive(&AtomicBool::new(false), |_| {
            rounds += 1;
            assert!(rounds < 20, "the service is waited for: {:?}", fake.live());
            for id in fake.live() {
                match fake.spec(&id).phase.as_str() {
                    "judge" if fake.job(&id).state == JobState::Waiting => fake.start(&id),
                    "judge" => {}
                    "use" => fake.fail(&id, FailureClass::UserError),
                    _ => fake.succeed(&id),
                }
            }
        })
        .unwrap();
    assert_eq!(report.ended, Ended::Stuck);
    assert!(fake.live().is_empty(), "{report:?}");
    assert_eq!(fake.with(|w| w.cancels.len()), 1, "told once");
}

#[test]
fn a_machine_that_another_sweep_has_filled_is_waited_for() {
    let lab = Lab::new(chain());
    lab.fake.with(|w| w.slots = Some(0));
    let mut engine = lab.create();
    let fake = lab.fake.clone();
    let mut looks = 0;
    let report = engine
        .drive(&AtomicBool::new(false), |view| {
            looks += 1;
            if looks == 1 {
                assert!(view.warnings.iter().any(|w| w.contains("another sweep")), "{:?}", view.warnings);
                fake.with(|w| w.slots = Some(1));
            }
            for id in fake.live() {
                fake.succeed(&id);
            }
        })
        .unwrap();
    assert_eq!(report.ended, Ended::Done, "{report:?}");
}

#[test]
fn a_sweep_whose_making_was_cut_short_has_its_tasks_all_the_same() {
    let lab = Lab::new(chain());
    drop(lab.create());
    // as a planner leaves it that is killed between the frozen plan and the tasks' rows
    let db = rusqlite::Connection::open(lab.db().path()).unwrap();
    db.execute_batch("DELETE FROM edge; DELETE FROM task; UPDATE sweep SET graph_sha256 = '';").unwrap();
    drop(db);
    let report = resume(&lab, Who::Person);
    assert_eq!(report.submitted, 3, "{report:?}");
    assert_eq!(lab.open().view(&Filter::all()).unwrap().tasks.len(), 3);
}

#[test]
fn tidying_up_takes_hopeless_jobs_out_of_the_queue_but_not_when_it_is_only_asked() {
    let lab = Lab::new(chain());
    lab.create().submit().unwrap();
    let (a, b) = (lab.job_of("a"), lab.job_of("b"));
    lab.fake.fail(&a, FailureClass::Error);
    lab.fake.set(&b, JobState::NeverSatisfied, "PENDING DependencyNeverSatisfied");
    assert_eq!(lab.open().gc(false).unwrap().cancelled, 1);
    assert_eq!(lab.fake.job(&b).state, JobState::NeverSatisfied);
    assert_eq!(lab.open().gc(true).unwrap().cancelled, 1);
    assert_eq!(lab.fake.job(&b).state, JobState::Cancelled);
}
