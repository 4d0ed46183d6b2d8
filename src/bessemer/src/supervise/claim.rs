//! Who may work on this attempt: `started.json`, created by link(2).
//!
//! The claim is the strongest proof that a submission ran (specs: F3) and the fence against a second copy (F5). A copy
//! of the same job that the scheduler has requeued (same id, larger restart count) takes over: its predecessor is dead
//! or cut off, and at its end it finds that the claim is not its own any more.

use record::{StartRecord, TaskSpec, atomic, layout};
use std::io;
use std::path::Path;

/// What the scheduler tells a job about itself through the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobIdentity {
    pub job_id: String,
    pub restart: u32,
    /// Node name as the scheduler spells it, so that it can be excluded; the host name where there is no scheduler.
    pub host: String,
    pub pbs: bool,
}

impl JobIdentity {
    /// `get` is the environment. The job script says who it is (`BESSEMER_JOB_ID`): a local run inside somebody's
    /// interactive allocation must not take the allocation's id for its own. Without a script the scheduler's own
    /// variables count.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Self {
        let get = |k: &str| get(k).filter(|v| !v.is_empty());
        let pbs = get("PBS_JOBID");
        if let Some(job_id) = get("BESSEMER_JOB_ID") {
            return Self {
                restart: get("BESSEMER_RESTART").and_then(|v| v.parse().ok()).unwrap_or(0),
                host: get("SLURMD_NODENAME").unwrap_or_else(hostname),
                pbs: pbs.as_ref() == Some(&job_id),
                job_id,
            };
        }
        let job_id = match (get("SLURM_ARRAY_JOB_ID"), get("SLURM_ARRAY_TASK_ID"), get("SLURM_JOB_ID")) {
            // the raw id of an array element is ambiguous: the last element keeps the array's own id
            (Some(array), Some(index), _) => format!("{array}_{index}"),
            (_, _, Some(id)) => id,
            _ => pbs.clone().unwrap_or_default(),
        };
        Self {
            job_id,
            restart: get("SLURM_RESTART_COUNT").and_then(|v| v.parse().ok()).unwrap_or(0),
            host: get("SLURMD_NODENAME").unwrap_or_else(hostname),
            pbs: pbs.is_some(),
        }
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".into(), |s| s.trim().into())
}

/// Boot id of this machine: with pid and start time it identifies a process for ever.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| String::new(), |s| s.trim().into())
}

/// Seconds since a process started.
pub fn age_s(pid: u32) -> Option<f64> {
    let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().filter(|h| *h > 0)?;
    let up: f64 = std::fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    #[allow(clippy::cast_precision_loss)]
    let started = pid_start(pid)? as f64 / hertz as f64;
    Some((up - started).max(0.0))
}

/// Start time of a process in clock ticks since boot; `None` when there is no such process.
pub fn pid_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the command name may contain blanks and parentheses: count fields from the last parenthesis
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Outcome of a try to claim.
#[derive(Debug)]
pub enum Claimed {
    /// Ours from now on.
    New(StartRecord),
    /// Ours: we are the requeued copy of the job that had it.
    TakenOver(StartRecord),
    /// Somebody else's. The sentence says whose and what to do.
    Refused(String),
}

/// Claims the attempt for this process.
///
/// # Errors
/// I/O errors of the attempt directory.
pub fn claim(spec: &TaskSpec, me: &JobIdentity, now_ms: i64) -> io::Result<Claimed> {
    let pid = std::process::id();
    let mine = StartRecord {
        format: record::FORMAT,
        token: spec.token.clone(),
        key: spec.key.clone(),
        attempt: spec.attempt,
        job_id: me.job_id.clone(),
        restart: me.restart,
        host: me.host.clone(),
        pid,
        pid_start: pid_start(pid).unwrap_or(0),
        boot_id: boot_id(),
        at_ms: now_ms,
        gpus: vec![],
    };
    let path = spec.attempt_dir.join(layout::STARTED);
    let bytes = serde_json::to_vec_pretty(&mine).map_err(io::Error::other)?;
    if atomic::publish_once(&path, &bytes)? {
        return Ok(Claimed::New(mine));
    }
    let theirs = read(&path)?;
    if !mine.job_id.is_empty() && theirs.job_id == mine.job_id && mine.restart > theirs.restart {
        atomic::write(&path, &bytes)?;
        return Ok(Claimed::TakenOver(mine));
    }
    Ok(Claimed::Refused(refusal(spec, &theirs)))
}

/// Rewrites our own claim with facts learnt after it (the GPUs).
///
/// # Errors
/// I/O errors; that it is somebody else's by now.
pub fn amend(spec: &TaskSpec, mine: &StartRecord) -> io::Result<()> {
    if !still_ours(spec, mine)? {
        return Err(io::Error::other("another run of this job has taken over"));
    }
    atomic::write_json(&spec.attempt_dir.join(layout::STARTED), mine)
}

/// Whether the claim is still the one we made: false once a requeued copy has taken over.
///
/// # Errors
/// I/O errors; a vanished claim is one.
pub fn still_ours(spec: &TaskSpec, mine: &StartRecord) -> io::Result<bool> {
    let now = read(&spec.attempt_dir.join(layout::STARTED))?;
    let id = |s: &StartRecord| (s.job_id.clone(), s.restart, s.boot_id.clone(), s.pid, s.pid_start);
    Ok(id(&now) == id(mine))
}

fn read(path: &Path) -> io::Result<StartRecord> {
    atomic::read_json(path)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{} has vanished", path.display())))
}

fn refusal(spec: &TaskSpec, theirs: &StartRecord) -> String {
    let who = if theirs.job_id.is_empty() {
        format!("process {} on {}", theirs.pid, theirs.host)
    } else {
        format!("job {} on {}", theirs.job_id, theirs.host)
    };
    let gone = theirs.boot_id == boot_id() && pid_start(theirs.pid) != Some(theirs.pid_start);
    let state = if spec.attempt_dir.join(layout::RECORD).exists() {
        "and has ended"
    } else if gone {
        "and that process is gone"
    } else {
        "and may still be working"
    };
    format!(
        "attempt {} of {} was claimed by {who} {state}: one attempt runs once. \
         To try again: bessemer resume {}",
        spec.attempt, spec.phase, spec.sweep
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn identity(vars: &[(&str, &str)]) -> JobIdentity {
        let map: HashMap<_, _> = vars.iter().copied().collect();
        JobIdentity::from_env(|k| map.get(k).map(|v| (*v).to_owned()))
    }

    #[test]
    fn an_array_element_is_named_by_array_and_index_not_by_its_raw_id() {
        let me = identity(&[
            ("SLURM_JOB_ID", "103"),
            ("SLURM_ARRAY_JOB_ID", "103"),
            ("SLURM_ARRAY_TASK_ID", "499"),
            ("SLURM_RESTART_COUNT", "2"),
            ("SLURMD_NODENAME", "n3"),
        ]);
        assert_eq!((me.job_id.as_str(), me.restart, me.host.as_str()), ("103_499", 2, "n3"));
        assert_eq!(identity(&[("SLURM_JOB_ID", "7")]).job_id, "7");
        assert_eq!(identity(&[("PBS_JOBID", "12.pbs1")]).job_id, "12.pbs1");
        assert_eq!(identity(&[]).job_id, "");
        let local =
            identity(&[("SLURM_JOB_ID", "7"), ("BESSEMER_JOB_ID", "99-5"), ("BESSEMER_RESTART", "0")]);
        assert_eq!(local.job_id, "99-5", "the script knows better than the environment it runs in");
    }

    #[test]
    fn a_pid_without_process_has_no_start_time() {
        assert!(pid_start(std::process::id()).is_some());
        assert_eq!(pid_start(u32::MAX), None);
    }
}
