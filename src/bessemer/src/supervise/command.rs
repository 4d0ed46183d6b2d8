//! What to start: the worker program, or the user's own for kind `command`.

use record::params::CommandParams;
use record::verify::Whole;
use record::{FailureClass, Params, TaskSpec, layout};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Environment variable that names the worker program.
pub const WORKER: &str = "BESSEMER_WORKER";

/// The command with its directory and environment; `out/` exists afterwards.
///
/// # Errors
/// Class and sentence.
pub fn prepare(
    spec: &TaskSpec,
    inputs: &[(String, Vec<Whole>)],
    sources: &[(String, Vec<PathBuf>)],
    env: impl Fn(&str) -> Option<String>,
) -> Result<Command, (FailureClass, String)> {
    let out = spec.attempt_dir.join(layout::OUT);
    std::fs::create_dir_all(&out)
        .map_err(|e| (FailureClass::Setup, format!("cannot create {}: {e}", out.display())))?;
    let mut command = match &spec.work {
        Params::Command(p) => users(p, spec, inputs, sources, &out)?,
        _ => {
            let mut c = Command::new(worker(&env).map_err(|why| (FailureClass::Setup, why))?);
            c.arg("run").arg(spec.attempt_dir.join(layout::TASK)).current_dir(&spec.attempt_dir);
            c
        }
    };
    command.stdin(Stdio::null());
    command
        .env("BESSEMER_TASK_DIR", &spec.task_dir)
        .env("BESSEMER_ATTEMPT_DIR", &spec.attempt_dir)
        .env("BESSEMER_ATTEMPT", spec.attempt.to_string())
        .env("BESSEMER_EVENTS", spec.attempt_dir.join(layout::EVENTS));
    // libraries take every core of the node otherwise, and two tasks on one node would fight; a fixed number also
    // keeps sums in the same order from run to run
    for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"] {
        if env(name).is_none() {
            command.env(name, spec.resources.cpus.max(1).to_string());
        }
    }
    Ok(command)
}

fn users(
    p: &CommandParams,
    spec: &TaskSpec,
    inputs: &[(String, Vec<Whole>)],
    sources: &[(String, Vec<PathBuf>)],
    out: &Path,
) -> Result<Command, (FailureClass, String)> {
    let Some((program, args)) = p.argv.split_first() else {
        return Err((FailureClass::UserError, "params.argv is empty: name a program".into()));
    };
    let mut c = Command::new(program);
    c.args(args).current_dir(out);
    let mut roles: BTreeMap<&str, Vec<&Path>> = BTreeMap::new();
    for (role, wholes) in inputs {
        roles.entry(role).or_default().extend(wholes.iter().map(|w| w.out_dir.as_path()));
    }
    for (role, paths) in sources {
        roles.entry(role).or_default().extend(paths.iter().map(PathBuf::as_path));
    }
    for (role, paths) in roles {
        let name = variable("INPUT", role);
        // one input is the common case: its directory; of several, each has a number from 1
        if let [only] = paths.as_slice() {
            c.env(&name, only);
        }
        for (i, path) in paths.iter().enumerate() {
            c.env(format!("{name}_{}", i + 1), path);
        }
    }
    // the directory, not the address: a service that is started again has another one
    c.envs(spec.services.iter().map(|(role, at)| (variable("SERVICE", role), &at.task_dir)));
    c.envs(&p.env);
    Ok(c)
}

/// `BESSEMER_<OF>_<ROLE>`: upper case, everything but letters and digits becomes an underscore.
fn variable(of: &str, role: &str) -> String {
    let role: String =
        role.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    format!("BESSEMER_{of}_{role}")
}

/// The worker program: what `BESSEMER_WORKER` says, else `bessemer-worker` beside this program.
///
/// # Errors
/// A sentence with the way out.
pub fn worker(env: &impl Fn(&str) -> Option<String>) -> Result<PathBuf, String> {
    if let Some(path) = env(WORKER).filter(|p| !p.is_empty()) {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!("{WORKER} says {}, but there is no such program", path.display()))
        };
    }
    let me = std::env::current_exe().map_err(|e| format!("cannot find out where this program lies: {e}"))?;
    let beside = me.with_file_name("bessemer-worker");
    if beside.is_file() {
        return Ok(beside);
    }
    Err(format!(
        "there is no worker program at {}: build it (cargo build --release -p bessemer-worker; it needs libtorch) \
         or set {WORKER} to its path",
        beside.display()
    ))
}

/// Declared outputs of a user's program that are not there.
pub fn missing_outputs(spec: &TaskSpec) -> Vec<String> {
    let Params::Command(p) = &spec.work else { return vec![] };
    let out = spec.attempt_dir.join(layout::OUT);
    p.outputs.iter().filter(|f| !out.join(f).exists()).cloned().collect()
}

/// A start that failed, in words.
pub fn cannot_start(spec: &TaskSpec, e: &io::Error) -> String {
    let program = match &spec.work {
        Params::Command(p) => p.argv.first().map_or("", String::as_str),
        _ => "the worker program",
    };
    match e.kind() {
        io::ErrorKind::NotFound => {
            format!(
                "{program} was not found on this node: is it installed, is PATH set in the site's setup lines?"
            )
        }
        io::ErrorKind::PermissionDenied => format!("{program} is not executable: chmod +x it"),
        _ => format!("{program} cannot be started: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_become_variable_names() {
        assert_eq!(variable("INPUT", "model"), "BESSEMER_INPUT_MODEL");
        assert_eq!(variable("SERVICE", "train-data.v2"), "BESSEMER_SERVICE_TRAIN_DATA_V2");
    }

    #[test]
    fn a_worker_that_is_not_there_is_a_sentence_with_the_way_out() {
        let why = worker(&|_| Some("/no/such/worker".into())).unwrap_err();
        assert!(why.contains("BESSEMER_WORKER") && why.contains("/no/such/worker"), "{why}");
    }
}
