//! A site file: how one cluster (or this laptop) wants its jobs. YAML under `slurm/`; every key is described in
//! `docs/SITES.md` and in the comments of the files there.

mod error;
mod extra;
mod units;

pub use error::{SiteError, SiteErrors};
pub use extra::check_extra;
pub use units::{Megabytes, Pattern, Scratch, Seconds, Word};

use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Version of the site file format. A larger one is refused.
pub const FORMAT: u32 = 1;

/// One site, checked. Read it with [`Site::load`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Format version: 1.
    pub bessemer_site: u32,
    /// Short name for messages and tables.
    pub name: Word,
    pub scheduler: Scheduler,
    /// Which PBS: required for `scheduler: pbs`, since the same numbers mean different things (specs: 3.4).
    #[serde(default)]
    pub flavor: Option<Flavor>,
    /// Slurm partition or PBS queue; the scheduler's default if absent.
    #[serde(default, alias = "partition")]
    pub queue: Option<Word>,
    #[serde(default)]
    pub account: Option<Word>,
    /// Slurm or Torque quality of service.
    #[serde(default)]
    pub qos: Option<Word>,
    #[serde(default)]
    pub gpu: Gpu,
    /// PBS Pro: more of the `select` chunk, e.g. `gputype=v100`.
    #[serde(default)]
    pub select: Vec<Word>,
    /// Shell lines that make the programs usable (`module load ...`), run with `set +eu` around them.
    #[serde(default)]
    pub setup: Vec<String>,
    #[serde(default)]
    pub programs: Programs,
    #[serde(default)]
    pub limits: Bounds,
    #[serde(default)]
    pub timeouts: Timeouts,
    /// What of the submitting shell's environment the job sees (Slurm).
    #[serde(default)]
    pub export: Export,
    /// Let the scheduler start a preempted or crashed job again under the same id. Off: we retry as a new attempt.
    #[serde(default)]
    pub requeue: bool,
    /// Slurm: have jobs whose dependency failed cancelled at once. Off by default (specs: F9).
    #[serde(default)]
    pub kill_on_invalid_dep: bool,
    /// Slurm: `--dependency=singleton` besides the rest, so that a second copy under the same name waits (specs: F5).
    #[serde(default)]
    pub singleton: bool,
    /// Scheduler options, one per entry, after ours: the last one wins.
    #[serde(default)]
    pub extra: Vec<String>,
    /// More texts of this site's scheduler, each a regular expression on one line of its output.
    #[serde(default)]
    pub patterns: Patterns,
    /// Node-local places for TMPDIR, the first that is there and writable wins.
    #[serde(default = "default_tmp")]
    pub tmp: Vec<Scratch>,
    #[serde(default)]
    pub accounting: Accounting,
    /// Octal, e.g. `"027"`.
    #[serde(default)]
    pub umask: Option<Word>,
    #[serde(default)]
    pub local: Local,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    Slurm,
    Pbs,
    Local,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavor {
    /// OpenPBS and PBS Professional.
    #[serde(alias = "openpbs")]
    PbsPro,
    Torque,
}

/// How GPUs are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gpu {
    pub spelling: GpuSpelling,
    /// `v100`: asked for as `gpu:v100:1`. Some sites want it, some forbid it (specs: F37).
    #[serde(rename = "type")]
    pub kind: Option<Word>,
    /// Memory of one GPU, for `plan`: a task that is predicted to need more is refused.
    pub memory: Option<Megabytes>,
}

/// Slurm's option for GPUs; on PBS the flavor decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpuSpelling {
    /// `--gres=gpu:1`: the oldest, accepted everywhere.
    #[default]
    Gres,
    Gpus,
    GpusPerNode,
    GpusPerTask,
}

/// Absolute paths on the compute nodes; by default the programs that submit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Programs {
    pub bessemer: Option<PathBuf>,
    pub worker: Option<PathBuf>,
}

/// What one task may ask for here, and how much may be asked at once.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Most elements of one Slurm array: `MaxArraySize - 1`. 1 turns arrays off.
    pub max_array: u32,
    /// Most jobs (array elements) of this user in the queue.
    pub max_submit: Option<u32>,
    pub walltime: Option<Seconds>,
    pub cpus: Option<u32>,
    pub memory: Option<Megabytes>,
    pub gpus: Option<u32>,
    /// Floor of every repeated look at the queue.
    pub min_poll: Seconds,
    /// A job that waits for absent nodes or a closed partition for longer than this is shown as one that will not start.
    pub unavailable: Seconds,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            max_array: 1000,
            max_submit: None,
            walltime: None,
            cpus: None,
            memory: None,
            gpus: None,
            min_poll: Seconds(60),
            unavailable: Seconds(6 * 3600),
        }
    }
}

/// After this long a scheduler command is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    pub query: Seconds,
    /// sbatch itself retries for up to 120 s (specs: F3): less than that turns a limit into an uncertainty.
    pub submit: Seconds,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { query: Seconds(60), submit: Seconds(150) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Export {
    /// A clean environment: `setup` makes what is needed.
    #[default]
    None,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accounting {
    /// Ask `sacct` (or the PBS job history); note it when there is none.
    #[default]
    Auto,
    Off,
}

/// Texts that classify a submission, tried before the built-in ones.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Patterns {
    /// Not accepted: the scheduler is not there just now.
    pub transient: Vec<Pattern>,
    /// Not accepted: a limit is reached, wait.
    pub limit: Vec<Pattern>,
    /// Not accepted: asking again is useless.
    pub refuse: Vec<Pattern>,
}

/// `scheduler: local`: what of this machine may be used; measured where absent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Local {
    pub cpus: Option<u32>,
    pub memory: Option<Megabytes>,
    pub gpus: Option<u32>,
    /// Between TERM and KILL when a job is cancelled.
    pub grace: Seconds,
    /// Slots are shared with all other local sweeps of this user whose site names the same pool.
    pub pool: Word,
}

impl Default for Local {
    fn default() -> Self {
        Self { cpus: None, memory: None, gpus: None, grace: Seconds(20), pool: Word::machine() }
    }
}

fn default_tmp() -> Vec<Scratch> {
    vec![Scratch::Variable("TMPDIR".into()), Scratch::Path("/tmp".into())]
}

impl Site {
    /// Parses and checks a site file. `file` is only used in messages.
    ///
    /// # Errors
    /// Every mistake found, each with line and column, what is allowed, and the nearest spelling.
    pub fn load(file: &Path, text: &str) -> Result<Self, SiteErrors> {
        let site: Self = serde_yaml::from_str(text).map_err(|e| SiteErrors::from_yaml(file, text, &e))?;
        let wrong = site.contradictions();
        if wrong.is_empty() { Ok(site) } else { Err(SiteErrors::at_keys(file, text, wrong)) }
    }

    /// Reads a site file.
    ///
    /// # Errors
    /// As [`Site::load`], and unreadable files.
    pub fn read(file: &Path) -> Result<Self, SiteErrors> {
        let text = std::fs::read_to_string(file).map_err(|e| SiteErrors::unreadable(file, &e))?;
        Self::load(file, &text)
    }

    /// What no single value shows to be wrong: (path of the key, message).
    fn contradictions(&self) -> Vec<(&'static [&'static str], String)> {
        let mut wrong: Vec<(&'static [&'static str], String)> = Vec::new();
        if self.bessemer_site != FORMAT {
            wrong.push((
                &["bessemer_site"],
                format!(
                    "site format {} is not known; this program reads format {FORMAT}: update bessemer",
                    self.bessemer_site
                ),
            ));
        }
        match (self.scheduler, self.flavor) {
            (Scheduler::Pbs, None) => wrong.push((
                &["scheduler"],
                "which PBS is it? add `flavor: pbspro` (OpenPBS, PBS Pro) or `flavor: torque`; `qstat --version` tells"
                    .into(),
            )),
            (Scheduler::Slurm | Scheduler::Local, Some(_)) => {
                wrong.push((&["flavor"], "`flavor` belongs to `scheduler: pbs`: remove it".into()));
            }
            _ => {}
        }
        if self.qos.is_some() && self.flavor == Some(Flavor::PbsPro) {
            wrong.push((
                &["qos"],
                "PBS Pro has no quality of service: use `queue`, or an entry of `extra`".into(),
            ));
        }
        if !self.select.is_empty() && self.flavor != Some(Flavor::PbsPro) {
            wrong.push((&["select"], "`select` belongs to `flavor: pbspro`".into()));
        }
        if self.limits.max_array == 0 {
            wrong.push((&["limits", "max_array"], "0 elements: write 1 to do without arrays".into()));
        }
        for program in [&self.programs.bessemer, &self.programs.worker].into_iter().flatten() {
            if !program.is_absolute() {
                wrong.push((
                    &["programs"],
                    format!(
                        "`{}` must be an absolute path: jobs start in another directory",
                        program.display()
                    ),
                ));
            }
        }
        if let Some(mask) = &self.umask
            && (mask.as_str().len() > 4 || !mask.as_str().bytes().all(|b| (b'0'..=b'7').contains(&b)))
        {
            wrong.push((&["umask"], format!("`{mask}` is no octal mask: write \"027\", in quotes")));
        }
        for line in &self.setup {
            if line.contains('\0') || line.contains('\r') {
                wrong.push((&["setup"], "carriage return or NUL in a setup line".into()));
            }
        }
        for option in &self.extra {
            if let Err(e) = check_extra(self.scheduler, option) {
                wrong.push((&["extra"], e));
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests;
