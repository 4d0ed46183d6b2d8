//! What is behind the numbers: job file, seeds, versions, machines, and the facts that each task recorded.

use super::E;
use crate::sweep::Sweep;
use crate::units::moment;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Different values of one fact that are worth listing.
const VALUES: usize = 6;

pub fn section(page: &mut String, sweep: &Sweep) {
    page.push_str("<section id=\"provenance\"><h2>Provenance</h2>\n<dl>\n");
    let records = || sweep.tasks.iter().filter_map(|t| t.result.as_ref());
    let mut item = |name: &str, values: &BTreeSet<String>| {
        if !values.is_empty() {
            let list: Vec<&str> = values.iter().map(String::as_str).collect();
            let _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", E(name), E(&list.join(", ")));
        }
    };
    let one = |s: String| BTreeSet::from([s]);
    item("run directory", &one(sweep.run_dir.display().to_string()));
    item("job file, SHA-256", &one(sweep.graph.job_sha256.clone()));
    if let (Some(start), Some(end)) =
        (records().map(|r| r.started_ms).min(), records().map(|r| r.ended_ms).max())
    {
        item("first start, last end", &one(format!("{} to {}", moment(start), moment(end))));
    }
    item("seeds", &seeds(sweep));
    item("programs", &records().map(|r| r.program.clone()).filter(|p| !p.is_empty()).collect());
    item("hosts", &records().map(|r| r.host.clone()).filter(|h| !h.is_empty()).collect());
    item("GPUs", &records().flat_map(|r| r.gpus.iter().cloned()).collect());
    for (name, values) in shared_facts(sweep) {
        item(&name, &values);
    }
    page.push_str("</dl>\n");
    facts(page, sweep);
    file(page, "job.yaml", &sweep.job_text, true);
    file(page, "site.yaml", &sweep.site_text, false);
    page.push_str("</section>\n");
}

/// Every parameter called `seed`, with the phases that use it.
fn seeds(sweep: &Sweep) -> BTreeSet<String> {
    let mut by_seed: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for t in &sweep.tasks {
        let seed = serde_json::to_value(&t.task.work).ok().and_then(|w| w["params"]["seed"].as_u64());
        if let Some(seed) = seed {
            by_seed.entry(seed).or_default().insert(&t.task.phase);
        }
    }
    by_seed
        .into_iter()
        .map(|(s, phases)| format!("{s} ({})", phases.into_iter().collect::<Vec<_>>().join(", ")))
        .collect()
}

fn shown(v: &Value) -> String {
    plan::plain(v)
}

/// Facts that say the same, or nearly, for many tasks: versions, device, precision.
fn shared_facts(sweep: &Sweep) -> Vec<(String, BTreeSet<String>)> {
    let mut values: BTreeMap<&str, (BTreeSet<String>, usize)> = BTreeMap::new();
    for (name, v) in sweep.tasks.iter().filter_map(|t| t.result.as_ref()).flat_map(|r| &r.facts) {
        if v.is_string() || v.is_boolean() {
            let entry = values.entry(name).or_default();
            entry.0.insert(shown(v));
            entry.1 += 1;
        }
    }
    values
        .into_iter()
        .filter(|(_, (v, tasks))| *tasks > 1 && v.len() <= VALUES && v.len() < *tasks)
        .map(|(name, (v, _))| (name.to_owned(), v))
        .collect()
}

fn facts(page: &mut String, sweep: &Sweep) {
    let with: Vec<_> = sweep
        .tasks
        .iter()
        .filter_map(|t| Some((t, t.result.as_ref().filter(|r| !r.facts.is_empty())?)))
        .take(400)
        .collect();
    if with.is_empty() {
        return;
    }
    page.push_str("<details><summary>Facts recorded by each task</summary>\n<div class=\"scroll\"><table><thead><tr><th>task</th><th>facts</th></tr></thead><tbody>\n");
    for (t, r) in with {
        let list: Vec<String> = r.facts.iter().map(|(k, v)| format!("{k} = {}", shown(v))).collect();
        let _ = writeln!(page, "<tr><td>{}</td><td>{}</td></tr>", E(&t.task.title()), E(&list.join("; ")));
    }
    page.push_str("</tbody></table></div></details>\n");
}

fn file(page: &mut String, name: &str, text: &str, open: bool) {
    if text.is_empty() {
        return;
    }
    let _ = write!(
        page,
        "<details{}><summary>{} as submitted</summary>\n<pre>",
        if open { " open" } else { "" },
        E(name)
    );
    for line in text.split_inclusive('\n') {
        yaml_line(page, line);
    }
    page.push_str("</pre></details>\n");
}

/// Colours comments and keys; the text itself stays as it is, character for character.
fn yaml_line(page: &mut String, line: &str) {
    let body = line.trim_start();
    if body.starts_with('#') {
        let _ = write!(page, "<span class=\"c\">{}</span>", E(line));
        return;
    }
    let indent = line.len() - body.len();
    let key = body.find(':').filter(|at| {
        body[..*at].chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | ' ')) && *at > 0
    });
    match key {
        Some(at) => {
            let (key, rest) = line.split_at(indent + at);
            let _ = write!(page, "<span class=\"k\">{}</span>{}", E(key), E(rest));
        }
        None => {
            let _ = write!(page, "{}", E(line));
        }
    }
}
