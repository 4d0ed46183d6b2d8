use super::*;
use record::Resources;
use std::path::{Path, PathBuf};

/// Tokens must differ between tests: jobs are found machine-wide.
fn token() -> Token {
    use std::sync::atomic::{AtomicU64, Ordering};
    static N: AtomicU64 = AtomicU64::new(0);
    Token(format!("test-{}-{}", std::process::id(), N.fetch_add(1, Ordering::Relaxed)))
}

/// A backend whose slots no other test takes.
fn local(more: &str) -> Local {
    local_in(&token(), more)
}

fn local_in(pool: &Token, more: &str) -> Local {
    let text = format!(
        "bessemer_site: 1\nname: t\nscheduler: local\n\
         local: {{cpus: 1000, memory: 1000GB, grace: 2s, pool: {pool}{more}}}\n"
    );
    Local::new(&Site::load(Path::new("s"), &text).unwrap())
}

struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn job(&self, body: &str, cpus: u32, gpus: u32) -> Submission {
        let token = token();
        let script = self.dir.path().join(format!("{token}.sh"));
        std::fs::write(&script, body).unwrap();
        Submission {
            token,
            script,
            dir: self.dir.path().into(),
            array: None,
            after_ok: vec![],
            after_start: vec![],
            delay_s: 0,
            exclude_nodes: vec![],
            resources: Resources { cpus, gpus, memory_mb: 1, walltime_s: 60 },
            comment: String::new(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn accepted(s: Submitted) -> JobRef {
    match s {
        Submitted::Accepted(job) => job,
        other => panic!("{other:?}"),
    }
}

fn look(backend: &Local, job: &JobRef) -> Option<Seen> {
    let q = Query { jobs: vec![(job.token.clone(), Some(job.id.clone()))], since_s: 0, accounting: false };
    backend.query(&q).unwrap().jobs.remove(&job.token).map(|mut rows| rows.remove(0))
}

fn until<T>(mut f: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(t) = f() {
            return t;
        }
        assert!(Instant::now() < end, "waited a minute in vain");
        std::thread::yield_now();
    }
}

fn ended(backend: &Local, job: &JobRef) -> Seen {
    until(|| {
        backend.wait(Duration::from_secs(1));
        look(backend, job).filter(|s| !s.state.is_live())
    })
}

#[test]
fn a_job_runs_in_its_own_session_and_its_exit_code_comes_back() {
    let (rig, backend) = (Rig::new(), local(", gpus: 2"));
    let body = format!(
        "ps -o sid= -p $$ >{0}; echo \"$BESSEMER_TOKEN/$CUDA_VISIBLE_DEVICES\" >>{0}; exit 85\n",
        rig.file("o").display()
    );
    let s = rig.job(&body, 1, 1);
    let job = accepted(backend.submit(&s));
    let seen = ended(&backend, &job);
    assert_eq!((seen.state, seen.exit), (JobState::Failed, Some((85, 0))));
    let text = std::fs::read_to_string(rig.file("o")).unwrap();
    let pid = job.id.split('-').next().unwrap();
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), [pid, &format!("{}/0", s.token)]);
}

#[test]
fn a_full_machine_is_a_limit_and_a_too_small_one_a_refusal() {
    let rig = Rig::new();
    let backend = local(", gpus: 1");
    let first = accepted(backend.submit(&rig.job("sleep 1000\n", 1, 1)));
    assert!(matches!(backend.submit(&rig.job("true\n", 1, 1)), Submitted::Limit(_)));
    let second = accepted(backend.submit(&rig.job("true\n", 1, 0)));
    assert_eq!(ended(&backend, &second).state, JobState::Completed);
    assert!(matches!(backend.submit(&rig.job("true\n", 1, 2)), Submitted::Refused(_)));
    backend.cancel(std::slice::from_ref(&first)).unwrap();
    assert_eq!(look(&backend, &first).unwrap().state, JobState::Cancelled);
    let third = accepted(backend.submit(&rig.job("true\n", 1, 1)));
    assert_eq!(ended(&backend, &third).state, JobState::Completed);
}

#[test]
fn another_planner_finds_the_job_its_slot_and_can_cancel_it() {
    let rig = Rig::new();
    let pool = token();
    let (first, second) = (local_in(&pool, ", gpus: 1"), local_in(&pool, ", gpus: 1"));
    let s = rig.job("sleep 1000\n", 1, 1);
    let job = accepted(first.submit(&s));
    // as after kill -9 of the first planner: the second knows nothing but the token
    let unknown = JobRef { id: String::new(), ..job.clone() };
    let seen = until(|| look(&second, &unknown));
    assert_eq!((seen.state, &seen.job.id), (JobState::Running, &job.id));
    assert!(matches!(second.submit(&rig.job("true\n", 1, 1)), Submitted::Limit(_)), "the GPU is taken");
    assert!(matches!(second.submit(&s), Submitted::Uncertain(_)), "the same token must not run twice");
    second.cancel(std::slice::from_ref(&unknown)).unwrap();
    assert_eq!(look(&second, &unknown), None);
    assert!(!look(&first, &job).unwrap().state.is_live());
}

#[test]
fn cancel_ends_every_descendant_even_one_that_left_the_session_and_ignores_term() {
    let rig = Rig::new();
    let backend = local("");
    let pid_file = rig.file("daemon");
    let body = format!(
        "trap '' TERM\nsetsid bash -c 'trap \"\" TERM; echo $$ >{0}.tmp; mv {0}.tmp {0}; while :; do sleep 1000; done' &\nwait\nwait\n",
        pid_file.display()
    );
    let job = accepted(backend.submit(&rig.job(&body, 1, 0)));
    let pid: i32 = until(|| std::fs::read_to_string(&pid_file).ok()?.trim().parse().ok());
    backend.cancel(std::slice::from_ref(&job)).unwrap();
    assert!(proc::read(pid).is_none_or(|p| p.state == 'Z'), "the daemon survived");
    assert_eq!(look(&backend, &job).unwrap().state, JobState::Cancelled);
    backend.cancel(&[job]).unwrap(); // cancelling what is gone is a success
}

#[test]
fn term_comes_first_and_a_job_that_heeds_it_ends_by_itself() {
    let rig = Rig::new();
    let backend = local("");
    let (ready, done) = (rig.file("ready"), rig.file("done"));
    let body = format!(
        "trap 'touch {}; exit 85' TERM\ntouch {}\nwhile :; do sleep 0.1; done\n",
        done.display(),
        ready.display()
    );
    let job = accepted(backend.submit(&rig.job(&body, 1, 0)));
    until(|| ready.exists().then_some(()));
    backend.cancel(std::slice::from_ref(&job)).unwrap();
    assert!(done.exists());
    assert_eq!(look(&backend, &job).unwrap().exit, Some((85, 0)));
}

#[test]
fn term_goes_to_the_script_alone_and_a_job_can_be_named_by_its_id_alone() {
    let rig = Rig::new();
    let backend = local("");
    let (ready, shot) = (rig.file("ready"), rig.file("shot"));
    let body = format!(
        "trap 'exit 85' TERM\n(trap 'touch {}' TERM; touch {}; while :; do sleep 0.1; done) &\nwait\n",
        shot.display(),
        ready.display()
    );
    let job = accepted(backend.submit(&rig.job(&body, 1, 0)));
    until(|| ready.exists().then_some(()));
    let nameless = JobRef { token: Token(String::new()), ..job.clone() };
    backend.cancel(&[nameless]).unwrap();
    let seen = look(&backend, &job).unwrap();
    assert_eq!((seen.state, seen.exit), (JobState::Cancelled, Some((85, 0))));
    assert!(!shot.exists(), "the worker was shot instead of being asked");
}

#[test]
fn when_the_leader_is_killed_its_children_do_not_live_on() {
    let rig = Rig::new();
    let backend = local("");
    let pid_file = rig.file("child");
    let body = format!("sleep 1000 & echo $! >{0}.tmp; mv {0}.tmp {0}; wait\n", pid_file.display());
    let job = accepted(backend.submit(&rig.job(&body, 1, 0)));
    let child: i32 = until(|| std::fs::read_to_string(&pid_file).ok()?.trim().parse().ok());
    let leader: i32 = job.id.split('-').next().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(leader).unwrap(), Signal::KILL).unwrap();
    assert_eq!(ended(&backend, &job).exit, Some((0, 9)));
    until(|| proc::read(child).is_none_or(|p| p.state == 'Z').then_some(()));
}

#[test]
fn a_later_planner_counts_a_job_as_running_while_anything_of_it_lives() {
    let rig = Rig::new();
    let pool = token();
    let (first, second) = (local_in(&pool, ""), local_in(&pool, ""));
    let pid_file = rig.file("child");
    let body = format!("sleep 1000 & echo $! >{0}.tmp; mv {0}.tmp {0}; wait\n", pid_file.display());
    let job = accepted(first.submit(&rig.job(&body, 1, 0)));
    until(|| pid_file.exists().then_some(()));
    // the planner is killed, and then the script: nobody is left to end the child
    let leader: i32 = job.id.split('-').next().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(leader).unwrap(), Signal::KILL).unwrap();
    until(|| proc::read(leader).is_none_or(|p| p.state == 'Z').then_some(()));
    let seen = look(&second, &job).expect("the child still works");
    assert_eq!(
        (seen.state, &seen.job.id),
        (JobState::Running, &job.id),
        "under the id that the ledger knows"
    );
    second.cancel(std::slice::from_ref(&job)).unwrap();
    assert_eq!(look(&second, &job), None);
}

#[test]
fn the_rendered_script_names_the_same_job_id_as_the_backend() {
    let rig = Rig::new();
    let backend = local("");
    let attempt = rig.file("attempt-1");
    std::fs::create_dir_all(attempt.join("sched")).unwrap();
    let program = rig.file("bessemer");
    std::fs::write(&program, "#!/bin/bash\necho \"id=$BESSEMER_JOB_ID\"\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut s = rig.job("", 1, 0);
    let input = crate::render::ScriptInput {
        token: s.token.clone(),
        target: crate::render::Target::One(attempt.clone()),
        resources: s.resources.clone(),
        sched_dir: attempt.join("sched"),
        margin_s: 30,
        bessemer: program,
        worker: None,
        extra: vec![],
        title: "t".into(),
    };
    let site = Site::load(Path::new("s"), "bessemer_site: 1\nname: t\nscheduler: local\n").unwrap();
    s.script = attempt.join("job.sh");
    s.dir = attempt.join("sched");
    std::fs::write(&s.script, crate::render::script(&site, &input).unwrap()).unwrap();
    let job = accepted(backend.submit(&s));
    assert_eq!(ended(&backend, &job).state, JobState::Completed);
    let log = std::fs::read_to_string(attempt.join("log.txt")).unwrap();
    assert!(log.contains(&format!("id={}\n", job.id)), "{log} {job:?}");
}
