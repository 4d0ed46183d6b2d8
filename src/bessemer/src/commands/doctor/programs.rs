//! Programs that sweeps need: the worker with its libtorch, Python, the GPU driver.

use super::Finding;
use crate::supervise;
use cluster::runner::Real;
use cluster::site::{Flavor, Scheduler, Site};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How a program answered.
enum Answer {
    /// Exit code, standard output, standard error.
    Said(i32, String, String),
    Missing,
    Hung,
    Failed(String),
}

fn ask(program: impl AsRef<OsStr>, args: &[&str]) -> Answer {
    let started =
        duct::cmd(program.as_ref(), args).stdin_null().stdout_capture().stderr_capture().unchecked().start();
    let handle = match started {
        Ok(h) => h,
        Err(e) if e.kind() == ErrorKind::NotFound => return Answer::Missing,
        Err(e) => return Answer::Failed(e.to_string()),
    };
    match handle.wait_timeout(Duration::from_secs(60)) {
        Ok(Some(o)) => Answer::Said(
            o.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&o.stdout).into_owned(),
            String::from_utf8_lossy(&o.stderr).into_owned(),
        ),
        Ok(None) => {
            let _ = handle.kill();
            Answer::Hung
        }
        Err(e) => Answer::Failed(e.to_string()),
    }
}

/// The worker links libtorch: only it can say what is there.
pub fn worker() -> Finding {
    let path = match supervise::worker_program() {
        Ok(p) => p,
        Err(why) => {
            return Finding::bad("worker", "no worker program", format!("{why}. In a checkout: make worker"));
        }
    };
    let again = "build it again (make worker); it must find the libtorch it was built with";
    let shown = path.display();
    match ask(&path, &["doctor", "--json"]) {
        Answer::Said(0, out, _) => match serde_json::from_str::<Value>(&out) {
            Ok(facts) => Finding::ok("worker", format!("{} ({shown})", sentence(&facts))).facts(facts),
            Err(e) => Finding::bad("worker", format!("{shown} gave an answer that is not JSON: {e}"), again),
        },
        Answer::Said(code, out, err) => {
            let said =
                [err.trim(), out.trim()].into_iter().find(|s| !s.is_empty()).unwrap_or("nothing").to_owned();
            let last = said.lines().last().unwrap_or_default();
            Finding::bad("worker", format!("{shown} ended with exit code {code}: {last}"), again)
        }
        Answer::Hung => Finding::bad("worker", format!("{shown} gave no answer within a minute"), again),
        Answer::Missing => Finding::bad("worker", format!("{shown} is not there"), again),
        Answer::Failed(e) => Finding::bad("worker", format!("{shown} cannot be started: {e}"), again),
    }
}

fn sentence(facts: &Value) -> String {
    let text = |name: &str| facts[name].as_str().unwrap_or("?").to_owned();
    let gpus = facts["gpus"].as_i64().unwrap_or(0);
    let cuda = match (facts["cuda_library"].as_bool(), gpus) {
        (_, n) if n > 0 => format!("{n} GPUs"),
        (Some(true), _) => "CUDA part present, no GPU here".into(),
        _ => "CPU only".into(),
    };
    format!("libtorch {}, {} threads, {}, {cuda}", text("libtorch"), facts["threads"], text("cpu_capability"))
}

/// Answers of models are Python programs.
pub fn python() -> Finding {
    let advice = "install python3 (3.8 or newer), or load its module in the site's setup lines: without it no answer can \
                  be executed, and everything stays unscored";
    match ask("python3", &["-I", "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"]) {
        Answer::Said(0, out, _) => {
            let version = out.trim().to_owned();
            let minor = version.split('.').nth(1).and_then(|m| m.parse::<u32>().ok());
            if version.starts_with("3.") && minor.is_some_and(|m| m >= 8) {
                Finding::ok("python3", version)
            } else {
                Finding::bad("python3", format!("version {version} is too old"), advice)
            }
        }
        Answer::Missing => Finding::bad("python3", "not found", advice),
        Answer::Said(code, _, err) => {
            Finding::bad("python3", format!("ended with exit code {code}: {}", err.trim()), advice)
        }
        Answer::Hung => Finding::bad("python3", "gave no answer within a minute", advice),
        Answer::Failed(e) => Finding::bad("python3", e, advice),
    }
}

/// No GPU is no fault: login nodes have none. A driver that does not answer is one.
pub fn gpus() -> Finding {
    match ask("nvidia-smi", &["--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader"]) {
        Answer::Missing => Finding::ok("gpu", "none here (no nvidia-smi)"),
        Answer::Said(0, out, _) if !out.trim().is_empty() => {
            let list: Vec<&str> = out.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
            Finding::ok("gpu", list.join("; ")).facts(&list)
        }
        Answer::Said(_, out, err) => {
            let said = format!("{} {}", out.trim(), err.trim());
            Finding::warn(
                "gpu",
                format!("nvidia-smi sees none: {}", said.trim()),
                "GPU tasks need a node whose driver works",
            )
        }
        Answer::Hung => Finding::bad(
            "gpu",
            "nvidia-smi hangs",
            "a GPU or its driver is stuck: tell the administrators, exclude this node",
        ),
        Answer::Failed(e) => {
            Finding::warn("gpu", format!("nvidia-smi: {e}"), "GPU tasks need a node whose driver works")
        }
    }
}

/// A machine without one runs sweeps itself.
pub fn scheduler() -> Finding {
    let runner = Arc::new(Real::default());
    let found = match cluster::probe::detect(runner.as_ref()) {
        Ok(d) => d,
        Err(_) => return Finding::ok("scheduler", "none here: `bessemer run` uses this machine alone"),
    };
    let flavor = match found.flavor {
        Some(Flavor::PbsPro) => "flavor: pbspro\n",
        Some(Flavor::Torque) => "flavor: torque\n",
        None => "",
    };
    let kind = if found.scheduler == Scheduler::Pbs { "pbs" } else { "slurm" };
    let text = format!("bessemer_site: 1\nname: here\nscheduler: {kind}\n{flavor}");
    let answer = Site::load(Path::new("doctor"), &text)
        .map_err(|e| e.to_string())
        .and_then(|site| cluster::open(&site, runner).ping());
    match answer {
        Ok(line) => Finding::ok("scheduler", if line.is_empty() { found.version } else { line }),
        Err(why) => Finding::bad(
            "scheduler",
            format!("{}, but it does not answer: {why}", found.version),
            "wait, or tell the administrators; nothing is lost: `bessemer resume` goes on when it is back",
        ),
    }
}
