//! The commands, as far as `cluster::slurm` speaks them.

use crate::jobs::{advance, keep};
use crate::store::{Guard, Job, State};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SEPARATOR: char = '\u{1f}';

/// Runs the command `name`; returns its exit code.
#[must_use]
pub fn run(dir: &Path, name: &str, args: &[String]) -> u8 {
    let result = match name {
        "sbatch" => sbatch(dir, args),
        "squeue" => squeue(dir),
        "sacct" => sacct(dir, args),
        "scancel" => scancel(dir, args),
        "scontrol" => scontrol(dir, args),
        "keep" => keep(dir, args.first().map_or("", String::as_str)).map(|()| 0),
        _ => {
            eprintln!("{name}: the fake cluster has no such command");
            return 127;
        }
    };
    result.unwrap_or_else(|e| {
        eprintln!("{name}: error: fake cluster: {e}");
        1
    })
}

fn option<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    args.iter().find_map(|a| a.strip_prefix(name)?.strip_prefix('='))
}

fn failed(text: &str) -> io::Result<u8> {
    eprintln!("sbatch: error: Batch job submission failed: {text}");
    Ok(1)
}

fn sbatch(dir: &Path, args: &[String]) -> io::Result<u8> {
    if args.first().is_some_and(|a| a == "--version") {
        println!("slurm 22.05.8");
        return Ok(0);
    }
    // The number of the call decides what goes wrong; the lock is not held while we dawdle.
    let guard = Guard::open(dir)?;
    let (faults, luck, pace) = (guard.faults.clone(), guard.draw(1), guard.draw(2));
    guard.save()?;
    dawdle(faults.delay_before_ms, pace);
    let mut shares =
        [faults.unreachable, faults.refuse, faults.lose_then_time_out, faults.accept_then_time_out]
            .into_iter()
            .scan(0.0, |sum, share| {
                *sum += share;
                Some(*sum)
            });
    let mut falls = || shares.next().is_some_and(|until| luck < until);
    if falls() {
        return failed("Unable to contact slurm controller (connect failure)");
    }
    if falls() {
        return failed("Invalid account or account/partition combination specified");
    }
    if falls() {
        return failed("Socket timed out on send/recv operation");
    }
    let unheard = falls();
    let mut guard = Guard::open(dir)?;
    let size: Option<u32> =
        option(args, "--array").and_then(|a| a.strip_prefix("0-")?.parse::<u32>().ok()).map(|last| last + 1);
    let live = guard.cluster.jobs.iter().filter(|j| j.state.is_live()).count() as u64;
    if faults.max_submit > 0 && live + u64::from(size.unwrap_or(1)) > faults.max_submit {
        guard.save()?;
        eprintln!("sbatch: error: QOSMaxSubmitJobPerUserLimit");
        return failed(
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        );
    }
    let id = guard.cluster.next_id;
    guard.cluster.next_id += 1;
    let now = record::now_ms();
    let depends = |kind: &str| -> Vec<String> {
        option(args, "--dependency")
            .into_iter()
            .flat_map(|d| d.split(','))
            .filter_map(|d| d.strip_prefix(kind)?.strip_prefix(':'))
            .flat_map(|ids| ids.split(':').map(str::to_owned))
            .collect()
    };
    let begin_s: i64 =
        option(args, "--begin").and_then(|b| b.strip_prefix("now+")?.parse().ok()).unwrap_or(0);
    let job = Job {
        id,
        element: None,
        name: option(args, "--job-name").unwrap_or_default().to_owned(),
        script: args.last().map(PathBuf::from).unwrap_or_default(),
        output: option(args, "--output").unwrap_or("/dev/null").to_owned(),
        after_ok: depends("afterok"),
        after: depends("after"),
        state: State::Pending,
        reason: "Priority".into(),
        exit: 0,
        submit_ms: now,
        begin_ms: now + begin_s * 1000,
        start_ms: None,
        end_ms: None,
        pid: None,
    };
    match size {
        None => guard.cluster.jobs.push(job),
        Some(n) => guard.cluster.jobs.extend((0..n).map(|k| Job { element: Some(k), ..job.clone() })),
    }
    advance(&mut guard, dir)?;
    guard.save()?;
    dawdle(faults.delay_after_ms, pace);
    if unheard {
        return failed("Socket timed out on send/recv operation");
    }
    println!("{id}");
    Ok(0)
}

fn dawdle(most_ms: u64, share: f64) {
    #[allow(clippy::cast_precision_loss)]
    let seconds = most_ms as f64 * share / 1000.0;
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

/// The cluster after some time has passed, or the words of one that cannot be read.
fn look(dir: &Path, name: &str) -> io::Result<Result<Guard, u8>> {
    let mut guard = Guard::open(dir)?;
    advance(&mut guard, dir)?;
    if guard.draw(3) < guard.faults.blind {
        guard.save()?;
        eprintln!("{name}: error: Unable to contact slurm controller (connect failure)");
        return Ok(Err(1));
    }
    Ok(Ok(guard))
}

fn squeue(dir: &Path) -> io::Result<u8> {
    let guard = match look(dir, "squeue")? {
        Ok(guard) => guard,
        Err(code) => return Ok(code),
    };
    let now = record::now_ms();
    let millis = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    for j in &guard.cluster.jobs {
        let lagging = now - j.submit_ms < millis(guard.faults.lag_ms);
        let purged = j.end_ms.is_some_and(|end| now - end >= millis(guard.faults.purge_ms));
        if lagging || purged {
            continue;
        }
        let element = j.element.map_or_else(|| "N/A".to_owned(), |k| k.to_string());
        let start = j.start_ms.map_or_else(|| "N/A".to_owned(), |ms| (ms / 1000).to_string());
        let fields = [
            j.full_id(),
            j.id.to_string(),
            element,
            j.state.name().to_owned(),
            j.reason.clone(),
            (j.submit_ms / 1000).to_string(),
            start,
            if j.start_ms.is_some() { "fake1".to_owned() } else { String::new() },
            j.name.clone(),
        ];
        println!("{}", fields.join(&SEPARATOR.to_string()));
    }
    guard.save()?;
    Ok(0)
}

fn sacct(dir: &Path, args: &[String]) -> io::Result<u8> {
    let guard = match look(dir, "sacct")? {
        Ok(guard) => guard,
        Err(code) => return Ok(code),
    };
    if guard.faults.no_accounting {
        guard.save()?;
        eprintln!("Slurm accounting storage is disabled");
        return Ok(1);
    }
    let names: Option<Vec<&str>> = option(args, "--name").map(|n| n.split(',').collect());
    let now = record::now_ms();
    for j in &guard.cluster.jobs {
        let lagging = now - j.submit_ms < i64::try_from(guard.faults.sacct_lag_ms).unwrap_or(i64::MAX);
        if lagging || names.as_ref().is_some_and(|n| !n.contains(&j.name.as_str())) {
            continue;
        }
        let seconds = |ms: Option<i64>| ms.map_or_else(|| "Unknown".to_owned(), |ms| (ms / 1000).to_string());
        let elapsed = match (j.start_ms, j.end_ms) {
            (Some(a), Some(b)) => ((b - a) / 1000).max(1),
            _ => 0,
        };
        let fields = [
            j.full_id(),
            j.id.to_string(),
            j.state.name().to_owned(),
            format!("{}:0", j.exit),
            (j.submit_ms / 1000).to_string(),
            seconds(j.start_ms),
            seconds(j.end_ms),
            elapsed.to_string(),
            if j.start_ms.is_some() { "fake1".to_owned() } else { "None assigned".to_owned() },
            j.reason.clone(),
            j.name.clone(),
        ];
        println!("{}", fields.join(&SEPARATOR.to_string()));
    }
    guard.save()?;
    Ok(0)
}

fn scancel(dir: &Path, args: &[String]) -> io::Result<u8> {
    let mut guard = Guard::open(dir)?;
    advance(&mut guard, dir)?;
    for j in &mut guard.cluster.jobs {
        let named = args.iter().any(|a| *a == j.full_id() || *a == j.id.to_string());
        if named && j.state.is_live() {
            if let Some(pid) = j.pid.and_then(|p| i32::try_from(p).ok()) {
                // SAFETY: a signal to the process group of a keeper that this cluster started.
                unsafe { libc::kill(-pid, libc::SIGTERM) };
            }
            j.state = State::Cancelled;
            j.reason = "None".into();
            j.end_ms = Some(record::now_ms());
        }
    }
    advance(&mut guard, dir)?;
    guard.save()?;
    Ok(0)
}

fn scontrol(dir: &Path, args: &[String]) -> io::Result<u8> {
    let guard = Guard::open(dir)?;
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["ping"] => println!("Slurmctld(primary) at fake1 is UP"),
        ["show", "config"] => println!("MaxArraySize            = 1001\nSLURM_VERSION           = 22.05.8"),
        other => {
            guard.save()?;
            eprintln!("scontrol: error: the fake cluster does not know {other:?}");
            return Ok(1);
        }
    }
    guard.save()?;
    Ok(0)
}
