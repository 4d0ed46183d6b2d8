//! From how the worker ended to what that means: success, checkpoint, or a failure of some class. Pure.

use record::{FailureClass, Outcome, Status, exit};

/// Why we asked the worker to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Our own timer: the walltime ends soon.
    Deadline,
    /// USR2 from outside: the scheduler's early warning, or a user.
    Requested,
    /// TERM from outside: preemption, cancellation, node going down, time limit. We cannot tell which; the planner,
    /// which knows whether it cancelled and can ask the scheduler, can.
    Terminated,
    /// QUIT from outside: killed on request, without a checkpoint.
    Killed,
}

/// Everything known about an end.
#[derive(Debug)]
pub struct End {
    /// Exit code or signal of the worker; both `None` when it could not be started.
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub stop: Option<Stop>,
    /// We killed it because it did not leave in time.
    pub killed: bool,
    /// `outcome.json`: none, what it says, or why it cannot be read.
    pub outcome: Result<Option<Outcome>, String>,
    /// A user's program, which need not write an outcome.
    pub command: bool,
    /// Declared outputs that are not there.
    pub missing: Vec<String>,
    /// Processes of our control group killed for memory while the worker ran.
    pub oom_kills: u64,
    /// Largest memory of the process tree, bytes.
    pub peak_bytes: u64,
    pub memory_mb: u64,
}

#[derive(Debug, PartialEq)]
pub struct Verdict {
    pub status: Status,
    pub class: Option<FailureClass>,
    pub message: String,
}

impl Verdict {
    fn failed(class: FailureClass, message: impl Into<String>) -> Self {
        Self { status: Status::Failed, class: Some(class), message: message.into() }
    }

    /// The supervisor's own exit code.
    pub fn exit_code(&self) -> i32 {
        use FailureClass as C;
        match (self.status, self.class) {
            (Status::Ok, _) => exit::DONE,
            (Status::Checkpointed, _) => exit::CHECKPOINTED,
            (Status::Failed, Some(C::UserError)) => exit::USER_ERROR,
            (Status::Failed, Some(C::OutOfMemory)) => exit::OUT_OF_MEMORY,
            (Status::Failed, Some(C::TryAgain)) => exit::TRY_AGAIN,
            (Status::Failed, Some(C::UpstreamMissing)) => exit::UPSTREAM_MISSING,
            (Status::Failed, Some(C::Setup)) => exit::SETUP_FAILED,
            (Status::Failed, Some(C::NodeUnfit)) => exit::NODE_UNFIT,
            (Status::Failed, _) => exit::FAILED,
        }
    }
}

/// Peak memory beyond this share of the limit makes an unexplained SIGKILL a memory kill: limits are polled, so the
/// last reading lies below them.
const SUSPICIOUS: f64 = 0.85;

const KILL: i32 = libc::SIGKILL;

pub fn judge(end: &End) -> Verdict {
    let outcome = match &end.outcome {
        Ok(o) => o.as_ref(),
        Err(why) if end.exit_code == Some(exit::DONE) => {
            return Verdict::failed(
                FailureClass::Error,
                format!("the worker's outcome cannot be read: {why}"),
            );
        }
        // it died while writing, or before: the way it died decides
        Err(_) => None,
    };
    match (end.exit_code, end.signal) {
        (Some(exit::DONE), _) => finished(end, outcome),
        (Some(exit::CHECKPOINTED), _) => Verdict {
            status: Status::Checkpointed,
            class: None,
            message: outcome.map_or_else(String::new, |o| o.message.clone()),
        },
        (_, Some(signal)) => died(end, signal),
        // a shell reports the death of its child this way
        (Some(code @ 129..=192), _) if outcome.is_none() => died(end, code - 128),
        (Some(code), _) => exited(code, outcome),
        (None, None) => Verdict::failed(FailureClass::Setup, "the worker could not be started"),
    }
}

fn finished(end: &End, outcome: Option<&Outcome>) -> Verdict {
    match outcome {
        Some(o) if o.status == Status::Ok || (end.command && o.status == Status::Checkpointed) => {}
        Some(o) => {
            return Verdict::failed(
                o.class.unwrap_or(FailureClass::Error),
                format!("the worker left with exit code 0 but says {:?}: {}", o.status, o.message),
            );
        }
        None if end.command => {}
        None => {
            return Verdict::failed(
                FailureClass::Error,
                "the worker left with exit code 0 without saying that it succeeded (no outcome.json)",
            );
        }
    }
    if !end.missing.is_empty() {
        return Verdict::failed(
            FailureClass::Error,
            format!(
                "the program succeeded but left no {}: it must write into its working directory",
                end.missing.join(", ")
            ),
        );
    }
    let message = outcome.map_or_else(String::new, |o| o.message.clone());
    Verdict { status: Status::Ok, class: None, message }
}

fn exited(code: i32, outcome: Option<&Outcome>) -> Verdict {
    use FailureClass as C;
    let by_code = match code {
        exit::USER_ERROR | exit::USAGE => Some(C::UserError),
        exit::OUT_OF_MEMORY => Some(C::OutOfMemory),
        exit::TRY_AGAIN => Some(C::TryAgain),
        exit::UPSTREAM_MISSING => Some(C::UpstreamMissing),
        exit::SETUP_FAILED | 126 | 127 => Some(C::Setup),
        exit::NODE_UNFIT => Some(C::NodeUnfit),
        124 => Some(C::Timeout),
        _ => None,
    };
    let said = outcome.filter(|o| o.status == Status::Failed);
    let class = said.and_then(|o| o.class).or(by_code).unwrap_or(C::Error);
    let message = match said.map(|o| o.message.as_str()).filter(|m| !m.is_empty()) {
        Some(m) => m.to_owned(),
        None => format!("exit code {code} ({}); the log says more", exit::meaning(code)),
    };
    Verdict::failed(class, message)
}

fn died(end: &End, signal: i32) -> Verdict {
    use FailureClass as C;
    let name = signal_name(signal);
    // the kernel's own count is proof, whoever else sent signals in the meantime
    if signal == KILL && end.oom_kills > 0 && !end.killed {
        return Verdict::failed(
            C::OutOfMemory,
            format!(
                "killed for memory by the kernel; the limit is {} MB, the largest seen was {} MB",
                end.memory_mb,
                mb(end.peak_bytes)
            ),
        );
    }
    if let Some(stop) = end.stop {
        let how = if end.killed {
            "did not leave in time when asked for a checkpoint and was killed".to_owned()
        } else {
            format!("died of {name} when asked for a checkpoint")
        };
        return match stop {
            Stop::Deadline => Verdict::failed(C::Timeout, format!("the walltime was about to end; it {how}")),
            Stop::Requested => Verdict::failed(C::Timeout, format!("asked to leave (USR2); it {how}")),
            Stop::Killed => Verdict::failed(C::Cancelled, "killed on request, without a checkpoint"),
            Stop::Terminated => Verdict::failed(C::Preempted, format!("asked to leave (TERM); it {how}")),
        };
    }
    #[allow(clippy::cast_precision_loss)]
    let near = end.memory_mb > 0 && end.peak_bytes as f64 >= SUSPICIOUS * end.memory_mb as f64 * 1e6;
    if signal == KILL && near {
        return Verdict::failed(
            C::OutOfMemory,
            format!(
                "killed by SIGKILL with {} MB in use of {} MB: most likely for memory",
                mb(end.peak_bytes),
                end.memory_mb
            ),
        );
    }
    if signal == libc::SIGXCPU {
        return Verdict::failed(C::Timeout, "ran into a limit of CPU time (SIGXCPU)");
    }
    Verdict::failed(
        C::Error,
        format!("died of {name}; memory in use was at most {} of {} MB", mb(end.peak_bytes), end.memory_mb),
    )
}

fn mb(bytes: u64) -> u64 {
    bytes / 1_000_000
}

fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal)
        .map_or_else(|_| format!("signal {signal}"), |s| s.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end() -> End {
        End {
            exit_code: None,
            signal: None,
            stop: None,
            killed: false,
            outcome: Ok(None),
            command: false,
            missing: vec![],
            oom_kills: 0,
            peak_bytes: 100_000_000,
            memory_mb: 1000,
        }
    }

    fn says(status: Status, class: Option<FailureClass>) -> Result<Option<Outcome>, String> {
        let (metrics, facts) = (vec![], std::collections::BTreeMap::new());
        Ok(Some(Outcome { format: 1, status, class, message: "m".into(), metrics, facts }))
    }

    fn class(e: End) -> Option<FailureClass> {
        judge(&e).class
    }

    #[test]
    fn only_exit_0_together_with_an_outcome_that_says_ok_is_success() {
        let code = |c| End { exit_code: Some(c), ..end() };
        assert_eq!(judge(&End { outcome: says(Status::Ok, None), ..code(0) }).status, Status::Ok);
        assert_eq!(judge(&code(0)).status, Status::Failed);
        assert_eq!(judge(&End { outcome: Err("torn".into()), ..code(0) }).status, Status::Failed);
        assert_eq!(
            judge(&End { outcome: says(Status::Checkpointed, None), ..code(0) }).status,
            Status::Failed
        );
        assert_eq!(judge(&End { outcome: says(Status::Ok, None), ..code(1) }).status, Status::Failed);
        assert_eq!(judge(&End { command: true, ..code(0) }).status, Status::Ok);
        let missing = vec!["x".to_owned()];
        assert_eq!(judge(&End { command: true, missing, ..code(0) }).status, Status::Failed);
    }

    #[test]
    fn exit_codes_have_their_documented_classes_and_the_outcome_knows_better() {
        use FailureClass as C;
        for (code, want) in [
            (1, C::Error),
            (65, C::UserError),
            (74, C::OutOfMemory),
            (75, C::TryAgain),
            (76, C::UpstreamMissing),
            (77, C::Setup),
            (78, C::NodeUnfit),
            (127, C::Setup),
        ] {
            assert_eq!(class(End { exit_code: Some(code), ..end() }), Some(want), "{code}");
        }
        let outcome = says(Status::Failed, Some(C::NodeUnfit));
        assert_eq!(class(End { exit_code: Some(1), outcome, ..end() }), Some(C::NodeUnfit));
    }

    #[test]
    fn a_kill_is_explained_by_proof_first_then_by_us_then_by_suspicion() {
        use FailureClass as C;
        let killed = |e: End| End { signal: Some(9), ..e };
        assert_eq!(class(killed(end())), Some(C::Error));
        assert_eq!(class(killed(End { oom_kills: 1, ..end() })), Some(C::OutOfMemory));
        assert_eq!(class(killed(End { peak_bytes: 960_000_000, ..end() })), Some(C::OutOfMemory));
        let late = End { stop: Some(Stop::Deadline), killed: true, peak_bytes: 960_000_000, ..end() };
        assert_eq!(class(killed(late)), Some(C::Timeout));
        assert_eq!(
            class(End { stop: Some(Stop::Terminated), signal: Some(12), ..end() }),
            Some(C::Preempted)
        );
        // a shell in between
        let shell = End { exit_code: Some(137), command: true, peak_bytes: 960_000_000, ..end() };
        assert_eq!(class(shell), Some(C::OutOfMemory));
        assert_eq!(class(End { signal: Some(11), peak_bytes: 960_000_000, ..end() }), Some(C::Error));
    }

    #[test]
    fn every_class_has_its_exit_code() {
        assert_eq!(judge(&End { exit_code: Some(85), ..end() }).exit_code(), 85);
        assert_eq!(judge(&End { exit_code: Some(78), ..end() }).exit_code(), 78);
        assert_eq!(judge(&End { signal: Some(11), ..end() }).exit_code(), 1);
    }
}
