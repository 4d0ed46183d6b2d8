//! One look at everything that can have changed: records and claims, the queue, the accounting. Reconciles submissions of
//! unknown fate, steps the attempts, stores the outcome in one transaction, and then acts.

use crate::db::lease::Lease;
use crate::db::rows::stuck;
use crate::db::rows::{AttemptRow, SubmissionRow};
use crate::db::writes::Writer;
use crate::engine::{Engine, frozen};
use crate::error::{Error, Result};
use crate::files::{self, Progress, Traces};
use crate::state::{Action, AttemptState, Context, Observation, step};
use crate::submission::{Cleanup, Evidence, SubmissionState, base_id, on_look};
use cluster::backend::{JobRef, JobState, Query, Seen, Snapshot};
use record::{Token, layout, verify};
use std::collections::{BTreeSet, HashMap};

/// What a look brought.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub warnings: Vec<String>,
    /// Submissions whose fate is still open.
    pub open: usize,
    /// Of these, those that a second look after the settling time can close.
    pub settling: usize,
    /// Attempts whose state changed.
    pub changed: usize,
    /// Live attempts left.
    pub live: usize,
}

/// Everything that was seen about one live attempt.
struct Sight {
    row: AttemptRow,
    traces: Option<Traces>,
    seen: Option<Seen>,
    progress: Option<(u64, Progress)>,
}

impl Engine {
    /// Looks once. At most one queue and one accounting command, none if nothing is live.
    ///
    /// # Errors
    /// [`Error::Scheduler`] when nothing could be asked *and* files did not change anything either; SQLite's.
    pub(super) fn observe(&mut self, lease: &Lease) -> Result<Looked> {
        let live = self.db.live_attempts(self.sweep.id)?;
        let open = self.db.open_submissions(self.sweep.id)?;
        if live.is_empty() && open.is_empty() {
            return Ok(Looked::default());
        }
        let mut looked = Looked::default();
        let mut sights: Vec<Sight> =
            live.into_iter().map(|row| Sight { row, traces: None, seen: None, progress: None }).collect();
        // Files first where news is likely; whoever has left a final record is not asked about any more.
        for s in &mut sights {
            if !matches!(s.row.state, AttemptState::Submitted { .. }) {
                s.traces = Some(self.traces(&s.row));
            }
        }
        let snapshot = self.ask(&sights, &open);
        let (snapshot, unreachable) = match snapshot {
            Ok(s) => (s, None),
            Err(why) => (Snapshot::default(), Some(why)),
        };
        looked.warnings.extend(snapshot.warnings.iter().cloned());
        self.match_rows(&mut sights, &snapshot);
        self.read_what_the_rows_call_for(&mut sights, &snapshot);
        let actions = self.store(lease, &sights, &open, &snapshot, &mut looked)?;
        self.act(actions, &mut looked);
        match unreachable {
            Some(why) if looked.changed == 0 => Err(Error::Scheduler(why)),
            Some(why) => {
                looked.warnings.push(why);
                Ok(looked)
            }
            None => Ok(looked),
        }
    }

    /// Looks until no submission is merely settling: two looks at the most.
    pub(super) fn observe_settled(&mut self, lease: &Lease) -> Result<Looked> {
        let first = self.observe(lease)?;
        if first.settling == 0 {
            return Ok(first);
        }
        let settle = u64::try_from(self.options.timing.settle_ms).unwrap_or(0);
        std::thread::sleep(std::time::Duration::from_millis(settle + 1));
        let mut second = self.observe(lease)?;
        second.changed += first.changed;
        second.warnings.splice(0..0, first.warnings);
        Ok(second)
    }

    fn traces(&self, row: &AttemptRow) -> Traces {
        files::traces(&self.attempt_dir(&row.key, row.n), &row.key, &row.token)
    }

    fn ask(&self, sights: &[Sight], open: &[SubmissionRow]) -> std::result::Result<Snapshot, String> {
        let mut jobs: Vec<(Token, Option<String>)> = Vec::with_capacity(sights.len());
        for s in sights {
            let settled = s.traces.as_ref().is_some_and(|t| t.record.is_some());
            if let (Some(job), false) = (s.row.state.job(), settled) {
                jobs.push((job.token.clone(), (!job.id.is_empty()).then(|| job.id.clone())));
            }
        }
        jobs.extend(open.iter().map(|s| (s.token.clone(), None)));
        if jobs.is_empty() {
            return Ok(Snapshot { queue_ok: true, ..Snapshot::default() });
        }
        let oldest_ms =
            self.db.oldest_live_intent(self.sweep.id).ok().flatten().unwrap_or(self.sweep.created_ms);
        self.backend.query(&Query { jobs, since_s: oldest_ms / 1000, accounting: true })
    }

    /// Attaches to every attempt the row about its job: token *and* id, for ids are reused (specs: F39).
    fn match_rows(&self, sights: &mut [Sight], snapshot: &Snapshot) {
        let mut by_id: HashMap<(&Token, &str), &Seen> = HashMap::new();
        for (token, rows) in &snapshot.jobs {
            for row in rows {
                let slot = by_id.entry((token, row.job.id.as_str())).or_insert(row);
                // of several rows about one job (requeues in the accounting) a live one wins, else the last
                if row.state.is_live() || !slot.state.is_live() {
                    *slot = row;
                }
            }
        }
        for s in sights {
            if let Some(job) = s.row.state.job() {
                s.seen = by_id.get(&(&job.token, job.id.as_str())).map(|row| (*row).clone());
                if s.seen.is_none() && job.id.is_empty() {
                    // a claim without an id (local): the token alone names it
                    s.seen = snapshot.jobs.get(&job.token).and_then(|rows| rows.last()).cloned();
                }
            }
        }
    }

    /// Reads files of attempts that run or are not (any more) in the queue; the ten thousand that wait are left alone.
    fn read_what_the_rows_call_for(&self, sights: &mut [Sight], snapshot: &Snapshot) {
        for s in sights {
            let waiting = s.seen.as_ref().is_some_and(|r| {
                matches!(
                    r.state,
                    JobState::Waiting | JobState::Unavailable | JobState::Hopeless | JobState::NeverSatisfied
                )
            });
            if waiting && matches!(s.row.state, AttemptState::Submitted { .. }) {
                continue;
            }
            // A job that was over at the time of the query has written its record before it: read (again) now, or a
            // record that came between the two looks would be taken for missing.
            let over = s.seen.as_ref().is_none_or(|r| !r.state.is_live());
            if s.traces.is_none() || (over && s.traces.as_ref().is_some_and(|t| t.record.is_none())) {
                s.traces = Some(self.traces(&s.row));
            }
            let over = over && !follow_the_claim(s, snapshot);
            if over && s.traces.as_ref().is_none_or(|t| t.record.is_none()) {
                if snapshot.queue_ok && s.row.state.job().is_some() {
                    self.take_result_of_another(s);
                }
                self.hear_last_words(s, snapshot);
            }
            let mut progress: Progress = serde_json::from_str(&s.row.progress).unwrap_or_default();
            let path = self.attempt_dir(&s.row.key, s.row.n).join(layout::EVENTS);
            if let Ok(offset) = files::read_events(&path, s.row.events_offset, &mut progress)
                && offset != s.row.events_offset
            {
                s.progress = Some((offset, progress));
            }
        }
    }

    /// A supervisor that finds its task done by another attempt (one given up too early, a second copy) leaves with
    /// exit 0 and no record of its own: that attempt's record counts for this one.
    fn take_result_of_another(&self, s: &mut Sight) {
        let Ok(done) = verify::result(&self.task_dir(&s.row.key), &s.row.key, verify::Depth::Size) else {
            return;
        };
        let t = s.traces.get_or_insert_default();
        t.problems.push(format!("{}: attempt {} had succeeded before", s.row.token, done.pointer.attempt));
        t.record = Some(done.record);
        t.whole = true;
    }

    /// A job that is gone without a record, or of which the queue alone says that it failed: the scheduler may have
    /// written into its output why it ended it. On sites without accounting nothing else tells a time limit from a crash.
    fn hear_last_words(&self, s: &mut Sight, snapshot: &Snapshot) {
        let vague = match &s.seen {
            None => snapshot.queue_ok,
            Some(row) => row.source == "squeue" && !row.state.is_live(),
        };
        let Some(job) = s.row.state.job().filter(|j| vague && !j.id.is_empty()) else { return };
        let sched = if job.id.contains('_') {
            self.sweep.run_dir.join(frozen::ARRAYS).join(job.token.as_str()).join(layout::SCHED)
        } else {
            self.attempt_dir(&s.row.key, s.row.n).join(layout::SCHED)
        };
        if let Some(words) = cluster::output::last_words(&sched, job) {
            s.seen = Some(words);
        }
    }

    /// Steps everything and stores it in one transaction.
    fn store(
        &mut self,
        lease: &Lease,
        sights: &[Sight],
        open: &[SubmissionRow],
        snapshot: &Snapshot,
        looked: &mut Looked,
    ) -> Result<Vec<Action>> {
        let now_ms = record::now_ms();
        let timing = self.options.timing;
        let base = Context {
            now_ms,
            record_grace_ms: timing.record_grace_ms,
            hint_grace_ms: timing.hint_grace_ms,
            cancel_asked: false,
        };
        // Published before anything says "succeeded": dependents that the scheduler starts look for it.
        for s in sights {
            if let Some(t) = &s.traces
                && t.whole
                && let Err(e) = files::publish(&self.task_dir(&s.row.key), s.row.n)
            {
                looked.warnings.push(format!("cannot publish the result of {}: {e}", s.row.key));
            }
        }
        let evidence = self.reconcile(open, sights, snapshot, now_ms, looked);
        let mut accepted: HashMap<i64, &SubmissionState> = HashMap::new();
        for (row, state) in &evidence {
            accepted.insert(row.id, state);
        }
        let site = self.sweep.site.clone();
        let patience_ms = i64::try_from(self.site.limits.unavailable.0).unwrap_or(i64::MAX / 1000) * 1000;
        let mut actions = Vec::new();
        let mut counts = (0usize, 0usize);
        self.db.write(lease, &self.sweep.name, |w| {
            for (row, state) in &evidence {
                if *state != row.state {
                    w.set_submission(row.id, state, "")?;
                }
            }
            for s in sights {
                let ctx = Context { cancel_asked: s.row.cancel_asked, ..base };
                let outcome = advance(
                    s,
                    &ctx,
                    s.row.submission.and_then(|id| accepted.get(&id).copied()),
                    snapshot.queue_ok,
                );
                counts.0 += usize::from(outcome.state.name() != s.row.state.name());
                counts.1 += usize::from(outcome.state.is_live());
                store_sight(w, s, &outcome, &site, patience_ms)?;
                actions.extend(outcome.actions);
            }
            Ok(())
        })?;
        (looked.changed, looked.live) = counts;
        for s in sights {
            if let Some(t) = &s.traces {
                looked.warnings.extend(t.problems.iter().cloned());
            }
        }
        looked.open = evidence.iter().filter(|(_, s)| matches!(s, SubmissionState::Open { .. })).count();
        looked.settling = evidence
            .iter()
            .filter(|(_, s)| matches!(s, SubmissionState::Open { absent_since_ms: Some(_), .. }))
            .count();
        Ok(actions)
    }

    /// The fate of open submissions (specs: F1-F3): claims, then rows under the token, then proven absence.
    fn reconcile<'a>(
        &self,
        open: &'a [SubmissionRow],
        sights: &[Sight],
        snapshot: &Snapshot,
        now_ms: i64,
        looked: &mut Looked,
    ) -> Vec<(&'a SubmissionRow, SubmissionState)> {
        let mut duplicates = Vec::new();
        let settled = open
            .iter()
            .map(|row| {
                let gone =
                    row.submitter.is_gone() == Some(true) || row.submitter == crate::host::Process::me();
                let evidence = Evidence {
                    now_ms,
                    started: sights
                        .iter()
                        .filter(|s| s.row.submission == Some(row.id))
                        .filter_map(|s| s.traces.as_ref()?.started.as_ref())
                        .collect(),
                    seen: snapshot.jobs.get(&row.token).map_or(&[], Vec::as_slice),
                    queue_ok: snapshot.queue_ok,
                    // the scheduler command survives a killed planner and carries the token in its arguments
                    submitter_gone: gone && !crate::host::command_line_has(row.token.as_str()),
                    uncertain_grace_ms: self.uncertain_grace_ms(),
                    settle_ms: self.options.timing.settle_ms,
                };
                let (state, cleanup) = on_look(row.state.clone(), &evidence, &row.token);
                for c in cleanup {
                    match c {
                        Cleanup::CancelDuplicate(job) => duplicates.push(job),
                        Cleanup::Warn(text) => looked.warnings.push(text),
                    }
                }
                (row, state)
            })
            .collect();
        // By id: the survivor carries the same name. Before the adoption is durable, so that a crash in between finds the
        // duplicates again.
        self.cancel_jobs(&duplicates, looked);
        settled
    }

    pub(super) fn cancel_jobs(&self, jobs: &[JobRef], looked: &mut Looked) {
        if jobs.is_empty() {
            return;
        }
        if let Err(e) = self.backend.cancel(jobs) {
            looked.warnings.push(format!("cannot cancel: {e}"));
        }
    }

    fn act(&mut self, actions: Vec<Action>, looked: &mut Looked) {
        let mut cancel: BTreeSet<JobRef> = BTreeSet::new();
        for action in actions {
            match action {
                Action::Cancel(job) => {
                    cancel.insert(job);
                }
                Action::Warn(text) => looked.warnings.push(text),
                // stored with the state
                Action::SuspectNode(_) => {}
            }
        }
        let cancel: Vec<JobRef> = cancel.into_iter().collect();
        self.cancel_jobs(&cancel, looked);
    }
}

/// A second job under the same name may turn up after the first was adopted (a submission that waited in the socket of a
/// controller that hung). Should it be the one that claimed the attempt, ours was turned away at the door and says nothing
/// about the work. `true`: the claimant lives, and its row counts.
fn follow_the_claim(s: &mut Sight, snapshot: &Snapshot) -> bool {
    let (Some(job), Some(t)) = (s.row.state.job(), &s.traces) else { return false };
    let Some(claimed) = t.started.as_ref().filter(|c| !c.job_id.is_empty() && c.job_id != job.id) else {
        return false;
    };
    let rows = snapshot.jobs.get(&job.token).map_or(&[][..], Vec::as_slice);
    let Some(row) = rows.iter().find(|r| r.job.id == claimed.job_id && t.record.is_none()) else {
        return false;
    };
    s.seen = Some(row.clone());
    row.state.is_live()
}

/// Where an attempt went, and why.
struct Outcome {
    state: AttemptState,
    /// Its job, where it was learnt only now: the final states do not carry it.
    job: Option<JobRef>,
    why: String,
    actions: Vec<Action>,
}

/// All observations of one sight, in the order of their weight: acceptance, row or absence, claim, record.
fn advance(s: &Sight, ctx: &Context, submission: Option<&SubmissionState>, queue_ok: bool) -> Outcome {
    let mut out = Outcome { state: s.row.state.clone(), job: None, why: String::new(), actions: Vec::new() };
    let mut take = |obs: &Observation, why: String| {
        let was = out.state.name();
        let (state, actions) = step(out.state.clone(), obs, ctx);
        if state.name() != was {
            out.why = why;
        }
        if s.row.job_id.is_none() {
            out.job = state.job().cloned().or(out.job.take());
        }
        out.state = state;
        out.actions.extend(actions);
    };
    if s.row.state == AttemptState::Submitting {
        match submission {
            Some(SubmissionState::Accepted { job }) => {
                let job = element_job(job, s.row.element);
                take(&Observation::Accepted(&job), format!("adopted as job {}", job.id));
            }
            Some(SubmissionState::Void) => {
                take(&Observation::NotAccepted, "the scheduler never got it".into());
            }
            _ => {}
        }
    }
    let record = s.traces.as_ref().and_then(|t| t.record.as_ref());
    // A final record makes the scheduler's opinion void; without one it is heard before the claim, so that a job that
    // started and died between two looks ends, and one that merely started runs.
    if record.is_none() {
        match &s.seen {
            Some(row) => take(&Observation::Seen(row), row.raw.clone()),
            None if queue_ok && s.row.state != AttemptState::Submitting => {
                take(&Observation::Absent, "in no list of the scheduler any more".into());
            }
            None => {}
        }
    }
    if let Some(t) = &s.traces {
        if let Some(started) = &t.started {
            take(&Observation::Started(started), format!("started on {}", started.host));
        }
        if let Some(record) = &t.record {
            take(&Observation::Record { record, whole: t.whole }, record.message.clone());
        }
    }
    out
}

/// The element's own id: `base_k` in an array.
pub(super) fn element_job(job: &JobRef, element: Option<u32>) -> JobRef {
    match element {
        Some(k) if !job.id.is_empty() => JobRef { id: format!("{}_{k}", base_id(&job.id)), ..job.clone() },
        _ => job.clone(),
    }
}

/// What to cancel when an attempt is to end: every job of its name, doubles included; in an array the element alone.
pub(super) fn to_cancel(a: &AttemptRow) -> Option<JobRef> {
    let job = a.state.job()?.clone();
    Some(if a.element.is_some() { job } else { JobRef { id: String::new(), ..job } })
}

fn store_sight(
    w: &Writer,
    s: &Sight,
    outcome: &Outcome,
    site: &str,
    patience_ms: i64,
) -> rusqlite::Result<()> {
    let row = &s.row;
    if let Some(job) = &outcome.job {
        w.set_job(row.id, job)?;
    }
    if outcome.state != row.state {
        w.set_state(row, &outcome.state, &outcome.why)?;
    }
    if let Some(seen) = &s.seen {
        let now_ms = record::now_ms();
        let known = matches!(row.stuck.as_str(), stuck::UNAVAILABLE | stuck::TOO_LONG);
        let since_ms = if known { row.stuck_since_ms } else { now_ms };
        let (stuck, since_ms) = match seen.state {
            JobState::Hopeless => (stuck::HOPELESS, 0),
            JobState::NeverSatisfied => (stuck::NEVER_SATISFIED, 0),
            JobState::Unavailable if now_ms - since_ms >= patience_ms => (stuck::TOO_LONG, since_ms),
            JobState::Unavailable => (stuck::UNAVAILABLE, since_ms),
            _ => ("", 0),
        };
        if seen.raw != row.reason || stuck != row.stuck {
            w.set_reason(row.id, &seen.raw, stuck, since_ms)?;
        }
    }
    if let Some((offset, progress)) = &s.progress {
        w.set_progress(row.id, *offset, &serde_json::to_string(progress).unwrap_or_default())?;
    }
    let Some(t) = &s.traces else { return Ok(()) };
    if let Some(started) = &t.started
        && row.started_ms.is_none()
    {
        w.set_started(row.id, &started.host, started.at_ms)?;
    }
    if let Some(record) = &t.record
        && outcome.state.is_over()
    {
        w.set_record(row.id, record)?;
    } else if outcome.state.is_over() && row.message.is_empty() {
        w.set_message(row.id, &explain(s, &outcome.state))?;
    }
    for action in &outcome.actions {
        if let Action::SuspectNode(node) = action {
            // A node that kills within a minute burns retries fast (specs: F28).
            // By its own clock: that nobody looked while it ran does not make it a short one.
            let ran_ms = match &t.record {
                Some(r) => r.ended_ms - r.started_ms,
                None => row
                    .started_ms
                    .or(t.started.as_ref().map(|s| s.at_ms))
                    .map_or(0, |start| record::now_ms() - start),
            };
            w.suspect_node(site, node, if ran_ms < 60_000 { 2 } else { 1 }, &outcome.why)?;
        }
    }
    Ok(())
}

/// A sentence for an attempt that ended without a record of its own.
fn explain(s: &Sight, state: &AttemptState) -> String {
    let words = s.seen.as_ref().map(|r| format!("{} says {}", r.source, r.raw)).unwrap_or_default();
    let text = match state {
        AttemptState::Lost => {
            "it left no record, and nothing explains its end: look at its log, then `bessemer resume`"
        }
        AttemptState::Cancelled => "cancelled",
        AttemptState::Failed { class: record::FailureClass::Error } => "outputs are missing or cut short",
        _ => "it left no record",
    };
    if words.is_empty() { text.to_owned() } else { format!("{text}; {words}") }
}
