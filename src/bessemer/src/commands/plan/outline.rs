//! The plan as people read it: matrix, tree of phases, what runs and why, hours.

use super::reuse::{Fate, Will};
use crate::context::Context;
use plan::units::{show_duration, show_memory};
use plan::{Graph, Totals, plain};
use report::text::Table;
use std::collections::BTreeMap;

/// One phase with its tasks.
struct Phase<'a> {
    name: &'a str,
    fates: Vec<&'a Fate<'a>>,
    /// Phases before it, nearest first: the first one is its place in the tree.
    after: Vec<&'a str>,
    depth: usize,
}

pub fn show(context: &mut Context, graph: &Graph, fates: &[Fate]) {
    let phases = phases(fates);
    head(context, graph, phases.len());
    tree(context, graph, &phases);
    shared(context, graph, fates);
    if context.verbose > 0 {
        each(context, fates);
    }
    totals(context, graph, fates);
}

fn phases<'a>(fates: &'a [Fate<'a>]) -> Vec<Phase<'a>> {
    let mut phases: Vec<Phase> = Vec::new();
    let mut depths: BTreeMap<&str, usize> = BTreeMap::new();
    for f in fates {
        let at = phases.iter().position(|p| p.name == f.task.phase).unwrap_or_else(|| {
            phases.push(Phase { name: &f.task.phase, fates: vec![], after: vec![], depth: 0 });
            phases.len() - 1
        });
        let phase = &mut phases[at];
        phase.fates.push(f);
        for (_, r) in f.task.needs() {
            // a phase may continue itself (rl after rl): that is no edge of the tree
            if r.phase != f.task.phase && !phase.after.contains(&r.phase.as_str()) {
                phase.after.push(&r.phase);
            }
        }
    }
    for p in &mut phases {
        p.after.sort_by_key(|a| std::cmp::Reverse(depths.get(a).copied().unwrap_or(0)));
        p.depth = p.after.first().and_then(|a| depths.get(a)).map_or(0, |d| d + 1);
        depths.insert(p.name, p.depth);
    }
    phases
}

fn head(context: &mut Context, graph: &Graph, phases: usize) {
    let points: usize = graph.matrix.iter().map(|a| a.values.len()).product();
    context.out.line(format_args!(
        "{}: {} in {} for {} of the matrix",
        graph.sweep,
        count(graph.tasks.len(), "task"),
        count(phases, "phase"),
        count(points, "point"),
    ));
    for axis in &graph.matrix {
        let values: Vec<String> = axis.values.iter().map(plain).collect();
        context.out.line(format_args!("  {}: {}", axis.name, values.join(", ")));
    }
    context.out.line("");
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn tree(context: &mut Context, graph: &Graph, phases: &[Phase]) {
    let mut rows = Vec::new();
    let roots: Vec<usize> = (0..phases.len()).filter(|&i| phases[i].after.is_empty()).collect();
    for root in roots {
        branch(phases, root, "", None, &mut rows);
    }
    let expected = |p: &Phase| -> Vec<u64> { p.fates.iter().map(|f| f.task.expected_s()).collect() };
    let _ = graph;
    let rows = rows
        .into_iter()
        .map(|(label, i)| {
            let p = &phases[i];
            let first = p.fates[0].task;
            let r = &first.resources;
            let run = p.fates.iter().filter(|f| f.will != Will::Reuse).count();
            let reused = p.fates.len() - run;
            #[allow(clippy::cast_precision_loss)]
            let hours = expected(p).iter().sum::<u64>() as f64 / 3600.0;
            vec![
                label,
                first.work.kind().name().to_owned(),
                p.fates.len().to_string(),
                format!("{run}{}", if reused > 0 { format!(" ({reused} done)") } else { String::new() }),
                r.cpus.to_string(),
                if r.gpus > 0 { r.gpus.to_string() } else { String::new() },
                show_memory(r.memory_mb),
                show_duration(r.walltime_s),
                format!("{hours:.2}"),
                p.after.iter().skip(1).copied().collect::<Vec<_>>().join(", "),
            ]
        })
        .collect();
    let head = ["phase", "kind", "tasks", "run", "cpu", "gpu", "memory", "limit", "hours", "also needs"]
        .map(str::to_owned)
        .to_vec();
    context.out.text(Table { head, rows, right: vec![2, 4, 5, 6, 7, 8] }.render(context.width));
}

/// Children of a phase are those whose nearest predecessor it is.
fn branch(phases: &[Phase], at: usize, indent: &str, last: Option<bool>, rows: &mut Vec<(String, usize)>) {
    let (elbow, next) = match last {
        None => ("", String::new()),
        Some(false) => ("├─ ", format!("{indent}│  ")),
        Some(true) => ("└─ ", format!("{indent}   ")),
    };
    rows.push((format!("{indent}{elbow}{}", phases[at].name), at));
    let children: Vec<usize> =
        (0..phases.len()).filter(|&i| phases[i].after.first() == Some(&phases[at].name)).collect();
    for (n, child) in children.iter().enumerate() {
        branch(phases, *child, &next, Some(n + 1 == children.len()), rows);
    }
}

/// What the matrix would have cost without sharing.
fn shared(context: &mut Context, graph: &Graph, fates: &[Fate]) {
    let whole: u64 = fates.iter().map(|f| f.task.shared_by).sum();
    let saved = whole.saturating_sub(graph.tasks.len() as u64);
    if saved > 0 {
        context.out.line(format_args!(
            "\n{whole} phase runs over the matrix are {} different tasks: {saved} are shared",
            graph.tasks.len()
        ));
    }
}

fn each(context: &mut Context, fates: &[Fate]) {
    let rows = fates
        .iter()
        .map(|f| {
            let will = match f.will {
                Will::Run => "run",
                Will::Reuse => "reuse",
                Will::Serve => "serve",
            };
            vec![
                f.task.title(),
                f.task.key.to_string(),
                will.into(),
                f.why.clone(),
                f.task.shared_by.to_string(),
            ]
        })
        .collect();
    let head = ["task", "key", "will", "because", "points"].map(str::to_owned).to_vec();
    context.out.line("");
    context.out.text(Table { head, rows, ..Table::default() }.render(context.width));
}

fn totals(context: &mut Context, graph: &Graph, fates: &[Fate]) {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for f in fates.iter().filter(|f| f.will == Will::Run) {
        *reasons.entry(&f.why).or_default() += 1;
    }
    let runs = reasons.values().sum::<usize>();
    context.out.line("");
    if runs == 0 {
        context.out.line("nothing to do: every result is there");
        return;
    }
    // each reason once, unless there are too many to be read
    if context.verbose == 0 && reasons.keys().any(|r| *r != "new") {
        for (why, n) in reasons.iter().take(8) {
            context.out.line(format_args!("{n} to run: {why}"));
        }
        if reasons.len() > 8 {
            context.out.line(format_args!("... and {} more reasons (-v)", reasons.len() - 8));
        }
    }
    let keys: std::collections::HashSet<&str> =
        fates.iter().filter(|f| f.will != Will::Reuse).map(|f| f.task.key.as_str()).collect();
    let t: Totals = graph.totals_of(|t| keys.contains(t.key.as_str()));
    let gpus = if t.gpu_hours > 0.0 { format!(", {:.1} GPU hours", t.gpu_hours) } else { String::new() };
    context.out.line(format_args!(
        "at most {:.1} core hours{gpus}; {:.1} hours on a machine without queue (walltimes, or `estimate` where given)",
        t.cpu_hours, t.hours
    ));
}
