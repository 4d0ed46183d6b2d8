//! Tables for terminals.

use crate::paired::differences;
use crate::progress::{cut, fit};
use crate::rows::{groups, metric, metric_names};
use crate::state::State;
use crate::sweep::{Sweep, TaskRun};
use crate::units::{duration, hours, megabytes, number};
use record::MetricRow;
use std::fmt::Write;
use unicode_width::UnicodeWidthStr;

/// A table whose columns line up. Columns named in `right` are aligned right.
#[derive(Debug, Clone, Default)]
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
    pub right: Vec<usize>,
}

impl Table {
    /// At most `width` columns: the widest left-aligned column gives way first.
    #[must_use]
    pub fn render(&self, width: usize) -> String {
        let columns = self.head.len();
        let mut widths: Vec<usize> = (0..columns)
            .map(|c| {
                let cells = self.rows.iter().filter_map(|r| r.get(c));
                cells.chain([&self.head[c]]).map(|s| s.width()).max().unwrap_or(0)
            })
            .collect();
        let gaps = 2 * columns.saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > width {
            let shrinkable = (0..columns).filter(|c| !self.right.contains(c) && widths[*c] > 8);
            let Some(widest) = shrinkable.max_by_key(|c| widths[*c]) else { break };
            widths[widest] -= 1;
        }
        let mut out = String::new();
        let rule: Vec<String> = widths.iter().map(|w| "─".repeat(*w)).collect();
        for (i, row) in [&self.head, &rule].into_iter().chain(&self.rows).enumerate() {
            let cells: Vec<String> = (0..columns)
                .map(|c| {
                    let cell = row.get(c).map_or("", String::as_str);
                    if self.right.contains(&c) && i != 1 {
                        let cell = cut(cell, widths[c]);
                        " ".repeat(widths[c].saturating_sub(cell.width())) + &cell
                    } else {
                        fit(cell, widths[c])
                    }
                })
                .collect();
            out.push_str(cells.join("  ").trim_end());
            out.push('\n');
        }
        out
    }
}

/// Results with their intervals: a table per phase, with as many metrics as fit side by side (an evaluation reports the
/// telling ones first); the rest is named and stands in the HTML file.
#[must_use]
pub fn results(sweep: &Sweep, width: usize) -> String {
    let mut out = String::new();
    for (phase, of_phase) in groups(sweep) {
        let tasks: Vec<(&str, &TaskRun)> =
            of_phase.iter().flat_map(|g| g.tasks.iter().map(|t| (g.name.as_str(), *t))).collect();
        let names = metric_names(tasks.iter().map(|(_, t)| *t));
        let seeds = tasks.iter().any(|(_, t)| t.task.labels.contains_key("seed"));
        let label = tasks.iter().map(|(g, _)| g.width()).max().unwrap_or(0).clamp(5, 40) + 8;
        let mut used = label;
        let fitting = names
            .iter()
            .take_while(|name| {
                let cells = tasks.iter().filter_map(|(_, t)| metric(t, name)).map(|m| cell(m).width());
                used += cells.chain([name.width()]).max().unwrap_or(0) + 2;
                used <= width
            })
            .count()
            .max(1);
        let (shown, rest) = names.split_at(fitting.min(names.len()));
        let mut table = Table { head: vec![phase.to_owned()], ..Table::default() };
        if seeds {
            table.head.push("seed".into());
        }
        table.head.extend(shown.iter().map(|n| (*n).to_owned()));
        table.right = (1..table.head.len()).collect();
        for (group, task) in &tasks {
            let mut row = vec![(*group).to_owned()];
            if seeds {
                row.push(task.task.labels.get("seed").map(plan::plain).unwrap_or_default());
            }
            row.extend(shown.iter().map(|n| metric(task, n).map_or_else(|| "-".into(), cell)));
            table.rows.push(row);
        }
        out.push_str(&table.render(width));
        if !rest.is_empty() {
            let _ = writeln!(out, "and {} more metrics: HTML file, --json", rest.len());
        }
        out.push('\n');
    }
    if out.is_empty() {
        "No results yet.\n".into()
    } else {
        out + "[95 % interval]   *k: k samples unscored\n"
    }
}

/// `0.834 [0.79, 0.87] *2`.
#[must_use]
pub fn cell(m: &MetricRow) -> String {
    let Some(value) = m.value else { return format!("unscored *{}", m.unscored) };
    let mut s = number(value);
    if let (Some(low), Some(high)) = (m.low, m.high) {
        let _ = write!(s, " [{}, {}]", number(low), number(high));
    }
    if m.unscored > 0 {
        let _ = write!(s, " *{}", m.unscored);
    }
    s
}

/// Paired differences of the phase's first metric; empty where no evaluation left per-problem scores.
#[must_use]
pub fn paired(sweep: &Sweep, width: usize) -> String {
    let (all, _) = differences(sweep);
    let Some(first) = groups(sweep)
        .iter()
        .flat_map(|(_, g)| metric_names(g.iter().flat_map(|g| g.tasks.iter().copied())))
        .find(|name| all.iter().any(|d| d.metric == *name))
    else {
        return String::new();
    };
    let mut table = Table {
        head: ["difference", first, "95 % interval", "better", "worse", "problems"]
            .map(str::to_owned)
            .to_vec(),
        right: vec![1, 2, 3, 4, 5],
        rows: Vec::new(),
    };
    for d in all.iter().filter(|d| d.metric == first) {
        table.rows.push(vec![
            format!("{} − {}", d.a, d.b),
            format!("{:+.3}", d.difference),
            format!("[{:+.3}, {:+.3}]", d.low, d.high),
            d.better.to_string(),
            d.worse.to_string(),
            d.n.to_string(),
        ]);
    }
    table.render(width)
}

/// What every phase cost.
#[must_use]
pub fn cost(sweep: &Sweep, width: usize) -> String {
    let mut table = Table {
        head: ["phase", "tasks", "attempts", "wall", "CPU h", "GPU h", "peak RSS"]
            .map(str::to_owned)
            .to_vec(),
        right: vec![1, 2, 3, 4, 5, 6],
        rows: Vec::new(),
    };
    let mut row = |name: &str, tasks: usize, c: crate::sweep::Cost| {
        table.rows.push(vec![
            name.to_owned(),
            tasks.to_string(),
            c.attempts.to_string(),
            duration(c.wall_s),
            hours(c.cpu_s),
            hours(c.gpu_s),
            megabytes(c.peak_rss_mb),
        ]);
    };
    let mut phases: Vec<&str> = Vec::new();
    for t in &sweep.tasks {
        if !phases.contains(&t.task.phase.as_str()) {
            phases.push(&t.task.phase);
        }
    }
    for phase in phases {
        let of_phase: Vec<_> = sweep.tasks.iter().filter(|t| t.task.phase == phase).collect();
        let mut sum = crate::sweep::Cost::default();
        of_phase.iter().for_each(|t| sum.add(t.cost()));
        row(phase, of_phase.len(), sum);
    }
    row("all", sweep.tasks.len(), sweep.cost());
    table.render(width)
}

/// `12 succeeded, 1 failed`.
#[must_use]
pub fn counts(counts: &[(State, usize)]) -> String {
    let parts: Vec<String> = counts.iter().map(|(s, n)| format!("{n} {}", s.name())).collect();
    if parts.is_empty() { "no tasks".into() } else { parts.join(", ") }
}
