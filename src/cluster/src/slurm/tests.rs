use super::*;
use crate::backend::JobState;
use crate::runner::{Exchange, Replay};
use record::Resources;
use std::path::Path;

fn slurm(site: &str, exchanges: Vec<Exchange>) -> (Slurm, Arc<Replay>) {
    let text = format!("bessemer_site: 1\nname: t\nscheduler: slurm\n{site}");
    let replay = Arc::new(Replay::new(exchanges));
    (Slurm::new(Site::load(Path::new("s"), &text).unwrap(), replay.clone()), replay)
}

fn token(n: u32) -> Token {
    Token(format!("bs-{}", ["aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"][n as usize]))
}

fn job(id: &str, n: u32) -> JobRef {
    JobRef { id: id.into(), cluster: None, token: token(n) }
}

fn submission() -> Submission {
    Submission {
        token: token(0),
        script: "/r/attempt-1/job.sh".into(),
        dir: "/r/50%/sched".into(),
        array: None,
        after_ok: vec![],
        after_start: vec![],
        delay_s: 0,
        exclude_nodes: vec![],
        resources: Resources { cpus: 1, gpus: 0, memory_mb: 100, walltime_s: 90 },
        comment: "rl seed=1\nx".into(),
    }
}

/// A row as squeue prints it with our format.
fn queue(rows: &[(&str, &str, &str, &str)]) -> String {
    rows.iter()
        .map(|(id, state, reason, name)| {
            let (array, index) = id.split_once('_').unwrap_or((id, "N/A"));
            format!("{}\n", [id, array, index, state, reason, "100", "110", "n1", name].join("\u{1f}"))
        })
        .collect()
}

fn records(rows: &[(&str, &str, &str, &str, &str)]) -> String {
    rows.iter()
        .map(|(id, state, exit, nodes, name)| {
            format!(
                "{}\n",
                [id, id, state, exit, "100", "110", "120", "10", nodes, "None", name].join("\u{1f}")
            )
        })
        .collect()
}

fn query(jobs: &[(u32, Option<&str>)], accounting: bool) -> Query {
    let jobs = jobs.iter().map(|(n, id)| (token(*n), id.map(str::to_owned))).collect();
    Query { jobs, since_s: 1_000_000, accounting }
}

#[test]
fn the_command_line_is_exactly_this() {
    let mut s = submission();
    let args = |site: &str, s: &Submission| {
        let (slurm, replay) = slurm(site, vec![Exchange::new("sbatch", 0, "77;lab\n", "a warning\n")]);
        assert_eq!(
            slurm.submit(s),
            Submitted::Accepted(JobRef { cluster: Some("lab".into()), ..job("77", 0) })
        );
        replay.seen()[0].args.join(" ")
    };
    assert_eq!(
        args("", &s),
        "--parsable --job-name=bs-aaaaaaaaaaaa --output=/r/50%%/sched/slurm-%j.out --time=00:01:30 \
         --comment=rl seed=1 x /r/attempt-1/job.sh"
    );
    s.after_ok = vec![job("1", 1), job("2_3", 2)];
    s.after_start = vec![job("9", 1)];
    s.delay_s = 60;
    s.exclude_nodes = vec!["n[1-2]".into(), "None assigned".into(), "n7".into()];
    assert!(args("", &s).contains("--dependency=afterok:1:2_3,after:9 --begin=now+60 --exclude=n1,n2,n7 "));
    assert!(args("singleton: true\n", &s).contains("--dependency=afterok:1:2_3,after:9,singleton "));
    s.array = Some(300);
    let line = args("singleton: true\n", &s);
    assert!(
        line.contains("slurm-%A_%a.out") && line.contains("--array=0-299") && !line.contains("singleton"),
        "{line}"
    );
}

#[test]
fn a_submission_runs_one_command_whatever_comes_back() {
    let timed_out = Exchange {
        program: "sbatch",
        answer: Err(RunError::TimedOut {
            command: "sbatch".into(),
            timeout: std::time::Duration::from_secs(150),
            stdout: "12\n".into(),
            stderr: String::new(),
        }),
    };
    let missing = Exchange { program: "sbatch", answer: Err(RunError::Missing { program: "sbatch".into() }) };
    let failed = |e: &str| {
        Exchange::new("sbatch", 1, "", &format!("sbatch: error: Batch job submission failed: {e}\n"))
    };
    for (exchange, want) in [
        (timed_out, "uncertain"),
        (missing, "unavailable"),
        (failed("Socket timed out on send/recv operation"), "uncertain"),
        (failed("Unable to contact slurm controller (connect failure)"), "unavailable"),
        (failed("Invalid qos specification"), "refused"),
        (failed("Resource temporarily unavailable"), "limit"),
        (Exchange::new("sbatch", 0, "thank you\n", ""), "uncertain"),
        (Exchange::new("sbatch", 1, "4711\n", "hook failed\n"), "uncertain"),
    ] {
        let (slurm, replay) = slurm("", vec![exchange.clone()]);
        let got = match slurm.submit(&submission()) {
            Submitted::Accepted(_) => "accepted",
            Submitted::Refused(_) => "refused",
            Submitted::Limit(_) => "limit",
            Submitted::Unavailable(_) => "unavailable",
            Submitted::Uncertain(_) => "uncertain",
        };
        assert_eq!(got, want, "{exchange:?}");
        assert_eq!(replay.seen().len(), 1);
    }
}

#[test]
fn one_look_is_one_squeue_and_only_our_names_count() {
    let text = queue(&[
        ("5", "RUNNING", "None", "bs-aaaaaaaaaaaa"),
        ("6", "PENDING", "Priority", "somebody-elses"),
        ("7", "PENDING", "DependencyNeverSatisfied", "bs-bbbbbbbbbbbb"),
        ("8", "RUNNING", "None", "bs-aaaaaaaaaaaa"),
    ]);
    let (slurm, replay) = slurm("", vec![Exchange::new("squeue", 0, &text, "")]);
    let snap = slurm.query(&query(&[(0, Some("5")), (1, Some("7")), (2, None)], false)).unwrap();
    assert!(snap.queue_ok && !snap.accounting_ok);
    let doubles: Vec<&str> = snap.jobs[&token(0)].iter().map(|s| s.job.id.as_str()).collect();
    assert_eq!(doubles, ["5", "8"], "a double submission must be visible");
    assert_eq!(snap.jobs[&token(1)][0].state, JobState::NeverSatisfied);
    assert!(!snap.jobs.contains_key(&token(2)));
    let spec = &replay.seen()[0];
    assert_eq!(spec.args[..5], ["-h", "-r", "-t", "all", "-o"]);
    assert!(spec.env.contains(&("SLURM_BITSTR_LEN", "0".into())));
    assert_eq!(replay.seen().len(), 1);
}

#[test]
fn an_old_squeue_is_asked_by_user_and_remembered() {
    let (slurm, replay) = slurm(
        "",
        vec![
            Exchange::new("squeue", 1, "", "squeue: unrecognized option '--me'\n"),
            Exchange::new("squeue", 0, "", ""),
            Exchange::new("squeue", 0, "", ""),
        ],
    );
    for _ in 0..2 {
        slurm.query(&query(&[(0, None)], false)).unwrap();
    }
    let whose: Vec<bool> = replay.seen().iter().map(|s| s.args.contains(&"--me".to_owned())).collect();
    assert_eq!(whose, [true, false, false]);
}

#[test]
fn the_accounting_is_asked_about_what_the_queue_no_longer_knows() {
    let text = queue(&[("5", "RUNNING", "None", "bs-aaaaaaaaaaaa")]);
    let acct = records(&[
        ("6", "NODE_FAIL", "0:0", "n4", "bs-bbbbbbbbbbbb"),
        ("6", "CANCELLED by 0", "0:15", "n3", "bs-bbbbbbbbbbbb"),
        ("7", "FAILED", "1:0", "n1", "bs-cccccccccccc"),
    ]);
    let (slurm, replay) =
        slurm("", vec![Exchange::new("squeue", 0, &text, ""), Exchange::new("sacct", 0, &acct, "")]);
    let snap = slurm.query(&query(&[(0, Some("5")), (1, Some("6")), (2, Some("7"))], true)).unwrap();
    assert!(snap.queue_ok && snap.accounting_ok);
    let rows = &snap.jobs[&token(1)];
    assert_eq!((rows.len(), rows[0].state, rows[0].exit), (1, JobState::Cancelled, Some((0, 15))));
    assert_eq!(snap.jobs[&token(2)][0].state, JobState::Failed);
    let names = replay.seen()[1].args.iter().find(|a| a.starts_with("--name=")).cloned();
    assert_eq!(names.as_deref(), Some("--name=bs-bbbbbbbbbbbb,bs-cccccccccccc"));
    assert_eq!(replay.left(), 0);
}

#[test]
fn nothing_missing_means_no_sacct_and_a_lagging_record_does_not_revive_a_job() {
    let alive = queue(&[("5", "RUNNING", "None", "bs-aaaaaaaaaaaa")]);
    let (one, replay) = slurm("", vec![Exchange::new("squeue", 0, &alive, "")]);
    one.query(&query(&[(0, Some("5"))], true)).unwrap();
    assert_eq!(replay.seen().len(), 1);
    let acct = records(&[("5", "RUNNING", "0:0", "n1", "bs-aaaaaaaaaaaa")]);
    let (two, _) = slurm("", vec![Exchange::new("squeue", 0, "", ""), Exchange::new("sacct", 0, &acct, "")]);
    assert!(two.query(&query(&[(0, Some("5"))], true)).unwrap().jobs.is_empty());
}

#[test]
fn no_accounting_is_found_out_once_and_is_no_failure() {
    let off = Exchange::new("sacct", 1, "", "Slurm accounting storage is disabled\n");
    let (slurm, replay) =
        slurm("", vec![Exchange::new("squeue", 0, "", ""), off, Exchange::new("squeue", 0, "", "")]);
    for _ in 0..2 {
        let snap = slurm.query(&query(&[(0, Some("5"))], true)).unwrap();
        assert!(snap.queue_ok && !snap.accounting_ok && snap.warnings.is_empty());
    }
    assert_eq!(replay.seen().len(), 3);
}

#[test]
fn a_broken_accounting_is_a_warning_and_a_broken_queue_proves_nothing() {
    let refused =
        Exchange::new("sacct", 1, "", "sacct: error: Problem talking to the database: Connection refused\n");
    let (one, _) = slurm("", vec![Exchange::new("squeue", 0, "", ""), refused.clone()]);
    let snap = one.query(&query(&[(0, Some("5"))], true)).unwrap();
    assert!(snap.queue_ok && snap.warnings.len() == 1, "{snap:?}");
    let down = Exchange::new(
        "squeue",
        1,
        "",
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
    );
    let (two, _) = slurm("", vec![down, refused]);
    let e = two.query(&query(&[(0, Some("5"))], true)).unwrap_err();
    assert!(e.contains("Unable to contact") && e.contains("database"), "{e}");
}

#[test]
fn cancel_goes_by_name_and_never_hits_a_reused_id() {
    let text = queue(&[
        ("5", "RUNNING", "None", "somebody-elses"),
        ("6", "PENDING", "None", "bs-bbbbbbbbbbbb"),
        ("8", "RUNNING", "None", "bs-bbbbbbbbbbbb"),
        ("9_1", "RUNNING", "None", "bs-cccccccccccc"),
        ("9_2", "RUNNING", "None", "bs-cccccccccccc"),
        ("4", "COMPLETED", "None", "bs-bbbbbbbbbbbb"),
    ]);
    let cancelled = |jobs: &[JobRef]| {
        let (slurm, replay) =
            slurm("", vec![Exchange::new("squeue", 0, &text, ""), Exchange::new("scancel", 0, "", "")]);
        slurm.cancel(jobs).unwrap();
        replay.seen().get(1).map_or(vec![], |s| s.args.clone())
    };
    assert_eq!(cancelled(&[job("5", 0), job("", 1), job("9_2", 2)]), ["6", "8", "9_2"]);
    assert_eq!(cancelled(&[job("8", 1)]), ["8"], "a double goes, the survivor of the same name stays");
    let nameless = JobRef { token: Token(String::new()), ..job("5", 0) };
    assert_eq!(cancelled(&[nameless]), ["5"]);
    assert_eq!(
        cancelled(&[JobRef { id: String::new(), cluster: None, token: Token(String::new()) }]),
        [""; 0]
    );
}

#[test]
fn a_whole_array_is_one_id_and_cancelling_what_is_gone_succeeds() {
    let text = queue(&[
        ("9_1", "RUNNING", "None", "bs-cccccccccccc"),
        ("9_2", "PENDING", "None", "bs-cccccccccccc"),
    ]);
    let gone = "scancel: error: Kill job error on job id 9: Job/step already completing or completed\n";
    let (one, replay) =
        slurm("", vec![Exchange::new("squeue", 0, &text, ""), Exchange::new("scancel", 1, "", gone)]);
    one.cancel(&[job("9", 2)]).unwrap();
    assert_eq!(replay.seen()[1].args, ["9"]);
    let (two, replay) = slurm("", vec![Exchange::new("squeue", 0, "", "")]);
    two.cancel(&[job("5", 0)]).unwrap();
    assert_eq!(replay.seen().len(), 1);
    let down =
        "scancel: error: Kill job error on job id 9: Unable to contact slurm controller (connect failure)\n";
    let (three, _) =
        slurm("", vec![Exchange::new("squeue", 0, &text, ""), Exchange::new("scancel", 8, "", down)]);
    assert!(three.cancel(&[job("9", 2)]).unwrap_err().contains("Unable to contact"));
}

#[test]
fn ping_tells_up_from_down() {
    let version = || Exchange::new("sbatch", 0, "slurm-wlm 22.05.8\n", "");
    let ping = |code, text| Exchange::new("scontrol", code, text, "");
    let (up, _) = slurm("", vec![version(), ping(0, "Slurmctld(primary) at vm is UP\n")]);
    assert_eq!(up.ping().unwrap(), "slurm-wlm 22.05.8, controller up");
    let (down, _) = slurm("", vec![version(), ping(1, "Slurmctld(primary) at vm is DOWN\n")]);
    assert!(down.ping().unwrap_err().contains("down"));
}
