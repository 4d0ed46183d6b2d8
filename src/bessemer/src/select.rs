//! Which tasks of a sweep a few words mean.

use crate::failure::{Failure, Result};
use plan::{Graph, Task, plain};

/// Tasks that match all `words`: a phase, `axis=value`, or the beginning of a key (four characters at least).
///
/// # Errors
/// Nothing matches; the text names what there is.
pub fn tasks<'a>(graph: &'a Graph, words: &[String]) -> Result<Vec<&'a Task>> {
    let words: Vec<&str> = words.iter().flat_map(|w| w.split_whitespace()).collect();
    let found: Vec<&Task> = graph.tasks.iter().filter(|t| words.iter().all(|w| matches(t, w))).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let mut phases: Vec<&str> = graph.tasks.iter().map(|t| t.phase.as_str()).collect();
    phases.dedup();
    Err(Failure::usage(format!(
        "no task of {} matches {:?}; phases: {}; labels are written axis=value",
        graph.sweep,
        words.join(" "),
        phases.join(", ")
    )))
}

/// The one task that `words` mean.
///
/// # Errors
/// None, or several; the text lists them.
pub fn task<'a>(graph: &'a Graph, words: &[String]) -> Result<&'a Task> {
    let found = tasks(graph, words)?;
    let [only] = found.as_slice() else {
        const SHOWN: usize = 12;
        let mut list: Vec<String> =
            found.iter().take(SHOWN).map(|t| format!("  {}  {}", t.key, t.title())).collect();
        if found.len() > SHOWN {
            list.push(format!("  ... {} in all", found.len()));
        }
        return Err(Failure::usage(format!(
            "{} tasks match {:?}; name one of\n{}",
            found.len(),
            words.join(" "),
            list.join("\n")
        )));
    };
    Ok(only)
}

fn matches(task: &Task, word: &str) -> bool {
    match word.split_once('=') {
        Some((axis, value)) => task.labels.get(axis).is_some_and(|v| plain(v) == value),
        None => task.phase == word || (word.len() >= 4 && task.key.as_str().starts_with(word)),
    }
}
