//! What each number cost.

use super::E;
use crate::sweep::{Cost, Sweep};
use crate::units::{duration, hours, megabytes};
use std::fmt::Write;

/// Rows of the table by task; a longer one is cut, and says so.
const ROWS: usize = 1000;
/// The table by task stands open up to this length.
const OPEN: usize = 40;

pub fn section(page: &mut String, sweep: &Sweep) {
    page.push_str("<section id=\"cost\"><h2>Cost</h2>\n");
    let mut phases: Vec<(&str, usize, Cost)> = Vec::new();
    for t in &sweep.tasks {
        let at = phases.iter().position(|(p, ..)| *p == t.task.phase).unwrap_or_else(|| {
            phases.push((&t.task.phase, 0, Cost::default()));
            phases.len() - 1
        });
        phases[at].1 += 1;
        phases[at].2.add(t.cost());
    }
    page.push_str("<div class=\"scroll\"><table><thead><tr><th>phase</th><th class=\"num\">tasks</th><th class=\"num\">attempts</th><th class=\"num\">wall</th><th class=\"num\">CPU h</th><th class=\"num\">GPU h</th><th class=\"num\">peak RSS</th></tr></thead><tbody>\n");
    for (name, tasks, c) in phases.iter().copied().chain([("all", sweep.tasks.len(), sweep.cost())]) {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td class=\"num\">{tasks}</td>{}</tr>",
            if name == "all" { "<b>all</b>".to_owned() } else { E(name).to_string() },
            cells(c)
        );
    }
    page.push_str("</tbody></table></div>\n<p class=\"note\">Sums over all attempts, failed ones included. Wall: time of the attempts, not of the queue. CPU: user and system time of all processes. GPU: GPUs held times wall time. Peak RSS: the largest single process.</p>\n");
    let unknown = sweep.cost().unknown;
    if unknown > 0 {
        let _ = writeln!(
            page,
            "<p class=\"note\">{unknown} attempts left no record (yet): what they used is not in these sums.</p>"
        );
    }
    let _ = write!(
        page,
        "<details{}><summary>By task</summary>\n<div class=\"scroll\"><table><thead><tr><th>task</th><th>state</th><th class=\"num\">attempts</th><th class=\"num\">wall</th><th class=\"num\">CPU h</th><th class=\"num\">GPU h</th><th class=\"num\">peak RSS</th><th>host</th><th>key</th></tr></thead><tbody>\n",
        if sweep.tasks.len() <= OPEN { " open" } else { "" }
    );
    for t in sweep.tasks.iter().take(ROWS) {
        let last = t.attempts.iter().rev().find_map(|a| a.record.as_ref());
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td><span class=\"tag s-{}\">{}</span></td>{}<td>{}</td><td><code>{}</code></td></tr>",
            E(&t.task.title()),
            t.state.look(),
            t.state.name(),
            cells(t.cost()),
            E(last.map_or("", |r| r.host.as_str())),
            E(t.task.key.as_str().get(..8).unwrap_or(t.task.key.as_str()))
        );
    }
    page.push_str("</tbody></table></div>\n");
    if sweep.tasks.len() > ROWS {
        let _ = write!(
            page,
            "<p class=\"note\">The first {ROWS} of {} tasks; <code>bessemer report --json</code> has all.</p>",
            sweep.tasks.len()
        );
    }
    page.push_str("</details>\n</section>\n");
}

fn cells(c: Cost) -> String {
    let cell = |s: String| format!("<td class=\"num\">{s}</td>");
    [c.attempts.to_string(), duration(c.wall_s), hours(c.cpu_s), hours(c.gpu_s), megabytes(c.peak_rss_mb)]
        .map(cell)
        .concat()
}
