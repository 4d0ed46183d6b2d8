//! Handing in: intent, one call, answer; in topological order, arrays where many equal tasks are ready, back-pressure
//! when a limit is reached.
//!
//! While one call is under way, the next submission is made ready: its files (by [`Ahead`]), and its intent, in one
//! commit with the answer before. Every intent is durable before its call begins; at most two are without an answer at any
//! moment, and both are looked up by their tokens after a crash.

mod flight;

use crate::board::{Board, Readiness, Stand};
use crate::db::lease::Lease;
use crate::db::rows::AttemptRow;
use crate::engine::Engine;
use crate::engine::ahead::Ahead;
use crate::engine::observe::element_job;
use crate::engine::outcome::{Stop, SubmitReport};
use crate::engine::prepare::{Desk, Prepared, Unit, in_parallel};
use crate::error::Result;
use crate::filter::Filter;
use crate::state::{AttemptState, Context, Observation, step};
use crate::submission::SubmissionState;
use cluster::backend::{JobRef, Submitted};
use record::Resources;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Fewest equal tasks that make an array.
const ARRAY_MIN: usize = 2;

/// Local tasks whose files are written while others run.
const SPARE: usize = 16;

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
    /// Task positions that somebody has cancelled while this driver works.
    withheld: HashSet<usize>,
    /// The answer that is not in the ledger yet: written together with the next intent, one commit per job.
    unwritten: Option<Answer>,
    /// Files that lie ready for attempts not handed in yet, by position, number and memory.
    files: HashMap<(usize, u32, u64), Prepared>,
}

impl Round {
    /// From now on nothing that `filter` names is handed in.
    pub(super) fn withhold(&mut self, filter: &Filter) {
        for (k, task) in self.board.tasks.iter().enumerate() {
            let labels = serde_json::from_str(&task.labels).unwrap_or_default();
            let token = self.board.newest[k].as_ref().map(|a| a.token.as_str());
            if filter.matches(&task.phase, &labels, task.key.as_str(), token) {
                self.withheld.insert(k);
            }
        }
    }

    /// Whether a task is held back by a cancellation.
    pub(super) fn is_withheld(&self, k: usize) -> bool {
        self.withheld.contains(&k)
    }

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
    /// The scheduler's words where it did not accept.
    words: String,
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
            withheld: HashSet::new(),
            unwritten: None,
            files: HashMap::new(),
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
        let papers = self.papers()?;
        self.hand_in_at(lease, round, &papers.desk(), driver)
    }

    /// [`Engine::hand_in`] at a desk that is laid out already.
    pub(super) fn hand_in_at(
        &mut self,
        lease: &Lease,
        round: &mut Round,
        desk: &Desk,
        driver: bool,
    ) -> Result<()> {
        loop {
            let groups = self.ready(round, desk, driver);
            if groups.is_empty() {
                break;
            }
            let go_on = if groups.len() < 2 {
                self.hand_in_groups(lease, round, desk, &groups, &Ahead::none(), driver)?
            } else {
                let jobs: Vec<(Vec<Unit>, bool)> =
                    groups.iter().map(|g| (units(&round.board, desk, g), is_array(g))).collect();
                Ahead::over(
                    &jobs,
                    |(units, array)| desk.prepare(units, *array),
                    |files| self.hand_in_groups(lease, round, desk, &groups, files, driver),
                )?
            };
            if !go_on {
                break;
            }
        }
        self.write_answer(lease, round)
    }

    /// Local tasks wait for a slot, not for a scheduler: the files of the next ones are written while the slots are busy.
    pub(super) fn write_ahead(&self, round: &mut Round, desk: &Desk) -> Result<()> {
        let stands = round.board.stands();
        let (mut next, mut there) = (Vec::new(), 0);
        let wanted = |k: &usize| stands[*k] == Stand::Pending && !round.withheld.contains(k);
        for k in (0..stands.len()).filter(wanted) {
            if next.len() + there == SPARE {
                break;
            }
            let newest = round.board.newest[k].as_ref();
            let Some(task) = desk.task(&round.board.tasks[k].key) else { continue };
            let (n, memory_mb) = (next_n(newest), memory_of(newest, task));
            let Readiness::Go { .. } = round.board.readiness(k, &stands, true) else { continue };
            if round.files.contains_key(&(k, n, memory_mb)) {
                there += 1;
            } else {
                next.push((k, Unit { task, n, memory_mb }));
            }
        }
        // many at a time: their fsyncs share the disk's
        if there > SPARE / 2 {
            return Ok(());
        }
        let made = in_parallel(&next, |(_, unit)| desk.prepare(&[*unit], false));
        for ((k, unit), prepared) in next.iter().zip(made) {
            round.files.insert((*k, unit.n, unit.memory_mb), prepared?);
        }
        Ok(())
    }

    /// Ready tasks, grouped: equal phase, resources, options and dependencies go into one array where there are arrays.
    /// Where there is no queue (`driver`) only the first for which there is room now: the next look is as cheap.
    fn ready(&self, round: &mut Round, desk: &Desk, driver: bool) -> Vec<Group> {
        let now_ms = record::now_ms();
        let stands = round.board.stands();
        let max_array = self.backend.limits().max_array.max(1) as usize;
        let mut groups: Vec<Group> = Vec::new();
        let mut open: BTreeMap<String, usize> = BTreeMap::new();
        for (k, stand) in stands.iter().enumerate() {
            if *stand != Stand::Pending || round.put_off.contains(&k) || round.withheld.contains(&k) {
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
            let memory_mb = memory_of(newest, task);
            // Smaller tasks may pass one that finds no room: nothing idles, and the sweep is finite.
            if driver && !self.has_room(round, &Resources { memory_mb, ..task.resources.clone() }) {
                continue;
            }
            let newest = round.board.newest[k].as_ref();
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
            if driver {
                return vec![group];
            }
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

    /// Whether this machine has room for a task of that size in this round; noted if not.
    fn has_room(&self, round: &mut Round, wanted: &Resources) -> bool {
        if !round.no_room.contains(wanted) {
            if self.backend.has_room(wanted) {
                return true;
            }
            round.no_room.push(wanted.clone());
        }
        round.report.stopped.get_or_insert_with(|| Stop::Limit("no free slot".into()));
        false
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

    fn write_answer(&mut self, lease: &Lease, round: &mut Round) -> Result<()> {
        let Some(answer) = round.unwritten.take() else { return Ok(()) };
        self.db.write(lease, &self.sweep.name, |w| store_answer(w, &answer))
    }
}

/// Megabytes for the next attempt: what a retry that was decided on asks for, else what the task does.
fn memory_of(newest: Option<&AttemptRow>, task: &plan::Task) -> u64 {
    newest.filter(|a| a.state == AttemptState::Deferred).map_or(task.resources.memory_mb, |a| a.memory_mb)
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
    let words = answer.words.as_str();
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
