//! Whether every task fits what it will run on; what to change where one does not.

use super::{Estimate, Shape, Where, estimate, gigabytes};
use crate::diagnostic::Report;
use crate::document::Document;
use crate::graph::{Graph, Predicted, Task};
use crate::node::{Node, Pos};
use record::{ContentKey, Params};
use serde_json::{Value, json};
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
    // per phase: the worst task and its overshoot
    let mut worst: Vec<(usize, u64, Shape)> = Vec::new();
    let mut largest: Vec<Predicted> = Vec::new();
    for (i, task) in graph.tasks.iter().enumerate() {
        let Some(shape) = shape_of(task, &shapes, &external) else { continue };
        let place = if task.resources.gpus > 0 { Where::Gpu } else { Where::Cpu };
        if matches!(task.work, Params::Base(_) | Params::Sft(_) | Params::Rl(_)) {
            shapes.insert(task.key.clone(), Some(shape.clone()));
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
        let place = if task.resources.gpus > 0 { Where::Gpu } else { Where::Cpu };
        let Some(found) = estimate(&task.work, &shape, place) else { continue };
        let limit = limit(task, gpu_memory_mb).unwrap_or(u64::MAX);
        let whose = if found.gpu { "the site's GPUs have" } else { "the task's `memory` is" };
        let message = format!(
            "{} needs {} at its peak with rows as long as allowed, {whose} {} GB",
            task.title(),
            found.words(),
            gigabytes(limit)
        );
        report.error(place_of(document, task, found.gpu), message, advice(task, &shape, &found, limit));
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

/// Bytes that a task may use; `None` where nobody knows.
fn limit(task: &Task, gpu_memory_mb: Option<u64>) -> Option<u64> {
    let mb = if task.resources.gpus > 0 { gpu_memory_mb } else { Some(task.resources.memory_mb) };
    mb.map(|mb| mb.saturating_mul(1_000_000))
}

/// The line to change: the parameter that decides most, else `memory`, else the phase.
fn place_of(document: &Document, task: &Task, gpu: bool) -> Pos {
    let start = Pos { source: 0, line: 1, column: 1 };
    let Some(phase) = document.merged.get("phases").and_then(|p| p.entry(&task.phase)) else { return start };
    let below = |section: &str, key: &str| {
        let layers = [Some(&phase.value), document.merged.get("defaults")];
        layers.into_iter().flatten().find_map(|l: &Node| Some(l.get(section)?.entry(key)?.at))
    };
    let batch = match &task.work {
        Params::Rl(_) => "minibatch",
        Params::Serve(_) => "max_batch",
        _ => "batch",
    };
    let memory = || if gpu { None } else { below("resources", "memory") };
    memory().or_else(|| below("params", batch)).unwrap_or(phase.at)
}

/// A change of parameters, and what it costs.
struct Change {
    words: String,
    set: Vec<(&'static str, Value)>,
}

/// The cheapest changes that would fit, at most three; together if none does alone.
fn advice(task: &Task, shape: &Shape, now: &Estimate, limit: u64) -> String {
    let place = if now.gpu { Where::Gpu } else { Where::Cpu };
    let after = |set: &[(&'static str, Value)]| -> Option<u64> {
        let mut doc = serde_json::to_value(&task.work).ok()?;
        for (key, value) in set {
            doc["params"][*key] = value.clone();
        }
        let work: Params = serde_json::from_value(doc).ok()?;
        Some(estimate(&work, shape, place)?.bytes)
    };
    let mut fitting: Vec<String> = Vec::new();
    if !now.gpu {
        let mb = now.megabytes().next_multiple_of(100);
        fitting.push(format!("`memory: {mb}MB`"));
    }
    let changes = changes(task, |set| after(set).is_some_and(|bytes| bytes <= limit));
    for change in &changes {
        if let Some(bytes) = after(&change.set).filter(|b| *b <= limit) {
            fitting.push(format!("{} ({} GB)", change.words, gigabytes(bytes)));
        }
    }
    if !fitting.is_empty() {
        fitting.truncate(3);
        return format!("any of these fits: {}", fitting.join(", or "));
    }
    // none alone: one after the other
    let (mut set, mut words): (Vec<(&'static str, Value)>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut least = now.bytes;
    for change in &changes {
        let mut more = set.clone();
        more.extend(change.set.iter().cloned());
        let Some(bytes) = after(&more).filter(|b| *b < least) else { continue };
        (set, least) = (more, bytes);
        words.push(&change.words);
        if bytes <= limit {
            return format!("together these fit: {} ({} GB)", words.join(" and "), gigabytes(bytes));
        }
    }
    if words.is_empty() {
        return "a smaller model, or a larger GPU".into();
    }
    format!("even {} leaves {} GB: a smaller model, or a larger GPU", words.join(" and "), gigabytes(least))
}

/// Changes in the order of what they cost: time, then accuracy, then what is learnt. A number is halved until it fits.
fn changes(task: &Task, fits: impl Fn(&[(&'static str, Value)]) -> bool) -> Vec<Change> {
    let doc = serde_json::to_value(&task.work).unwrap_or_default();
    let p = &doc["params"];
    let has = |key: &str| p.get(key).is_some();
    let mut out = Vec::new();
    let simple = |key: &'static str, value: Value, words: &str| Change {
        words: words.into(),
        set: vec![(key, value)],
    };
    if p["recompute"] == false {
        out.push(simple("recompute", json!(true), "`recompute: true`"));
    }
    let halved = |key: &'static str, least: u64, also: Option<&'static str>| -> Option<Change> {
        let start = p[key].as_u64()?;
        let mut n = start;
        let make = |n: u64| {
            let mut set = vec![(key, json!(n))];
            let mut words = format!("`{key}: {n}`");
            if let Some(also) = also {
                // the same rows per step
                let more = p[also].as_u64().unwrap_or(1) * start.div_ceil(n);
                set.push((also, json!(more)));
                words.push_str(&format!(" with `{also}: {more}`"));
            }
            Change { words, set }
        };
        while n / 2 >= least {
            n /= 2;
            let change = make(n);
            if fits(&change.set) {
                return Some(change);
            }
        }
        (n < start).then(|| make(n))
    };
    match &task.work {
        Params::Sft(_) => out.extend(halved("batch", 1, Some("accumulation"))),
        Params::Base(_) => out.extend(halved("batch", 1, None)),
        Params::Rl(_) => out.extend(halved("minibatch", 1, None)),
        Params::Serve(_) => out.extend(halved("max_batch", 1, None)),
        _ => {}
    }
    if p["precision"] == "fp32" {
        out.push(simple("precision", json!("fp16"), "`precision: fp16`"));
    }
    if has("lora") && p["lora"].is_null() {
        let lora = serde_json::to_value(record::params::LoraParams::default()).unwrap_or_default();
        out.push(simple("lora", lora, "an adapter (`lora: {r: 16}`)"));
    }
    if has("quantization") && p["quantization"] != "nf4" {
        out.push(simple("quantization", json!("nf4"), "`quantization: nf4`"));
    }
    match &task.work {
        Params::Sft(_) => out.extend(halved("max_tokens", 128, None)),
        Params::Rl(_) => out.extend(halved("prompts", 1, None)),
        _ => {}
    }
    out
}
