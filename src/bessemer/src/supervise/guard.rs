//! Dependencies are advice to the scheduler; this is what makes them true (specs: F8).

use crate::filesystem;
use record::verify::{self, Depth, Problem, Whole};
use record::{ContentKey, TaskSpec};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Other nodes' records may be seen seconds late on a network file system (specs: F29). On a local one, what is not
/// there is not there.
const PATIENCE: Duration = Duration::from_secs(60);

/// Checks every input, in the order of the roles. The output directories, by role.
///
/// # Errors
/// A sentence about the first input that does not hold.
pub fn inputs(spec: &TaskSpec) -> Result<Vec<(String, Vec<Whole>)>, String> {
    let patience = match filesystem::of(&spec.task_dir) {
        Ok(f) if !f.network => Duration::ZERO,
        _ => PATIENCE,
    };
    let until = Instant::now() + patience;
    let mut found = Vec::new();
    for (role, tasks) in &spec.inputs {
        let mut all = Vec::new();
        for input in tasks {
            let whole = wait_for(&input.task_dir, &input.key, until).map_err(|p| {
                format!("input {role} (phase {}): {p}. Try: bessemer resume {}", input.phase, spec.sweep)
            })?;
            all.push(whole);
        }
        found.push((role.clone(), all));
    }
    Ok(found)
}

/// What no phase made, where it is on this node, by role.
///
/// # Errors
/// A sentence about the first that is not here.
pub fn sources(spec: &TaskSpec) -> Result<Vec<(String, Vec<PathBuf>)>, String> {
    let place = |s: &record::Source| hub::locate::source(s, crate::outside::env);
    let of = |(role, sources): (&String, &Vec<record::Source>)| {
        let paths = sources.iter().map(place).collect::<Result<_, _>>();
        paths.map(|p| (role.clone(), p)).map_err(|why| format!("input {role}: {why}"))
    };
    spec.sources.iter().map(of).collect()
}

/// Outputs may lag behind the record that names them, so every problem is given the same time.
fn wait_for(task_dir: &Path, key: &ContentKey, until: Instant) -> Result<Whole, Problem> {
    loop {
        match verify::result(task_dir, key, Depth::Size) {
            Ok(whole) => return Ok(whole),
            Err(p) if Instant::now() >= until => return Err(p),
            Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
    }
}
