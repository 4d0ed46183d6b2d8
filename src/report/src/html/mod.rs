//! The HTML report: one file, no script, no network, readable in ten years.

use crate::paired::differences;
use crate::sweep::Sweep;
use crate::text;
use crate::units::{duration, hours, megabytes, moment};
use std::fmt::{self, Write};

mod cost;
mod curves;
mod graph;
mod layers;
mod palette;
mod provenance;
mod results;
mod svg;

const STYLE: &str = include_str!("style.css");

/// Text that cannot become markup, in element content and in quoted attributes.
pub(crate) struct E<'a>(pub &'a str);

impl fmt::Display for E<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // not allowed in HTML at all; a scheduler's message may hold anything
                c if c.is_control() && !matches!(c, '\n' | '\t' | '\r') => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// One self-contained page. The policy in its head forbids the browser every request, whatever a label or a message holds.
#[must_use]
pub fn html(sweep: &Sweep) -> String {
    let mut page = String::with_capacity(64 << 10);
    let name = E(&sweep.name);
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{name}: sweep report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
    );
    head(&mut page, sweep);
    trouble(&mut page, sweep);
    let (pairs, warnings) = differences(sweep);
    results::section(&mut page, sweep, &pairs);
    curves::section(&mut page, sweep);
    graph::section(&mut page, sweep);
    cost::section(&mut page, sweep);
    provenance::section(&mut page, sweep);
    let all: Vec<&String> = sweep.warnings.iter().chain(&warnings).collect();
    if !all.is_empty() {
        page.push_str("<section id=\"warnings\"><h2>Files that could not be read</h2><ul>");
        for w in all {
            let _ = write!(page, "<li>{}</li>", E(w));
        }
        page.push_str("</ul></section>\n");
    }
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn head(page: &mut String, sweep: &Sweep) {
    let counts = sweep.counts();
    let cost = sweep.cost();
    let span = span_s(sweep).map(|s| format!(", {} from first start to last end", duration(s)));
    let _ = write!(
        page,
        "<header>\n<p class=\"eyebrow\">bessemer sweep report</p>\n<h1>{}</h1>\n\
         <p class=\"lead\">{} tasks: {}{}. \
         {} CPU-hours, {} GPU-hours, largest process {}. Read {}.</p>\n",
        E(&sweep.name),
        sweep.tasks.len(),
        E(&text::counts(&counts)),
        span.unwrap_or_default(),
        hours(cost.cpu_s),
        hours(cost.gpu_s),
        megabytes(cost.peak_rss_mb),
        moment(sweep.read_ms),
    );
    page.push_str("<div class=\"strip\" role=\"img\" aria-label=\"share of tasks by state\">");
    for (state, n) in &counts {
        let _ = write!(
            page,
            "<span class=\"s-{}\" style=\"flex:{n}\" title=\"{n} {}\"></span>",
            state.look(),
            state.name()
        );
    }
    page.push_str("</div>\n</header>\n");
}

/// Seconds from the first start to the last recorded end.
fn span_s(sweep: &Sweep) -> Option<f64> {
    let records = || sweep.tasks.iter().flat_map(|t| &t.attempts).filter_map(|a| a.record.as_ref());
    let start = records().map(|r| r.started_ms).min()?;
    let end = records().map(|r| r.ended_ms).max()?;
    #[allow(clippy::cast_precision_loss)]
    Some((end - start) as f64 / 1000.0)
}

/// What a person should look at comes before every number.
fn trouble(page: &mut String, sweep: &Sweep) {
    let bad: Vec<_> = sweep.tasks.iter().filter(|t| t.state.is_trouble()).collect();
    if bad.is_empty() {
        return;
    }
    const SHOWN: usize = 50;
    page.push_str("<section id=\"attention\"><h2>Needs attention</h2>\n<table><thead><tr><th>task</th><th>state</th><th class=\"num\">attempts</th><th>why</th></tr></thead><tbody>\n");
    for t in bad.iter().take(SHOWN) {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td><span class=\"tag s-{}\">{}</span></td><td class=\"num\">{}</td><td>{}</td></tr>",
            E(&t.task.title()),
            t.state.look(),
            t.state.name(),
            t.attempts.len(),
            E(&t.detail)
        );
    }
    page.push_str("</tbody></table>\n");
    if bad.len() > SHOWN {
        let _ = write!(page, "<p class=\"note\">and {} more.</p>", bad.len() - SHOWN);
    }
    page.push_str("</section>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        let nasty = "<script>alert(\"1\")</script>&'\u{0}\u{1b}";
        assert_eq!(
            E(nasty).to_string(),
            "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;\u{fffd}\u{fffd}"
        );
    }
}
