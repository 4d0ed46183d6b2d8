//! One sweep as its run directory shows it.

use crate::curves::{Curve, merge};
use crate::state::{Note, State};
use plan::{Graph, Task};
use record::{AttemptRecord, ContentKey, StartRecord, Status, atomic, layout, verify};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// A sweep: what was asked for, and what each task left behind.
#[derive(Debug, Clone)]
pub struct Sweep {
    pub name: String,
    pub run_dir: PathBuf,
    /// The job file as it was frozen at submit, byte for byte.
    pub job_text: String,
    /// Same for the site; empty for a local run without one.
    pub site_text: String,
    pub graph: Graph,
    /// In the graph's order.
    pub tasks: Vec<TaskRun>,
    /// When this was read, milliseconds since the epoch.
    pub read_ms: i64,
    /// Files that could not be read, one sentence each: shown, never swallowed.
    pub warnings: Vec<String>,
}

/// One task and its attempts.
#[derive(Debug, Clone)]
pub struct TaskRun {
    pub task: Task,
    pub state: State,
    pub detail: String,
    pub job_id: String,
    pub attempts: Vec<AttemptRun>,
    /// The record behind `result.json`, when that holds.
    pub result: Option<AttemptRecord>,
    /// Where the outputs of `result` lie.
    pub out_dir: Option<PathBuf>,
    /// One curve per reported value, over all attempts.
    pub curves: Vec<Curve>,
}

/// One attempt as its files show it.
#[derive(Debug, Clone)]
pub struct AttemptRun {
    pub number: u32,
    pub started: Option<StartRecord>,
    pub record: Option<AttemptRecord>,
}

/// What attempts cost together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    pub wall_s: f64,
    pub cpu_s: f64,
    pub gpu_s: f64,
    pub peak_rss_mb: f64,
    pub attempts: u32,
    /// Attempts without a record: what they used is not known.
    pub unknown: u32,
}

impl Cost {
    pub(crate) fn add(&mut self, other: Cost) {
        self.wall_s += other.wall_s;
        self.cpu_s += other.cpu_s;
        self.gpu_s += other.gpu_s;
        self.peak_rss_mb = self.peak_rss_mb.max(other.peak_rss_mb);
        self.attempts += other.attempts;
        self.unknown += other.unknown;
    }
}

impl Sweep {
    /// Reads `run_dir`. `notes` is the ledger's knowledge by task; a task without a note gets the state that its files
    /// prove. A file of one task that cannot be read becomes a warning, not an error: a report of what is there beats none.
    ///
    /// # Errors
    /// `plan.json` is missing or cannot be read.
    pub fn read(run_dir: &Path, notes: &BTreeMap<ContentKey, Note>, now_ms: i64) -> io::Result<Self> {
        let plan_file = run_dir.join(layout::PLAN);
        let graph: Graph = atomic::read_json(&plan_file)?.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "{} is not there: is {} a sweep's run directory?",
                    plan_file.display(),
                    run_dir.display()
                ),
            )
        })?;
        let mut warnings = Vec::new();
        let tasks = graph
            .tasks
            .iter()
            .map(|task| read_task(run_dir, task, notes.get(&task.key), &mut warnings))
            .collect();
        Ok(Self {
            name: graph.sweep.clone(),
            run_dir: run_dir.to_owned(),
            job_text: read_text(&run_dir.join(layout::JOB), &mut warnings),
            site_text: std::fs::read_to_string(run_dir.join(layout::SITE)).unwrap_or_default(),
            graph,
            tasks,
            read_ms: now_ms,
            warnings,
        })
    }

    /// How many tasks are in each state, in [`State::ALL`]'s order, without zeros.
    #[must_use]
    pub fn counts(&self) -> Vec<(State, usize)> {
        State::ALL
            .into_iter()
            .map(|s| (s, self.tasks.iter().filter(|t| t.state == s).count()))
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    /// Sum over all tasks.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.tasks.iter().fold(Cost::default(), |mut sum, t| {
            sum.add(t.cost());
            sum
        })
    }
}

impl TaskRun {
    /// Sum over the task's attempts.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.attempts.iter().fold(Cost::default(), |mut sum, a| {
            let usage = a.record.as_ref().map(|r| r.usage);
            sum.add(Cost {
                wall_s: usage.map_or(0.0, |u| u.wall_s),
                cpu_s: usage.map_or(0.0, |u| u.cpu_s),
                gpu_s: usage.map_or(0.0, |u| u.gpu_s),
                peak_rss_mb: usage.map_or(0.0, |u| u.peak_rss_mb),
                attempts: 1,
                unknown: u32::from(usage.is_none()),
            });
            sum
        })
    }
}

fn read_text(path: &Path, warnings: &mut Vec<String>) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| {
        warnings.push(format!("cannot read {}: {e}", path.display()));
        String::new()
    })
}

fn read_task(run_dir: &Path, task: &Task, note: Option<&Note>, warnings: &mut Vec<String>) -> TaskRun {
    let dir = layout::task_dir(run_dir, &task.key);
    let numbers = layout::attempts(&dir).unwrap_or_else(|e| {
        warnings.push(format!("cannot list {}: {e}", dir.display()));
        Vec::new()
    });
    let mut attempts = Vec::with_capacity(numbers.len());
    let mut logs = Vec::new();
    for number in numbers {
        let attempt_dir = layout::attempt_dir(&dir, number);
        attempts.push(AttemptRun {
            number,
            started: read_json(&attempt_dir.join(layout::STARTED), warnings),
            record: read_json(&attempt_dir.join(layout::RECORD), warnings),
        });
        match record::event::read(&attempt_dir.join(layout::EVENTS)) {
            Ok((events, _torn)) => logs.push(events),
            Err(e) => warnings.push(format!("cannot read the events of {}: {e}", attempt_dir.display())),
        }
    }
    let whole = match verify::result(&dir, &task.key, verify::Depth::Size) {
        Ok(whole) => Some(whole),
        Err(verify::Problem::NoResult(_)) => None,
        Err(e) => {
            warnings.push(format!("{}: {e}", task.title()));
            None
        }
    };
    let note = note.cloned().unwrap_or_default();
    let proved = proved_state(whole.is_some(), attempts.last());
    let last = attempts.last().and_then(|a| a.record.as_ref());
    let detail = match last {
        _ if !note.detail.is_empty() => note.detail,
        Some(r) if r.status != Status::Ok => r.message.clone(),
        _ => String::new(),
    };
    TaskRun {
        task: task.clone(),
        // Files that prove success beat whatever the ledger remembers (records, not schedulers, say what succeeded).
        state: if proved == State::Succeeded { proved } else { note.state.unwrap_or(proved) },
        detail,
        job_id: note.job_id,
        attempts,
        out_dir: whole.as_ref().map(|w| w.out_dir.clone()),
        result: whole.map(|w| w.record),
        curves: merge(&logs),
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path, warnings: &mut Vec<String>) -> Option<T> {
    atomic::read_json(path).unwrap_or_else(|e| {
        warnings.push(e.to_string());
        None
    })
}

/// The state that files alone prove; everything the scheduler would have to tell is `planned`, `queued` or `running` here.
fn proved_state(whole: bool, last: Option<&AttemptRun>) -> State {
    match last {
        _ if whole => State::Succeeded,
        None => State::Planned,
        Some(AttemptRun { record: Some(r), .. }) => match (r.status, r.class) {
            // ok, but the result does not hold: not a success
            (Status::Ok, _) => State::FinishedUnconfirmed,
            (Status::Checkpointed, _) => State::Checkpointed,
            (Status::Failed, Some(record::FailureClass::Cancelled)) => State::Cancelled,
            (Status::Failed, Some(record::FailureClass::Lost)) => State::Lost,
            (Status::Failed, _) => State::Failed,
        },
        Some(AttemptRun { started: Some(_), .. }) => State::Running,
        Some(_) => State::Queued,
    }
}
