//! `bessemer task run`: the supervisor of one attempt. docs/DESIGN.md, "How one attempt runs".
//!
//! It guards (are the inputs true?), claims (nobody else works here), starts the worker and sees it through, and writes
//! down how it ended. It opens no ledger: everything it knows it leaves as files.

mod child;
mod claim;
mod command;
mod deadline;
mod gpu;
mod guard;
mod memory;
mod outputs;
mod reserve;
mod scratch;
mod signals;
mod verdict;

use child::{Ended, Patience};
use claim::{Claimed, JobIdentity};
use record::verify::{self, Depth, Problem};
use record::{
    AttemptRecord, FailureClass, Outcome, Params, ResultPointer, StartRecord, Status, TaskSpec, Usage,
    atomic, exit, key, layout,
};
use reserve::Reserve;
use scratch::Scratch;
use signals::Signals;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use verdict::{End, Verdict};

/// A line in the attempt's log, with the time in UTC.
fn say(text: &str) {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ");
    // a full disk must not end the supervisor: the record matters more than the log
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{now} bessemer: {text}\n").as_bytes());
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Runs the attempt that `task_json` describes; the exit code is the supervisor's.
pub fn run(task_json: &Path) -> i32 {
    let code = supervise(task_json);
    say(&format!("exit {code} ({})", exit::meaning(code)));
    code
}

fn supervise(task_json: &Path) -> i32 {
    // before anything else: from here on a signal waits for us instead of killing us
    let signals = match child::listen() {
        Ok(s) => s,
        Err(e) => return fail(exit::SETUP_FAILED, &format!("cannot set up signals: {e}")),
    };
    let spec = match TaskSpec::read(task_json) {
        Ok(s) => s,
        Err(why) => return fail(exit::SETUP_FAILED, &why),
    };
    let me = JobIdentity::from_env(env);
    say(&format!(
        "attempt {} of {}{} (task {}), {} on {}",
        spec.attempt,
        spec.phase,
        labels(&spec),
        spec.key,
        if me.job_id.is_empty() { "no scheduler".to_owned() } else { format!("job {}", me.job_id) },
        me.host,
    ));
    let mut broken = None;
    // a service has no result: it is done whenever nobody needs it
    if !spec.work.kind().is_service() {
        match verify::result(&spec.task_dir, &spec.key, Depth::Size) {
            Ok(w) => {
                say(&format!(
                    "nothing to do: attempt {} has succeeded, its outputs are there",
                    w.pointer.attempt
                ));
                return exit::DONE;
            }
            Err(Problem::NoResult(_)) => {}
            Err(p) => broken = Some(p),
        }
    }
    let mut start = match claim::claim(&spec, &me, record::now_ms()) {
        Ok(Claimed::New(s)) => s,
        Ok(Claimed::TakenOver(s)) => {
            say(&format!("taking over from the run before the requeue (restart {})", s.restart));
            if let Err(why) = forget_earlier_run(&spec) {
                return fail(exit::SETUP_FAILED, &why);
            }
            s
        }
        Ok(Claimed::Refused(why)) => return fail(exit::TRY_AGAIN, &why),
        Err(e) => return fail(exit::SETUP_FAILED, &format!("cannot claim the attempt: {e}")),
    };
    if let Some(p) = broken {
        // result.json is published once: working now would be for nothing, and hiding the damage worse
        let why =
            format!("this task has a result that does not hold: {p}. Try: bessemer verify {}", spec.sweep);
        return end_early(&spec, &start, FailureClass::Error, why);
    }
    let reserve = match Reserve::take(&spec.attempt_dir) {
        Ok(r) => r,
        Err(e) => {
            let why = format!("no room for the record in {}: {e}", spec.attempt_dir.display());
            return end_early(&spec, &start, FailureClass::Setup, why);
        }
    };
    let ended = attempt(&spec, &mut start, &me, &signals);
    finish(&spec, &start, ended, reserve)
}

fn fail(code: i32, why: &str) -> i32 {
    say(why);
    code
}

fn labels(spec: &TaskSpec) -> String {
    spec.labels.iter().fold(String::new(), |s, (k, v)| match v {
        serde_json::Value::String(v) => format!("{s} {k}={v}"),
        v => format!("{s} {k}={v}"),
    })
}

/// After a requeue the same directory is used again: an outcome or outputs of the earlier run must not count as ours.
/// Checkpoints and events stay.
fn forget_earlier_run(spec: &TaskSpec) -> Result<(), String> {
    outputs::clear(&spec.attempt_dir.join(layout::OUT))?;
    for name in [layout::OUTCOME, layout::RECORD] {
        let path = spec.attempt_dir.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("cannot remove {} of an earlier run: {e}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What `finish` needs to know about the attempt's work.
struct Attempted {
    verdict: Verdict,
    ended: Ended,
    outcome: Option<Outcome>,
}

impl Attempted {
    fn not(class: FailureClass, message: String) -> Self {
        let verdict = Verdict { status: Status::Failed, class: Some(class), message };
        Self { verdict, ended: Ended::default(), outcome: None }
    }
}

/// Guard, preflight, worker.
fn attempt(spec: &TaskSpec, start: &mut StartRecord, me: &JobIdentity, signals: &Signals) -> Attempted {
    let inputs = match guard::inputs(spec) {
        Ok(i) => i,
        Err(why) => return Attempted::not(FailureClass::UpstreamMissing, why),
    };
    let sources = match guard::sources(spec) {
        Ok(s) => s,
        Err(why) => return Attempted::not(FailureClass::UpstreamMissing, why),
    };
    // the locks in `gpus` are held until the worker has left
    let gpus = match gpu::look(spec.resources.gpus, env) {
        Ok(g) => g,
        Err(why) => return Attempted::not(FailureClass::NodeUnfit, format!("{why} (node {})", me.host)),
    };
    if !gpus.uuids.is_empty() {
        start.gpus.clone_from(&gpus.uuids);
        if let Err(e) = claim::amend(spec, start) {
            return Attempted::not(FailureClass::Setup, format!("cannot write the claim: {e}"));
        }
    }
    let mut command = match command::prepare(spec, &inputs, &sources, env) {
        Ok(c) => c,
        Err((class, why)) => return Attempted::not(class, why),
    };
    if let Some(v) = &gpus.visible {
        command.env("CUDA_VISIBLE_DEVICES", v);
    }
    let scratch = env(scratch::VARIABLE).filter(|p| !p.is_empty()).and_then(|p| {
        // without it the worker has the node's usual place for temporary files
        let made = Scratch::take(Path::new(&p));
        made.inspect_err(|e| say(&format!("no scratch directory of its own: {e}"))).ok()
    });
    command.env_remove(scratch::VARIABLE);
    if let Some(s) = &scratch {
        command.env("TMPDIR", s.path());
    }
    let patience = patience(spec, me);
    say(&format!("starting {}", command.get_program().to_string_lossy()));
    // an unreadable claim (a file server that is away) is no reason to stop: the end will tell
    let ours = || claim::still_ours(spec, start).unwrap_or(true);
    let ended = match child::run(command, signals, patience, &ours) {
        Ok(e) => e,
        Err(e) => return Attempted::not(FailureClass::Setup, command::cannot_start(spec, &e)),
    };
    if ended.leftovers > 0 {
        say(&format!("killed {} processes that the worker left behind", ended.leftovers));
    }
    let outcome: Result<Option<Outcome>, String> =
        atomic::read_json(&spec.attempt_dir.join(layout::OUTCOME)).map_err(|e| e.to_string());
    let verdict = verdict::judge(&End {
        exit_code: ended.exit_code,
        signal: ended.signal,
        stop: ended.stop,
        killed: ended.killed,
        outcome: outcome.clone(),
        command: matches!(spec.work, Params::Command(_)),
        missing: command::missing_outputs(spec),
        oom_kills: ended.oom_kills,
        peak_bytes: ended.peak_tree,
        memory_mb: spec.resources.memory_mb,
    });
    Attempted { verdict, ended, outcome: outcome.ok().flatten() }
}

/// The walltime has been running since the job began, which is before the site's set-up lines.
fn patience(spec: &TaskSpec, me: &JobIdentity) -> Patience {
    let walltime = Duration::from_secs(spec.resources.walltime_s);
    let seconds = |name: &str| env(name).and_then(|v| v.trim().parse::<u64>().ok());
    // the job script is our parent, and is as old as the job
    let script_age = env("BESSEMER_JOB_ID")
        .filter(|id| !id.is_empty())
        .and_then(|_| claim::age_s(std::os::unix::process::parent_id()))
        .unwrap_or(0.0);
    let mut already = Duration::from_secs_f64(script_age).min(walltime);
    if let Some(end) = seconds("SLURM_JOB_END_TIME").map(Duration::from_secs) {
        let now = Duration::from_millis(u64::try_from(record::now_ms()).unwrap_or(0));
        if end > now && end - now < walltime {
            already = already.max(walltime - (end - now));
        }
    }
    // Slurm kills 30 s after its TERM (KillWait), PBS 5 to 10 s after
    let term_grace = seconds("BESSEMER_TERM_GRACE_S").unwrap_or(if me.pbs { 4 } else { 20 });
    Patience {
        deadline: deadline::Deadline::new(walltime, Duration::from_secs(spec.margin_s)),
        already,
        term_grace: Duration::from_secs(term_grace),
        fence: Duration::from_secs(seconds("BESSEMER_FENCE_S").unwrap_or(15).max(1)),
    }
}

/// Writes down how it ended: outputs made durable, `record.json`, then (on success) `result.json`.
fn finish(spec: &TaskSpec, start: &StartRecord, mut done: Attempted, reserve: Reserve) -> i32 {
    match claim::still_ours(spec, start) {
        Ok(true) => {}
        Ok(false) => {
            // a requeued copy owns the directory: not a word of ours may go into it
            return fail(
                exit::TRY_AGAIN,
                "another run of this job has taken over meanwhile; leaving it alone",
            );
        }
        Err(e) => return fail(exit::FAILED, &format!("the claim cannot be read any more: {e}")),
    }
    let mut files = Vec::new();
    if done.verdict.status == Status::Ok {
        match outputs::seal(&spec.attempt_dir.join(layout::OUT)) {
            Ok(f) => files = f,
            Err(why) => {
                done.verdict =
                    Verdict { status: Status::Failed, class: Some(FailureClass::Error), message: why };
            }
        }
    }
    reserve.release();
    let record = record_of(spec, start, &done, files);
    let code = done.verdict.exit_code();
    match write_record(spec, &record) {
        Ok(()) => {}
        Err(e) => return fail(exit::FAILED, &format!("cannot write the record, the attempt is lost: {e}")),
    }
    let class = record.class.map_or(String::new(), |c| format!(" ({c:?})"));
    let text = if record.message.is_empty() { String::new() } else { format!(": {}", record.message) };
    say(&format!(
        "{}{class}{text}; {:.1} s wall, {:.1} s CPU, {:.0} MB peak",
        match record.status {
            Status::Ok => "done",
            Status::Checkpointed => "checkpointed",
            Status::Failed => "failed",
        },
        record.usage.wall_s,
        record.usage.cpu_s,
        record.usage.peak_rss_mb,
    ));
    code
}

/// A failure before the worker could be thought of, and before there was a reserve.
fn end_early(spec: &TaskSpec, start: &StartRecord, class: FailureClass, why: String) -> i32 {
    let done = Attempted::not(class, why);
    say(&done.verdict.message);
    // perhaps there is room for a small file yet; if not, the log has it
    let _ = write_record(spec, &record_of(spec, start, &done, vec![]));
    done.verdict.exit_code()
}

fn record_of(
    spec: &TaskSpec,
    start: &StartRecord,
    done: &Attempted,
    outputs: Vec<record::OutputFile>,
) -> AttemptRecord {
    let (metrics, facts) =
        done.outcome.as_ref().map_or((vec![], BTreeMap::new()), |o| (o.metrics.clone(), o.facts.clone()));
    #[allow(clippy::cast_precision_loss)]
    let usage = Usage {
        wall_s: done.ended.wall_s,
        cpu_s: done.ended.cpu_s,
        peak_rss_mb: done.ended.peak_rss as f64 / 1e6,
        gpu_s: done.ended.wall_s * f64::from(spec.resources.gpus),
    };
    AttemptRecord {
        format: record::FORMAT,
        token: spec.token.clone(),
        key: spec.key.clone(),
        attempt: spec.attempt,
        status: done.verdict.status,
        class: done.verdict.class,
        message: done.verdict.message.clone(),
        exit_code: done.ended.exit_code,
        signal: done.ended.signal,
        job_id: start.job_id.clone(),
        restart: start.restart,
        host: start.host.clone(),
        gpus: start.gpus.clone(),
        started_ms: start.at_ms,
        ended_ms: record::now_ms(),
        usage,
        outputs,
        metrics,
        facts,
        checkpoint_step: checkpoint_step(&spec.task_dir),
        program: format!("bessemer {}", env!("CARGO_PKG_VERSION")),
    }
}

/// Largest step of any attempt's checkpoints: a checkpoint directory gets its name by rename when it is whole.
fn checkpoint_step(task_dir: &Path) -> Option<u64> {
    let attempts = layout::attempts(task_dir).ok()?;
    let steps = attempts.into_iter().filter_map(|n| {
        let dir = std::fs::read_dir(layout::attempt_dir(task_dir, n).join(layout::CKPT)).ok()?;
        dir.filter_map(|e| e.ok()?.file_name().to_str()?.strip_prefix("step-")?.parse::<u64>().ok()).max()
    });
    steps.max()
}

fn write_record(spec: &TaskSpec, record: &AttemptRecord) -> std::io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(record).map_err(std::io::Error::other)?;
    bytes.push(b'\n');
    atomic::write(&spec.attempt_dir.join(layout::RECORD), &bytes)?;
    if record.status != Status::Ok || spec.work.kind().is_service() {
        return Ok(());
    }
    let pointer = ResultPointer {
        format: record::FORMAT,
        key: spec.key.clone(),
        attempt: spec.attempt,
        token: spec.token.clone(),
        record_sha256: key::sha256_hex(&bytes),
    };
    let bytes = serde_json::to_vec_pretty(&pointer).map_err(std::io::Error::other)?;
    if !atomic::publish_once(&spec.task_dir.join(layout::RESULT), &bytes)? {
        say("another attempt had published its result first; these outputs are not used");
    }
    Ok(())
}

/// The worker program that attempts started by this program would use.
///
/// # Errors
/// A sentence with the way out.
pub fn worker_program() -> Result<std::path::PathBuf, String> {
    command::worker(&env)
}

pub use claim::{boot_id, pid_start};
