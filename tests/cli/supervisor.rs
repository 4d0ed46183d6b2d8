//! `bessemer task run`, driven as the job script drives it.

mod util;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use record::params::{CommandParams, ServeParams};
use record::verify::{self, Depth};
use record::{FailureClass, Params, Status, exit, layout};
use std::os::unix::fs::PermissionsExt;
use std::process::Child;
use util::{Done, Task, alive, until};

fn signal(child: &Child, s: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), s).unwrap();
}

fn end(child: Child) -> Done {
    Done::of(child.wait_with_output().unwrap())
}

/// Waits for a file that the task's program writes.
fn until_out(t: &Task, name: &str) {
    until(name, || std::fs::read_to_string(t.out(name)).is_ok_and(|s| s.ends_with('\n')));
}

#[test]
fn success_leaves_a_record_a_result_and_fingerprinted_outputs() {
    let t = Task::sh("mkdir sub; echo one > sub/a; echo two > b");
    let done = t.run().code(exit::DONE);
    let record = t.record();
    assert_eq!((record.status, record.class, record.exit_code), (Status::Ok, None, Some(0)));
    let names: Vec<_> = record.outputs.iter().map(|o| o.path.as_str()).collect();
    assert_eq!(names, ["b", "sub/a"]);
    assert!(record.usage.peak_rss_mb > 0.0 && record.usage.wall_s > 0.0);
    assert!(record.ended_ms >= record.started_ms);
    verify::result(&t.spec.task_dir, &t.spec.key, Depth::Hash).unwrap();
    assert!(!t.path(".reserve").exists());
    assert!(done.err.trim_end().ends_with("exit 0 (done)"), "the last line is the verdict: {}", done.err);
}

#[test]
fn a_finished_attempt_run_again_by_hand_does_nothing() {
    let t = Task::sh("echo x >> ran");
    t.run().code(exit::DONE);
    let record = t.record();
    t.run().code(exit::DONE).says("nothing to do");
    assert_eq!(t.record(), record);
    assert_eq!(t.read_out("ran"), "x");
}

#[test]
fn an_exit_code_is_recorded_and_classified() {
    for (script, code, class) in [
        ("exit 3", exit::FAILED, FailureClass::Error),
        ("exit 65", exit::USER_ERROR, FailureClass::UserError),
        ("exit 74", exit::OUT_OF_MEMORY, FailureClass::OutOfMemory),
        ("exit 75", exit::TRY_AGAIN, FailureClass::TryAgain),
        ("exit 78", exit::NODE_UNFIT, FailureClass::NodeUnfit),
        ("exec no-such-program-at-all", exit::SETUP_FAILED, FailureClass::Setup),
    ] {
        let t = Task::sh(script);
        t.run().code(code);
        assert_eq!((t.record().status, t.record().class), (Status::Failed, Some(class)), "{script}");
        assert!(t.result().is_none(), "{script}");
    }
}

#[test]
fn a_program_that_does_not_exist_is_a_set_up_failure_that_names_it() {
    let t = Task::sh("").params(|p| p.argv = vec!["/no/such/program".into()]);
    t.run().code(exit::SETUP_FAILED).says("/no/such/program was not found");
    assert_eq!(t.record().class, Some(FailureClass::Setup));
}

#[test]
fn a_declared_output_that_is_missing_is_a_failure() {
    let t = Task::sh("touch there").params(|p| p.outputs = vec!["there".into(), "not-there".into()]);
    t.run().code(exit::FAILED).says("left no not-there");
    assert!(t.result().is_none());
}

#[test]
fn death_by_signal_is_recorded_as_such() {
    let t = Task::sh("kill -SEGV $$");
    t.run().code(exit::FAILED).says("SIGSEGV");
    let record = t.record();
    assert_eq!((record.exit_code, record.signal), (None, Some(11)));
    assert_eq!(record.class, Some(FailureClass::Error));
}

#[test]
fn a_sigkill_near_the_memory_limit_is_taken_for_out_of_memory_and_one_far_from_it_is_not() {
    let t = Task::sh("kill -KILL $$");
    t.run().code(exit::FAILED);
    assert_eq!(t.record().class, Some(FailureClass::Error));
    let t = Task::sh("kill -KILL $$").spec(|s| s.resources.memory_mb = 1);
    t.run().code(exit::OUT_OF_MEMORY);
    assert_eq!(t.record().class, Some(FailureClass::OutOfMemory));
}

#[test]
fn nothing_that_the_program_started_outlives_the_attempt() {
    // one in the group, one that has left group and session, one whose parent is gone as well
    let t = Task::sh(
        "sleep 1000 & echo $! > a
         setsid sh -c 'echo $$ > b; exec sleep 1000' &
         (setsid sh -c 'sleep 1000 & echo $! > c; wait' &)
         while ! [ -s b ] || ! [ -s c ]; do sleep 0.01; done",
    );
    t.run().code(exit::DONE).says("left behind");
    for name in ["a", "b", "c"] {
        assert!(!alive(&t.read_out(name)), "{name} still runs");
    }
}

#[test]
fn a_second_copy_is_refused_while_the_first_works_and_after_it_failed() {
    let t = Task::sh("echo up > up; read line < ../go; exit 1");
    std::fs::create_dir_all(t.dir()).unwrap();
    nix::unistd::mkfifo(&t.path("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let first = t.start();
    until_out(&t, "up");
    t.run().code(exit::TRY_AGAIN).says("may still be working");
    std::fs::write(t.path("go"), "now\n").unwrap();
    end(first).code(exit::FAILED);
    let record = t.record();
    t.run().code(exit::TRY_AGAIN).says("and has ended").says("bessemer resume s");
    assert_eq!(t.record(), record);
}

#[test]
fn a_requeued_copy_takes_over_and_another_job_does_not() {
    let t = Task::sh("echo \"$SLURM_RESTART_COUNT\" > n; ls; [ \"$SLURM_RESTART_COUNT\" = 1 ]");
    t.run_with(&[("SLURM_JOB_ID", "7")]).code(exit::FAILED);
    std::fs::write(t.out("stale"), "of the first run").unwrap();
    t.run_with(&[("SLURM_JOB_ID", "8"), ("SLURM_RESTART_COUNT", "1")]).code(exit::TRY_AGAIN);
    t.run_with(&[("SLURM_JOB_ID", "7")]).code(exit::TRY_AGAIN);
    t.run_with(&[("SLURM_JOB_ID", "7"), ("SLURM_RESTART_COUNT", "1")]).code(exit::DONE).says("taking over");
    let record = t.record();
    assert_eq!((record.restart, record.job_id.as_str()), (1, "7"));
    assert_eq!(record.outputs.len(), 1, "outputs of the first run do not count: {:?}", record.outputs);
}

#[test]
fn the_copy_that_lost_its_claim_writes_nothing() {
    let t = Task::sh("echo up > up; read line < ../go");
    std::fs::create_dir_all(t.dir()).unwrap();
    nix::unistd::mkfifo(&t.path("go"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let first = t.start();
    until_out(&t, "up");
    // what a requeued copy on another node does
    let mut claim: record::StartRecord =
        record::atomic::read_json(&t.path(layout::STARTED)).unwrap().unwrap();
    claim.restart += 1;
    record::atomic::write_json(&t.path(layout::STARTED), &claim).unwrap();
    std::fs::write(t.path("go"), "now\n").unwrap();
    end(first).code(exit::TRY_AGAIN).says("taken over");
    assert!(!t.path(layout::RECORD).exists() && t.result().is_none());
}

#[test]
fn a_copy_that_lost_its_claim_stops_its_worker() {
    // it would go on for ever
    let t = Task::sh("echo up > up; while :; do sleep 0.05; done");
    let mut command = t.command();
    command.env("BESSEMER_FENCE_S", "1").stderr(std::process::Stdio::piped());
    let first = command.spawn().unwrap();
    until_out(&t, "up");
    let mut claim: record::StartRecord =
        record::atomic::read_json(&t.path(layout::STARTED)).unwrap().unwrap();
    claim.restart += 1;
    record::atomic::write_json(&t.path(layout::STARTED), &claim).unwrap();
    end(first).code(exit::TRY_AGAIN).says("stopping the worker");
    assert!(!t.path(layout::RECORD).exists() && t.result().is_none());
}

#[test]
fn inputs_are_guarded_and_handed_over() {
    let up = Task::sh("echo data > d");
    let t = Task::sh("cat \"$BESSEMER_INPUT_MY_DATA/d\" > got")
        .spec(|s| s.inputs = [("my-data".to_owned(), vec![up.input()])].into());
    let t2 = Task::sh("true").spec(|s| s.inputs = [("d".to_owned(), vec![up.input()])].into());

    t2.run().code(exit::UPSTREAM_MISSING).says("result.json is not there");
    let record = t2.record();
    assert_eq!((record.status, record.class), (Status::Failed, Some(FailureClass::UpstreamMissing)));

    up.run().code(exit::DONE);
    t.run().code(exit::DONE);
    assert_eq!(t.read_out("got"), "data");

    let t3 = Task::sh("true # 3").spec(|s| s.inputs = [("d".to_owned(), vec![up.input()])].into());
    std::fs::write(up.out("d"), "shorter").and_then(|()| std::fs::write(up.out("d"), "")).unwrap();
    t3.run().code(exit::UPSTREAM_MISSING).says("has 0 bytes, recorded were 5");
}

#[test]
fn a_command_is_told_where_its_service_publishes_itself() {
    let judge = Task::sh("true");
    let t = Task::sh("echo \"$BESSEMER_SERVICE_MY_JUDGE\" > got")
        .spec(|s| s.services = [("my-judge".to_owned(), judge.input())].into());
    t.run().code(exit::DONE);
    assert_eq!(t.read_out("got"), judge.spec.task_dir.to_str().unwrap());
}

#[test]
fn the_worker_is_asked_to_checkpoint_before_the_walltime_ends() {
    let t = Task::sh("mkdir -p ../ckpt/step-12; trap 'exit 85' USR2; while :; do sleep 0.05; done")
        .spec(|s| (s.resources.walltime_s, s.margin_s) = (4, 3));
    t.run().code(exit::CHECKPOINTED).says("the walltime ends soon");
    let record = t.record();
    assert_eq!((record.status, record.checkpoint_step), (Status::Checkpointed, Some(12)));
    assert!(t.result().is_none());
}

#[test]
fn a_worker_that_ignores_the_deadline_is_killed_and_that_is_a_timeout() {
    let t = Task::sh("trap '' USR2; while :; do sleep 0.05; done")
        .spec(|s| (s.resources.walltime_s, s.margin_s) = (2, 1));
    t.run().code(exit::FAILED).says("did not leave in time");
    assert_eq!((t.record().class, t.record().signal), (Some(FailureClass::Timeout), Some(9)));
}

#[test]
fn time_spent_before_the_supervisor_started_counts() {
    let t = Task::sh("trap 'exit 85' USR2; while :; do sleep 0.05; done");
    // it may be asked before it can listen; what counts is that it is asked at once
    let end = (record::now_ms() / 1000 + 30).to_string();
    t.run_with(&[("SLURM_JOB_ID", "7"), ("SLURM_JOB_END_TIME", &end)]).says("the walltime ends soon");
}

#[test]
fn usr2_and_term_both_ask_for_a_checkpoint() {
    for s in [Signal::SIGUSR2, Signal::SIGTERM, Signal::SIGINT] {
        let t = Task::sh("trap 'exit 85' USR2; trap '' TERM; echo up > up; while :; do sleep 0.05; done");
        let child = t.start();
        until_out(&t, "up");
        signal(&child, s);
        end(child).code(exit::CHECKPOINTED);
        assert_eq!(t.record().status, Status::Checkpointed, "{s}");
    }
}

#[test]
fn after_term_a_deaf_worker_is_killed_in_time_to_write_the_record() {
    let t = Task::sh("trap '' USR2 TERM; echo up > up; while :; do sleep 0.05; done");
    let child =
        t.command().env("BESSEMER_TERM_GRACE_S", "1").stderr(std::process::Stdio::piped()).spawn().unwrap();
    until_out(&t, "up");
    signal(&child, Signal::SIGTERM);
    end(child).code(exit::FAILED);
    assert_eq!(t.record().class, Some(FailureClass::Preempted));
}

#[test]
fn quit_kills_at_once_and_is_recorded_as_cancelled() {
    let t = Task::sh("trap '' USR2 TERM QUIT; echo up > up; while :; do sleep 0.05; done");
    let child = t.start();
    until_out(&t, "up");
    signal(&child, Signal::SIGQUIT);
    end(child).code(exit::FAILED);
    assert_eq!(t.record().class, Some(FailureClass::Cancelled));
}

#[test]
fn the_worker_dies_with_a_supervisor_that_is_killed() {
    let t = Task::sh("echo $$ > pid; exec sleep 1000");
    let child = t.start();
    until_out(&t, "pid");
    let pid = t.read_out("pid");
    signal(&child, Signal::SIGKILL);
    end(child);
    until("the worker is gone", || !alive(&pid));
    assert!(!t.path(layout::RECORD).exists(), "no record: the planner calls it lost");
    t.run().code(exit::TRY_AGAIN).says("that process is gone");
}

/// A stand-in for the worker program.
fn worker(dir: &std::path::Path, script: &str) -> String {
    let path = dir.join("worker");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

const SAYS_OK: &str =
    r#"echo '{"format":1,"status":"ok","message":"fine"}' > "$BESSEMER_ATTEMPT_DIR/outcome.json""#;

#[test]
fn a_worker_has_succeeded_only_when_it_says_so() {
    for (script, want) in
        [("exit 0", Status::Failed), (SAYS_OK, Status::Ok), ("echo '{' > outcome.json", Status::Failed)]
    {
        let dir = tempfile::tempdir().unwrap();
        let t = Task::of_kind(dir.path(), Params::Corpus(record::params::CorpusParams::default()));
        t.run_with(&[("BESSEMER_WORKER", &worker(dir.path(), script))]);
        assert_eq!(t.record().status, want, "{script}");
        assert_eq!(t.result().is_some(), want == Status::Ok);
    }
}

#[test]
fn a_service_leaves_a_record_but_no_result_so_that_it_can_be_needed_again() {
    let dir = tempfile::tempdir().unwrap();
    let t = Task::of_kind(dir.path(), Params::Serve(ServeParams::default()));
    t.run_with(&[("BESSEMER_WORKER", &worker(dir.path(), SAYS_OK))]).code(exit::DONE);
    assert_eq!(t.record().status, Status::Ok);
    assert!(t.result().is_none());
}

#[test]
fn a_missing_worker_program_is_a_set_up_failure() {
    let dir = tempfile::tempdir().unwrap();
    let t = Task::of_kind(dir.path(), Params::Corpus(record::params::CorpusParams::default()));
    t.run_with(&[("BESSEMER_WORKER", "/no/such/worker")]).code(exit::SETUP_FAILED).says("BESSEMER_WORKER");
    assert_eq!(t.record().class, Some(FailureClass::Setup));
}

#[test]
fn a_spec_that_is_missing_or_newer_is_refused() {
    let t = Task::sh("true").spec(|s| s.format = 99);
    t.run().code(exit::SETUP_FAILED).says("update bessemer");
    assert!(!t.path(layout::STARTED).exists());
}

#[test]
fn tasks_without_gpus_see_none_and_threads_follow_the_cpus() {
    let t = Task::sh("echo \"$CUDA_VISIBLE_DEVICES:$OMP_NUM_THREADS\" > e").spec(|s| s.resources.cpus = 3);
    t.run().code(exit::DONE);
    assert_eq!(t.read_out("e"), ":3");
}

#[test]
fn a_command_may_set_its_own_environment() {
    let t = Task::sh("echo \"$X\" > x").params(|p: &mut CommandParams| {
        p.env = [("X".to_owned(), "a b".to_owned())].into();
    });
    t.run().code(exit::DONE);
    assert_eq!(t.read_out("x"), "a b");
}

/// Inside a user and mount namespace with a tiny file system; says so where the kernel forbids these.
#[test]
fn a_full_disk_costs_the_outputs_but_not_the_record() {
    let probe = std::process::Command::new("unshare").args(["-rm", "true"]).output();
    if !probe.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: no user and mount namespaces here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let t = Task::sh_in(&mount, "cat /dev/zero > big");
    t.command(); // writes the spec, below the mount point
    let save = dir.path().join("save");
    let script = format!(
        "mount -t tmpfs -o size=1m none '{m}' && cp -r '{s}'/tasks '{m}' && '{b}' task run '{j}'; code=$?; \
         cp '{r}' '{dir}/record.json'; df '{m}' >&2; exit $code",
        m = mount.display(),
        s = save.display(),
        b = util::BESSEMER,
        j = t.path(layout::TASK).display(),
        r = t.path(layout::RECORD).display(),
        dir = dir.path().display(),
    );
    std::fs::create_dir(&save).unwrap();
    std::fs::rename(mount.join("tasks"), save.join("tasks")).unwrap();
    let done = std::process::Command::new("unshare").args(["-rm", "sh", "-c", &script]).output().unwrap();
    Done::of(done).code(exit::FAILED).says("No space left");
    let record: record::AttemptRecord =
        record::atomic::read_json(&dir.path().join("record.json")).unwrap().expect("a record");
    assert_eq!(record.status, Status::Failed);
}
