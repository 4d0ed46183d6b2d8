//! The state machine of one submission: one call of `sbatch`/`qsub`, for one attempt or an array of them. It answers a
//! single question: has the scheduler accepted it? (specs: F1-F3). Pure, like [`crate::state`].

use cluster::backend::{JobRef, Seen, Submitted};
use record::StartRecord;

/// What is known about one submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubmissionState {
    /// Intent durable, fate unknown. `absent_since_ms`: the first look at a working queue, *after* the submitting
    /// process was known to be gone, that did not show it.
    Open {
        since_ms: i64,
        absent_since_ms: Option<i64>,
    },
    Accepted {
        job: JobRef,
    },
    /// Certainly not accepted; its attempts may go out again.
    Void,
    /// Certainly not accepted, and useless to repeat.
    Refused,
}

impl SubmissionState {
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            SubmissionState::Open { .. } => "open",
            SubmissionState::Accepted { .. } => "accepted",
            SubmissionState::Void => "void",
            SubmissionState::Refused => "refused",
        }
    }
}

/// Everything that can tell the fate of an open submission, looked at together.
#[derive(Debug, Clone, Default)]
pub struct Evidence<'a> {
    pub now_ms: i64,
    /// Claims in the attempt directories of its elements: the strongest proof.
    pub started: Vec<&'a StartRecord>,
    /// All rows under its token.
    pub seen: &'a [Seen],
    /// Whether the live queue was read at all.
    pub queue_ok: bool,
    /// The process that called the scheduler, and the scheduler command itself, are gone from *this* host.
    pub submitter_gone: bool,
    /// Age after which absence proves that nothing was accepted, wherever the submitter ran.
    pub uncertain_grace_ms: i64,
    /// Time between two looks without a row that makes absence believable once the submitter is gone: a controller that
    /// wakes up answers queries and late submissions in any order.
    pub settle_ms: i64,
}

/// What to do about duplicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cleanup {
    /// One of several jobs under one token: cancel this one *by id*, its name is the survivor's as well.
    CancelDuplicate(JobRef),
    Warn(String),
}

/// The answer of the submit call.
#[must_use]
pub fn on_reply(state: SubmissionState, reply: &Submitted) -> SubmissionState {
    match (state, reply) {
        (SubmissionState::Open { .. }, Submitted::Accepted(job)) => {
            SubmissionState::Accepted { job: job.clone() }
        }
        (SubmissionState::Open { .. }, Submitted::Limit(_) | Submitted::Unavailable(_)) => {
            SubmissionState::Void
        }
        (SubmissionState::Open { .. }, Submitted::Refused(_)) => SubmissionState::Refused,
        (state, _) => state,
    }
}

/// One look around for an open submission.
#[must_use]
pub fn on_look(
    state: SubmissionState,
    look: &Evidence,
    token: &record::Token,
) -> (SubmissionState, Vec<Cleanup>) {
    let SubmissionState::Open { since_ms, absent_since_ms } = state else { return (state, vec![]) };
    let candidates = candidates(look, token);
    if let Some((survivor, duplicates)) = candidates.split_first() {
        let mut cleanup = Vec::new();
        if !duplicates.is_empty() {
            cleanup.push(Cleanup::Warn(format!(
                "{} jobs carry the name {token}: {} stays, the others are cancelled",
                candidates.len(),
                survivor.id
            )));
            cleanup.extend(duplicates.iter().cloned().map(Cleanup::CancelDuplicate));
        }
        return (SubmissionState::Accepted { job: survivor.clone() }, cleanup);
    }
    if !look.queue_ok {
        return (state, vec![]);
    }
    // Age alone is not enough either: a controller that has hung for an hour answers the first query when it wakes up,
    // and takes the submission that waited in its socket a moment later.
    let over_there = look.now_ms - since_ms >= look.uncertain_grace_ms;
    if !look.submitter_gone && !over_there {
        return (SubmissionState::Open { since_ms, absent_since_ms: None }, vec![]);
    }
    match absent_since_ms {
        Some(first) if look.now_ms - first >= look.settle_ms => (SubmissionState::Void, vec![]),
        Some(_) => (state, vec![]),
        None if look.settle_ms == 0 => (SubmissionState::Void, vec![]),
        None => (SubmissionState::Open { since_ms, absent_since_ms: Some(look.now_ms) }, vec![]),
    }
}

/// Distinct jobs under the token, the one to keep first: who holds the claim, then the oldest (smallest id).
fn candidates(look: &Evidence, token: &record::Token) -> Vec<JobRef> {
    let mut found: Vec<(bool, JobRef)> = Vec::new();
    for start in &look.started {
        let id = base_id(&start.job_id).to_owned();
        if !found.iter().any(|(_, j)| j.id == id) {
            found.push((true, JobRef { id, cluster: None, token: token.clone() }));
        }
    }
    for row in look.seen {
        let id = base_id(&row.job.id);
        match found.iter_mut().find(|(_, j)| j.id == id) {
            Some((_, known)) => known.cluster = known.cluster.take().or_else(|| row.job.cluster.clone()),
            None => found.push((
                false,
                JobRef { id: id.to_owned(), cluster: row.job.cluster.clone(), token: token.clone() },
            )),
        }
    }
    found.sort_by_key(|(claimed, job)| (!claimed, numeric(&job.id), job.id.clone()));
    found.into_iter().map(|(_, job)| job).collect()
}

/// `4711_3` -> `4711`: the array's own id. Everything else is left alone.
#[must_use]
pub fn base_id(id: &str) -> &str {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    match id.split_once('_') {
        Some((base, index)) if digits(base) && digits(index) => base,
        _ => id,
    }
}

fn numeric(id: &str) -> u64 {
    let digits: String = id.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::backend::JobState;
    use record::{ContentKey, Token};

    fn token() -> Token {
        Token("bx-aaaaaaaaaaaa".into())
    }

    fn seen(id: &str) -> Seen {
        Seen {
            job: JobRef { id: id.into(), cluster: Some("c".into()), token: token() },
            state: JobState::Waiting,
            raw: String::new(),
            exit: None,
            nodes: vec![],
            start_s: None,
            source: "squeue",
        }
    }

    fn claim(job_id: &str) -> StartRecord {
        StartRecord {
            format: 1,
            token: token(),
            key: ContentKey("k".into()),
            attempt: 1,
            job_id: job_id.into(),
            restart: 0,
            host: "n".into(),
            pid: 1,
            pid_start: 1,
            boot_id: String::new(),
            at_ms: 0,
            gpus: vec![],
        }
    }

    fn open() -> SubmissionState {
        SubmissionState::Open { since_ms: 0, absent_since_ms: None }
    }

    fn look(now_ms: i64) -> Evidence<'static> {
        Evidence {
            now_ms,
            queue_ok: true,
            submitter_gone: true,
            uncertain_grace_ms: 180_000,
            settle_ms: 5_000,
            ..Evidence::default()
        }
    }

    #[test]
    fn absence_is_believed_after_two_looks_without_a_submitter_or_after_the_grace() {
        let (first, _) = on_look(open(), &look(1_000), &token());
        assert_eq!(first, SubmissionState::Open { since_ms: 0, absent_since_ms: Some(1_000) });
        assert_eq!(on_look(first.clone(), &look(5_999), &token()).0, first, "not settled yet");
        assert_eq!(on_look(first.clone(), &look(6_000), &token()).0, SubmissionState::Void);

        let alive = Evidence { submitter_gone: false, ..look(100_000) };
        assert_eq!(
            on_look(first.clone(), &alive, &token()).0,
            open(),
            "it may still hand the job in: start over"
        );
        let elsewhere = |now_ms| Evidence { submitter_gone: false, ..look(now_ms) };
        let (old, _) = on_look(open(), &elsewhere(180_000), &token());
        assert_eq!(old, SubmissionState::Open { since_ms: 0, absent_since_ms: Some(180_000) });
        assert_eq!(on_look(old, &elsewhere(185_000), &token()).0, SubmissionState::Void);
    }

    #[test]
    fn a_controller_that_wakes_up_after_the_grace_gets_a_second_look() {
        // the first answer after an hour of silence came before the submission that had waited in the socket
        let (first, _) = on_look(open(), &look(3_600_000), &token());
        assert!(matches!(first, SubmissionState::Open { absent_since_ms: Some(3_600_000), .. }), "{first:?}");
        let rows = [seen("12")];
        let (second, _) = on_look(first, &Evidence { seen: &rows, ..look(3_605_000) }, &token());
        assert!(matches!(&second, SubmissionState::Accepted { job } if job.id == "12"), "{second:?}");
    }

    #[test]
    fn a_queue_that_cannot_be_read_proves_nothing_however_old_the_intent_is() {
        let blind = Evidence { queue_ok: false, ..look(i64::MAX / 2) };
        assert_eq!(on_look(open(), &blind, &token()), (open(), vec![]));
    }

    #[test]
    fn one_hit_is_adopted_and_of_several_the_claimed_or_the_oldest_stays() {
        let rows = [seen("9")];
        let (s, cleanup) = on_look(open(), &Evidence { seen: &rows, ..look(1) }, &token());
        assert!(
            matches!(&s, SubmissionState::Accepted { job } if job.id == "9" && job.cluster.as_deref() == Some("c"))
        );
        assert!(cleanup.is_empty());

        let rows = [seen("101"), seen("99")];
        let (s, cleanup) = on_look(open(), &Evidence { seen: &rows, ..look(1) }, &token());
        assert!(
            matches!(&s, SubmissionState::Accepted { job } if job.id == "99"),
            "the oldest, by number: {s:?}"
        );
        assert!(matches!(&cleanup[1], Cleanup::CancelDuplicate(job) if job.id == "101"), "{cleanup:?}");

        let claimed = claim("101");
        let both = Evidence { seen: &rows, started: vec![&claimed], ..look(1) };
        let (s, cleanup) = on_look(open(), &both, &token());
        assert!(
            matches!(&s, SubmissionState::Accepted { job } if job.id == "101"),
            "it works already: {s:?}"
        );
        assert!(matches!(&cleanup[1], Cleanup::CancelDuplicate(job) if job.id == "99"));
    }

    #[test]
    fn elements_of_one_array_are_one_job() {
        let rows = [seen("7_0"), seen("7_1"), seen("7_2")];
        let claimed = claim("7_1");
        let all = Evidence { seen: &rows, started: vec![&claimed], ..look(1) };
        let (s, cleanup) = on_look(open(), &all, &token());
        assert!(
            matches!(&s, SubmissionState::Accepted { job } if job.id == "7") && cleanup.is_empty(),
            "{s:?}"
        );
    }

    #[test]
    fn only_slurm_arrays_have_a_base() {
        assert_eq!(base_id("4711_3"), "4711");
        for id in ["4711", "12.my_server", "123-456", "", "_1", "1_"] {
            assert_eq!(base_id(id), id);
        }
    }

    #[test]
    fn an_uncertain_answer_leaves_the_question_open_and_a_no_closes_it() {
        assert_eq!(on_reply(open(), &Submitted::Uncertain("?".into())), open());
        assert_eq!(on_reply(open(), &Submitted::Limit("full".into())), SubmissionState::Void);
        assert_eq!(on_reply(open(), &Submitted::Unavailable("away".into())), SubmissionState::Void);
        assert_eq!(on_reply(open(), &Submitted::Refused("no".into())), SubmissionState::Refused);
        let job = JobRef { id: "1".into(), cluster: None, token: token() };
        let accepted = on_reply(open(), &Submitted::Accepted(job));
        assert_eq!(on_reply(accepted.clone(), &Submitted::Refused("no".into())), accepted, "answered once");
    }
}
