use super::*;
use proptest::prelude::*;
use record::{ContentKey, Token, Usage};
use std::collections::BTreeMap;

fn job() -> JobRef {
    JobRef { id: "7".into(), cluster: None, token: Token("bx-aaaaaaaaaaaa".into()) }
}

fn row(state: JobState, exit: Option<(i32, i32)>) -> Seen {
    Seen {
        job: job(),
        state,
        raw: String::new(),
        exit,
        nodes: vec!["n1".into()],
        start_s: None,
        source: "squeue",
    }
}

fn record(status: Status, class: Option<FailureClass>) -> AttemptRecord {
    AttemptRecord {
        format: 1,
        token: job().token,
        key: ContentKey("k".into()),
        attempt: 1,
        status,
        class,
        message: String::new(),
        exit_code: None,
        signal: None,
        job_id: "7".into(),
        restart: 0,
        host: "n1".into(),
        gpus: vec![],
        started_ms: 0,
        ended_ms: 0,
        usage: Usage::default(),
        outputs: vec![],
        metrics: vec![],
        facts: BTreeMap::new(),
        checkpoint_step: None,
        program: String::new(),
    }
}

fn at(now_ms: i64) -> Context {
    Context { now_ms, record_grace_ms: 300_000, hint_grace_ms: 30_000, cancel_asked: false }
}

/// Runs rows past a submitted job, each at its time.
fn after(rows: &[(i64, Observation)]) -> AttemptState {
    rows.iter().fold(AttemptState::Submitted { job: job() }, |s, (t, o)| step(s, o, &at(*t)).0)
}

#[test]
fn what_the_scheduler_calls_completed_waits_for_its_record_and_is_lost_without_one() {
    let over = row(JobState::Completed, Some((0, 0)));
    let waiting = after(&[(0, Observation::Seen(&over)), (299_999, Observation::Seen(&over))]);
    assert!(matches!(waiting, AttemptState::FinishedUnconfirmed { since_ms: 0, .. }), "{waiting:?}");
    assert_eq!(after(&[(0, Observation::Seen(&over)), (300_000, Observation::Absent)]), AttemptState::Lost);
    let ok = record(Status::Ok, None);
    let late = [(0, Observation::Seen(&over)), (200_000, Observation::Record { record: &ok, whole: true })];
    assert_eq!(after(&late), AttemptState::Succeeded);
}

#[test]
fn a_named_cause_needs_less_patience_and_beats_a_mere_absence() {
    for (state, class) in [
        (JobState::TimedOut, FailureClass::Timeout),
        (JobState::OutOfMemory, FailureClass::OutOfMemory),
        (JobState::Preempted, FailureClass::Preempted),
        (JobState::NodeFailed, FailureClass::NodeUnfit),
    ] {
        let seen = row(state, None);
        let s = after(&[
            (0, Observation::Absent),
            (1_000, Observation::Seen(&seen)),
            (30_000, Observation::Absent),
        ]);
        assert_eq!(s, AttemptState::Failed { class }, "{state:?}");
    }
    let cancelled = row(JobState::Cancelled, None);
    let s = after(&[(0, Observation::Seen(&cancelled)), (30_000, Observation::Seen(&cancelled))]);
    assert_eq!(s, AttemptState::Cancelled);
}

#[test]
fn exit_codes_of_our_script_name_the_class_and_an_unfit_node_is_remembered() {
    let seen = row(JobState::Failed, Some((record::exit::NODE_UNFIT, 0)));
    let ctx = Context { record_grace_ms: 0, ..at(5) };
    let (s, actions) = step(AttemptState::Running { job: job() }, &Observation::Seen(&seen), &ctx);
    assert_eq!(s, AttemptState::Failed { class: FailureClass::NodeUnfit });
    assert_eq!(actions, [Action::SuspectNode("n1".into())]);
    let guard = row(JobState::Failed, Some((record::exit::UPSTREAM_MISSING, 0)));
    let (s, _) = step(AttemptState::Running { job: job() }, &Observation::Seen(&guard), &ctx);
    assert_eq!(s, AttemptState::Failed { class: FailureClass::UpstreamMissing });
    let nobody = Seen { nodes: vec!["None assigned".into(), "n[1-3]".into()], ..seen };
    let (_, actions) = step(AttemptState::Running { job: job() }, &Observation::Seen(&nobody), &ctx);
    assert!(actions.is_empty(), "no host names: {actions:?}");
}

#[test]
fn a_requeue_under_the_same_id_is_no_failure() {
    let (running, waiting) = (row(JobState::Running, None), row(JobState::Waiting, None));
    let s = after(&[(0, Observation::Seen(&running)), (1, Observation::Seen(&waiting))]);
    assert_eq!(s, AttemptState::Submitted { job: job() });
    // even after it looked as if it were over
    let s = after(&[(0, Observation::Absent), (1, Observation::Seen(&waiting))]);
    assert_eq!(s, AttemptState::Submitted { job: job() });
}

#[test]
fn an_unknown_spelling_decides_nothing() {
    let odd = row(JobState::Unknown, None);
    assert_eq!(
        after(&[(0, Observation::Seen(&odd)), (i64::MAX / 2, Observation::Seen(&odd))]).name(),
        "submitted"
    );
}

fn observation() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Accepted),
        Just(Kind::NotAccepted),
        Just(Kind::Refused),
        (0usize..14).prop_map(Kind::Row),
        Just(Kind::Absent),
        (0usize..6).prop_map(Kind::Record),
        any::<bool>().prop_map(Kind::Whole),
    ]
}

/// Observations without borrowed parts.
#[derive(Debug, Clone)]
enum Kind {
    Accepted,
    NotAccepted,
    Refused,
    Row(usize),
    Absent,
    /// A failed or checkpointed record.
    Record(usize),
    /// An ok record, its outputs whole or not.
    Whole(bool),
}

const ROWS: [JobState; 14] = [
    JobState::Waiting,
    JobState::Hopeless,
    JobState::NeverSatisfied,
    JobState::Starting,
    JobState::Running,
    JobState::Suspended,
    JobState::Completed,
    JobState::Failed,
    JobState::TimedOut,
    JobState::OutOfMemory,
    JobState::Preempted,
    JobState::NodeFailed,
    JobState::Cancelled,
    JobState::Unknown,
];
const CLASSES: [Option<FailureClass>; 6] = [
    None,
    Some(FailureClass::UserError),
    Some(FailureClass::NodeUnfit),
    Some(FailureClass::Cancelled),
    Some(FailureClass::Lost),
    Some(FailureClass::Preempted),
];

fn apply(s: AttemptState, k: &Kind, ctx: &Context) -> AttemptState {
    let job = job();
    match k {
        Kind::Accepted => step(s, &Observation::Accepted(&job), ctx).0,
        Kind::NotAccepted => step(s, &Observation::NotAccepted, ctx).0,
        Kind::Refused => step(s, &Observation::Refused, ctx).0,
        Kind::Row(i) => step(s, &Observation::Seen(&row(ROWS[*i], Some((1, 0)))), ctx).0,
        Kind::Absent => step(s, &Observation::Absent, ctx).0,
        Kind::Record(i) => {
            let status = if *i == 0 { Status::Checkpointed } else { Status::Failed };
            step(s, &Observation::Record { record: &record(status, CLASSES[*i]), whole: false }, ctx).0
        }
        Kind::Whole(whole) => {
            step(s, &Observation::Record { record: &record(Status::Ok, None), whole: *whole }, ctx).0
        }
    }
}

proptest! {
    #[test]
    fn whatever_is_seen_success_needs_a_whole_record_and_what_is_over_stays_over(
        seen in prop::collection::vec((observation(), 0i64..400_000, any::<bool>()), 0..30),
    ) {
        let mut state = AttemptState::Submitting;
        let (mut now, mut whole_record) = (0, false);
        for (kind, wait, cancel_asked) in seen {
            now += wait;
            whole_record |= matches!(kind, Kind::Whole(true));
            let was = state.clone();
            state = apply(state, &kind, &Context { cancel_asked, ..at(now) });
            prop_assert!(state != AttemptState::Succeeded || whole_record, "{kind:?}");
            if was.is_over() {
                prop_assert!(state == was || state == AttemptState::Succeeded, "{was:?} -> {state:?} by {kind:?}");
            }
            // Only a submission of unknown fate can go back to "hand it in again": everything else may be running.
            if state == AttemptState::Deferred {
                prop_assert!(was == AttemptState::Submitting || was == AttemptState::Deferred, "{was:?}");
            }
            prop_assert!(state != AttemptState::Submitting || was == AttemptState::Submitting);
        }
    }
}
