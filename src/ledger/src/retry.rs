//! Whether, when and with what a task is tried again. Pure; the numbers are [`plan::Retry`]'s.

use crate::state::AttemptState;
use plan::Retry;
use record::FailureClass;

/// One attempt of the past, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Past {
    pub state: AttemptState,
    pub memory_mb: u64,
    /// Largest step with a whole checkpoint at its end.
    pub checkpoint_step: Option<u64>,
    pub ended_ms: i64,
    /// It was taken out of the queue because a task before it had to be retried: nobody's wish, nobody's fault.
    pub superseded: bool,
    /// The scheduler never had it (refused): there is nothing to keep a distance from.
    pub never_accepted: bool,
}

/// Who wants the retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The local driver or the keeper: the policy's limits bind.
    Automatic,
    /// A person typed `resume`: one more attempt of whatever trying again can help.
    Person,
    /// A person typed `resume --force`: also what trying again cannot help, as far as the policy knows.
    Force,
}

/// The decision about one task whose newest attempt is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A new attempt, not before `delay_s` from now.
    Retry { delay_s: u64, memory_mb: u64, why: String },
    /// No further attempt; `why` says what to do.
    Stop { why: String },
}

/// Decides about the task whose attempts are `past` (oldest first, the last one over and not succeeded).
#[must_use]
pub fn decide(policy: &Retry, past: &[Past], now_ms: i64, who: Who) -> Decision {
    let Some(last) = past.last() else {
        return Decision::Stop { why: "it was never tried".into() };
    };
    let memory_mb = last.memory_mb;
    let class = match &last.state {
        AttemptState::Checkpointed => return continued(policy, past, now_ms, who, "checkpointed"),
        AttemptState::Failed { class: FailureClass::Timeout } => {
            return continued(policy, past, now_ms, who, "the time limit was reached");
        }
        AttemptState::Failed { class } => *class,
        AttemptState::Lost => FailureClass::Lost,
        AttemptState::Cancelled => FailureClass::Cancelled,
        other => return Decision::Stop { why: format!("its newest attempt is {}", other.name()) },
    };
    if last.superseded {
        return Decision::Retry { delay_s: 0, memory_mb, why: "a task before it is tried again".into() };
    }
    let failures = count(past, |p| of_class(&p.state, class));
    let retry = |memory_mb: u64, why: &str| {
        let due_ms = last.ended_ms + i64::try_from(policy.backoff(failures)).unwrap_or(i64::MAX / 4) * 1000;
        // Being preempted or cancelled is nobody's fault: no back-off.
        let wait =
            !matches!(class, FailureClass::Preempted | FailureClass::Cancelled) && !last.never_accepted;
        let delay_s =
            if wait { u64::try_from((due_ms - now_ms).max(0)).unwrap_or(0).div_ceil(1000) } else { 0 };
        Decision::Retry { delay_s, memory_mb, why: why.to_owned() }
    };
    if class == FailureClass::UserError && who != Who::Force {
        return Decision::Stop {
            why: "the input is wrong and trying again cannot help: mend the job file or the data (a changed parameter \
                  makes a new task), or `resume --force`"
                .into(),
        };
    }
    if class == FailureClass::OutOfMemory {
        return match policy.more_memory(memory_mb) {
            Some(_) if who == Who::Automatic && exhausted(policy, class, failures) => stop(class, failures),
            Some(more) => retry(more, &format!("out of memory with {memory_mb} MB: now {more} MB")),
            None if who == Who::Force => retry(memory_mb, "forced"),
            None => Decision::Stop {
                why: format!(
                    "out of memory with {memory_mb} MB, and `retry.oom_cap_mb` is {}: raise it or make the task smaller",
                    policy.oom_cap_mb
                ),
            },
        };
    }
    let automatic_never =
        matches!(class, FailureClass::Cancelled | FailureClass::Lost | FailureClass::UpstreamMissing);
    if who == Who::Automatic && (automatic_never || exhausted(policy, class, failures)) {
        return stop(class, failures);
    }
    retry(memory_mb, class_name(class))
}

/// Checkpointed and timed-out attempts: while checkpoints grow there is no limit; without progress `retry.timeout` counts.
fn continued(policy: &Retry, past: &[Past], now_ms: i64, who: Who, why: &str) -> Decision {
    let last = past.last().expect("the caller has looked at the last one");
    let mut best_before: Option<u64> = None;
    let mut stalled = 0u32;
    for p in past {
        let interrupted = matches!(
            p.state,
            AttemptState::Checkpointed | AttemptState::Failed { class: FailureClass::Timeout }
        );
        let grew = p.checkpoint_step > best_before;
        best_before = best_before.max(p.checkpoint_step);
        if grew {
            stalled = 0;
        } else if interrupted {
            stalled += 1;
        }
    }
    if stalled >= policy.timeout && who == Who::Automatic {
        return Decision::Stop {
            why: format!(
                "{why} {stalled} times without a newer checkpoint: give it a longer walltime or checkpoint more often, \
                 then `resume`"
            ),
        };
    }
    // nothing has failed: a person who says "go on" need not wait
    let delay_s = if stalled == 0 || who != Who::Automatic {
        0
    } else {
        let due_ms = last.ended_ms + i64::try_from(policy.backoff(stalled)).unwrap_or(i64::MAX / 4) * 1000;
        u64::try_from((due_ms - now_ms).max(0)).unwrap_or(0).div_ceil(1000)
    };
    let from = best_before.map_or_else(|| "from the start".to_owned(), |s| format!("from step {s}"));
    Decision::Retry { delay_s, memory_mb: last.memory_mb, why: format!("{why}: continued {from}") }
}

fn exhausted(policy: &Retry, class: FailureClass, failures: u32) -> bool {
    policy.limit(class).is_some_and(|limit| failures >= limit)
}

fn stop(class: FailureClass, failures: u32) -> Decision {
    let times = if failures == 1 { "once".to_owned() } else { format!("{failures} times") };
    Decision::Stop { why: format!("{} {times}: `bessemer resume` tries once more", class_name(class)) }
}

fn of_class(state: &AttemptState, class: FailureClass) -> bool {
    match state {
        AttemptState::Failed { class: c } => *c == class,
        AttemptState::Lost => class == FailureClass::Lost,
        AttemptState::Cancelled => class == FailureClass::Cancelled,
        _ => false,
    }
}

fn count(past: &[Past], f: impl Fn(&Past) -> bool) -> u32 {
    u32::try_from(past.iter().filter(|p| f(p)).count()).unwrap_or(u32::MAX)
}

/// Stored and shown name: the spelling of the record.
#[must_use]
pub fn class_name(class: FailureClass) -> &'static str {
    match class {
        FailureClass::UserError => "user-error",
        FailureClass::OutOfMemory => "out-of-memory",
        FailureClass::Timeout => "timeout",
        FailureClass::Preempted => "preempted",
        FailureClass::NodeUnfit => "node-unfit",
        FailureClass::UpstreamMissing => "upstream-missing",
        FailureClass::TryAgain => "try-again",
        FailureClass::Setup => "setup",
        FailureClass::Cancelled => "cancelled",
        FailureClass::Lost => "lost",
        FailureClass::Error => "error",
    }
}

/// Inverse of [`class_name`]; unknown names (a newer program) are [`FailureClass::Error`].
#[must_use]
pub fn class_from(name: &str) -> FailureClass {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).unwrap_or(FailureClass::Error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(state: AttemptState) -> Past {
        Past {
            state,
            memory_mb: 1000,
            checkpoint_step: None,
            ended_ms: 1_000_000,
            superseded: false,
            never_accepted: false,
        }
    }

    fn failed(class: FailureClass) -> Past {
        past(AttemptState::Failed { class })
    }

    fn retried(d: &Decision) -> bool {
        matches!(d, Decision::Retry { .. })
    }

    #[test]
    fn each_class_has_its_own_budget_and_a_person_may_go_beyond_it() {
        let policy = Retry::default();
        let twice = [failed(FailureClass::Error), failed(FailureClass::Error)];
        assert!(retried(&decide(&policy, &twice[..1], 0, Who::Automatic)));
        assert!(!retried(&decide(&policy, &twice, 0, Who::Automatic)), "retry.error is 2");
        assert!(retried(&decide(&policy, &twice, 0, Who::Person)));
        let mixed =
            [failed(FailureClass::NodeUnfit), failed(FailureClass::NodeUnfit), failed(FailureClass::Error)];
        assert!(retried(&decide(&policy, &mixed, 0, Who::Automatic)), "one error only");
        let preempted = vec![failed(FailureClass::Preempted); 50];
        assert!(retried(&decide(&policy, &preempted, 0, Who::Automatic)), "free of charge");
    }

    #[test]
    fn the_wait_doubles_counts_from_the_end_and_spares_those_who_are_not_to_blame() {
        let policy = Retry { backoff_s: 30, ..Retry::default() };
        let delay = |p: &[Past], now_ms: i64| match decide(&policy, p, now_ms, Who::Person) {
            Decision::Retry { delay_s, .. } => delay_s,
            stop => panic!("{stop:?}"),
        };
        let error = || failed(FailureClass::Error);
        assert_eq!(delay(&[error()], 1_000_000), 30);
        assert_eq!(delay(&[error()], 1_010_500), 20, "19.5 s are left");
        assert_eq!(delay(&[error()], 2_000_000), 0);
        assert_eq!(delay(&[error(), error()], 1_000_000), 60);
        assert_eq!(delay(&[failed(FailureClass::Preempted)], 1_000_000), 0);
        let refused = Past { never_accepted: true, ..failed(FailureClass::Setup) };
        assert_eq!(delay(&[refused], 1_000_000), 0);
    }

    #[test]
    fn memory_grows_to_its_cap_and_then_a_sentence_names_the_key() {
        let policy = Retry { oom_cap_mb: 1200, ..Retry::default() };
        let d = decide(&policy, &[failed(FailureClass::OutOfMemory)], 0, Who::Automatic);
        assert!(matches!(d, Decision::Retry { memory_mb: 1200, .. }), "{d:?}");
        let full = Past { memory_mb: 1200, ..failed(FailureClass::OutOfMemory) };
        let Decision::Stop { why } = decide(&policy, &[full], 0, Who::Person) else { panic!() };
        assert!(why.contains("retry.oom_cap_mb"), "{why}");
    }

    #[test]
    fn progress_is_counted_not_attempts() {
        let policy = Retry { timeout: 2, ..Retry::default() };
        let stop_at = |steps: &[Option<u64>]| {
            let p: Vec<Past> =
                steps.iter().map(|s| Past { checkpoint_step: *s, ..failed(FailureClass::Timeout) }).collect();
            !retried(&decide(&policy, &p, 2_000_000, Who::Automatic))
        };
        assert!(!stop_at(&(1..40).map(Some).collect::<Vec<_>>()));
        assert!(!stop_at(&[Some(5), Some(5)]), "stalled once");
        assert!(stop_at(&[Some(5), Some(5), Some(5)]));
        assert!(!stop_at(&[Some(5), Some(5), Some(6), Some(6)]), "it moved in between");
        assert!(stop_at(&[None, None]), "never a checkpoint");
    }

    #[test]
    fn what_a_person_must_look_at_is_never_retried_automatically() {
        let policy = Retry { error: 10, ..Retry::default() };
        for p in
            [past(AttemptState::Lost), past(AttemptState::Cancelled), failed(FailureClass::UpstreamMissing)]
        {
            assert!(!retried(&decide(&policy, std::slice::from_ref(&p), 0, Who::Automatic)), "{p:?}");
            assert!(retried(&decide(&policy, std::slice::from_ref(&p), 0, Who::Person)), "{p:?}");
        }
        let wrong = [failed(FailureClass::UserError)];
        assert!(!retried(&decide(&policy, &wrong, 0, Who::Person)));
        assert!(retried(&decide(&policy, &wrong, 0, Who::Force)));
        let displaced = Past { superseded: true, ..past(AttemptState::Cancelled) };
        assert!(retried(&decide(&policy, &[displaced], 0, Who::Automatic)), "its upstream was retried");
    }

    #[test]
    fn class_names_are_the_records() {
        for class in
            [FailureClass::UserError, FailureClass::OutOfMemory, FailureClass::TryAgain, FailureClass::Lost]
        {
            assert_eq!(serde_json::to_value(class).unwrap(), class_name(class));
            assert_eq!(class_from(class_name(class)), class);
        }
        assert_eq!(class_from("of-the-future"), FailureClass::Error);
    }
}
