//! Sites, job scripts, and one backend per batch system.

pub mod backend;
pub mod check;
pub mod local;
pub mod output;
pub mod parse;
pub mod pbs;
pub mod probe;
pub mod render;
pub mod runner;
pub mod site;
pub mod slurm;

pub use check::check;

use backend::Backend;
use runner::Runner;
use site::{Scheduler, Site};
use std::sync::Arc;

/// The backend for a site. Commands go through `runner`; [`runner::Real`] is the real one.
#[must_use]
pub fn open(site: &Site, runner: Arc<dyn Runner>) -> Box<dyn Backend> {
    match site.scheduler {
        Scheduler::Slurm => Box::new(slurm::Slurm::new(site.clone(), runner)),
        Scheduler::Pbs => Box::new(pbs::Pbs::new(site.clone(), runner)),
        Scheduler::Local => Box::new(local::Local::new(site)),
    }
}

#[cfg(test)]
mod tests;
