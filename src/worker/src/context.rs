//! What every kind of work shares: the task, its inputs, the event log, the wish to stop, the last word.

use crate::tensorboard::Curves;
use anyhow::{Context as _, Result};
use record::event::EventLog;
use record::{
    AttemptRecord, Event, FailureClass, Input, MetricRow, Outcome, ResultPointer, StartRecord, Status,
    TaskSpec, atomic, checkpoint, layout,
};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};

/// Directory below the attempt's with the same curves for TensorBoard.
pub const CURVES: &str = "tensorboard";

/// A failure with its class, to be thrown through `anyhow`: `return Err(Failure::user("...").into())`.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub class: FailureClass,
    pub message: String,
}

impl Failure {
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }

    /// The job file or the data is wrong; trying again cannot help.
    pub fn user(message: impl Into<String>) -> Self {
        Self::new(FailureClass::UserError, message)
    }

    pub fn upstream(message: impl Into<String>) -> Self {
        Self::new(FailureClass::UpstreamMissing, message)
    }
}

/// How a kind ended when nothing failed.
#[derive(Debug)]
pub enum Ending {
    /// Outputs are whole under [`Context::out`].
    Done(Report),
    /// Stopped on request with a checkpoint (exit code 85).
    Checkpointed(String),
}

/// What goes into the outcome of a finished task.
#[derive(Debug, Default)]
pub struct Report {
    pub message: String,
    pub metrics: Vec<MetricRow>,
    pub facts: BTreeMap<String, serde_json::Value>,
}

/// Why to stop now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGUSR2, SIGTERM or SIGINT, by number.
    Signal(i32),
    /// The walltime less its margin is over.
    Deadline,
    /// `--stop-after` steps are done.
    Steps,
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stop::Signal(n) => write!(f, "signal {n}"),
            Stop::Deadline => f.write_str("the walltime ends soon"),
            Stop::Steps => f.write_str("--stop-after was reached"),
        }
    }
}

/// Last stop signal, 0 for none. Set by the handler, read between steps.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(number: libc::c_int) {
    SIGNAL.store(number, Ordering::Relaxed);
}

/// Turns SIGUSR2, SIGTERM and SIGINT into "stop between two steps". Call once, before any thread is started.
pub fn catch_stop_signals() {
    for number in [libc::SIGUSR2, libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe. SA_RESTART keeps system calls of
        // the libraries from failing with EINTR.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(number, &action, std::ptr::null_mut());
        }
    }
}

/// One running attempt, as its worker sees it.
pub struct Context {
    pub spec: TaskSpec,
    log: EventLog,
    curves: Curves,
    /// `--stop-after`: steps (optimizer steps, episodes, problems) of *this* process before it checkpoints and leaves.
    pub stop_after: Option<u64>,
    deadline_ms: i64,
    steps: Cell<u64>,
}

impl Context {
    /// Reads `task.json`, opens the event log, makes `out/`.
    ///
    /// # Errors
    /// [`Failure`] of class `UserError` (a bad spec) or `Setup` (a directory that cannot be written).
    pub fn open(task_json: &Path, stop_after: Option<u64>) -> Result<Self> {
        let spec = TaskSpec::read(task_json).map_err(Failure::user)?;
        let setup = |e: std::io::Error, path: &Path| {
            Failure::new(FailureClass::Setup, format!("cannot write {}: {e}", path.display()))
        };
        let out = spec.attempt_dir.join(layout::OUT);
        std::fs::create_dir_all(&out).map_err(|e| setup(e, &out))?;
        let events = spec.attempt_dir.join(layout::EVENTS);
        let log = EventLog::append(&events).map_err(|e| setup(e, &events))?;
        let deadline_ms = deadline(&spec);
        let curves = Curves::new(&spec.attempt_dir.join(CURVES));
        Ok(Self { spec, log, curves, stop_after, deadline_ms, steps: Cell::new(0) })
    }

    /// The attempt's output directory; it exists.
    #[must_use]
    pub fn out(&self) -> PathBuf {
        self.spec.attempt_dir.join(layout::OUT)
    }

    /// Checkpoints of this task; keeps the last two of this attempt.
    #[must_use]
    pub fn checkpoints(&self) -> checkpoint::Store {
        checkpoint::Store {
            key: self.spec.key.clone(),
            task_dir: self.spec.task_dir.clone(),
            attempt_dir: self.spec.attempt_dir.clone(),
            keep: 2,
        }
    }

    /// Output directory of the one task under `role`.
    ///
    /// # Errors
    /// [`Failure`] `UpstreamMissing`; `UserError` when the role is absent or has several tasks.
    pub fn input(&self, role: &str) -> Result<PathBuf> {
        let sources = self.spec.sources.get(role).map_or(&[][..], Vec::as_slice);
        match (self.spec.inputs.get(role).map(Vec::as_slice), sources) {
            (Some([one]), []) => outputs_of(one),
            (None, [one]) => self.source(one),
            (Some(many), more) => {
                let n = many.len() + more.len();
                Err(Failure::user(format!("input {role}: wanted one task, got {n}")).into())
            }
            (None, [_, ..]) => {
                Err(Failure::user(format!("input {role}: wanted one, got {}", sources.len())).into())
            }
            (None, []) => Err(Failure::user(format!(
                "input {role} is missing: write `inputs: {{{role}: PHASE}}` in phase {}",
                self.spec.phase
            ))
            .into()),
        }
    }

    /// Like [`Self::input`], `None` when the role is absent.
    ///
    /// # Errors
    /// As [`Self::input`].
    pub fn optional_input(&self, role: &str) -> Result<Option<PathBuf>> {
        let there = self.spec.inputs.contains_key(role) || self.spec.sources.contains_key(role);
        if there { self.input(role).map(Some) } else { Ok(None) }
    }

    /// Where something that no phase made is on this node: a snapshot of the Hub, a file of the user's.
    ///
    /// # Errors
    /// [`Failure`] `UpstreamMissing` with what to type on a login node.
    pub fn source(&self, source: &record::Source) -> Result<PathBuf> {
        Ok(hub::locate::source(source, |name| std::env::var(name).ok()).map_err(Failure::upstream)?)
    }

    /// Progress with values, one line of `events.jsonl` and one record for TensorBoard.
    ///
    /// # Errors
    /// I/O errors.
    pub fn step<'a>(
        &mut self,
        step: u64,
        of: Option<u64>,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<()> {
        let values: Vec<(&str, f64)> = values.into_iter().collect();
        self.curves.scalars(step, &values)?;
        Ok(self.log.step(step, of, values)?)
    }

    /// A line for people.
    ///
    /// # Errors
    /// I/O errors.
    pub fn note(&mut self, text: impl Into<String>) -> Result<()> {
        let text = text.into();
        eprintln!("{text}");
        Ok(self.log.push(&Event {
            at: record::now_ms(),
            step: None,
            of: None,
            values: BTreeMap::new(),
            note: Some(text),
        })?)
    }

    /// Counts one step of this process (for `--stop-after`).
    pub fn count_step(&self) {
        self.steps.set(self.steps.get() + 1);
    }

    /// Whether to checkpoint and leave; ask between steps.
    #[must_use]
    pub fn stop(&self) -> Option<Stop> {
        match SIGNAL.load(Ordering::Relaxed) {
            0 => {}
            n => return Some(Stop::Signal(n)),
        }
        if record::now_ms() >= self.deadline_ms {
            return Some(Stop::Deadline);
        }
        self.stop_after.is_some_and(|n| self.steps.get() >= n).then_some(Stop::Steps)
    }

    /// [`Self::stop`] for other threads that wait for something, without `--stop-after`.
    pub fn stopper(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let deadline_ms = self.deadline_ms;
        move || SIGNAL.load(Ordering::Relaxed) != 0 || record::now_ms() >= deadline_ms
    }

    /// Writes `outcome.json` and gives the exit code that goes with it.
    ///
    /// # Errors
    /// I/O errors of the write.
    pub fn finish(&mut self, result: Result<Ending>) -> Result<i32> {
        let outcome = match result {
            Ok(Ending::Done(r)) => Outcome {
                format: record::FORMAT,
                status: Status::Ok,
                class: None,
                message: r.message,
                metrics: r.metrics,
                facts: r.facts,
            },
            Ok(Ending::Checkpointed(message)) => failure(Status::Checkpointed, None, message),
            Err(e) => failure(Status::Failed, Some(class_of(&e)), words(&e)),
        };
        let path = self.spec.attempt_dir.join(layout::OUTCOME);
        atomic::write_json(&path, &outcome).context("cannot write the outcome")?;
        if outcome.status != Status::Ok {
            eprintln!("{}", outcome.message);
        }
        Ok(exit_code(&outcome))
    }
}

fn failure(status: Status, class: Option<FailureClass>, message: String) -> Outcome {
    Outcome { format: record::FORMAT, status, class, message, metrics: Vec::new(), facts: BTreeMap::new() }
}

/// The error and its causes, each once: many errors quote their cause.
fn words(e: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in e.chain().map(ToString::to_string).filter(|c| !c.is_empty()) {
        if said.is_empty() {
            said = cause;
        } else if !said.ends_with(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

/// The class of an error: its [`Failure`] if one is in the chain, out-of-memory by libtorch's words, else `Error`.
#[must_use]
pub fn class_of(e: &anyhow::Error) -> FailureClass {
    if let Some(f) = e.chain().find_map(|c| c.downcast_ref::<Failure>()) {
        return f.class;
    }
    // a row of the user's data, or a limit: trying again cannot help
    let training = |c: &train::Error| {
        matches!(c, train::Error::Row { .. } | train::Error::Model(model::Error::Limit(_)))
    };
    let of_user = |c: &(dyn std::error::Error + 'static)| {
        c.downcast_ref().is_some_and(training) || matches!(c.downcast_ref(), Some(model::Error::Limit(_)))
    };
    if e.chain().any(of_user) {
        return FailureClass::UserError;
    }
    if train::sft::is_out_of_memory(&format!("{e:#}")) {
        return FailureClass::OutOfMemory;
    }
    FailureClass::Error
}

/// The exit code that says the same as the outcome (`record::exit`).
#[must_use]
pub fn exit_code(outcome: &Outcome) -> i32 {
    use record::exit;
    match (outcome.status, outcome.class) {
        (Status::Ok, _) => exit::DONE,
        (Status::Checkpointed, _) => exit::CHECKPOINTED,
        (Status::Failed, Some(class)) => match class {
            FailureClass::UserError => exit::USER_ERROR,
            FailureClass::OutOfMemory => exit::OUT_OF_MEMORY,
            FailureClass::TryAgain => exit::TRY_AGAIN,
            FailureClass::UpstreamMissing => exit::UPSTREAM_MISSING,
            FailureClass::Setup => exit::SETUP_FAILED,
            FailureClass::NodeUnfit => exit::NODE_UNFIT,
            _ => exit::FAILED,
        },
        (Status::Failed, None) => exit::FAILED,
    }
}

/// Output directory of an upstream task, by its `result.json`, after checking the record's hash and the files' sizes.
pub(crate) fn outputs_of(input: &Input) -> Result<PathBuf> {
    let missing = |what: String| Failure::upstream(format!("input from phase {}: {what}", input.phase));
    let path = input.task_dir.join(layout::RESULT);
    let pointer: ResultPointer = atomic::read_json(&path)
        .map_err(|e| missing(e.to_string()))?
        .ok_or_else(|| missing(format!("{} is not there: the task has not succeeded", path.display())))?;
    if pointer.key != input.key {
        return Err(
            missing(format!("{} is of task {}, wanted {}", path.display(), pointer.key, input.key)).into()
        );
    }
    let dir = layout::attempt_dir(&input.task_dir, pointer.attempt);
    let record_path = dir.join(layout::RECORD);
    let bytes = std::fs::read(&record_path)
        .map_err(|e| missing(format!("cannot read {}: {e}", record_path.display())))?;
    if record::key::sha256_hex(&bytes) != pointer.record_sha256 {
        return Err(missing(format!("{} was changed after the task ended", record_path.display())).into());
    }
    let record: AttemptRecord = serde_json::from_slice(&bytes)
        .map_err(|e| missing(format!("{} is malformed: {e}", record_path.display())))?;
    if record.status != Status::Ok {
        return Err(missing(format!("{} says {:?}", record_path.display(), record.status)).into());
    }
    let out = dir.join(layout::OUT);
    for file in &record.outputs {
        let path = out.join(&file.path);
        let size = std::fs::metadata(&path)
            .map(|m| m.len())
            .map_err(|e| missing(format!("{}: {e}", path.display())))?;
        if size != file.bytes {
            return Err(missing(format!(
                "{} has {size} bytes, the record says {}",
                path.display(),
                file.bytes
            ))
            .into());
        }
    }
    Ok(out)
}

/// When to stop by ourselves: the job's start plus the walltime, less the margin. The supervisor signals at the same
/// moment; this is the second guard. The job's start is the scheduler's word where it gives one: waiting for a file
/// system or an image before us counts too.
fn deadline(spec: &TaskSpec) -> i64 {
    let started = std::env::var("SLURM_JOB_START_TIME")
        .ok()
        .and_then(|s| s.parse::<i64>().ok())
        .map(|s| s * 1000)
        .or_else(|| {
            let path = spec.attempt_dir.join(layout::STARTED);
            atomic::read_json::<StartRecord>(&path).ok().flatten().map(|s| s.at_ms)
        })
        .unwrap_or_else(record::now_ms);
    let walltime = spec.resources.walltime_s;
    // a margin longer than the walltime is a slip in the site file; then half of the time is work
    let work = if spec.margin_s < walltime { walltime - spec.margin_s } else { walltime / 2 };
    started.saturating_add(i64::try_from(work).unwrap_or(i64::MAX / 2000).saturating_mul(1000))
}
