//! Slurm, through its commands: `sbatch`, one `squeue` and at most one `sacct` per look, `scancel`.

mod classify;
mod parse;
mod state;

pub use classify::classify;
pub use parse::{config, partition, ping, sacct, sacctmgr, sbatch, sinfo, squeue};
pub use state::state;

use crate::backend::{Backend, JobRef, Limits, Query, Seen, Snapshot, Submission, Submitted};
use crate::parse::SEPARATOR;
use crate::render::{clock, slurm_pattern};
use crate::runner::{CmdOut, CmdSpec, RunError, Runner};
use crate::site::{Accounting, Site};
use record::Token;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One Slurm cluster.
pub struct Slurm {
    site: Site,
    runner: Arc<dyn Runner>,
    /// `squeue --me` is unknown before 20.02; found out once.
    no_me: AtomicBool,
    /// `sacct` said that there is no accounting; found out once.
    no_accounting: AtomicBool,
}

/// Most ids on one `scancel` line, and most names on one `sacct` line (one argument may have 128 KiB).
const MOST_ARGS: usize = 1000;

impl Slurm {
    #[must_use]
    pub fn new(site: Site, runner: Arc<dyn Runner>) -> Self {
        Self { site, runner, no_me: AtomicBool::new(false), no_accounting: AtomicBool::new(false) }
    }

    /// A command that reads: explicit times and formats, whatever the user's environment says (specs: F17, F38).
    fn ask(&self, program: &'static str, args: Vec<String>) -> Result<CmdOut, RunError> {
        let spec = CmdSpec::new(program, args, self.site.timeouts.query.duration())
            .env("SLURM_TIME_FORMAT", "%s")
            .env("SLURM_BITSTR_LEN", "0");
        self.runner.run(&spec)
    }

    /// All jobs of this user, whatever their name. By user and not by id or name: a double submission shows up, the id
    /// list does not grow with the sweep, and `-j ONE`'s error for a single unknown id (specs: F12) cannot happen.
    fn squeue(&self) -> Result<Vec<squeue::Row>, String> {
        let ask = |me: bool| {
            let whose = if me { vec!["--me".to_owned()] } else { vec!["-u".to_owned(), user()] };
            let fixed = ["-h", "-r", "-t", "all", "-o"].map(str::to_owned);
            self.ask("squeue", [&fixed[..], &[squeue::format()], &whose[..]].concat())
                .map_err(|e| e.to_string())
        };
        let mut out = ask(!self.no_me.load(Ordering::Relaxed))?;
        if out.code != Some(0) && out.stderr.contains("--me") {
            self.no_me.store(true, Ordering::Relaxed);
            out = ask(false)?;
        }
        if out.code != Some(0) {
            return Err(format!("squeue: {}", out.complaint()));
        }
        squeue::parse(&out.stdout).map_err(|e| e.to_string())
    }

    /// The accounting's rows about these names; `Ok(None)` where there is no accounting at all.
    fn sacct(&self, names: &BTreeSet<&Token>, since_s: i64) -> Result<Option<Vec<sacct::Row>>, String> {
        if self.site.accounting == Accounting::Off || self.no_accounting.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let fixed = ["-n", "-X", "-D", "-P"].map(str::to_owned);
        let mut args = fixed.to_vec();
        args.push(format!("--delimiter={SEPARATOR}"));
        // without -S it starts at midnight; a day of slack, since clocks differ (specs: F13)
        args.extend(["-S".to_owned(), local_time(since_s - 86_400)]);
        args.extend(["-o".to_owned(), sacct::FIELDS.to_owned()]);
        if names.len() <= MOST_ARGS {
            let list: Vec<&str> = names.iter().map(|t| t.as_str()).collect();
            args.push(format!("--name={}", list.join(",")));
        }
        let out = self.ask("sacct", args).map_err(|e| e.to_string())?;
        if out.code != Some(0) {
            if out.stderr.contains("accounting storage is disabled") {
                self.no_accounting.store(true, Ordering::Relaxed);
                return Ok(None);
            }
            return Err(format!("sacct: {}", out.complaint()));
        }
        sacct::parse(&out.stdout).map(Some).map_err(|e| e.to_string())
    }
}

impl Backend for Slurm {
    fn submit(&self, s: &Submission) -> Submitted {
        // With `export: all` the job inherits this environment, and plain C would take UTF-8 from it.
        let spec = CmdSpec::new("sbatch", submit_args(&self.site, s), self.site.timeouts.submit.duration())
            .env("LC_ALL", "C.UTF-8");
        match self.runner.run(&spec) {
            Ok(out) => match sbatch::parse(&out.stdout) {
                // Warnings with exit 0 do not matter (specs: F7); an id with another exit does: look it up.
                Some((id, cluster)) if out.code == Some(0) => {
                    Submitted::Accepted(JobRef { id, cluster, token: s.token.clone() })
                }
                Some((id, _)) => {
                    Submitted::Uncertain(format!("sbatch printed id {id} but failed: {}", out.complaint()))
                }
                None => classify(&self.site.patterns, &out),
            },
            Err(e @ RunError::Missing { .. }) => Submitted::Unavailable(e.to_string()),
            Err(e @ (RunError::TimedOut { .. } | RunError::Io { .. })) => Submitted::Uncertain(e.to_string()),
        }
    }

    fn query(&self, q: &Query) -> Result<Snapshot, String> {
        let wanted: BTreeSet<&Token> = q.jobs.iter().map(|(t, _)| t).collect();
        let mut snap = Snapshot::default();
        match self.squeue() {
            Ok(rows) => {
                snap.queue_ok = true;
                for row in rows {
                    let token = Token(row.name);
                    if !wanted.contains(&token) {
                        continue;
                    }
                    let seen = Seen {
                        job: JobRef { id: row.id, cluster: None, token: token.clone() },
                        state: state(&row.state, &row.reason, None),
                        raw: spell(&row.state, &row.reason, None),
                        exit: None,
                        nodes: row.nodes,
                        start_s: row.start,
                        source: "squeue",
                    };
                    snap.jobs.entry(token).or_default().push(seen);
                }
            }
            Err(e) => snap.warnings.push(e),
        }
        if q.accounting {
            let over = missing_or_over(q, &snap);
            if !over.is_empty() {
                match self.sacct(&over, q.since_s) {
                    Ok(Some(rows)) => {
                        snap.accounting_ok = true;
                        merge_accounting(&mut snap, rows, &wanted);
                    }
                    Ok(None) => {}
                    Err(e) => snap.warnings.push(e),
                }
            }
        }
        if snap.queue_ok || snap.accounting_ok { Ok(snap) } else { Err(snap.warnings.join("; ")) }
    }

    /// One look at the queue first: a controller that crashed gives ids out again (specs: slurm-pbs 2), so the name of a
    /// job decides whether it is the one that is meant.
    fn cancel(&self, jobs: &[JobRef]) -> Result<(), String> {
        if jobs.is_empty() {
            return Ok(());
        }
        let ids = ids_to_cancel(jobs, &self.squeue()?);
        for chunk in ids.chunks(MOST_ARGS) {
            let out = self.ask("scancel", chunk.to_vec()).map_err(|e| e.to_string())?;
            let harmless = |l: &str| {
                l.trim().is_empty()
                    || l.contains("Invalid job id")
                    || l.contains("already completing or completed")
            };
            if out.code != Some(0) && (out.stderr.trim().is_empty() || !out.stderr.lines().all(harmless)) {
                return Err(format!("scancel: {}", out.complaint()));
            }
        }
        Ok(())
    }

    /// sbatch goes on retrying for 120 s after our death, each time with a message time-out (specs: F3).
    fn uncertain_grace_s(&self) -> u64 {
        180
    }

    fn calls(&self) -> u64 {
        self.runner.calls()
    }

    fn limits(&self) -> Limits {
        let b = &self.site.limits;
        Limits { max_array: b.max_array, max_submit: b.max_submit, min_poll_s: b.min_poll.0 }
    }

    /// `scontrol ping` answers at once where everything else waits for a message time-out.
    fn ping(&self) -> Result<String, String> {
        let version = self.ask("sbatch", vec!["--version".into()]).map_err(|e| e.to_string())?;
        let version = version.stdout.lines().next().unwrap_or("Slurm").trim().to_owned();
        let out = self.ask("scontrol", vec!["ping".into()]).map_err(|e| e.to_string())?;
        match ping::parse(&out.stdout) {
            Some(true) => Ok(format!("{version}, controller up")),
            Some(false) => Err(format!("{version}, but the controller is down: {}", out.stdout.trim())),
            None => Err(format!("{version}; scontrol ping: {}", out.complaint())),
        }
    }
}

/// Name, output and time are in the script too; here they beat any `SBATCH_*` that a wrapper sets (specs: F19).
fn submit_args(site: &Site, s: &Submission) -> Vec<String> {
    let mut args = vec![
        "--parsable".to_owned(),
        format!("--job-name={}", s.token),
        format!("--output={}", slurm_pattern(&s.dir.to_string_lossy(), s.array.is_some())),
        format!("--time={}", clock(s.resources.walltime_s)),
    ];
    if let Some(n) = s.array {
        args.push(format!("--array=0-{}", n.saturating_sub(1)));
    }
    let ids = |jobs: &[JobRef]| jobs.iter().map(|j| j.id.as_str()).collect::<Vec<_>>().join(":");
    let mut after = Vec::new();
    if !s.after_ok.is_empty() {
        after.push(format!("afterok:{}", ids(&s.after_ok)));
    }
    if !s.after_start.is_empty() {
        after.push(format!("after:{}", ids(&s.after_start)));
    }
    // not for arrays: their elements share the name
    if site.singleton && s.array.is_none() {
        after.push("singleton".into());
    }
    if !after.is_empty() {
        args.push(format!("--dependency={}", after.join(",")));
    }
    if s.delay_s > 0 {
        args.push(format!("--begin=now+{}", s.delay_s));
    }
    // brackets and `None assigned` are no host names (specs: F28)
    let nodes: Vec<String> = s.exclude_nodes.iter().flat_map(|n| crate::parse::hosts(n)).collect();
    if !nodes.is_empty() {
        args.push(format!("--exclude={}", nodes.join(",")));
    }
    let comment: String = s.comment.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    if !comment.is_empty() {
        args.push(format!("--comment={comment}"));
    }
    args.push(s.script.to_string_lossy().into_owned());
    args
}

/// Which names the accounting is asked about: those with a job that is not in the queue, or over in it (its exit code
/// is only in the accounting).
fn missing_or_over<'q>(q: &'q Query, snap: &Snapshot) -> BTreeSet<&'q Token> {
    let live = |token: &Token, id: &Option<String>| {
        snap.jobs.get(token).is_some_and(|rows| {
            rows.iter().any(|r| r.state.is_live() && id.as_ref().is_none_or(|id| *id == r.job.id))
        })
    };
    q.jobs.iter().filter(|(token, id)| !live(token, id)).map(|(token, _)| token).collect()
}

/// Adds what the accounting knows. The queue's word wins on what is alive; the accounting explains what is over.
fn merge_accounting(snap: &mut Snapshot, rows: Vec<sacct::Row>, wanted: &BTreeSet<&Token>) {
    // -D lists earlier runs of a requeued job first: the last row of an id is the current one
    let mut last: BTreeMap<(String, String), sacct::Row> = BTreeMap::new();
    for row in rows.into_iter().filter(|r| !r.ghost) {
        last.insert((row.name.clone(), row.id.clone()), row);
    }
    for ((name, id), row) in last {
        let token = Token(name);
        let now = state(&row.state, &row.reason, row.exit);
        // A job that is not in the queue is not alive, whatever a lagging (or run-away) record says.
        if !wanted.contains(&token) || (now.is_live() && snap.queue_ok) {
            continue;
        }
        let seen = Seen {
            job: JobRef { id, cluster: None, token: token.clone() },
            state: now,
            raw: spell(&row.state, &row.reason, row.exit),
            exit: row.exit,
            nodes: row.nodes,
            start_s: row.start,
            source: "sacct",
        };
        let rows = snap.jobs.entry(token).or_default();
        match rows.iter_mut().find(|r| r.job.id == seen.job.id) {
            Some(r) if r.state.is_live() => {}
            Some(r) => *r = seen,
            None => rows.push(seen),
        }
    }
}

/// Ids for `scancel`: live rows that are meant. An array that is meant as a whole is one id.
fn ids_to_cancel(jobs: &[JobRef], rows: &[squeue::Row]) -> Vec<String> {
    // by whatever part identifies them: a sweep may cancel thousands
    let mut by_id: HashMap<&str, Vec<&JobRef>> = HashMap::new();
    let mut by_name: HashMap<&str, &JobRef> = HashMap::new();
    for job in jobs {
        if job.id.is_empty() {
            by_name.insert(job.token.as_str(), job);
        } else {
            by_id.entry(&job.id).or_default().push(job);
        }
    }
    let mut ids = BTreeSet::new();
    for row in rows.iter().filter(|r| state(&r.state, &r.reason, None).is_live()) {
        let base = row.id.split('_').next().unwrap_or(&row.id);
        let named = |id: &str| by_id.get(id).is_some_and(|js| js.iter().any(|j| j.names(&row.id, &row.name)));
        if named(base) || by_name.get(row.name.as_str()).is_some_and(|j| j.names(&row.id, &row.name)) {
            ids.insert(base.to_owned());
        } else if named(&row.id) {
            ids.insert(row.id.clone());
        }
    }
    ids.into_iter().collect()
}

fn spell(state: &str, reason: &str, exit: Option<(i32, i32)>) -> String {
    let mut s = state.to_owned();
    if !reason.is_empty() && reason != "None" {
        s.push(' ');
        s.push_str(reason);
    }
    if let Some((code, signal)) = exit {
        s.push_str(&format!(" {code}:{signal}"));
    }
    s
}

/// `-S` wants local time.
fn local_time(epoch_s: i64) -> String {
    let time = jiff::Timestamp::from_second(epoch_s.max(0)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

fn user() -> String {
    rustix::process::getuid().as_raw().to_string()
}

#[cfg(test)]
mod tests;
