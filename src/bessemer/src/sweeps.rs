//! Finding a sweep from any later shell: by its name or run directory.

use crate::context::{Context, absolute, is_run_dir};
use crate::failure::{Failure, Result};
use plan::Graph;
use record::{atomic, exit, layout};
use std::path::{Path, PathBuf};

/// The run directory that `name` means: a path to one, or the name of a sweep in the runs directory; without a name
/// the newest.
///
/// # Errors
/// There is none; the text says what there is.
pub fn run_dir(context: &Context, name: Option<&str>) -> Result<PathBuf> {
    let Some(name) = name else { return newest(context) };
    for dir in [context.runs_dir.join(name), PathBuf::from(name)] {
        if is_run_dir(&dir) {
            return absolute(&dir);
        }
    }
    let known = known(context);
    let list: Vec<&str> = known.iter().filter_map(|d| d.file_name()?.to_str()).collect();
    Err(Failure::usage(if list.is_empty() {
        format!("there is no sweep {name:?}: {} holds none (--runs-dir?)", context.runs_dir.display())
    } else {
        format!(
            "there is no sweep {name:?} in {}; there are: {}",
            context.runs_dir.display(),
            list.join(", ")
        )
    }))
}

/// Every run directory in the runs directory, oldest plan first.
pub fn known(context: &Context) -> Vec<PathBuf> {
    let mut found: Vec<(std::time::SystemTime, PathBuf)> = std::fs::read_dir(&context.runs_dir)
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| is_run_dir(p))
        .filter_map(|p| Some((std::fs::metadata(p.join(layout::PLAN)).ok()?.modified().ok()?, p)))
        .collect();
    found.sort();
    found.into_iter().map(|(_, p)| p).collect()
}

fn newest(context: &Context) -> Result<PathBuf> {
    let found = known(context).pop().ok_or_else(|| {
        Failure::usage(format!(
            "there is no sweep in {} yet: start one with `bessemer run JOB` or `bessemer submit JOB --site SITE`",
            context.runs_dir.display()
        ))
    })?;
    absolute(&found)
}

/// The frozen plan of a run directory.
///
/// # Errors
/// It cannot be read.
pub fn graph(run_dir: &Path) -> Result<Graph> {
    let path = run_dir.join(layout::PLAN);
    let graph: Option<Graph> = atomic::read_json(&path).map_err(|e| Failure::new(exit::FAILED, e))?;
    let graph = graph.ok_or_else(|| Failure::usage(format!("{} is not there", path.display())))?;
    if graph.format > record::FORMAT {
        return Err(Failure::new(
            exit::FAILED,
            format!(
                "{} has format {}, this program knows up to {}: update bessemer",
                path.display(),
                graph.format,
                record::FORMAT
            ),
        ));
    }
    Ok(graph)
}
