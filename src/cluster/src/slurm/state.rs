//! Slurm's states and reasons, reduced to what decides something (specs: 3.2, F11).

use crate::backend::JobState;

/// From a state as `squeue %T` or `sacct State` prints it (also compact), with reason and exit code where known.
#[must_use]
pub fn state(printed: &str, reason: &str, exit: Option<(i32, i32)>) -> JobState {
    use JobState as S;
    // `CANCELLED by 1000`, `CANCELLED+`
    let word = printed.split_whitespace().next().unwrap_or("").trim_end_matches('+');
    match word {
        "PENDING" | "PD" => pending(reason),
        "CONFIGURING" | "CF" | "POWER_UP_NODE" => S::Starting,
        // COMPLETING hides the final state: the record will say
        "RUNNING" | "R" | "RESIZING" | "RS" | "SIGNALING" | "SI" | "COMPLETING" | "CG" | "STAGE_OUT"
        | "SO" | "UPDATE_DB" | "UD" => S::Running,
        "SUSPENDED" | "S" | "STOPPED" | "ST" => S::Suspended,
        "COMPLETED" | "CD" => S::Completed,
        "FAILED" | "F" => failed(reason, exit),
        "OUT_OF_MEMORY" | "OOM" => S::OutOfMemory,
        "TIMEOUT" | "TO" | "DEADLINE" | "DL" => S::TimedOut,
        "PREEMPTED" | "PR" => S::Preempted,
        "NODE_FAIL" | "NF" | "BOOT_FAIL" | "BF" | "LAUNCH_FAILED" | "LF" | "RECONFIG_FAIL" => S::NodeFailed,
        "CANCELLED" | "CA" => S::Cancelled,
        "REQUEUED" | "RQ" | "REQUEUE_FED" | "RF" => S::Waiting,
        "REQUEUE_HOLD" | "RH" | "SPECIAL_EXIT" | "SE" | "RESV_DEL_HOLD" | "RD" => S::Hopeless,
        // REVOKED: a sibling runs elsewhere (federation). One site is one cluster, so nobody here knows.
        _ => S::Unknown,
    }
}

/// Slurm's own number for "the job could not be launched".
const LAUNCH_FAILURE: (i32, i32) = (0, 53);

fn failed(reason: &str, exit: Option<(i32, i32)>) -> JobState {
    match exit {
        // without control groups, the memory poll kills with 9 and calls it a launch failure
        Some((0, 9)) if reason == "JobLaunchFailure" => JobState::OutOfMemory,
        Some(e) if e == LAUNCH_FAILURE => JobState::NodeFailed,
        _ if reason == "JobLaunchFailure" || reason == "RaisedSignal:53" => JobState::NodeFailed,
        _ => JobState::Failed,
    }
}

/// Reasons that no waiting cures; somebody has to change the job, the site or a hold.
const HOPELESS: &[&str] = &[
    "PartitionTimeLimit",
    "PartitionNodeLimit",
    "BadConstraints",
    "InvalidAccount",
    "InvalidQOS",
    "AccountNotAllowed",
    "QOSNotAllowed",
    "JobHeldAdmin",
    "JobHeldUser",
    "JobLaunchFailure",
    "DeadLine",
    "QOSUsageThreshold",
    "AssociationUsageThreshold",
];

/// Beginnings of reasons that an administrator may end within the hour, or never: how long they last tells.
const UNAVAILABLE: &[&str] = &[
    "ReqNodeNotAvail",
    "Nodes required for job are DOWN, DRAINED",
    "PartitionDown",
    "PartitionInactive",
    "NodeDown",
    "FrontEndDown",
];

fn pending(reason: &str) -> JobState {
    if reason == "DependencyNeverSatisfied" {
        return JobState::NeverSatisfied;
    }
    // `job requeued in held state`, `launch failed requeued held`
    let held = reason.contains("held") || reason.contains("Held");
    // limits of one job (QOSMaxWallDurationPerJobLimit, AssocMaxCpuPerJobLimit, QOSMinGRES): this job breaks them for ever
    let per_job =
        reason.contains("PerJob") || reason.starts_with("QOSMin") || reason.contains("MaxWallDuration");
    if held || per_job || HOPELESS.contains(&reason) {
        JobState::Hopeless
    } else if UNAVAILABLE.iter().any(|beginning| reason.trim_start_matches('(').starts_with(beginning)) {
        JobState::Unavailable
    } else {
        JobState::Waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use JobState as S;

    #[test]
    fn every_state_in_both_spellings() {
        let table = [
            ("PENDING", "PD", S::Waiting),
            ("CONFIGURING", "CF", S::Starting),
            ("RUNNING", "R", S::Running),
            ("COMPLETING", "CG", S::Running),
            ("RESIZING", "RS", S::Running),
            ("SIGNALING", "SI", S::Running),
            ("STAGE_OUT", "SO", S::Running),
            ("SUSPENDED", "S", S::Suspended),
            ("STOPPED", "ST", S::Suspended),
            ("COMPLETED", "CD", S::Completed),
            ("FAILED", "F", S::Failed),
            ("OUT_OF_MEMORY", "OOM", S::OutOfMemory),
            ("TIMEOUT", "TO", S::TimedOut),
            ("DEADLINE", "DL", S::TimedOut),
            ("PREEMPTED", "PR", S::Preempted),
            ("NODE_FAIL", "NF", S::NodeFailed),
            ("BOOT_FAIL", "BF", S::NodeFailed),
            ("CANCELLED", "CA", S::Cancelled),
            ("REQUEUED", "RQ", S::Waiting),
            ("REQUEUE_FED", "RF", S::Waiting),
            ("REQUEUE_HOLD", "RH", S::Hopeless),
            ("SPECIAL_EXIT", "SE", S::Hopeless),
            ("RESV_DEL_HOLD", "RD", S::Hopeless),
            ("REVOKED", "RV", S::Unknown),
            ("SOMETHING_NEW", "", S::Unknown),
        ];
        for (long, compact, want) in table {
            assert_eq!(state(long, "", None), want, "{long}");
            assert!(compact.is_empty() || state(compact, "", None) == want, "{compact}");
        }
        assert_eq!(state("CANCELLED by 1000", "", None), S::Cancelled);
        assert_eq!(state("CANCELLED+", "", None), S::Cancelled);
    }

    #[test]
    fn reasons_that_never_go_away_are_not_waiting() {
        for reason in [
            "PartitionTimeLimit",
            "BadConstraints",
            "InvalidQOS",
            "JobHeldAdmin",
            "JobHeldUser",
            "job requeued in held state",
            "QOSMaxWallDurationPerJobLimit",
            "AssocMaxCpuPerJobLimit",
        ] {
            assert_eq!(state("PENDING", reason, None), S::Hopeless, "{reason}");
        }
        assert_eq!(state("PENDING", "DependencyNeverSatisfied", None), S::NeverSatisfied);
        for reason in [
            "None",
            "Priority",
            "Resources",
            "Dependency",
            "BeginTime",
            "JobArrayTaskLimit",
            "QOSMaxJobsPerUserLimit",
        ] {
            assert_eq!(state("PENDING", reason, None), S::Waiting, "{reason}");
        }
        for reason in [
            "ReqNodeNotAvail, UnavailableNodes:n4",
            "(Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions)",
            "PartitionDown",
            "PartitionInactive",
        ] {
            assert_eq!(state("PENDING", reason, None), S::Unavailable, "{reason}");
        }
    }

    #[test]
    fn failures_are_split_by_exit_code_and_reason() {
        assert_eq!(state("FAILED", "NonZeroExitCode", Some((3, 0))), S::Failed);
        assert_eq!(state("FAILED", "JobLaunchFailure", Some((0, 53))), S::NodeFailed);
        assert_eq!(state("FAILED", "None", Some((0, 53))), S::NodeFailed);
        assert_eq!(state("FAILED", "JobLaunchFailure", Some((0, 9))), S::OutOfMemory);
        assert_eq!(state("FAILED", "JobLaunchFailure", None), S::NodeFailed);
        assert_eq!(state("FAILED", "RaisedSignal:11(Segmentation_fault)", Some((0, 11))), S::Failed);
    }
}
