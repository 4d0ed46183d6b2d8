//! Job scripts: one frame per scheduler and one body for all, from `templates/`.
//!
//! A script is stand-alone: every directive is in it, so that a person can hand it in again with nothing but
//! `sbatch job.sh`. It is a pure function of its input (two renderings are byte-identical), and carries data only as
//! single-quoted words: everything else is in `task.json`.

mod directives;
mod quote;

pub(crate) use directives::{clock, slurm_pattern};
pub use quote::sh;

use crate::site::{Scheduler, Scratch, Site, check_extra};
use minijinja::{Environment, UndefinedBehavior, context};
use record::{Resources, Token};
use std::path::{Path, PathBuf};

/// Largest script; everything above is data in the wrong place (schedulers stop at 4 MiB, or less).
pub const MAX_BYTES: usize = 64 * 1024;

/// What decides a script besides the site.
#[derive(Debug, Clone, PartialEq)]
pub struct ScriptInput {
    /// Job name.
    pub token: Token,
    pub target: Target,
    pub resources: Resources,
    /// Absolute directory for the scheduler's own output (`attempt-<n>/sched`). Must exist before the submission
    /// (specs: F26); the same as `Submission::dir`.
    pub sched_dir: PathBuf,
    /// How long before the end of the walltime the scheduler is to warn (USR2).
    pub margin_s: u64,
    /// Absolute path of the `bessemer` program, where the site names none.
    pub bessemer: PathBuf,
    /// Absolute path of the worker program (exported as `BESSEMER_WORKER`), where the site names none.
    pub worker: Option<PathBuf>,
    /// Scheduler options of phase and variant, after the site's: the last one wins.
    pub extra: Vec<String>,
    /// One line for people: `quickstart: rl variant=binary seed=1, attempt 2`.
    pub title: String,
}

/// What a script runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One attempt: its directory, absolute.
    One(PathBuf),
    /// A Slurm array of `size` elements; line k of `map` (see [`index_map`]) is the attempt directory of element k.
    Array { map: PathBuf, size: u32 },
}

/// Why a script cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    #[error("{what} {value:?} holds a control character, which no job script can carry; rename it")]
    Control { what: &'static str, value: String },
    #[error("{what} {value:?} must be an absolute path")]
    Relative { what: &'static str, value: String },
    #[error("{what} {value:?} is not UTF-8; rename it")]
    NotUtf8 { what: &'static str, value: String },
    #[error(
        "PBS cannot write to {0:?}: it reads blanks, `:` and `,` in paths as its own; move the run directory"
    )]
    PbsPath(String),
    #[error("extra: {0}")]
    Extra(String),
    #[error("{0} has no job arrays here: hand in single jobs")]
    NoArrays(&'static str),
    #[error("the script would be {0} bytes, more than {MAX_BYTES}; shorten `setup`")]
    TooLarge(usize),
    #[error("the job script template is broken: {0}")]
    Template(String),
}

/// Renders `job.sh`: LF only, below [`MAX_BYTES`], ends with a newline.
///
/// # Errors
/// [`RenderError`]: values that must not go into a script.
pub fn script(site: &Site, input: &ScriptInput) -> Result<String, RenderError> {
    let bessemer = site.programs.bessemer.as_ref().unwrap_or(&input.bessemer);
    let worker = site.programs.worker.as_ref().or(input.worker.as_ref());
    // a local site has nobody to give them to: job files are for every place
    for option in input.extra.iter().filter(|_| site.scheduler != Scheduler::Local) {
        check_extra(site.scheduler, option).map_err(RenderError::Extra)?;
    }
    let (attempt, map) = match &input.target {
        Target::One(dir) => (Some(checked_path("the attempt's directory", dir)?), None),
        Target::Array { map, .. } => (None, Some(checked_path("the index map", map)?)),
    };
    let sched = checked_path("the scheduler's output directory", &input.sched_dir)?;
    let (frame, directives) = match site.scheduler {
        Scheduler::Slurm => ("slurm.sh", directives::slurm(site, input, sched)),
        Scheduler::Pbs => ("pbs.sh", directives::pbs(site, input, sched)?),
        Scheduler::Local if map.is_some() => return Err(RenderError::NoArrays("a local site")),
        Scheduler::Local => ("local.sh", Vec::new()),
    };
    let title: String = input.title.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let tmp: Vec<String> = site
        .tmp
        .iter()
        .map(|t| match t {
            Scratch::Variable(name) => format!("\"${{{name}:-}}\""),
            Scratch::Path(path) => sh(path),
        })
        .collect();
    let text = environment()
        .and_then(|env| {
            env.get_template(frame)?.render(context! {
                directives, title, attempt, map, setup => site.setup, tmp,
                bessemer => checked_path("programs.bessemer", bessemer).map_err(as_template_error)?,
                worker => worker.map(|w| checked_path("programs.worker", w)).transpose().map_err(as_template_error)?,
                umask => site.umask.as_ref().map(|m| m.as_str()),
                cpus => input.resources.cpus.max(1),
            })
        })
        .map_err(|e| RenderError::Template(e.to_string()))?;
    if text.len() >= MAX_BYTES { Err(RenderError::TooLarge(text.len())) } else { Ok(text) }
}

/// The index map of an array: one attempt directory per line, in the order of the elements.
///
/// # Errors
/// [`RenderError`]: a path that is not absolute or holds a control character (a newline would shift every element).
pub fn index_map(attempt_dirs: &[PathBuf]) -> Result<String, RenderError> {
    let mut text = String::new();
    for dir in attempt_dirs {
        text.push_str(checked_path("the attempt's directory", dir)?);
        text.push('\n');
    }
    Ok(text)
}

fn as_template_error(e: RenderError) -> minijinja::Error {
    minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, e.to_string())
}

fn checked_path<'a>(what: &'static str, path: &'a Path) -> Result<&'a str, RenderError> {
    let lossy = || path.to_string_lossy().into_owned();
    let text = path.to_str().ok_or_else(|| RenderError::NotUtf8 { what, value: lossy() })?;
    if text.chars().any(char::is_control) {
        Err(RenderError::Control { what, value: lossy() })
    } else if !path.is_absolute() {
        Err(RenderError::Relative { what, value: lossy() })
    } else {
        Ok(text)
    }
}

fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_keep_trailing_newline(true);
    env.set_trim_blocks(true);
    env.add_filter("sh", |s: String| sh(&s));
    env.add_template("body.sh", include_str!("../../../templates/body.sh"))?;
    env.add_template("slurm.sh", include_str!("../../../templates/slurm.sh"))?;
    env.add_template("pbs.sh", include_str!("../../../templates/pbs.sh"))?;
    env.add_template("local.sh", include_str!("../../../templates/local.sh"))?;
    Ok(env)
}

#[cfg(test)]
mod tests;
