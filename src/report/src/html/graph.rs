//! The graph of tasks with their states.

use super::E;
use super::layers::{place, reduced};
use crate::progress::cut;
use crate::state::State;
use crate::sweep::Sweep;
use crate::text;
use plan::plain;
use std::collections::HashMap;
use std::fmt::Write;

/// With more tasks than this, one node stands for a whole phase.
const SINGLE_UP_TO: usize = 120;
const NODE_W: f64 = 126.0;
const NODE_H: f64 = 36.0;
const ROW: f64 = 46.0;
const COLUMN: f64 = 158.0;

struct Node {
    title: String,
    sub: String,
    hover: String,
    look: &'static str,
}

pub fn section(page: &mut String, sweep: &Sweep) {
    page.push_str("<section id=\"graph\"><h2>Graph</h2>\n");
    let (nodes, edges) = if sweep.tasks.len() <= SINGLE_UP_TO { tasks(sweep) } else { phases(sweep) };
    let pairs: Vec<(usize, usize)> = edges.keys().copied().collect();
    let shown = reduced(nodes.len(), &pairs);
    let places = place(nodes.len(), &shown);
    let width = places.iter().map(|p| p.layer).max().map_or(0.0, |l| column(l) + NODE_W) + 2.0;
    let height = places.iter().map(|p| p.row).fold(0.0, f64::max) * ROW + NODE_H + 2.0;
    page.push_str("<p class=\"note\">Left to right: what needs what. An arrow that a longer path implies is not drawn; dashed: needs the service while it runs.</p>\n");
    page.push_str("<div class=\"legend\">");
    for (look, name) in [
        ("ok", "succeeded"),
        ("run", "running"),
        ("wait", "waiting"),
        ("half", "to be continued or confirmed"),
        ("bad", "failed, lost or cancelled"),
    ] {
        let _ = write!(page, "<span><span class=\"tag s-{look}\">{name}</span></span>");
    }
    page.push_str("</div>\n");
    let _ = write!(
        page,
        "<div class=\"scroll\"><svg width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"graph of tasks\">"
    );
    for (a, b) in shown {
        let (from, to) = (places[a], places[b]);
        let (x1, y1) = (column(from.layer) + NODE_W, from.row * ROW + NODE_H / 2.0 + 1.0);
        let (x2, y2) = (column(to.layer), to.row * ROW + NODE_H / 2.0 + 1.0);
        let bend = (x2 - x1) * 0.5;
        let _ = write!(
            page,
            "<path class=\"edge{}\" d=\"M{x1:.1} {y1:.1}C{:.1} {y1:.1} {:.1} {y2:.1} {x2:.1} {y2:.1}\"/>",
            if edges[&(a, b)] { " service" } else { "" },
            x1 + bend,
            x2 - bend
        );
    }
    for (node, p) in nodes.iter().zip(&places) {
        let (x, y) = (column(p.layer), p.row * ROW + 1.0);
        let middle = if node.sub.is_empty() { 22.0 } else { 15.0 };
        let _ = write!(
            page,
            "<g class=\"node s-{}\"><title>{}</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{NODE_W}\" height=\"{NODE_H}\" rx=\"5\"/>\
             <text class=\"title\" x=\"{:.1}\" y=\"{:.1}\">{}</text><text class=\"sub\" x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
            node.look,
            E(&node.hover),
            x + 9.0,
            y + middle,
            E(&cut(&node.title, 17)),
            x + 9.0,
            y + 28.5,
            E(&cut(&node.sub, 21))
        );
    }
    page.push_str("</svg></div>\n</section>\n");
}

#[allow(clippy::cast_precision_loss)]
fn column(layer: usize) -> f64 {
    1.0 + layer as f64 * COLUMN
}

/// (from, to) -> whether it is a service that is needed.
type Edges = HashMap<(usize, usize), bool>;

fn tasks(sweep: &Sweep) -> (Vec<Node>, Edges) {
    let index: HashMap<_, _> = sweep.tasks.iter().enumerate().map(|(i, t)| (&t.task.key, i)).collect();
    let mut edges = Edges::new();
    let nodes = sweep
        .tasks
        .iter()
        .enumerate()
        .map(|(i, t)| {
            let mut needs = String::new();
            for (role, r) in t.task.needs() {
                if let Some(&from) = index.get(&r.key) {
                    edges.insert((from, i), t.task.services.contains_key(role));
                    let _ = write!(needs, "\n{role}: {}", sweep.tasks[from].task.title());
                }
            }
            let sub: Vec<String> = t
                .task
                .labels
                .iter()
                .map(|(k, v)| match k.as_str() {
                    "variant" | "of" => plain(v),
                    _ => format!("{k} {}", plain(v)),
                })
                .collect();
            Node {
                title: t.task.phase.clone(),
                sub: sub.join(", "),
                hover: format!(
                    "{} ({}): {}{needs}",
                    t.task.title(),
                    t.task.work.kind().name(),
                    t.state.name()
                ),
                look: t.state.look(),
            }
        })
        .collect();
    (nodes, edges)
}

/// One node per phase, in the order of their first task. A phase that reads another phase's tasks stands behind it; a
/// phase that reads itself (continued runs) has no edge for it.
fn phases(sweep: &Sweep) -> (Vec<Node>, Edges) {
    let mut names: Vec<&str> = Vec::new();
    for t in &sweep.tasks {
        if !names.contains(&t.task.phase.as_str()) {
            names.push(&t.task.phase);
        }
    }
    let at = |phase: &str| names.iter().position(|n| *n == phase);
    let mut edges = Edges::new();
    for t in &sweep.tasks {
        for (role, r) in t.task.needs() {
            // order of first appearance is topological unless phases feed each other mutually: such an edge is left out
            if let (Some(a), Some(b)) = (at(&r.phase), at(&t.task.phase))
                && a < b
            {
                edges.insert((a, b), t.task.services.contains_key(role));
            }
        }
    }
    let nodes = names
        .iter()
        .map(|phase| {
            let of_phase: Vec<State> =
                sweep.tasks.iter().filter(|t| t.task.phase == *phase).map(|t| t.state).collect();
            let counts: Vec<(State, usize)> = State::ALL
                .into_iter()
                .map(|s| (s, of_phase.iter().filter(|x| **x == s).count()))
                .filter(|(_, n)| *n > 0)
                .collect();
            // the most worrying state gives the colour
            let look = ["bad", "half", "run", "wait", "ok"];
            let look =
                look.into_iter().find(|l| counts.iter().any(|(s, _)| s.look() == *l)).unwrap_or("wait");
            let done = of_phase.iter().filter(|s| **s == State::Succeeded).count();
            Node {
                title: (*phase).to_owned(),
                sub: format!("{done} of {} done", of_phase.len()),
                hover: format!("{phase}: {}", text::counts(&counts)),
                look,
            }
        })
        .collect();
    (nodes, edges)
}
