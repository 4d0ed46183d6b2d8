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
    let delay_s = if stalled == 0 {
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
