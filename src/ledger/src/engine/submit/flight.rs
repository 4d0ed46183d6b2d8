//! Submissions in flight: while the call of one runs, the intent of the next is written.

use super::{Answer, Group, Member, Round, is_array, store_answer, units};
use crate::db::lease::Lease;
use crate::db::rows::{AttemptRow, TaskRow};
use crate::db::writes::NewSubmission;
use crate::engine::Engine;
use crate::engine::ahead::Ahead;
use crate::engine::outcome::Stop;
use crate::engine::prepare::{Desk, Prepared};
use crate::error::Result;
use crate::host::Process;
use crate::state::AttemptState;
use crate::submission::{SubmissionState, on_reply};
use cluster::backend::{Submission, Submitted};
use record::{FailureClass, Token};
use std::collections::HashSet;
use std::sync::Arc;

/// Weight of suspicion that excludes a node from every task of the site, and how long a suspicion counts.
const NODE_THRESHOLD: u32 = 2;
const NODE_MEMORY_MS: i64 = 24 * 3600 * 1000;

/// A submission whose intent is durable.
struct Intent {
    group: Group,
    prepared: Prepared,
    exclude: Vec<String>,
    submission: i64,
    /// (position, attempt as it is while `submitting`)
    elements: Vec<(usize, AttemptRow)>,
}

/// What is still to be handed in of the groups that are ready together.
struct Queue<'q> {
    groups: &'q [Group],
    at: usize,
    files: &'q Ahead,
}

impl Queue<'_> {
    /// The next group of which at most `room` elements go, with its files if they lie ready.
    fn next(&mut self, refused: &HashSet<String>, room: u64) -> Option<(Group, Option<Result<Prepared>>)> {
        while self.groups.get(self.at).is_some_and(|g| refused.contains(&g.shape)) {
            self.at += 1;
        }
        let mut group = self.groups.get(self.at)?.clone();
        let fit = usize::try_from(room).unwrap_or(usize::MAX);
        if fit == 0 {
            return None;
        }
        let files = if group.members.len() > fit {
            group.members.truncate(fit);
            None
        } else {
            self.files.take(self.at)
        };
        self.at += 1;
        Some((group, files))
    }

    fn is_done(&self) -> bool {
        self.at >= self.groups.len()
    }
}

impl Engine {
    /// Submissions of groups that are ready together: none depends on another, so the intent of each can be written
    /// while the call before it runs. `false`: stop the round.
    pub(super) fn hand_in_groups(
        &mut self,
        lease: &Lease,
        round: &mut Round,
        desk: &Desk,
        groups: &[Group],
        files: &Ahead,
        driver: bool,
    ) -> Result<bool> {
        let mut queue = Queue { groups, at: 0, files };
        let mut following: Option<Intent> = None;
        let mut halved = None;
        loop {
            let now = match following.take() {
                Some(intent) => intent,
                None => match queue.next(&round.refused, round.slots) {
                    Some((group, files)) => self.intend(lease, round, desk, group, files)?,
                    None if queue.is_done() => return Ok(true),
                    None => {
                        round.report.stopped = Some(Stop::Limit(format!(
                            "the site file allows {} jobs at a time (`limits.max_submit`)",
                            self.backend.limits().max_submit.unwrap_or(0)
                        )));
                        return Ok(false);
                    }
                },
            };
            let size = now.elements.len();
            let reply;
            (reply, following) = if driver || halved.is_some() {
                (self.backend.submit(&now.call()), None)
            } else {
                let left = round.slots.saturating_sub(size as u64);
                let backend = Arc::clone(&self.backend);
                let call = now.call();
                let (reply, following) = std::thread::scope(|scope| {
                    let calling = scope.spawn(|| backend.submit(&call));
                    let following = match queue.next(&round.refused, left) {
                        Some((group, files)) => self.intend(lease, round, desk, group, files).map(Some),
                        None => self.write_answer(lease, round).map(|()| None),
                    };
                    (calling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), following)
                });
                match following {
                    Ok(following) => (reply, following),
                    // The answer that is known is worth writing down, if that still can be done.
                    Err(e) => {
                        round.unwritten = Some(Answer::to(now, &reply));
                        let _ = self.write_answer(lease, round);
                        return Err(e);
                    }
                }
            };
            let mut go_on = self.count_reply(round, &reply, &now.group);
            let mut group = now.group.clone();
            round.unwritten = Some(Answer::to(now, &reply));
            self.remember(round);
            let refused = |i: &Intent| round.refused.contains(&i.group.shape);
            if following.as_ref().is_some_and(|next| !go_on || refused(next)) {
                self.withdraw(lease, round, following.take())?;
            }
            match &reply {
                // An array is refused whole although some of it would fit (specs: F15): halve it until it does.
                Submitted::Limit(text) if size > 1 => {
                    self.write_answer(lease, round)?;
                    group.members.truncate(size / 2);
                    halved = Some(Stop::Limit(text.clone()));
                    following = Some(self.intend(lease, round, desk, group, None)?);
                    go_on = true;
                }
                // A part went in: the limit is reached all the same.
                _ if halved.is_some() => {
                    round.report.stopped = round.report.stopped.take().or(halved.take());
                    return Ok(false);
                }
                _ => {}
            }
            if !go_on {
                return Ok(false);
            }
        }
    }

    /// An intent whose call will not be made: the one before it met a limit, or was refused for what both have in common.
    fn withdraw(&mut self, lease: &Lease, round: &mut Round, intent: Option<Intent>) -> Result<()> {
        let Some(intent) = intent else { return Ok(()) };
        self.write_answer(lease, round)?;
        round.unwritten = Some(Answer {
            submission: intent.submission,
            state: SubmissionState::Void,
            words: "not handed in: the submission before it was not accepted".into(),
            elements: intent.elements,
        });
        self.remember(round);
        Ok(())
    }

    /// Transaction 1 of a submission, together with transaction 2 of the one before. Its files are durable already, or
    /// are made so first.
    fn intend(
        &mut self,
        lease: &Lease,
        round: &mut Round,
        desk: &Desk,
        group: Group,
        files: Option<Result<Prepared>>,
    ) -> Result<Intent> {
        let first = &group.members[0];
        let kept =
            round.files.remove(&(first.k, first.n, first.memory_mb)).filter(|_| group.members.len() == 1);
        let prepared = match files.or(kept.map(Ok)) {
            Some(prepared) => prepared?,
            None => desk.prepare(&units(&round.board, desk, &group), is_array(&group))?,
        };
        let exclude = self.excluded_nodes(round, &group)?;
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
        let (submission, elements) = self.db.write(lease, &self.sweep.name, |w| {
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
        })?;
        Ok(Intent { group, prepared, exclude, submission, elements })
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

impl Intent {
    /// The call that this is the intent of.
    fn call(&self) -> Submission {
        Submission {
            token: self.prepared.token.clone(),
            script: self.prepared.script.clone(),
            dir: self.prepared.sched_dir.clone(),
            array: self.prepared.array,
            after_ok: self.group.after_ok.clone(),
            after_start: self.group.after_start.clone(),
            delay_s: self.group.delay_s,
            exclude_nodes: self.exclude.clone(),
            resources: self.prepared.resources.clone(),
            comment: self.prepared.title.clone(),
        }
    }
}

impl Answer {
    fn to(intent: Intent, reply: &Submitted) -> Self {
        let open = SubmissionState::Open { since_ms: record::now_ms(), absent_since_ms: None };
        let words = match reply {
            Submitted::Accepted(_) => "",
            Submitted::Refused(t)
            | Submitted::Limit(t)
            | Submitted::Unavailable(t)
            | Submitted::Uncertain(t) => t,
        };
        Self {
            submission: intent.submission,
            state: on_reply(open, reply),
            words: words.to_owned(),
            elements: intent.elements,
        }
    }
}

fn fresh_row(
    id: i64,
    task: &TaskRow,
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
        stuck_since_ms: 0,
    }
}
