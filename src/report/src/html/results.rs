//! Results: one forest plot per metric, and paired differences.

use super::E;
use super::palette::{COLOURS, Palette};
use super::svg::{Scale, tick_label};
use crate::paired::{Difference, RESAMPLES};
use crate::rows::{Group, groups, metric, metric_names};
use crate::sweep::Sweep;
use crate::units::number;
use record::MetricRow;
use std::fmt::Write;

const PLOT: f64 = 150.0;
/// Metrics that stand open; an evaluation reports the telling ones first.
const OPEN: usize = 4;

pub fn section(page: &mut String, sweep: &Sweep, pairs: &[Difference]) {
    page.push_str("<section id=\"results\"><h2>Results</h2>\n");
    let phases = groups(sweep);
    if phases.is_empty() {
        page.push_str("<p class=\"note\">No task with metrics has succeeded yet.</p></section>\n");
        return;
    }
    page.push_str(
        "<p class=\"note\">Dot: value; line: its 95 % interval as the evaluation computed it. Where there are several \
         seeds, the first line of a group is their mean and its bar spans them. <i>n</i>: samples that could be scored; \
         unscored ones count neither as pass nor as fail.</p>\n",
    );
    let palette = Palette::of(sweep);
    for (phase, of_phase) in &phases {
        let names = metric_names(of_phase.iter().flat_map(|g| g.tasks.iter().copied()));
        // with one more to fold away, there is no point in folding
        let (first, rest) = names.split_at(if names.len() <= OPEN + 1 { names.len() } else { OPEN });
        let grid = |page: &mut String, names: &[&str]| {
            page.push_str("<div class=\"metrics\">\n");
            for name in names {
                forest(page, name, of_phase, &palette);
            }
            page.push_str("</div>\n");
        };
        let _ = writeln!(page, "<h3>{}</h3>", E(phase));
        grid(page, first);
        if !rest.is_empty() {
            let _ = writeln!(
                page,
                "<details><summary>{} more metrics: {}</summary>",
                rest.len(),
                E(&rest.join(", "))
            );
            grid(page, rest);
            page.push_str("</details>\n");
        }
        differences(page, pairs, phase, of_phase);
    }
    page.push_str("</section>\n");
}

fn forest(page: &mut String, name: &str, of_phase: &[Group], palette: &Palette) {
    let all: Vec<&MetricRow> =
        of_phase.iter().flat_map(|g| &g.tasks).filter_map(|t| metric(t, name)).collect();
    let ends = || all.iter().flat_map(|m| [m.value, m.low, m.high]).flatten();
    let rate = ends().all(|v| (0.0..=1.0).contains(&v));
    let within = if rate { (0.0, 1.0) } else { (f64::MIN, f64::MAX) };
    let scale = Scale::around(ends(), 0.06, within, 6.0, PLOT - 6.0);
    let unscored = all.iter().any(|m| m.unscored > 0);
    let _ = writeln!(
        page,
        "<figure><h4>{}</h4><div class=\"scroll\"><table><thead><tr><th>model</th><th class=\"num\">value</th>\
         <th>95 % interval</th><th class=\"plot\"></th><th class=\"num\">n</th>{}</tr></thead><tbody>",
        E(name),
        if unscored { "<th class=\"num\">unscored</th>" } else { "" }
    );
    let rows = of_phase.len();
    for (i, group) in of_phase.iter().enumerate() {
        let found: Vec<(&str, String, &MetricRow)> = group
            .tasks
            .iter()
            .filter_map(|t| {
                let seed = t.task.labels.get("seed").map(plan::plain).unwrap_or_default();
                Some((group.name.as_str(), seed, metric(t, name)?))
            })
            .collect();
        let last = i + 1 == rows;
        let colour = palette.colour(&group.tasks[0].task.labels);
        if let [(label, seed, m)] = found.as_slice() {
            let label = if seed.is_empty() { (*label).to_owned() } else { format!("{label}, seed {seed}") };
            row(page, &label, m, &scale, colour, unscored, if last { "before-axis" } else { "" });
            continue;
        }
        mean_row(page, &group.name, &found, &scale, colour, unscored);
        for (k, (_, seed, m)) in found.iter().enumerate() {
            let class = if last && k + 1 == found.len() { "seed before-axis" } else { "seed" };
            row(page, &format!("seed {seed}"), m, &scale, colour, unscored, class);
        }
    }
    let _ = writeln!(
        page,
        "<tr class=\"axis\"><td></td><td></td><td></td><td class=\"plot\">{}</td><td></td>{}</tr></tbody></table></div></figure>",
        axis(&scale),
        if unscored { "<td></td>" } else { "" }
    );
}

fn row(
    page: &mut String,
    label: &str,
    m: &MetricRow,
    scale: &Scale,
    colour: usize,
    unscored: bool,
    class: &str,
) {
    let value = m.value.map_or_else(|| "unscored".to_owned(), number);
    let interval = match (m.low, m.high) {
        (Some(l), Some(h)) => format!("[{}, {}]", number(l), number(h)),
        _ => String::new(),
    };
    let _ = writeln!(
        page,
        "<tr class=\"{class}\"><td>{}</td><td class=\"num\">{value}</td><td class=\"interval\">{interval}</td>\
         <td class=\"plot\">{}</td><td class=\"num\">{}</td>{}</tr>",
        E(label),
        whisker(
            m.value,
            m.low.zip(m.high),
            "whisker",
            scale,
            colour,
            if class.starts_with("seed") { 2.6 } else { 3.6 }
        ),
        m.n,
        if unscored { format!("<td class=\"num\">{}</td>", m.unscored) } else { String::new() }
    );
}

fn mean_row(
    page: &mut String,
    label: &str,
    seeds: &[(&str, String, &MetricRow)],
    scale: &Scale,
    colour: usize,
    unscored: bool,
) {
    let values: Vec<f64> = seeds.iter().filter_map(|(_, _, m)| m.value).collect();
    #[allow(clippy::cast_precision_loss)]
    let mean = (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let span = mean.map(|_| (low, high));
    let _ = writeln!(
        page,
        "<tr><td>{}</td><td class=\"num\">{}</td><td class=\"interval\">{}</td><td class=\"plot\">{}</td>\
         <td class=\"num\"></td>{}</tr>",
        E(label),
        mean.map_or_else(|| "-".to_owned(), number),
        if seeds.is_empty() { String::new() } else { format!("mean of {} seeds", values.len()) },
        whisker(mean, span, "range", scale, colour, 3.6),
        if unscored { "<td></td>" } else { "" }
    );
}

fn whisker(
    value: Option<f64>,
    span: Option<(f64, f64)>,
    class: &str,
    scale: &Scale,
    colour: usize,
    radius: f64,
) -> String {
    let c = colour % COLOURS;
    let mut s =
        format!("<svg width=\"{PLOT}\" height=\"18\" viewBox=\"0 0 {PLOT} 18\" aria-hidden=\"true\">");
    for t in scale.ticks(4) {
        let x = scale.at(t);
        let _ = write!(s, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"18\"/>");
    }
    if let Some((low, high)) = span {
        let (a, b) = (scale.at(low), scale.at(high));
        let _ =
            write!(s, "<line class=\"{class} stroke{c}\" x1=\"{a:.1}\" x2=\"{b:.1}\" y1=\"9\" y2=\"9\"/>");
    }
    if let Some(v) = value {
        let _ = write!(s, "<circle class=\"fill{c}\" cx=\"{:.1}\" cy=\"9\" r=\"{radius}\"/>", scale.at(v));
    }
    s + "</svg>"
}

fn axis(scale: &Scale) -> String {
    let mut s =
        format!("<svg width=\"{PLOT}\" height=\"18\" viewBox=\"0 0 {PLOT} 18\" aria-hidden=\"true\">");
    for t in scale.ticks(4) {
        let x = scale.at(t);
        let _ = write!(
            s,
            "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"4\"/>\
             <text x=\"{x:.1}\" y=\"15\" text-anchor=\"middle\">{}</text>",
            tick_label(t)
        );
    }
    s + "</svg>"
}

fn differences(page: &mut String, pairs: &[Difference], phase: &str, of_phase: &[Group]) {
    let names = metric_names(of_phase.iter().flat_map(|g| g.tasks.iter().copied()));
    let of_phase: Vec<&Difference> = pairs.iter().filter(|d| d.phase == phase).collect();
    let tables: Vec<(&str, String)> = names
        .into_iter()
        .filter_map(|name| {
            let of_metric: Vec<&&Difference> = of_phase.iter().filter(|d| d.metric == name).collect();
            (!of_metric.is_empty()).then(|| (name, difference_table(name, &of_metric)))
        })
        .collect();
    let Some(((_, first), rest)) = tables.split_first() else { return };
    let _ = write!(
        page,
        "<h3>{}: paired differences</h3>\n<p class=\"note\">Problem by problem, seeds averaged; 95 % percentile \
         bootstrap over problems ({RESAMPLES} resamples). Each interval stands for itself: none is adjusted for the \
         number of comparisons.</p>\n{first}",
        E(phase)
    );
    if !rest.is_empty() {
        let names: Vec<&str> = rest.iter().map(|(n, _)| *n).collect();
        let _ = writeln!(page, "<details><summary>{} more: {}</summary>", rest.len(), E(&names.join(", ")));
        for (_, table) in rest {
            page.push_str(table);
        }
        page.push_str("</details>\n");
    }
}

fn difference_table(name: &str, of_metric: &[&&Difference]) -> String {
    let ends = of_metric.iter().flat_map(|d| [d.low, d.high, 0.0]);
    let scale = Scale::around(ends, 0.08, (f64::MIN, f64::MAX), 6.0, PLOT - 6.0);
    let zero = scale.at(0.0);
    let mut s = format!(
        "<div class=\"scroll\"><table><thead><tr><th>{}</th><th class=\"num\">difference</th><th>95 % interval</th>\
         <th class=\"plot\"></th><th class=\"num\">better</th><th class=\"num\">worse</th><th class=\"num\">problems</th></tr></thead><tbody>\n",
        E(name)
    );
    for (i, d) in of_metric.iter().enumerate() {
        // grey where the interval holds zero: the eye should not rank noise
        let c = if d.low > 0.0 {
            2
        } else if d.high < 0.0 {
            1
        } else {
            7
        };
        let plot = whisker(Some(d.difference), Some((d.low, d.high)), "whisker", &scale, c, 3.4);
        let plot = plot.replacen(
            "aria-hidden=\"true\">",
            &format!("aria-hidden=\"true\"><line class=\"zero\" x1=\"{zero:.1}\" x2=\"{zero:.1}\" y1=\"0\" y2=\"18\"/>"),
            1,
        );
        let _ = writeln!(
            s,
            "<tr class=\"{}\"><td>{} − {}</td><td class=\"num\">{:+.3}</td><td class=\"interval\">[{:+.3}, {:+.3}]</td>\
             <td class=\"plot\">{plot}</td><td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td></tr>",
            if i + 1 == of_metric.len() { "before-axis" } else { "" },
            E(&d.a),
            E(&d.b),
            d.difference,
            d.low,
            d.high,
            d.better,
            d.worse,
            d.n
        );
    }
    let _ = writeln!(
        s,
        "<tr class=\"axis\"><td></td><td></td><td></td><td class=\"plot\">{}</td><td></td><td></td><td></td></tr></tbody></table></div>",
        axis(&scale)
    );
    s
}
