//! What the cluster does with its jobs: start them when their dependencies allow it, play or run them, end them.

use crate::store::{Cluster, Guard, Job, State};
use record::{AttemptRecord, ResultPointer, StartRecord, Status, TaskSpec, Usage, atomic, layout};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One line per execution that passed its claim: `key attempt job`.
pub const EXECUTIONS: &str = "executions.log";

/// Lets time pass: starts what can start, ends what has run long enough.
///
/// # Errors
/// I/O errors of playing a job.
pub fn advance(guard: &mut Guard, dir: &Path) -> io::Result<()> {
    let now = record::now_ms();
    let faults = guard.faults.clone();
    loop {
        let mut changed = false;
        for k in 0..guard.cluster.jobs.len() {
            let job = guard.cluster.jobs[k].clone();
            match job.state {
                State::Pending => match dependencies(&guard.cluster, &job) {
                    Dependencies::Never => guard.cluster.jobs[k].reason = "DependencyNeverSatisfied".into(),
                    Dependencies::Waiting => guard.cluster.jobs[k].reason = "Dependency".into(),
                    Dependencies::Met if faults.hold => guard.cluster.jobs[k].reason = "Resources".into(),
                    Dependencies::Met if job.begin_ms > now => {
                        guard.cluster.jobs[k].reason = "BeginTime".into()
                    }
                    Dependencies::Met => {
                        let j = &mut guard.cluster.jobs[k];
                        j.state = State::Running;
                        j.reason = "None".into();
                        j.start_ms = Some(now);
                        if faults.real {
                            j.pid = Some(spawn(dir, &job)?);
                        } else {
                            claim(dir, &job)?;
                        }
                        changed = true;
                    }
                },
                State::Running => {
                    let ran = now - job.start_ms.unwrap_or(now);
                    if !faults.real && u64::try_from(ran).unwrap_or(0) >= faults.run_ms {
                        let exit = finish(dir, &job)?;
                        end(&mut guard.cluster.jobs[k], exit);
                        changed = true;
                    }
                }
                _ => {}
            }
        }
        if !changed {
            return Ok(());
        }
    }
}

/// Marks a job as over.
pub fn end(job: &mut Job, exit: i32) {
    if job.state.is_live() {
        job.state = if exit == 0 { State::Completed } else { State::Failed };
        job.reason = if exit == 0 { "None".into() } else { "NonZeroExitCode".into() };
        job.exit = exit;
        job.end_ms = Some(record::now_ms());
    }
}

enum Dependencies {
    Met,
    Waiting,
    Never,
}

fn dependencies(cluster: &Cluster, job: &Job) -> Dependencies {
    let is = |j: &Job, id: &String| j.full_id() == *id || j.id.to_string() == *id;
    let mut answer = Dependencies::Met;
    for id in &job.after_ok {
        for up in cluster.jobs.iter().filter(|j| is(j, id)) {
            match up.state {
                State::Completed => {}
                State::Failed | State::Cancelled => return Dependencies::Never,
                _ => answer = Dependencies::Waiting,
            }
        }
    }
    let not_begun =
        |id: &String| cluster.jobs.iter().any(|j| is(j, id) && j.start_ms.is_none() && j.state.is_live());
    if job.after.iter().any(not_begun) {
        answer = Dependencies::Waiting;
    }
    answer
}

/// The attempt that a job is for: from its `task.json` beside the script, or from its line of the array's map.
fn attempt_dir(job: &Job) -> Option<PathBuf> {
    let dir = job.script.parent()?;
    match job.element {
        None => Some(dir.to_owned()),
        Some(k) => {
            let map = std::fs::read_to_string(dir.join("map")).ok()?;
            map.lines().nth(k as usize).map(PathBuf::from)
        }
    }
}

/// The supervisor's guard and claim: `false` if somebody else holds the attempt, or the task is done.
fn claim(dir: &Path, job: &Job) -> io::Result<bool> {
    let Some(spec) = attempt_dir(job).and_then(|d| TaskSpec::read(&d.join(layout::TASK)).ok()) else {
        return Ok(false);
    };
    if spec.task_dir.join(layout::RESULT).exists() {
        return Ok(false);
    }
    let started = StartRecord {
        format: record::FORMAT,
        token: spec.token.clone(),
        key: spec.key.clone(),
        attempt: spec.attempt,
        job_id: job.full_id(),
        restart: 0,
        host: "fake1".into(),
        pid: std::process::id(),
        pid_start: 0,
        boot_id: String::new(),
        at_ms: record::now_ms(),
        gpus: vec![],
    };
    let won =
        atomic::publish_once(&spec.attempt_dir.join(layout::STARTED), &serde_json::to_vec_pretty(&started)?)?;
    if won {
        let mut log = std::fs::File::options().create(true).append(true).open(dir.join(EXECUTIONS))?;
        log.write_all(format!("{} {} {}\n", spec.key, spec.attempt, job.full_id()).as_bytes())?;
    }
    Ok(won)
}

/// The supervisor's end: guard, record, result. Returns the exit code.
fn finish(_dir: &Path, job: &Job) -> io::Result<i32> {
    let Some(spec) = attempt_dir(job).and_then(|d| TaskSpec::read(&d.join(layout::TASK)).ok()) else {
        return Ok(record::exit::SETUP_FAILED);
    };
    let ours = atomic::read_json::<StartRecord>(&spec.attempt_dir.join(layout::STARTED))?
        .is_some_and(|s| s.job_id == job.full_id());
    if !ours {
        let done = spec.task_dir.join(layout::RESULT).exists();
        return Ok(if done { record::exit::DONE } else { record::exit::TRY_AGAIN });
    }
    let upstream = spec.inputs.values().flatten().all(|i| i.task_dir.join(layout::RESULT).exists());
    let out = spec.attempt_dir.join(layout::OUT);
    std::fs::create_dir_all(&out)?;
    std::fs::write(out.join("data"), spec.key.as_str())?;
    let status = if upstream { Status::Ok } else { Status::Failed };
    let record = AttemptRecord {
        format: record::FORMAT,
        token: spec.token.clone(),
        key: spec.key.clone(),
        attempt: spec.attempt,
        status,
        class: (!upstream).then_some(record::FailureClass::UpstreamMissing),
        message: String::new(),
        exit_code: Some(0),
        signal: None,
        job_id: job.full_id(),
        restart: 0,
        host: "fake1".into(),
        gpus: vec![],
        started_ms: job.start_ms.unwrap_or(0),
        ended_ms: record::now_ms(),
        usage: Usage::default(),
        outputs: vec![record::OutputFile {
            path: "data".into(),
            bytes: spec.key.as_str().len() as u64,
            sha256: record::key::sha256_hex(spec.key.as_str().as_bytes()),
        }],
        metrics: vec![],
        facts: BTreeMap::new(),
        checkpoint_step: None,
        program: "fake-slurm".into(),
    };
    let mut bytes = serde_json::to_vec_pretty(&record)?;
    bytes.push(b'\n');
    atomic::write(&spec.attempt_dir.join(layout::RECORD), &bytes)?;
    if status != Status::Ok {
        return Ok(record::exit::UPSTREAM_MISSING);
    }
    let pointer = ResultPointer {
        format: record::FORMAT,
        key: spec.key.clone(),
        attempt: spec.attempt,
        token: spec.token,
        record_sha256: record::key::sha256_hex(&bytes),
    };
    atomic::publish_once(&spec.task_dir.join(layout::RESULT), &serde_json::to_vec_pretty(&pointer)?)?;
    Ok(record::exit::DONE)
}

/// Starts a real job, with a keeper that notes its end: `fake-slurm keep ID[_K]`.
fn spawn(dir: &Path, job: &Job) -> io::Result<u32> {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg0("keep")
        .arg(job.full_id())
        .env(crate::DIR, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    command.spawn().map(|child| child.id())
}

/// Runs a real job to its end and notes it; the body of a keeper process.
///
/// # Errors
/// I/O errors.
pub fn keep(dir: &Path, id: &str) -> io::Result<()> {
    // the transaction that started us holds the lock until the job is in the file
    let guard = Guard::open(dir)?;
    let Some(job) = guard.cluster.jobs.iter().find(|j| j.full_id() == id).cloned() else { return Ok(()) };
    guard.save()?;
    let output = job
        .output
        .replace("%j", id)
        .replace("%A", &job.id.to_string())
        .replace("%a", &{ job.element.map_or_else(String::new, |k| k.to_string()) });
    let log = std::fs::File::options().create(true).append(true).open(output)?;
    let mut command = Command::new("bash");
    command
        .arg(&job.script)
        .env("SLURM_JOB_ID", job.id.to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    if let Some(k) = job.element {
        command.env("SLURM_ARRAY_JOB_ID", job.id.to_string()).env("SLURM_ARRAY_TASK_ID", k.to_string());
    }
    let exit = command.status()?.code().unwrap_or(137);
    let mut guard = Guard::open(dir)?;
    if let Some(j) = guard.cluster.jobs.iter_mut().find(|j| j.full_id() == id) {
        end(j, exit);
    }
    advance(&mut guard, dir)?;
    guard.save()
}
