//! A plan in words: the tree of phases with matrix, shared tasks, resources and hours, and why each task runs.

use crate::graph::{Graph, Task, Totals, plain};
use crate::units::{show_duration, show_memory};
use crate::why::{Verdict, Why};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

/// The text of `bessemer plan`. `why` comes from [`crate::why()`]; without it only the shape is told.
#[must_use]
pub fn explain(graph: &Graph, why: Option<&[Why]>) -> String {
    let mut out = String::new();
    heading(graph, &mut out);
    let phases = phases(graph);
    table(&rows(&phases, &forest(&phases)), &mut out);
    memory(graph, &mut out);
    out.push('\n');
    total_line("in all", &graph.totals(), &mut out);
    if let Some(why) = why {
        let to_do: HashMap<_, _> = why.iter().map(|w| (&w.key, w.verdict)).collect();
        let left = graph.totals_of(|t| to_do.get(&t.key) != Some(&Verdict::Reuse));
        total_line("to do ", &left, &mut out);
        out.push('\n');
        reasons(graph, why, &mut out);
    }
    out
}

/// Predicted peak memory: the largest task of each phase that holds a model.
fn memory(graph: &Graph, out: &mut String) {
    if graph.memory.is_empty() {
        return;
    }
    out.push_str("\npredicted peak memory, with rows as long as allowed (docs/MEMORY.md)\n");
    let line = |p: &crate::graph::Predicted| {
        let of =
            if p.estimate.gpu { "on the GPU".to_owned() } else { format!("of {}", show_memory(p.memory_mb)) };
        row(["", &p.phase, &of, &p.estimate.words()])
    };
    table(&graph.memory.iter().map(line).collect::<Vec<_>>(), out);
}

/// One line per task: key, title, resources, reason. For `bessemer plan --tasks`.
#[must_use]
pub fn task_list(graph: &Graph, why: Option<&[Why]>) -> String {
    let mut lines = vec![row(["key", "task", "shared by", "cpus", "gpus", "memory", "walltime", "why"])];
    for (i, task) in graph.tasks.iter().enumerate() {
        let resources = &task.resources;
        lines.push(row([
            task.key.as_str(),
            &task.title(),
            &task.shared_by.to_string(),
            &resources.cpus.to_string(),
            &resources.gpus.to_string(),
            &show_memory(resources.memory_mb),
            &show_duration(resources.walltime_s),
            why.and_then(|w| w.get(i)).map_or("", |w| w.reason.as_str()),
        ]));
    }
    let mut out = String::new();
    table(&lines, &mut out);
    out
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn heading(graph: &Graph, out: &mut String) {
    let _ = write!(out, "{}: {}", graph.sweep, count(graph.tasks.len() as u64, "task"));
    if !graph.matrix.is_empty() {
        let axes: Vec<String> =
            graph.matrix.iter().map(|a| format!("{} ({})", a.name, a.values.len())).collect();
        let points = graph.matrix.iter().fold(1u64, |n, a| n.saturating_mul(a.values.len() as u64));
        let _ = write!(out, ", matrix {} = {}", axes.join(" x "), count(points, "point"));
    }
    out.push_str("\n\n");
    const SHOWN: usize = 8;
    for axis in &graph.matrix {
        let values: Vec<String> = axis.values.iter().take(SHOWN).map(plain).collect();
        let more = if axis.values.len() > SHOWN { ", …" } else { "" };
        let _ = writeln!(out, "  {}: {}{more}", axis.name, values.join(", "));
    }
    if !graph.matrix.is_empty() {
        out.push('\n');
    }
}

fn count(n: u64, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

/// All tasks of one phase.
struct Phase<'a> {
    name: &'a str,
    tasks: Vec<&'a Task>,
    /// Role -> phases, as read by any of the tasks; services marked.
    needs: BTreeMap<(bool, &'a str), BTreeSet<&'a str>>,
}

/// In the order of the first task of each, which is topological.
fn phases(graph: &Graph) -> Vec<Phase<'_>> {
    let mut order: Vec<Phase> = Vec::new();
    let mut place: HashMap<&str, usize> = HashMap::new();
    for task in &graph.tasks {
        let i = *place.entry(&task.phase).or_insert_with(|| {
            order.push(Phase { name: &task.phase, tasks: Vec::new(), needs: BTreeMap::new() });
            order.len() - 1
        });
        order[i].tasks.push(task);
        for (role, refs) in &task.inputs {
            order[i].needs.entry((false, role)).or_default().extend(refs.iter().map(|r| r.phase.as_str()));
        }
        for (role, sources) in &task.sources {
            let names = sources.iter().map(|s| s.reference.as_str());
            order[i].needs.entry((false, role)).or_default().extend(names);
        }
        for (role, service) in &task.services {
            order[i].needs.entry((true, role)).or_default().insert(&service.phase);
        }
    }
    order
}

/// Children of each phase and the roots. A phase hangs below the last phase that it needs: a graph as a tree, each
/// phase once; the column `needs` has all of them.
fn forest(phases: &[Phase]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let place: HashMap<&str, usize> = phases.iter().enumerate().map(|(i, p)| (p.name, i)).collect();
    let mut roots = Vec::new();
    let mut children = vec![Vec::new(); phases.len()];
    for (i, phase) in phases.iter().enumerate() {
        let above =
            phase.needs.values().flatten().filter_map(|name| place.get(name)).filter(|&&p| p < i).max();
        match above {
            Some(&parent) => children[parent].push(i),
            None => roots.push(i),
        }
    }
    (roots, children)
}

fn rows(phases: &[Phase], (roots, children): &(Vec<usize>, Vec<Vec<usize>>)) -> Vec<Vec<String>> {
    let head = ["phase", "kind", "tasks", "for points", "each", "CPU-h", "GPU-h", "needs"];
    let mut rows = vec![row(head)];
    // (phase, indentation, branch)
    let mut stack: Vec<(usize, String, &str)> = roots.iter().rev().map(|&r| (r, String::new(), "")).collect();
    while let Some((i, indent, branch)) = stack.pop() {
        rows.push(phase_row(&phases[i], &format!("{indent}{branch}")));
        let below = match branch {
            "├─ " => format!("{indent}│  "),
            "└─ " => format!("{indent}   "),
            _ => indent,
        };
        for (k, &child) in children[i].iter().enumerate().rev() {
            let branch = if k + 1 == children[i].len() { "└─ " } else { "├─ " };
            stack.push((child, below.clone(), branch));
        }
    }
    rows
}

fn phase_row(phase: &Phase, tree: &str) -> Vec<String> {
    let tasks = &phase.tasks;
    let range = |of: &dyn Fn(&Task) -> u64, show: &dyn Fn(u64) -> String| {
        let (least, most) = tasks.iter().map(|t| of(t)).fold((u64::MAX, 0), |(a, b), n| (a.min(n), b.max(n)));
        if least == most { show(most) } else { format!("{}..{}", show(least), show(most)) }
    };
    let cpus = range(&|t| u64::from(t.resources.cpus), &|n| n.to_string());
    let gpus = range(&|t| u64::from(t.resources.gpus), &|n| n.to_string());
    let memory = range(&|t| t.resources.memory_mb, &show_memory);
    let time = range(&Task::expected_s, &show_duration);
    let gpus = if gpus == "0" { String::new() } else { format!("{gpus} gpu, ") };
    let hours = |of: &dyn Fn(&Task) -> u32| -> f64 {
        #[allow(clippy::cast_precision_loss)]
        tasks.iter().map(|t| t.expected_s() as f64 / 3600.0 * f64::from(of(t))).sum()
    };
    let needs: Vec<String> = phase
        .needs
        .iter()
        .map(|((service, role), names)| {
            let names: Vec<&str> = names.iter().copied().collect();
            let service = if *service { " (service)" } else { "" };
            format!("{role}: {}{service}", names.join("|"))
        })
        .collect();
    let points = tasks.iter().fold(0u64, |n, t| n.saturating_add(t.shared_by));
    vec![
        format!("{tree}{}", phase.name),
        tasks.first().map_or("", |t| t.work.kind().name()).to_owned(),
        tasks.len().to_string(),
        points.to_string(),
        format!("{cpus} cpu, {gpus}{memory}, {time}"),
        show_hours(hours(&|t| t.resources.cpus)),
        show_hours(hours(&|t| t.resources.gpus)),
        needs.join(", "),
    ]
}

fn show_hours(hours: f64) -> String {
    if hours == 0.0 { "-".into() } else { format!("{hours:.2}") }
}

/// Columns of equal width, two blanks apart; numbers are not aligned to the right because text and numbers mix.
fn table(rows: &[Vec<String>], out: &mut String) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|c| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0))
        .collect();
    for row in rows {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            let blanks = width - cell.chars().count() + 2;
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', blanks));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

fn total_line(what: &str, totals: &Totals, out: &mut String) {
    let _ = writeln!(
        out,
        "{what}  {}, {:.2} CPU-h, {:.2} GPU-h, longest chain {:.2} h (by estimate, else walltime)",
        count(totals.tasks, "task"),
        totals.cpu_hours,
        totals.gpu_hours,
        totals.hours
    );
}

/// Groups tasks of one phase that run for the same reason.
fn reasons(graph: &Graph, why: &[Why], out: &mut String) {
    /// Phase, verdict, reason.
    type Group<'a> = (&'a str, Verdict, &'a str);
    let mut groups: Vec<(Group, Vec<&Task>)> = Vec::new();
    let mut place: HashMap<Group, usize> = HashMap::new();
    for (task, why) in graph.tasks.iter().zip(why) {
        let group = (task.phase.as_str(), why.verdict, why.reason.as_str());
        let i = *place.entry(group).or_insert_with(|| {
            groups.push((group, Vec::new()));
            groups.len() - 1
        });
        groups[i].1.push(task);
    }
    groups.sort_by_key(|((_, verdict, _), _)| *verdict);
    let mut sizes: HashMap<&str, usize> = HashMap::new();
    graph.tasks.iter().for_each(|t| *sizes.entry(&t.phase).or_default() += 1);
    let mut lines = Vec::new();
    let mut reused = Vec::new();
    for ((phase, verdict, reason), tasks) in &groups {
        let who = match tasks.as_slice() {
            [one] => one.title(),
            many if sizes.get(phase) == Some(&many.len()) => format!("{phase} (all {})", many.len()),
            many => {
                const SHOWN: usize = 2;
                let labels: Vec<String> =
                    many.iter().take(SHOWN).map(|t| t.title()[t.phase.len()..].trim().to_owned()).collect();
                let more = if many.len() > SHOWN { "; …" } else { "" };
                format!("{phase} ({}: {}{more})", many.len(), labels.join("; "))
            }
        };
        match verdict {
            Verdict::Run => lines.push(row(["run", &who, reason])),
            Verdict::Running => lines.push(row(["wait", &who, reason])),
            Verdict::Reuse => reused.push(who),
        }
    }
    table(&lines, out);
    if !reused.is_empty() {
        let _ = writeln!(out, "reuse  {}", reused.join(", "));
    }
}
