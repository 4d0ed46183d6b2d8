//! Handing in: intent, one call, answer; in topological order, arrays where many equal tasks are ready, back-pressure
//! when a limit is reached.

use crate::board::{Board, Readiness, Stand};
use crate::db::lease::Lease;
use crate::db::rows::AttemptRow;
use crate::db::writes::NewSubmission;
use crate::engine::Engine;
use crate::engine::observe::element_job;
use crate::engine::outcome::{Stop, SubmitReport};
use crate::engine::prepare::{Desk, Prepared, Unit, in_parallel};
use crate::error::Result;
use crate::host::Process;
use crate::state::{AttemptState, Context, Observation, step};
use crate::submission::{SubmissionState, on_reply};
use cluster::backend::{JobRef, Submission, Submitted};
use record::{FailureClass, Resources, Token};
use std::collections::{BTreeMap, HashSet};

/// Fewest equal tasks that make an array.
const ARRAY_MIN: usize = 2;

/// Submissions whose files are written ahead of the calls.
const AHEAD: usize = 64;

/// Weight of suspicion that excludes a node from every task of the site, and how long a suspicion counts.
const NODE_THRESHOLD: u32 = 2;
const NODE_MEMORY_MS: i64 = 24 * 3600 * 1000;

/// A round in progress.
pub(super) struct Round {
    pub board: Board,
    pub report: SubmitReport,
    /// Shapes (phase and resources) that were refused: their siblings would be, too.
    refused: HashSet<String>,
    /// Jobs that may still be handed in before `limits.max_submit`.
    slots: u64,
    /// Sizes that found no place on this machine in this round.
    no_room: Vec<Resources>,
    /// Task positions that are put off to a later round.
    put_off: HashSet<usize>,
    /// The answer that is not in the ledger yet: written together with the next intent, one commit per job.
    unwritten: Option<Answer>,
}

impl Round {
    /// A new round on the same board.
    pub(super) fn start_again(&mut self, slots: u64) {
        self.put_off.clear();
        self.no_room.clear();
        self.slots = slots;
        if !matches!(self.report.stopped, Some(Stop::Refused(_))) {
            self.report.stopped = None;
        }
    }
}

/// What became of one submission.
struct Answer {
    submission: i64,
    state: SubmissionState,
    reply: Submitted,
    /// (position, attempt as it was while `submitting`)
    elements: Vec<(usize, AttemptRow)>,
}

impl Engine {
    /// Reconciles what is unknown, then hands in whatever can go: tasks that were never tried, deferred attempts, and
    /// services that somebody needs. Failed tasks are left to `resume`.
    ///
    /// # Errors
    /// [`crate::Error::Held`], rendering, I/O and SQLite errors. Limits and refusals are in the report.
    pub fn submit(&mut self) -> Result<SubmitReport> {
        self.leased(|e, lease| e.submit_round(lease))
    }

    pub(super) fn submit_round(&mut self, lease: &Lease) -> Result<SubmitReport> {
        let looked = self.observe_settled(lease)?;
        let mut round = self.round()?;
        round.report.warnings = looked.warnings;
        round.report.uncertain = looked.open as u64;
        self.hand_in(lease, &mut round, self.backend.needs_driver())?;
        self.finish(lease, round)
    }

    pub(super) fn round(&self) -> Result<Round> {
        let board = self.board()?;
        let live = board.newest.iter().flatten().filter(|a| a.state.is_live()).count() as u64;
        let slots =
            self.backend.limits().max_submit.map_or(u64::MAX, |max| u64::from(max).saturating_sub(live));
        Ok(Round {
            board,
            report: SubmitReport::default(),
            refused: HashSet::new(),
            slots,
            no_room: Vec::new(),
            put_off: HashSet::new(),
            unwritten: None,
        })
    }

    /// Sums up a round.
    pub(super) fn finish(&mut self, lease: &Lease, mut round: Round) -> Result<SubmitReport> {
        self.write_answer(lease, &mut round)?;
        let stands = round.board.stands();
        let mut r = round.report;
        let mut live = 0;
        for (k, stand) in stands.iter().enumerate() {
            let title = || title_of(&round.board, k);
            match stand {
                Stand::Done | Stand::Idle => r.done += 1,
                Stand::Live => live += 1,
                Stand::Pending => r.left += 1,
                Stand::Over => {
                    let a = round.board.newest[k].as_ref();
                    let why = a.map_or_else(String::new, |a| {
                        let message = if a.message.is_empty() { &a.reason } else { &a.message };
                        format!("{}: {message}", a.state.name())
                    });
                    r.stuck.push((title(), why));
                }
                Stand::Blocked(root) => {
                    r.stuck.push((title(), format!("waits for {}", title_of(&round.board, *root))));
                }
            }
        }
        r.live = u64::saturating_sub(live, r.submitted);
        r.calls = self.backend.calls();
        Ok(r)
    }

    /// Hands in what is ready, until nothing is, or something says stop.
    pub(super) fn hand_in(&mut self, lease: &Lease, round: &mut Round, driver: bool) -> Result<()> {
        let graph = self.graph()?;
        let site = self.site.clone();
        let options = self.options.clone();
        let (nonce, run_dir) = (self.sweep.nonce.clone(), self.sweep.run_dir.clone());
        let desk = Desk {
            by_key: graph.tasks.iter().enumerate().map(|(k, t)| (&t.key, k)).collect(),
            graph: &graph,
            site: &site,
            options: &options,
            nonce: &nonce,
            run_dir: &run_dir,
            out_dir: &run_dir,
            durable: true,
        };
        loop {
            let groups = self.ready(round, &desk, driver);
            if groups.is_empty() {
                break;
            }
            for window in groups.chunks(if driver { 1 } else { AHEAD }) {
                // Files of many submissions at once: each waits for its own fsync.
                let mut files: Vec<Option<Prepared>> = if window.len() < 2 {
                    vec![None; window.len()]
                } else {
                    let board = &round.board;
                    in_parallel(window, |group| desk.prepare(&units(board, &desk, group), is_array(group)))
                        .into_iter()
                        .map(|prepared| prepared.map(Some))
                        .collect::<Result<_>>()?
                };
                for (group, prepared) in window.iter().zip(&mut files) {
                    if !self.submit_group(lease, round, &desk, group.clone(), prepared.take())? {
                        return self.write_answer(lease, round);
                    }
                }
            }
        }
        self.write_answer(lease, round)
    }

    /// Ready tasks, grouped: equal phase, resources, options and dependencies go into one array where there are arrays.
    fn ready(&self, round: &Round, desk: &Desk, driver: bool) -> Vec<Group> {
        let now_ms = record::now_ms();
        let stands = round.board.stands();
        let max_array = self.backend.limits().max_array.max(1) as usize;
        let mut groups: Vec<Group> = Vec::new();
        let mut open: BTreeMap<String, usize> = BTreeMap::new();
        for (k, stand) in stands.iter().enumerate() {
            if *stand != Stand::Pending || round.put_off.contains(&k) {
                continue;
            }
            let Readiness::Go { after_ok, after_start } = round.board.readiness(k, &stands, driver) else {
                continue;
            };
            let Some(task) = desk.task(&round.board.tasks[k].key) else { continue };
            let newest = round.board.newest[k].as_ref();
            let wait_ms = newest.map_or(0, |a| (a.next_try_ms - now_ms).max(0));
            if driver && wait_ms > 0 {
                continue;
            }
            let memory_mb = newest
                .filter(|a| a.state == AttemptState::Deferred)
                .map_or(task.resources.memory_mb, |a| a.memory_mb);
            let shape = format!(
                "{}\n{:?}\n{memory_mb}\n{:?}\n{}",
                task.phase, task.resources, task.extra, task.margin_s
            );
            if round.refused.contains(&shape) {
                continue;
            }
            let group = Group {
                members: vec![Member { k, n: next_n(newest), memory_mb }],
                delay_s: u64::try_from(wait_ms).unwrap_or(0).div_ceil(1000),
                after_ok,
                after_start,
                shape,
            };
            if max_array < ARRAY_MIN || group.delay_s > 0 || task.work.kind().is_service() {
                groups.push(group);
                continue;
            }
            let id = format!("{}\n{:?}\n{:?}", group.shape, group.after_ok, group.after_start);
            match open.get(&id).copied() {
                Some(at) if groups[at].members.len() < max_array => groups[at].members.extend(group.members),
                _ => {
                    open.insert(id, groups.len());
                    groups.push(group);
                }
            }
        }
        groups
    }

    /// One submission. `false`: stop the round.
    fn submit_group(
        &mut self,
        lease: &Lease,
        round: &mut Round,
        desk: &Desk,
        mut group: Group,
        mut ready: Option<Prepared>,
    ) -> Result<bool> {
        if round.refused.contains(&group.shape) {
            return Ok(true);
        }
        if round.slots == 0 {
            round.report.stopped = Some(Stop::Limit(format!(
                "the site file allows {} jobs at a time (`limits.max_submit`)",
                self.backend.limits().max_submit.unwrap_or(0)
            )));
            return Ok(false);
        }
        // Smaller tasks may pass one that finds no room: nothing idles, and the sweep is finite.
        let first = &group.members[0];
        let task = desk.task(&round.board.tasks[first.k].key).expect("only tasks of the graph are ready");
        let wanted = Resources { memory_mb: first.memory_mb, ..task.resources.clone() };
        if round.no_room.contains(&wanted) || !self.backend.has_room(&wanted) {
            round.put_off.extend(group.members.iter().map(|m| m.k));
            if !round.no_room.contains(&wanted) {
                round.no_room.push(wanted);
            }
            round.report.stopped.get_or_insert_with(|| Stop::Limit("no free slot".into()));
            return Ok(true);
        }
        let fit = usize::try_from(round.slots).unwrap_or(usize::MAX);
        if group.members.len() > fit {
            group.members.truncate(fit);
            ready = None;
        }
        let mut halved = None;
        loop {
            let prepared = match ready.take() {
                Some(prepared) => prepared,
                None => desk.prepare(&units(&round.board, desk, &group), is_array(&group))?,
            };
            let (submission, elements) = self.write_intent(lease, round, &group, &prepared)?;
            let exclude = self.excluded_nodes(round, &group)?;
            let reply = self.backend.submit(&Submission {
                token: prepared.token.clone(),
                script: prepared.script.clone(),
                dir: prepared.sched_dir.clone(),
                array: prepared.array,
                after_ok: group.after_ok.clone(),
                after_start: group.after_start.clone(),
                delay_s: group.delay_s,
                exclude_nodes: exclude,
                resources: prepared.resources.clone(),
                comment: prepared.title.clone(),
            });
            let open = SubmissionState::Open { since_ms: record::now_ms(), absent_since_ms: None };
            let state = on_reply(open, &reply);
            let size = elements.len();
            let go_on = self.count_reply(round, &reply, &group);
            round.unwritten = Some(Answer { submission, state, reply: reply.clone(), elements });
            self.remember(round);
            // An array is refused whole although some of it would fit (specs: F15): halve it until it does.
            if let Submitted::Limit(text) = &reply
                && size > 1
            {
                self.write_answer(lease, round)?;
                group.members.truncate(size / 2);
                halved = Some(Stop::Limit(text.clone()));
                continue;
            }
            // A part went in: the limit is reached all the same.
            round.report.stopped = round.report.stopped.take().or(halved.clone());
            return Ok(go_on && halved.is_none());
        }
    }

    /// Counts an answer; `false`: stop the round.
    fn count_reply(&mut self, round: &mut Round, reply: &Submitted, group: &Group) -> bool {
        let n = group.members.len() as u64;
        match reply {
            Submitted::Accepted(_) => {
                round.report.submitted += n;
                round.report.jobs += 1;
                if matches!(round.report.stopped, Some(Stop::Limit(_))) {
                    round.report.stopped = None;
                }
                round.slots = round.slots.saturating_sub(n);
                true
            }
            Submitted::Limit(text) => {
                round.report.stopped = Some(Stop::Limit(text.clone()));
                false
            }
            Submitted::Unavailable(text) => {
                round.report.stopped = Some(Stop::Unavailable(text.clone()));
                false
            }
            Submitted::Uncertain(text) => {
                round.report.stopped = Some(Stop::Uncertain(text.clone()));
                round.report.uncertain += 1;
                false
            }
            Submitted::Refused(text) => {
                round.refused.insert(group.shape.clone());
                round.report.stopped = Some(Stop::Refused(text.clone()));
                true
            }
        }
    }

    /// Brings the board up to date with the answer in memory: dependents in this round need the ids.
    fn remember(&self, round: &mut Round) {
        let Some(answer) = &round.unwritten else { return };
        for (k, row) in &answer.elements {
            let (state, _) = answered(row, &answer.state);
            if state == AttemptState::Deferred {
                round.put_off.insert(*k);
            }
            round.board.newest[*k] = Some(AttemptRow { state, ..row.clone() });
        }
    }

    /// Transaction 1 of a submission, together with transaction 2 of the one before.
    fn write_intent(
        &mut self,
        lease: &Lease,
        round: &mut Round,
        group: &Group,
        prepared: &Prepared,
    ) -> Result<(i64, Vec<(usize, AttemptRow)>)> {
        let me = Process::me();
        let new = NewSubmission {
            token: prepared.token.clone(),
            array: prepared.array,
            script: prepared.script.clone(),
            script_sha256: prepared.script_sha256.clone(),
            intent_ms: record::now_ms(),
        };
        let before = round.unwritten.take();
        let board = &round.board;
        self.db.write(lease, &self.sweep.name, |w| {
            if let Some(answer) = &before {
                store_answer(w, answer)?;
            }
            let submission = w.put_submission(&new, &me)?;
            let mut elements = Vec::with_capacity(group.members.len());
            for (index, (m, token)) in (0u32..).zip(group.members.iter().zip(&prepared.tokens)) {
                let element = prepared.array.map(|_| index);
                let id = w.put_attempt(board.tasks[m.k].id, m.n, token, submission, element, m.memory_mb)?;
                elements.push((m.k, fresh_row(id, &board.tasks[m.k], m, token, submission, element)));
            }
            Ok((submission, elements))
        })
    }

    fn write_answer(&mut self, lease: &Lease, round: &mut Round) -> Result<()> {
        let Some(answer) = round.unwritten.take() else { return Ok(()) };
        self.db.write(lease, &self.sweep.name, |w| store_answer(w, &answer))
    }

    /// Nodes that this task has met unfit, and nodes that are under suspicion at the whole site.
    fn excluded_nodes(&self, round: &Round, group: &Group) -> Result<Vec<String>> {
        let since = record::now_ms() - NODE_MEMORY_MS;
        let mut nodes = self.db.unfit_nodes(&self.sweep.site, since, NODE_THRESHOLD)?;
        for m in group.members.iter().filter(|m| m.n > 1) {
            for a in self.db.attempts_of(round.board.tasks[m.k].id)? {
                let unfit = matches!(a.state, AttemptState::Failed { class: FailureClass::NodeUnfit });
                if unfit && !a.host.is_empty() && a.since_ms >= since {
                    nodes.push(a.host);
                }
            }
        }
        nodes.sort();
        nodes.dedup();
        Ok(nodes)
    }
}

fn units<'a>(board: &Board, desk: &Desk<'a>, group: &Group) -> Vec<Unit<'a>> {
    group
        .members
        .iter()
        .map(|m| Unit {
            task: desk.task(&board.tasks[m.k].key).expect("only tasks of the graph are ready"),
            n: m.n,
            memory_mb: m.memory_mb,
        })
        .collect()
}

fn is_array(group: &Group) -> bool {
    group.members.len() >= ARRAY_MIN
}

/// Tasks that go out together.
#[derive(Clone)]
struct Group {
    members: Vec<Member>,
    after_ok: Vec<JobRef>,
    after_start: Vec<JobRef>,
    delay_s: u64,
    shape: String,
}

#[derive(Clone)]
struct Member {
    k: usize,
    n: u32,
    memory_mb: u64,
}

/// A deferred attempt goes out under its own number; anything else that is pending gets the next one.
fn next_n(newest: Option<&AttemptRow>) -> u32 {
    match newest {
        Some(a) if a.state == AttemptState::Deferred => a.n,
        Some(a) => a.n + 1,
        None => 1,
    }
}

fn answered(row: &AttemptRow, submission: &SubmissionState) -> (AttemptState, String) {
    let ctx = Context { now_ms: record::now_ms(), record_grace_ms: 0, hint_grace_ms: 0, cancel_asked: false };
    let (observation, why) = match submission {
        SubmissionState::Accepted { job } => {
            let job = element_job(job, row.element);
            let why = format!("job {}", job.id);
            return (step(row.state.clone(), &Observation::Accepted(&job), &ctx).0, why);
        }
        SubmissionState::Void => (Observation::NotAccepted, "not accepted"),
        SubmissionState::Refused => (Observation::Refused, "refused"),
        SubmissionState::Open { .. } => return (row.state.clone(), String::new()),
    };
    (step(row.state.clone(), &observation, &ctx).0, why.to_owned())
}

fn store_answer(w: &crate::db::writes::Writer, answer: &Answer) -> rusqlite::Result<()> {
    let words = match &answer.reply {
        Submitted::Accepted(_) => "",
        Submitted::Refused(t) | Submitted::Limit(t) | Submitted::Unavailable(t) | Submitted::Uncertain(t) => {
            t
        }
    };
    w.set_submission(answer.submission, &answer.state, words)?;
    for (_, row) in &answer.elements {
        let (state, why) = answered(row, &answer.state);
        if state != row.state {
            w.set_state(row, &state, &why)?;
        }
        if !words.is_empty() {
            w.set_message(row.id, words)?;
        }
    }
    Ok(())
}

fn fresh_row(
    id: i64,
    task: &crate::db::rows::TaskRow,
    m: &Member,
    token: &Token,
    submission: i64,
    element: Option<u32>,
) -> AttemptRow {
    AttemptRow {
        id,
        task: task.id,
        key: task.key.clone(),
        n: m.n,
        token: token.clone(),
        submission: Some(submission),
        element,
        state: AttemptState::Submitting,
        since_ms: record::now_ms(),
        class: None,
        job_id: None,
        job_name: None,
        reason: String::new(),
        message: String::new(),
        cancel_asked: false,
        superseded: false,
        memory_mb: m.memory_mb,
        next_try_ms: 0,
        host: String::new(),
        started_ms: None,
        ended_ms: None,
        checkpoint_step: None,
        wall_s: 0.0,
        cpu_s: 0.0,
        gpu_s: 0.0,
        peak_rss_mb: 0.0,
        events_offset: 0,
        progress: String::new(),
        stuck: String::new(),
    }
}

pub(super) fn title_of(board: &Board, k: usize) -> String {
    let task = &board.tasks[k];
    let labels: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&task.labels).unwrap_or_default();
    let mut title = task.phase.clone();
    for (axis, value) in &labels {
        title.push_str(&format!(" {axis}={}", plan::plain(value)));
    }
    title
}
