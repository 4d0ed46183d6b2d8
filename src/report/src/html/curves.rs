//! Learning curves as small multiples: a panel per reported value, a line per task.

use super::E;
use super::palette::Palette;
use super::svg::{Scale, tick_label};
use crate::curves::{Curve, thinned};
use crate::sweep::{Sweep, TaskRun};
use plan::plain;
use record::Kind;
use std::fmt::Write;

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 44.0;
const BOTTOM: f64 = 26.0;
const TOP: f64 = 10.0;
const RIGHT: f64 = 10.0;
const DASHES: usize = 4;

/// What a reader wants first, in this order. The rest stands folded away.
const TELLING: [&str; 9] = [
    "reward",
    "validation_reward",
    "loss",
    "validation_loss",
    "accuracy",
    "kl",
    "entropy",
    "policy_loss",
    "value_loss",
];

/// Phases that learn; what the others report is progress.
const LEARNS: [Kind; 4] = [Kind::Base, Kind::Sft, Kind::Rl, Kind::Command];

/// A curve as it is drawn.
struct Drawn<'a> {
    line: &'a Line<'a>,
    /// As reported; empty where the curve is short enough to be read point by point.
    raw: Vec<(u64, f64)>,
    smooth: Vec<(u64, f64)>,
}

struct Line<'a> {
    task: &'a TaskRun,
    colour: usize,
    dash: usize,
}

pub fn section(page: &mut String, sweep: &Sweep) {
    let mut phases: Vec<(&str, Vec<&TaskRun>)> = Vec::new();
    let learns = |t: &&TaskRun| LEARNS.contains(&t.task.work.kind());
    for t in sweep.tasks.iter().filter(learns).filter(|t| t.curves.iter().any(|c| c.points.len() > 1)) {
        match phases.iter_mut().find(|(p, _)| *p == t.task.phase) {
            Some((_, tasks)) => tasks.push(t),
            None => phases.push((&t.task.phase, vec![t])),
        }
    }
    if phases.is_empty() {
        return;
    }
    page.push_str(
        "<section id=\"curves\"><h2>Learning curves</h2>\n<p class=\"note\">By step, over all attempts: what an attempt did \
         again after a resume replaces what was lost. Long noisy curves: faint as reported, bold as a moving average.</p>\n",
    );
    let palette = Palette::of(sweep);
    let drawn: Vec<Phase> = phases.iter().map(|(name, tasks)| Phase::new(name, tasks, &palette)).collect();
    // phases of a single line share one row of panels
    let (single, many): (Vec<&Phase>, Vec<&Phase>) = drawn.iter().partition(|p| p.legend.is_empty());
    if !single.is_empty() {
        group(page, &single, true);
    }
    for phase in many {
        let _ = writeln!(page, "<h3>{}</h3>\n{}", E(phase.name), phase.legend);
        group(page, &[phase], false);
    }
    page.push_str("</section>\n");
}

/// The curves of one phase.
struct Phase<'a> {
    name: &'a str,
    lines: Vec<Line<'a>>,
    legend: String,
    /// Names of values, most telling first; the first `telling` of them stand open.
    names: Vec<&'a str>,
    telling: usize,
}

impl<'a> Phase<'a> {
    /// One colour per variant, one dash per seed.
    fn new(name: &'a str, tasks: &[&'a TaskRun], palette: &Palette) -> Self {
        let (mut groups, mut seeds): (Vec<(String, usize)>, Vec<String>) = (Vec::new(), Vec::new());
        let lines: Vec<Line> = tasks
            .iter()
            .map(|&task| {
                let labels = &task.task.labels;
                let parts = labels.iter().filter(|(k, _)| *k != "seed");
                let group = parts.map(|(k, v)| format!("{k}={}", plain(v))).collect::<Vec<_>>().join(" ");
                let colour = palette.colour(labels);
                if !groups.iter().any(|(g, _)| *g == group) {
                    groups.push((group, colour));
                }
                let dash = labels.get("seed").map(plain).map_or(0, |seed| {
                    seeds.iter().position(|s| *s == seed).unwrap_or_else(|| {
                        seeds.push(seed);
                        seeds.len() - 1
                    })
                });
                Line { task, colour, dash: dash % DASHES }
            })
            .collect();
        let mut names: Vec<&str> = Vec::new();
        for c in tasks.iter().flat_map(|t| &t.curves).filter(|c| c.points.len() > 1) {
            if !names.contains(&c.name.as_str()) {
                names.push(&c.name);
            }
        }
        let rank = |n: &str| TELLING.iter().position(|t| n == *t).unwrap_or(TELLING.len());
        names.sort_by_key(|n| rank(n));
        let telling = names.iter().filter(|n| rank(n) < TELLING.len()).count();
        let telling = if telling == 0 { names.len() } else { telling };
        Self { name, lines, legend: legend(&groups, &seeds), names, telling }
    }
}

/// Empty where there is nothing to tell apart.
fn legend(groups: &[(String, usize)], seeds: &[String]) -> String {
    let sample = |class: String| {
        format!(
            "<svg width=\"22\" height=\"10\" aria-hidden=\"true\"><line class=\"line {class}\" x1=\"0\" x2=\"22\" y1=\"5\" y2=\"5\"/></svg>"
        )
    };
    let mut legend = String::new();
    if groups.len() > 1 {
        for (name, colour) in groups.iter().take(16) {
            let _ = write!(legend, "<span>{}{}</span>", sample(format!("stroke{colour}")), E(name));
        }
    }
    if seeds.len() > 1 {
        for (i, seed) in seeds.iter().enumerate().take(8) {
            let _ = write!(
                legend,
                "<span>{}seed {}</span>",
                sample(format!("stroke7 dash{}", i % DASHES)),
                E(seed)
            );
        }
    }
    if legend.is_empty() { legend } else { format!("<div class=\"legend\">{legend}</div>") }
}

/// Panels of phases in one grid, the less telling ones folded away.
fn group(page: &mut String, phases: &[&Phase], named: bool) {
    let mut panels = |telling: bool| {
        let mut grid = String::new();
        let mut titles = Vec::new();
        for phase in phases {
            let (first, rest) = phase.names.split_at(phase.telling);
            for name in if telling { first } else { rest } {
                let title = if named { format!("{}: {name}", phase.name) } else { (*name).to_owned() };
                let curves: Vec<(&Line, &Curve)> = phase
                    .lines
                    .iter()
                    .flat_map(|l| l.task.curves.iter().filter(|c| c.name == *name).map(move |c| (l, c)))
                    .filter(|(_, c)| c.points.len() > 1)
                    .collect();
                panel(&mut grid, &title, &curves);
                titles.push(title);
            }
        }
        let grid = format!("<div class=\"panels\">\n{grid}</div>\n");
        if telling {
            page.push_str(&grid);
        } else if !titles.is_empty() {
            let _ = writeln!(page, "<details><summary>{}</summary>\n{grid}</details>", E(&titles.join(", ")));
        }
    };
    panels(true);
    panels(false);
}

/// Neighbours on each side for the moving average: none for short curves, which are read point by point.
fn half_window(points: usize) -> usize {
    if points < 40 { 0 } else { (points / 24).max(2) }
}

#[allow(clippy::cast_precision_loss)]
fn panel(page: &mut String, name: &str, curves: &[(&Line, &Curve)]) {
    let steps = curves.iter().flat_map(|(_, c)| c.points.iter().map(|(s, _)| *s as f64));
    let x = Scale::around(steps, 0.0, (f64::MIN, f64::MAX), LEFT, WIDTH - RIGHT);
    let drawn: Vec<Drawn> = curves
        .iter()
        .map(|(l, c)| {
            let half = half_window(c.points.len());
            let raw = if half > 0 { thinned(&c.points, 160) } else { Vec::new() };
            Drawn { line: l, raw, smooth: thinned(&c.smoothed(half), 160) }
        })
        .collect();
    let y = y_scale(&drawn);
    let _ = write!(
        page,
        "<figure><figcaption>{}</figcaption><svg width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} by step\">",
        E(name),
        E(name)
    );
    let floor = HEIGHT - BOTTOM;
    for t in y.ticks(4) {
        let at = y.at(t);
        let _ = write!(
            page,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 3.8,
            tick_label(t)
        );
    }
    for t in x.ticks(4) {
        let at = x.at(t);
        let _ = write!(
            page,
            "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{floor}\" y2=\"{:.0}\"/>\
             <text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
            floor + 4.0,
            floor + 16.0,
            tick_label(t)
        );
    }
    let _ = write!(
        page,
        "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{floor}\" y2=\"{floor}\"/>",
        WIDTH - RIGHT
    );
    for Drawn { line, raw, smooth } in &drawn {
        let title = E(&line.task.task.title()).to_string();
        if !raw.is_empty() {
            let _ = write!(page, "<path class=\"raw stroke{}\" d=\"{}\"/>", line.colour, path(raw, &x, &y));
        }
        let _ = write!(
            page,
            "<path class=\"line stroke{} dash{}\" d=\"{}\"><title>{title}</title></path>",
            line.colour,
            line.dash,
            path(smooth, &x, &y)
        );
    }
    page.push_str("</svg>");
    let lost: usize = curves.iter().map(|(_, c)| c.not_finite).sum();
    if lost > 0 {
        let _ = write!(page, "<p class=\"note\">{lost} values were not finite and are not drawn.</p>");
    }
    page.push_str("</figure>\n");
}

/// Shows every smoothed line whole; single spikes of the raw values may leave the panel at its edge.
fn y_scale(drawn: &[Drawn]) -> Scale {
    let smooth = drawn.iter().flat_map(|d| d.smooth.iter().map(|(_, v)| *v));
    let mut raw: Vec<f64> = drawn.iter().flat_map(|d| d.raw.iter().map(|(_, v)| *v)).collect();
    raw.sort_unstable_by(f64::total_cmp);
    let trimmed =
        if raw.is_empty() { &raw[..] } else { &raw[raw.len() / 50..=(raw.len() - 1 - raw.len() / 50)] };
    let values: Vec<f64> = smooth.chain(trimmed.iter().copied()).collect();
    let rate = values.iter().all(|v| (0.0..=1.0).contains(v));
    Scale::around(values, 0.06, if rate { (0.0, 1.0) } else { (f64::MIN, f64::MAX) }, HEIGHT - BOTTOM, TOP)
}

#[allow(clippy::cast_precision_loss)]
fn path(points: &[(u64, f64)], x: &Scale, y: &Scale) -> String {
    let mut d = String::with_capacity(points.len() * 12);
    for (i, (step, v)) in points.iter().enumerate() {
        // a raw spike is cut at the panel's edge
        let v = v.clamp(y.low.min(y.high), y.high.max(y.low));
        let _ = write!(d, "{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, x.at(*step as f64), y.at(v));
    }
    d
}
