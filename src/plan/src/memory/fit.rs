//! Whether every task fits what it will run on; what to change where one does not.

use super::advice::advice;
use super::generation::keys;
use super::{Estimate, Shape, Where, estimate, gigabytes};
use crate::diagnostic::Report;
use crate::document::Document;
use crate::graph::{Graph, Predicted, Task};
use crate::node::{Node, Pos};
use record::{ContentKey, Params};
use serde_json::Value;
use std::collections::HashMap;

/// Estimates every task that holds a model, keeps the largest of each phase, and reports what cannot fit: the site's GPU memory, or on
/// the CPU the task's `memory`. `configs`: identity of a model of the Hub -> its `config.json`.
pub(crate) fn check(
    document: &Document,
    graph: &mut Graph,
    configs: &HashMap<String, Value>,
    gpu_memory_mb: Option<u64>,
    report: &mut Report,
) {
    let external: HashMap<&str, Option<Shape>> =
        configs.iter().map(|(id, config)| (id.as_str(), Shape::from_config(config))).collect();
    let mut shapes: HashMap<ContentKey, Option<Shape>> = HashMap::new();
    // tasks of one phase differ in what memory does not depend on: each estimate is made once
    let mut made: Vec<(Params, Shape, Where, Option<Estimate>)> = Vec::new();
    // phases whose limit of keys and values holds no answer
    let mut cramped: Vec<&str> = Vec::new();
    // per phase: the worst task and its overshoot
    let mut worst: Vec<(usize, u64, Shape)> = Vec::new();
    let mut largest: Vec<Predicted> = Vec::new();
    for (i, task) in graph.tasks.iter().enumerate() {
        let Some(shape) = shape_of(task, &shapes, &external) else { continue };
        let place = where_of(task);
        if matches!(task.work, Params::Base(_) | Params::Sft(_) | Params::Rl(_)) {
            shapes.insert(task.key.clone(), Some(shape.clone()));
        }
        if !cramped.contains(&task.phase.as_str())
            && let Some(message) = too_few(task, &shape, place)
        {
            cramped.push(&task.phase);
            report.error(parameter(document, task, "kv_bytes"), message, String::new());
        }
        let decisive = decisive(&task.work);
        let known = made.iter().position(|(w, s, p, _)| *p == place && *s == shape && *w == decisive);
        let known = known.unwrap_or_else(|| {
            if made.len() >= MADE {
                made.remove(0);
            }
            let found = estimate(&decisive, &shape, place);
            made.push((decisive, shape.clone(), place, found));
            made.len() - 1
        });
        let Some(found) = &made[known].3 else { continue };
        match largest.iter_mut().find(|p| p.phase == task.phase) {
            Some(p) if p.estimate.bytes >= found.bytes => {}
            Some(p) => *p = predicted(task, found),
            None => largest.push(predicted(task, found)),
        }
        if let Some(limit) = limit(task, gpu_memory_mb)
            && found.bytes > limit
        {
            let over = found.bytes - limit;
            match worst.iter_mut().find(|(w, ..)| graph.tasks[*w].phase == task.phase) {
                Some(known) if known.1 >= over => {}
                Some(known) => *known = (i, over, shape),
                None => worst.push((i, over, shape)),
            }
        }
    }
    for (i, _, shape) in worst {
        let task = &graph.tasks[i];
        let place = where_of(task);
        let Some(found) = estimate(&task.work, &shape, place) else { continue };
        let limit = limit(task, gpu_memory_mb).unwrap_or(u64::MAX);
        let whose = if found.gpu { "the site's GPUs have" } else { "the task's `memory` is" };
        let message = format!(
            "{} needs {} at its peak with rows as long as allowed, {whose} {} GB",
            task.title(),
            found.words(),
            gigabytes(limit)
        );
        report.error(place_of(document, task, found.gpu), message, advice(&task.work, &shape, &found, limit));
    }
    graph.memory = largest;
}

/// Estimates that are remembered.
const MADE: usize = 32;

/// The parameters without those that memory does not depend on and that a matrix varies.
fn decisive(work: &Params) -> Params {
    let mut work = work.clone();
    match &mut work {
        Params::Base(p) => (p.seed, p.learning_rate) = (0, 0.0),
        Params::Sft(p) => (p.seed, p.learning_rate) = (0, 0.0),
        Params::Rl(p) => (p.seed, p.learning_rate, p.kl_coef, p.clip) = (0, 0.0, 0.0, 0.0),
        Params::Eval(p) => p.seed = 0,
        _ => {}
    }
    work
}

fn predicted(task: &Task, estimate: &Estimate) -> Predicted {
    Predicted {
        phase: task.phase.clone(),
        task: task.key.clone(),
        memory_mb: task.resources.memory_mb,
        estimate: estimate.clone(),
    }
}

fn shape_of(
    task: &Task,
    shapes: &HashMap<ContentKey, Option<Shape>>,
    external: &HashMap<&str, Option<Shape>>,
) -> Option<Shape> {
    if let Params::Base(p) = &task.work {
        return Some(Shape::of_base(p));
    }
    let above =
        task.inputs.get("model").and_then(|m| m.first()).and_then(|m| shapes.get(&m.key)).cloned().flatten();
    let outside = || {
        let source = task.sources.get("model")?.first()?;
        external.get(source.identity.as_str()).cloned().flatten()
    };
    above.or_else(outside)
}

fn where_of(task: &Task) -> Where {
    if task.resources.gpus > 0 { Where::Gpu } else { Where::Cpu }
}

/// What is wrong with a limit on keys and values under which no answer can become as long as it may; the worker refuses it too.
fn too_few(task: &Task, shape: &Shape, place: Where) -> Option<String> {
    let k = keys(&task.work, shape, place)?;
    (k.limit > 0 && k.limit < k.least).then(|| {
        format!(
            "`kv_bytes`: {} holds no answer of `max_new_tokens: {}`: that alone needs {}, and {} behind a prompt of the usual \
             length; raise it to several times that, or lower `max_new_tokens`",
            k.limit, k.max_new_tokens, k.least, k.usual
        )
    })
}

/// Bytes that a task may use; `None` where nobody knows.
fn limit(task: &Task, gpu_memory_mb: Option<u64>) -> Option<u64> {
    let mb = if task.resources.gpus > 0 { gpu_memory_mb } else { Some(task.resources.memory_mb) };
    mb.map(|mb| mb.saturating_mul(1_000_000))
}

/// Where `key` stands below `section` of the task's phase or of the defaults.
fn written(document: &Document, task: &Task, section: &str, key: &str) -> Option<Pos> {
    let phase = document.merged.get("phases").and_then(|p| p.get(&task.phase));
    let defaults = document.merged.get("defaults");
    let kind = defaults.and_then(|d| d.get("kinds")?.get(task.work.kind().name()));
    let layers: [Option<&Node>; 3] = [phase, kind, defaults];
    layers.into_iter().flatten().find_map(|l| Some(l.get(section)?.entry(key)?.at))
}

/// The line of a parameter, else of the phase.
fn parameter(document: &Document, task: &Task, key: &str) -> Pos {
    let start = Pos { source: 0, line: 1, column: 1 };
    let phase = document.merged.get("phases").and_then(|p| p.entry(&task.phase));
    written(document, task, "params", key).unwrap_or_else(|| phase.map_or(start, |p| p.at))
}

/// The line to change: the parameter that decides most, else `memory`, else the phase.
fn place_of(document: &Document, task: &Task, gpu: bool) -> Pos {
    let batch = match &task.work {
        Params::Rl(_) => "minibatch",
        Params::Serve(_) | Params::Eval(_) => "max_batch",
        _ => "batch",
    };
    let memory = if gpu { None } else { written(document, task, "resources", "memory") };
    memory.unwrap_or_else(|| parameter(document, task, batch))
}
