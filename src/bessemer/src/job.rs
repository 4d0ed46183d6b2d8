//! A job file as the command line changes it.

use crate::cli::Changes;
use crate::context::read_text;
use crate::failure::{Failure, Result};
use crate::outside::Here;
use cluster::site::{Scheduler, Site, check_extra};
use plan::{Graph, Options};
use record::exit;
use std::path::Path;

/// A job file that holds.
#[derive(Debug)]
pub struct Job {
    pub graph: Graph,
    /// Byte for byte as it was read.
    pub text: String,
}

/// Reads, checks and expands.
///
/// # Errors
/// Exit code 65 with every mistake; 2 for a `--set` that is none.
pub fn load(path: &Path, changes: &Changes, site: &Site) -> Result<Job> {
    let gpu_memory_mb = site.gpu.memory.map(|m| m.0);
    let options = Options { gpu_memory_mb, ..options(changes)? };
    let text = read_text(path, "job file")?;
    let here = Here::new(path).map_err(Failure::input)?;
    match plan::load_with(&path.to_string_lossy(), &text, &options, &here) {
        Ok(graph) => Ok(Job { graph, text }),
        Err(mistakes) => Err(Failure::many(exit::USER_ERROR, mistakes.iter().map(ToString::to_string))),
    }
}

/// The command line's changes.
///
/// # Errors
/// Exit code 2 for a `--set` that is none.
pub fn options(changes: &Changes) -> Result<Options> {
    let set = changes.set.iter().map(|s| assignment(s)).collect::<Result<_>>()?;
    Ok(Options { profile: changes.profile.clone(), set, only: changes.only.clone(), gpu_memory_mb: None })
}

/// Refuses scheduler options (`extra`) that a site's scheduler must not get, before anything is handed in. A local site
/// has no scheduler and passes over them: a job file is for every place.
///
/// # Errors
/// Exit code 65 with every such option and its place.
pub fn check_options(path: &Path, job: &Job, site: &Site) -> Result<()> {
    if site.scheduler == Scheduler::Local {
        return Ok(());
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut wrong = Vec::new();
    for t in &job.graph.tasks {
        for option in t.extra.iter().filter(|o| seen.insert(o.as_str())) {
            if let Err(why) = check_extra(site.scheduler, option) {
                let (line, column) = place(&job.text, option);
                wrong.push(format!(
                    "{}:{line}:{column}: `extra` of phase {}: {why}",
                    path.display(),
                    t.phase
                ));
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::many(exit::USER_ERROR, wrong)) }
}

/// Where an option stands, from 1. One that was put together (`${axis}`, `--set`) stands where `extra` does.
fn place(text: &str, option: &str) -> (usize, usize) {
    let find = |what: &str| {
        text.lines()
            .enumerate()
            .find_map(|(n, l)| l.find(what).map(|at| (n + 1, l[..at].chars().count() + 1)))
    };
    find(option).or_else(|| find("extra:")).unwrap_or((1, 1))
}

fn assignment(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((path, value)) if !path.trim().is_empty() => Ok((path.trim().to_owned(), value.to_owned())),
        _ => Err(Failure::usage(format!(
            "--set {text:?}: write PATH=VALUE, e.g. --set phases.rl.params.episodes=5"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_breaks_the_contract_is_pointed_at_and_a_local_site_has_none() {
        let text = "bessemer: 1\nname: x\nphases:\n  a: {kind: command, params: {argv: [echo]}, extra: [--mem-bind=local, -Jz]}\n";
        let graph = plan::load("j.yaml", text, &Options::default()).unwrap();
        let job = Job { graph, text: text.into() };
        let site = |scheduler: &str| {
            let text = format!("bessemer_site: 1\nname: t\nscheduler: {scheduler}\n");
            Site::load(Path::new("s.yaml"), &text).unwrap()
        };
        let e = check_options(Path::new("j.yaml"), &job, &site("slurm")).unwrap_err();
        let said = format!("{e:?}");
        assert!(said.contains("j.yaml:4:72: `extra` of phase a: `-Jz` is not free to set"), "{said}");
        assert!(!said.contains("mem-bind"), "{said}");
        assert!(check_options(Path::new("j.yaml"), &job, &site("local")).is_ok());
    }
}
