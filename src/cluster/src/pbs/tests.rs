use super::*;
use crate::backend::JobState;
use crate::runner::{Exchange, Replay};
use record::Resources;
use std::path::Path;

fn pbs(flavor: &str, exchanges: Vec<Exchange>) -> (Pbs, Arc<Replay>) {
    let text = format!("bessemer_site: 1\nname: t\nscheduler: pbs\nflavor: {flavor}\n");
    let replay = Arc::new(Replay::new(exchanges));
    (Pbs::new(Site::load(Path::new("s"), &text).unwrap(), replay.clone()), replay)
}

fn token(n: usize) -> Token {
    Token(format!("bs-{}", ["aaaaaaaaaaaa", "bbbbbbbbbbbb"][n]))
}

fn job(id: &str, n: usize) -> JobRef {
    JobRef { id: id.into(), cluster: None, token: token(n) }
}

fn submission() -> Submission {
    Submission {
        token: token(0),
        script: "/r/job.sh".into(),
        dir: "/r/sched".into(),
        array: None,
        after_ok: vec![],
        after_start: vec![],
        delay_s: 0,
        exclude_nodes: vec![],
        resources: Resources { cpus: 1, gpus: 0, memory_mb: 100, walltime_s: 3661 },
        comment: String::new(),
    }
}

fn row(id: &str, name: &str, more: &str) -> String {
    let more: String = more.split(';').map(|l| format!("    {}\n", l.trim())).collect();
    format!("Job Id: {id}\n    Job_Name = {name}\n{more}\n")
}

fn query(jobs: &[(usize, Option<&str>)]) -> Query {
    let jobs = jobs.iter().map(|(n, id)| (token(*n), id.map(str::to_owned))).collect();
    Query { jobs, since_s: 0, accounting: true }
}

#[test]
fn the_command_line_is_exactly_this() {
    let (pbs, replay) = pbs("pbspro", vec![Exchange::new("qsub", 0, "12.pbs1\n", "")]);
    let mut s = submission();
    s.after_ok = vec![job("1.pbs1", 1), job("2.pbs1", 1)];
    s.after_start = vec![job("3.pbs1", 1)];
    assert_eq!(pbs.submit(&s), Submitted::Accepted(job("12.pbs1", 0)));
    assert_eq!(
        replay.seen()[0].args.join(" "),
        "-N bs-aaaaaaaaaaaa -l walltime=01:01:01 -W depend=afterok:1.pbs1:2.pbs1,after:3.pbs1 /r/job.sh"
    );
    s.delay_s = 60;
    let at = submit_args(&s, 0).iter().position(|a| a == "-a").unwrap();
    let stamp = &submit_args(&s, 0)[at + 1];
    assert!(stamp.len() == 15 && stamp.ends_with("01.00"), "{stamp}");
    s.array = Some(2);
    assert!(matches!(pbs.submit(&s), Submitted::Refused(_)));
}

#[test]
fn known_ids_cost_one_qstat_and_unknown_ones_a_qselect() {
    let text = row("12.pbs1", "bs-aaaaaaaaaaaa", "job_state = R; substate = 42; exec_host = n1/0");
    let gone = "qstat: Unknown Job Id 13.pbs1\n";
    let (one, replay) = pbs("pbspro", vec![Exchange::new("qstat", 153, &text, gone)]);
    let snap = one.query(&query(&[(0, Some("12.pbs1")), (1, Some("13.pbs1"))])).unwrap();
    assert_eq!(snap.jobs[&token(0)][0].state, JobState::Running);
    assert_eq!(snap.jobs[&token(0)][0].nodes, ["n1"]);
    assert!(!snap.jobs.contains_key(&token(1)) && snap.queue_ok && snap.accounting_ok);
    assert_eq!(replay.seen()[0].args, ["-x", "-f", "-w", "12.pbs1", "13.pbs1"]);

    let other = row("9.pbs1", "somebody-elses", "job_state = R");
    let (two, replay) = pbs(
        "torque",
        vec![
            Exchange::new("qselect", 0, "9.pbs1\n12.pbs1\n", ""),
            Exchange::new("qstat", 0, &(other + &text), ""),
        ],
    );
    let snap = two.query(&query(&[(0, None)])).unwrap();
    assert_eq!(snap.jobs.len(), 1);
    assert!(!snap.accounting_ok, "Torque keeps no history");
    assert_eq!(replay.seen()[1].args, ["-f", "-1", "12.pbs1", "9.pbs1"]);
}

#[test]
fn a_server_without_history_is_found_out_once() {
    let off = Exchange::new("qstat", 0, "", "qstat: PBS is not configured to maintain job history 80.pbs1\n");
    let gone = || Exchange::new("qstat", 153, "", "qstat: Unknown Job Id 80.pbs1\n");
    let (pbs, replay) = pbs("pbspro", vec![off, gone(), gone()]);
    for _ in 0..2 {
        let snap = pbs.query(&query(&[(0, Some("80.pbs1"))])).unwrap();
        assert!(snap.jobs.is_empty() && snap.queue_ok && !snap.accounting_ok);
    }
    assert_eq!(replay.seen().len(), 3);
}

#[test]
fn an_absent_server_proves_nothing() {
    let down = "Connection refused\nqstat: cannot connect to server pbs1 (errno=15010)\n";
    let (pbs, _) = pbs("pbspro", vec![Exchange::new("qstat", 255, "", down)]);
    assert!(pbs.query(&query(&[(0, Some("1.pbs1"))])).unwrap_err().contains("cannot connect"));
}

#[test]
fn cancel_goes_by_name_and_what_is_gone_is_cancelled() {
    let text = row("12.pbs1", "bs-aaaaaaaaaaaa", "job_state = R")
        + &row("13.pbs1", "somebody-elses", "job_state = R")
        + &row("14.pbs1", "bs-bbbbbbbbbbbb", "job_state = F; Exit_status = 0");
    let finished = Exchange::new("qdel", 35, "", "qdel: Job has finished 12.pbs1\n");
    let (one, replay) = pbs("pbspro", vec![Exchange::new("qstat", 0, &text, ""), finished]);
    one.cancel(&[job("12.pbs1", 0), job("13.pbs1", 1), job("14.pbs1", 1)]).unwrap();
    assert_eq!(replay.seen()[1].args, ["12.pbs1"]);
    let denied = Exchange::new("qdel", 159, "", "qdel: Unauthorized Request 12.pbs1\n");
    let (two, _) = pbs("pbspro", vec![Exchange::new("qstat", 0, &text, ""), denied]);
    assert!(two.cancel(&[job("12.pbs1", 0)]).unwrap_err().contains("Unauthorized"));
}
