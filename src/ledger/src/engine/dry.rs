//! A dry run: every file that `submit` would write, without scheduler and ledger. Byte-stable.

use crate::engine::Options;
use crate::engine::create::{known_identity, plan_bytes};
use crate::engine::prepare::{Desk, Unit};
use crate::error::{Error, Result};
use cluster::site::Site;
use plan::Graph;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a dry run wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct DryReport {
    /// Scripts, in the order of the submission.
    pub scripts: Vec<PathBuf>,
    pub tasks: u64,
}

/// Writes plan, specs and scripts of first attempts below `out` (or below `run_dir` itself). The paths *in* the files are
/// those of `run_dir`. `max_array`: the site's limit; 1 turns arrays off.
///
/// A sweep that was handed in already keeps its identity; otherwise the identity is derived from the run directory and the
/// sweep's name, so that two dry runs are byte-identical. The first real `submit` makes a random one and writes the
/// scripts anew.
///
/// # Errors
/// Rendering and I/O errors.
pub fn dry_run(
    graph: &Graph,
    site: &Site,
    run_dir: &Path,
    out: Option<&Path>,
    max_array: u32,
    options: &Options,
) -> Result<DryReport> {
    let out_dir = out.unwrap_or(run_dir);
    std::fs::create_dir_all(out_dir).map_err(Error::io(format!("cannot create {}", out_dir.display())))?;
    let absolute =
        |p: &Path| std::path::absolute(p).map_err(Error::io(format!("cannot resolve {}", p.display())));
    let run_dir = std::fs::canonicalize(run_dir).or_else(|_| absolute(run_dir))?;
    let out_dir = absolute(out_dir)?;
    let nonce = match known_identity(&run_dir)? {
        Some(known) => known,
        None => record::key::sha256_hex(format!("{}\n{}", run_dir.display(), graph.sweep).as_bytes())[..32]
            .to_owned(),
    };
    let desk = Desk {
        by_key: graph.tasks.iter().enumerate().map(|(k, t)| (&t.key, k)).collect(),
        graph,
        site,
        options,
        nonce: &nonce,
        run_dir: &run_dir,
        out_dir: &out_dir,
        durable: false,
    };
    // The same grouping as a submission of everything at once: equal shape, equal upstream tasks.
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut open: BTreeMap<String, usize> = BTreeMap::new();
    for (k, task) in graph.tasks.iter().enumerate() {
        let needs: Vec<_> = task.needs().map(|(_, r)| &r.key).collect();
        let id =
            format!("{}\n{:?}\n{:?}\n{}\n{needs:?}", task.phase, task.resources, task.extra, task.margin_s);
        match open.get(&id).copied() {
            Some(at) if groups[at].len() < max_array as usize && !task.work.kind().is_service() => {
                groups[at].push(k)
            }
            _ => {
                open.insert(id, groups.len());
                groups.push(vec![k]);
            }
        }
    }
    let mut report = DryReport { tasks: graph.tasks.len() as u64, ..DryReport::default() };
    for group in groups {
        let units: Vec<Unit> = group
            .iter()
            .map(|&k| {
                let task = &graph.tasks[k];
                Unit { task, n: 1, memory_mb: task.resources.memory_mb }
            })
            .collect();
        let prepared = desk.prepare(&units, units.len() > 1)?;
        let script =
            prepared.script.strip_prefix(&run_dir).map_or(prepared.script.clone(), |p| out_dir.join(p));
        report.scripts.push(script);
    }
    let plan = out_dir.join(super::frozen::PLAN);
    if out.is_some() || known_identity(&run_dir)?.is_none() {
        std::fs::write(&plan, plan_bytes(graph)?)
            .map_err(Error::io(format!("cannot write {}", plan.display())))?;
    }
    Ok(report)
}
