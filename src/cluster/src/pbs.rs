//! PBS in its two families: OpenPBS / PBS Pro, and Torque. Single jobs only: an array's exit status is that of the subjob
//! that ended last, and some sites lose subjobs (specs: F10, F22).

mod classify;
mod parse;
mod state;

pub use classify::classify;
pub use parse::{qselect, qstat, qsub};
pub use state::{exit, state};

use crate::backend::{Backend, JobRef, Limits, Query, Seen, Snapshot, Submission, Submitted};
use crate::render::clock;
use crate::runner::{CmdOut, CmdSpec, RunError, Runner};
use crate::site::{Accounting, Flavor, Site};
use record::Token;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One PBS server.
pub struct Pbs {
    site: Site,
    flavor: Flavor,
    runner: Arc<dyn Runner>,
    /// The server keeps no history (the default of PBS): found out once.
    no_history: AtomicBool,
}

/// Most ids on one command line; above it a look takes more than one command.
const MOST_ARGS: usize = 1000;

impl Pbs {
    #[must_use]
    pub fn new(site: Site, runner: Arc<dyn Runner>) -> Self {
        let flavor = site.flavor.unwrap_or(Flavor::PbsPro);
        let no_history = flavor == Flavor::Torque || site.accounting == Accounting::Off;
        Self { site, flavor, runner, no_history: AtomicBool::new(no_history) }
    }

    fn ask(&self, program: &'static str, args: Vec<String>) -> Result<CmdOut, RunError> {
        self.runner.run(&CmdSpec::new(program, args, self.site.timeouts.query.duration()))
    }

    /// Runs a listing command with `-x` (finished jobs too) where there is a history, and notes if there is none: the
    /// server says so on stderr, with exit 0 and no row (specs: 3.4).
    fn list(&self, program: &'static str, args: &[String]) -> Result<CmdOut, String> {
        let run = |history: bool| {
            let x = if history { vec!["-x".to_owned()] } else { vec![] };
            self.ask(program, [x, args.to_vec()].concat()).map_err(|e| e.to_string())
        };
        let history = !self.no_history.load(Ordering::Relaxed);
        let mut out = run(history)?;
        if history && out.stderr.contains("not configured to maintain job history") {
            self.no_history.store(true, Ordering::Relaxed);
            out = run(false)?;
        }
        // Unknown ids make it exit non-zero beside good rows (specs: 3.4), so only a server that did not answer counts.
        if out.code.is_none() || classify::unreachable(&out) {
            return Err(format!("{program}: {}", out.complaint()));
        }
        Ok(out)
    }

    /// Rows of these jobs; where an id is not known, of all jobs of this user.
    fn jobs(&self, known: &[Option<String>]) -> Result<Vec<qstat::Job>, String> {
        let mut ids: BTreeSet<String> = known.iter().flatten().cloned().collect();
        if known.iter().any(Option::is_none) {
            let out = self.list("qselect", &["-u".into(), user()])?;
            if out.code != Some(0) {
                return Err(format!("qselect: {}", out.complaint()));
            }
            ids.extend(qselect::parse(&out.stdout).map_err(|e| e.to_string())?);
        }
        let wide = if self.flavor == Flavor::Torque { "-1" } else { "-w" };
        let mut rows = Vec::new();
        for chunk in ids.into_iter().collect::<Vec<_>>().chunks(MOST_ARGS) {
            let args = [&["-f".to_owned(), wide.to_owned()], chunk].concat();
            let out = self.list("qstat", &args)?;
            rows.extend(qstat::parse(&out.stdout).map_err(|e| e.to_string())?);
        }
        Ok(rows)
    }

    fn seen(&self, row: &qstat::Job) -> Seen {
        Seen {
            job: JobRef { id: row.id.clone(), cluster: None, token: Token(row.get("Job_Name").to_owned()) },
            state: state(self.flavor, row),
            raw: state::spell(row),
            exit: exit(row),
            nodes: qstat::nodes(row.get("exec_host")),
            start_s: None,
            source: "qstat",
        }
    }
}

impl Backend for Pbs {
    fn submit(&self, s: &Submission) -> Submitted {
        if s.array.is_some() {
            return Submitted::Refused("arrays are not used on PBS: hand in single jobs".into());
        }
        let now_s = record::now_ms() / 1000;
        let spec = CmdSpec::new("qsub", submit_args(s, now_s), self.site.timeouts.submit.duration())
            .env("LC_ALL", "C.UTF-8");
        match self.runner.run(&spec) {
            Ok(out) => match qsub::parse(&out.stdout) {
                Some(id) if out.code == Some(0) => {
                    Submitted::Accepted(JobRef { id, cluster: None, token: s.token.clone() })
                }
                Some(id) => {
                    Submitted::Uncertain(format!("qsub printed id {id} but failed: {}", out.complaint()))
                }
                None => classify(&self.site.patterns, &out),
            },
            Err(e @ RunError::Missing { .. }) => Submitted::Unavailable(e.to_string()),
            Err(e @ (RunError::TimedOut { .. } | RunError::Io { .. })) => Submitted::Uncertain(e.to_string()),
        }
    }

    fn query(&self, q: &Query) -> Result<Snapshot, String> {
        let mut snap = Snapshot::default();
        let known: Vec<Option<String>> =
            q.jobs.iter().map(|(_, id)| id.clone().filter(|i| !i.is_empty())).collect();
        let wanted: BTreeSet<&str> = q.jobs.iter().map(|(t, _)| t.as_str()).collect();
        for row in self.jobs(&known)?.iter().filter(|r| wanted.contains(r.get("Job_Name"))) {
            let seen = self.seen(row);
            snap.jobs.entry(seen.job.token.clone()).or_default().push(seen);
        }
        snap.queue_ok = true;
        snap.accounting_ok = !self.no_history.load(Ordering::Relaxed);
        Ok(snap)
    }

    fn cancel(&self, jobs: &[JobRef]) -> Result<(), String> {
        if jobs.is_empty() {
            return Ok(());
        }
        let known = |j: &JobRef| Some(j.id.clone()).filter(|i| !i.is_empty());
        let rows = self.jobs(&jobs.iter().map(known).collect::<Vec<_>>())?;
        let meant = |r: &&qstat::Job| {
            state(self.flavor, r).is_live() && jobs.iter().any(|j| j.names(&r.id, r.get("Job_Name")))
        };
        let ids: Vec<String> = rows.iter().filter(meant).map(|r| r.id.clone()).collect();
        for chunk in ids.chunks(MOST_ARGS) {
            let out = self.ask("qdel", chunk.to_vec()).map_err(|e| e.to_string())?;
            let gone = |l: &str| {
                let l = l.to_ascii_lowercase();
                l.trim().is_empty()
                    || l.contains("unknown job id")
                    || l.contains("finished")
                    || l.contains("invalid for state")
            };
            if out.code != Some(0) && (out.stderr.trim().is_empty() || !out.stderr.lines().all(gone)) {
                return Err(format!("qdel: {}", out.complaint()));
            }
        }
        Ok(())
    }

    /// qsub does not retry by itself, but one that a dead planner on another login node has left behind may hang for as
    /// long as a living planner would have waited for it.
    fn uncertain_grace_s(&self) -> u64 {
        self.site.timeouts.submit.0.max(60) + 30
    }

    fn calls(&self) -> u64 {
        self.runner.calls()
    }

    fn limits(&self) -> Limits {
        let b = &self.site.limits;
        Limits { max_array: 1, max_submit: b.max_submit, min_poll_s: b.min_poll.0 }
    }

    fn ping(&self) -> Result<String, String> {
        let version = self.ask("qstat", vec!["--version".into()]).map_err(|e| e.to_string())?;
        let version = [version.stdout, version.stderr].concat();
        let version = version.lines().find(|l| !l.trim().is_empty()).unwrap_or("PBS").trim().to_owned();
        let out = self.ask("qstat", vec!["-B".into()]).map_err(|e| e.to_string())?;
        if out.code == Some(0) {
            Ok(format!("{version}, server up"))
        } else {
            Err(format!("{version}, but {}", out.complaint()))
        }
    }
}

/// Name and walltime are in the script too; here they beat the environment.
fn submit_args(s: &Submission, now_s: i64) -> Vec<String> {
    let mut args = vec!["-N".to_owned(), s.token.to_string()];
    args.extend(["-l".to_owned(), format!("walltime={}", clock(s.resources.walltime_s))]);
    let ids = |jobs: &[JobRef]| jobs.iter().map(|j| j.id.as_str()).collect::<Vec<_>>().join(":");
    let mut after = Vec::new();
    if !s.after_ok.is_empty() {
        after.push(format!("afterok:{}", ids(&s.after_ok)));
    }
    if !s.after_start.is_empty() {
        after.push(format!("after:{}", ids(&s.after_start)));
    }
    if !after.is_empty() {
        args.extend(["-W".to_owned(), format!("depend={}", after.join(","))]);
    }
    if s.delay_s > 0 {
        let at = now_s.saturating_add(i64::try_from(s.delay_s).unwrap_or(i64::MAX));
        args.extend(["-a".to_owned(), local_minute(at)]);
    }
    args.push(s.script.to_string_lossy().into_owned());
    args
}

/// `-a` wants local time, `CCYYMMDDhhmm.SS`.
fn local_minute(epoch_s: i64) -> String {
    let time = jiff::Timestamp::from_second(epoch_s.max(0)).unwrap_or(jiff::Timestamp::MAX);
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y%m%d%H%M.%S").to_string()
}

fn user() -> String {
    let uid = nix::unistd::getuid();
    nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |u| u.name)
}

#[cfg(test)]
mod tests;
