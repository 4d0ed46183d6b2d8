//! The ledger's engine, opened for a command: state file, frozen site, scheduler.

use crate::context::{Context, absolute};
use crate::failure::{Failure, Result};
use crate::supervise;
use cluster::backend::Backend;
use cluster::runner::Real;
use cluster::site::{Scheduler, Site};
use ledger::{Db, Engine, NewSweep, Options, SweepRow, Timing};
use record::{exit, layout};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The site behind `run` where no file names one.
const HERE: &str = "# the machine that `bessemer run` was typed on, with all its cores, memory and GPUs\n\
                    bessemer_site: 1\nname: here\nscheduler: local\n";

/// A site file, checked, and its text as it is frozen.
#[derive(Debug)]
pub struct SiteFile {
    pub site: Site,
    pub text: String,
}

impl From<ledger::Error> for Failure {
    fn from(e: ledger::Error) -> Self {
        Failure::new(e.exit_code(), e)
    }
}

/// Reads a site file; without one, this machine.
///
/// # Errors
/// Exit code 65 with every mistake in it.
pub fn site(file: Option<&Path>) -> Result<SiteFile> {
    let (path, text) = match file {
        Some(path) => (path.to_owned(), crate::context::read_text(path, "site file")?),
        None => (PathBuf::from("the built-in site"), HERE.to_owned()),
    };
    let site = Site::load(&path, &text).map_err(Failure::input)?;
    Ok(SiteFile { site, text })
}

/// A local site file or none: `run` and `rehearse` work on this machine.
///
/// # Errors
/// As [`site`], and a site that is a cluster.
pub fn local_site(file: Option<&Path>) -> Result<SiteFile> {
    let site = site(file)?;
    match (site.site.scheduler, file) {
        (Scheduler::Local, _) => Ok(site),
        (_, file) => Err(Failure::usage(format!(
            "{} is a cluster: hand the sweep in with `bessemer submit JOB --site ...`, then `bessemer watch`",
            file.unwrap_or(Path::new("this site")).display()
        ))),
    }
}

pub fn backend(site: &Site) -> Arc<dyn Backend> {
    Arc::from(cluster::open(site, Arc::new(Real::default())))
}

/// What the engine cannot know by itself.
///
/// # Errors
/// The path of this program cannot be found out.
pub fn options(site: &Site) -> Result<Options> {
    let bessemer = std::env::current_exe()
        .map_err(|e| Failure::new(exit::FAILED, format!("cannot find out where this program lies: {e}")))?;
    let worker = supervise::worker_program().ok().and_then(|w| std::path::absolute(w).ok());
    let command: Vec<String> = std::env::args().collect();
    let timing = Timing::from_env(site.scheduler == Scheduler::Local);
    Ok(Options { bessemer, worker, command: command.join(" "), timing })
}

/// Makes a sweep known, or gives a known one its new graph.
///
/// # Errors
/// The ledger's.
pub fn create(context: &Context, run_dir: &Path, job: &crate::job::Job, site: SiteFile) -> Result<Engine> {
    let db = Db::open(&context.state_dir)?;
    let backend = backend(&site.site);
    let options = options(&site.site)?;
    let new = NewSweep { graph: &job.graph, run_dir, job_text: &job.text, site_text: &site.text };
    Ok(Engine::create(db, &new, site.site, backend, options)?)
}

/// The run directory of a sweep of this name.
///
/// # Errors
/// The working directory is gone.
pub fn run_dir(context: &Context, sweep: &str) -> Result<PathBuf> {
    absolute(&context.runs_dir.join(sweep))
}

/// A known sweep: by name or run directory, or the newest.
///
/// # Errors
/// The ledger's; a frozen site that cannot be read.
pub fn open(context: &Context, name: Option<&str>) -> Result<Opened> {
    // looking must not create an empty ledger in whatever directory one happens to be
    if !context.state_dir.is_dir() {
        return Err(no_sweep(context));
    }
    let db = Db::open(&context.state_dir)?;
    let sweep = find(&db, context, name)?;
    let path = sweep.run_dir.join(layout::SITE);
    let site = Site::read(&path).map_err(Failure::input)?;
    let backend = backend(&site);
    let options = options(&site)?;
    let local = site.scheduler == Scheduler::Local;
    let min_poll_s = backend.limits().min_poll_s;
    Ok(Opened { engine: Engine::open(db, sweep, site, backend, options), local, min_poll_s })
}

/// A known sweep.
#[derive(Debug)]
pub struct Opened {
    pub engine: Engine,
    /// It runs on this machine, with nobody to drive it but us.
    pub local: bool,
    /// Least seconds between two looks at its scheduler.
    pub min_poll_s: u64,
}

fn find(db: &Db, context: &Context, name: Option<&str>) -> Result<SweepRow> {
    match name {
        Some(name) => Ok(db.find_sweep(name)?),
        None => db.sweeps()?.pop().ok_or_else(|| no_sweep(context)),
    }
}

fn no_sweep(context: &Context) -> Failure {
    Failure::usage(format!(
        "there is no sweep in the ledger {} yet: start one with `bessemer run JOB` or `bessemer submit JOB --site SITE`; \
         a ledger elsewhere is named with --state-dir",
        context.state_dir.display()
    ))
}

/// Phases of a sweep, to tell them from other words of the command line.
///
/// # Errors
/// The frozen plan cannot be read.
pub fn phases(engine: &mut Engine) -> Result<Vec<String>> {
    let mut phases: Vec<String> = engine.graph()?.tasks.iter().map(|t| t.phase.clone()).collect();
    phases.dedup();
    Ok(phases)
}
