//! The scheduler's last words in the job's own output: on sites without accounting the only thing that says why a job
//! was killed, and everywhere the only thing that tells a memory kill by the polling accountant (specs: slurm-pbs 2).

use crate::backend::{JobRef, JobState, Seen};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// How much of the end of an output file is looked at.
const TAIL: u64 = 64 * 1024;

/// What slurmstepd or the PBS MOM wrote when it ended the job: state and sentence. `None`: it wrote nothing of the kind.
///
/// A requeued job appends (`--open-mode=append`), so what was said before a later start does not count.
#[must_use]
pub fn explain(text: &str) -> Option<(JobState, String)> {
    let mut found: Option<(JobState, &str)> = None;
    for line in text.lines() {
        let slurm = line.contains("slurmstepd") && line.contains("error:");
        let state = if slurm && line.contains("DUE TO JOB REQUEUE") {
            found = None;
            continue;
        } else if (slurm
            && (line.contains("memory limit")
                || line.contains("oom-kill event")
                || line.contains("oom_kill event")))
            || (line.starts_with("=>> PBS: job killed:") && (line.contains(" mem ") || line.contains("vmem")))
        {
            JobState::OutOfMemory
        } else if slurm && line.contains("DUE TO TIME LIMIT")
            || line.starts_with("=>> PBS: job killed:")
                && (line.contains("walltime") || line.contains("cput"))
        {
            JobState::TimedOut
        } else if slurm && line.contains("DUE TO PREEMPTION") {
            JobState::Preempted
        } else if slurm && line.contains("DUE TO NODE FAILURE") {
            JobState::NodeFailed
        } else if slurm && line.contains("CANCELLED AT") {
            JobState::Cancelled
        } else {
            continue;
        };
        // an over-memory job is "cancelled" right after: the cause is the first that says more
        let weaker = state == JobState::Cancelled && found.is_some();
        if !weaker {
            found = Some((state, line));
        }
    }
    found.map(|(state, line)| (state, line.trim().to_owned()))
}

/// [`explain`] for a job whose output lies in `sched_dir` (`Submission::dir`).
#[must_use]
pub fn last_words(sched_dir: &Path, job: &JobRef) -> Option<Seen> {
    let candidates: [PathBuf; 2] =
        [sched_dir.join(format!("slurm-{}.out", job.id)), sched_dir.join("pbs.out")];
    let text = candidates.iter().find_map(|path| tail(path).ok())?;
    let (state, raw) = explain(&text)?;
    Some(Seen { job: job.clone(), state, raw, exit: None, nodes: vec![], start_s: None, source: "output" })
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state(text: &str) -> Option<JobState> {
        explain(text).map(|(s, _)| s)
    }

    #[test]
    fn each_way_to_be_ended_is_told_apart() {
        let end = "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-20T15:51:34";
        for (text, want) in [
            (format!("{end} ***"), Some(JobState::Cancelled)),
            (format!("{end} DUE TO TIME LIMIT ***"), Some(JobState::TimedOut)),
            (format!("{end} DUE TO PREEMPTION ***"), Some(JobState::Preempted)),
            (
                format!("{end} DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***"),
                Some(JobState::NodeFailed),
            ),
            (
                format!(
                    "slurmstepd-n1: error: StepId=7.batch exceeded memory limit (3 > 1), being killed\n{end} ***"
                ),
                Some(JobState::OutOfMemory),
            ),
            (
                "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.batch.".into(),
                Some(JobState::OutOfMemory),
            ),
            ("=>> PBS: job killed: walltime 11 exceeded limit 3".into(), Some(JobState::TimedOut)),
            ("=>> PBS: job killed: mem 9kb exceeded limit 3kb".into(), Some(JobState::OutOfMemory)),
            ("the program printed CANCELLED AT noon".into(), None),
            (String::new(), None),
        ] {
            assert_eq!(state(&text), want, "{text}");
        }
    }

    #[test]
    fn what_came_before_a_requeue_does_not_count() {
        let requeue =
            "slurmstepd-n2: error: *** JOB 6 ON n2 CANCELLED AT 2026-11-20T15:42:57 DUE TO JOB REQUEUE ***\n";
        assert_eq!(state(requeue), None);
        let oom = "slurmstepd-n1: error: Exceeded job memory limit\n";
        assert_eq!(state(&format!("{oom}{requeue}")), None);
        assert_eq!(state(&format!("{requeue}{oom}")), Some(JobState::OutOfMemory));
    }

    #[test]
    fn only_the_end_of_the_jobs_own_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let job = JobRef { id: "7".into(), cluster: None, token: record::Token("bs-a".into()) };
        assert_eq!(last_words(dir.path(), &job), None);
        let long = "x".repeat(100_000);
        let text =
            format!("{long}\nslurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT now DUE TO PREEMPTION ***\n");
        std::fs::write(dir.path().join("slurm-7.out"), text).unwrap();
        std::fs::write(dir.path().join("slurm-8.out"), "").unwrap();
        let seen = last_words(dir.path(), &job).unwrap();
        assert_eq!((seen.state, seen.source), (JobState::Preempted, "output"));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(?s).{0,300}") { let _ = explain(&text); }
    }
}
