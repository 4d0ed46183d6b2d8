//! The merged tree as phases, axes, variants: what [`crate::expand`] expands.

use crate::diagnostic::{Report, allowed};
use crate::document::{Document, kind_of};
use crate::node::{Entry, Level, Node, Pos, Tree};
use crate::template::{self, Part};
use record::Kind;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap, HashSet};

pub(crate) struct Job {
    /// Top-level axes first, then those of the phases.
    pub axes: Vec<AxisDef>,
    /// How many of `axes` are top-level.
    pub top_axes: usize,
    pub phases: Vec<Phase>,
    pub by_name: HashMap<String, usize>,
    /// Phases without a known kind: reported already, whoever names them is not wrong.
    pub broken: HashSet<String>,
}

pub(crate) struct AxisDef {
    pub name: String,
    pub values: Vec<Value>,
    /// JSON of a value -> its place in `values`.
    index: HashMap<String, u32>,
}

impl AxisDef {
    pub fn find(&self, value: &Value) -> Option<u32> {
        self.index.get(&value.to_string()).copied()
    }
}

pub(crate) struct Phase {
    pub name: String,
    /// Where its name stands.
    pub at: Pos,
    pub kind: Kind,
    /// Every axis it may mention: top-level ones, then its own.
    pub axes: Vec<usize>,
    /// Defaults, defaults of the kind and the phase itself, merged; without `extra`.
    pub base: Node,
    pub extra: Vec<Node>,
    pub variants: Vec<Variant>,
    /// The axes that it or anything upstream mentions: those it is expanded over. Sorted.
    pub relevant: Vec<usize>,
    /// Axes of variants that change content (params, inputs, services).
    pub content_when: BTreeSet<usize>,
}

pub(crate) struct Variant {
    /// All must match: axis and the places of the values that do.
    pub when: Vec<(usize, HashSet<u32>)>,
    pub body: Node,
    pub extra: Vec<Node>,
}

/// One entry of `inputs:` or `services:`.
#[derive(Debug, Clone)]
pub(crate) struct Role {
    /// May contain `${axis}`.
    pub name: String,
    pub at: Pos,
    pub service: bool,
    pub sources: Vec<Source>,
}

#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// May contain `${axis}`.
    pub phase: String,
    pub at: Pos,
    /// `at:`: axis, its place, value(s).
    pub points: Vec<(String, Pos, Node)>,
}

/// More axes than this for one phase make no sense, and sets of them fit one word.
pub(crate) const MAX_AXES: usize = 64;

impl Phase {
    /// The axis that `name` means here.
    pub fn axis(&self, name: &str, axes: &[AxisDef]) -> Option<usize> {
        self.axes.iter().copied().find(|&a| axes[a].name == name)
    }
}

pub(crate) fn compile(document: &Document, report: &mut Report) -> Job {
    let root = &document.merged;
    let mut axes = Vec::new();
    for entry in root.get("matrix").map(Node::entries).unwrap_or_default() {
        axes.extend(axis(entry, report));
    }
    let top_axes = axes.len();
    let mut job = Job { axes, top_axes, phases: Vec::new(), by_name: HashMap::new(), broken: HashSet::new() };
    let defaults = root.get("defaults");
    for entry in root.get("phases").map(Node::entries).unwrap_or_default() {
        let Some(kind) = kind_of(&entry.value) else {
            job.broken.insert(entry.key.clone());
            continue;
        };
        let phase = phase(entry, kind, defaults, document, &mut job, report);
        job.by_name.insert(entry.key.clone(), job.phases.len());
        job.phases.push(phase);
    }
    relevance(&mut job);
    job
}

fn axis(entry: &Entry, report: &mut Report) -> Option<AxisDef> {
    let mut def = AxisDef { name: entry.key.clone(), values: Vec::new(), index: HashMap::new() };
    // a single value where a list must stand is reported by the schema; going on with it avoids follow-up errors
    let single = std::slice::from_ref(&entry.value);
    let items = if let Tree::Seq(items) = &entry.value.tree { items } else { single };
    for item in items {
        let value = item.to_value();
        let place = u32::try_from(def.values.len()).ok()?;
        if def.find(&value).is_some() {
            let message = format!("the axis `{}` has the value {} twice", entry.key, value);
            report.error(item.at, message, "remove one".into());
            continue;
        }
        def.index.insert(value.to_string(), place);
        def.values.push(value);
    }
    (!def.values.is_empty()).then_some(def)
}

fn phase(
    entry: &Entry,
    kind: Kind,
    defaults: Option<&Node>,
    document: &Document,
    job: &mut Job,
    report: &mut Report,
) -> Phase {
    let node = &entry.value;
    let mut mine: Vec<usize> = (0..job.top_axes).collect();
    for own in node.get("matrix").map(Node::entries).unwrap_or_default() {
        if mine.iter().any(|&a| job.axes[a].name == own.key) {
            let message = format!("the axis `{}` is already in the top-level matrix", own.key);
            report.error(own.at, message, "give this phase's own axis another name".into());
        } else if let Some(def) = axis(own, report) {
            mine.push(job.axes.len());
            job.axes.push(def);
        }
    }
    if mine.len() > MAX_AXES {
        let message = format!("phase `{}` has {} axes, {MAX_AXES} are possible", entry.key, mine.len());
        report.error(entry.at, message, "drop axes that have a single value".into());
        mine.truncate(MAX_AXES);
    }
    let mut base = Node::empty_map(entry.at);
    let mut extra = Vec::new();
    let of_kind = defaults.and_then(|d| d.get("kinds")).and_then(|k| k.get(kind.name()));
    for (layer, drop) in [
        (defaults, &["kinds", "extra"][..]),
        (of_kind, &["extra"]),
        (Some(node), &["kind", "matrix", "variants", "extra"]),
    ] {
        let Some(layer) = layer else { continue };
        base = base.merged(&pick(layer, drop), Level::Phase);
        extra.extend(layer.get("extra").map(Node::items).unwrap_or_default().iter().cloned());
    }
    let mut phase = Phase {
        name: entry.key.clone(),
        at: entry.at,
        kind,
        axes: mine,
        base,
        extra,
        variants: Vec::new(),
        relevant: Vec::new(),
        content_when: BTreeSet::new(),
    };
    let mut relevant = BTreeSet::new();
    mentioned(&phase, &phase.base, &job.axes, &mut relevant, report);
    for item in &phase.extra {
        mentioned(&phase, item, &job.axes, &mut relevant, report);
    }
    for node in node.get("variants").map(Node::items).unwrap_or_default() {
        let body = pick(node, &["when", "extra"]);
        let extra = node.get("extra").map(Node::items).unwrap_or_default().to_vec();
        mentioned(&phase, &body, &job.axes, &mut relevant, report);
        for item in &extra {
            mentioned(&phase, item, &job.axes, &mut relevant, report);
        }
        let Some(when) = when(&phase, node.get("when"), document, &job.axes, report) else { continue };
        let content = ["params", "inputs", "services"].iter().any(|k| body.get(k).is_some());
        for (axis, _) in &when {
            relevant.insert(*axis);
            if content {
                phase.content_when.insert(*axis);
            }
        }
        phase.variants.push(Variant { when, body, extra });
    }
    phase.relevant = relevant.into_iter().collect();
    phase
}

fn pick(node: &Node, drop: &[&str]) -> Node {
    let keep = node.entries().iter().filter(|e| !drop.contains(&e.key.as_str())).cloned().collect();
    Node { at: node.at, tree: Tree::Map(keep) }
}

/// Collects the axes that `node` mentions and reports unknown ones.
fn mentioned(phase: &Phase, node: &Node, axes: &[AxisDef], out: &mut BTreeSet<usize>, report: &mut Report) {
    let mut unknown = Vec::new();
    let mut bad = Vec::new();
    template::axes_in(
        node,
        &mut |name, at| match phase.axis(name, axes) {
            Some(a) => {
                out.insert(a);
            }
            None => unknown.push((name.to_owned(), at)),
        },
        &mut |message, at| bad.push((message, at)),
    );
    for (name, at) in unknown {
        let help = if phase.axes.is_empty() {
            "there is no matrix: add one, or write `$${` for a literal `${`".to_owned()
        } else {
            allowed(&name, phase.axes.iter().map(|&a| axes[a].name.as_str()))
        };
        report.error(at, format!("there is no axis `{name}` in phase `{}`", phase.name), help);
    }
    for (message, at) in bad {
        report.error(at, message, "write `$${` for a literal `${`".into());
    }
}

fn when(
    phase: &Phase,
    node: Option<&Node>,
    document: &Document,
    axes: &[AxisDef],
    report: &mut Report,
) -> Option<Vec<(usize, HashSet<u32>)>> {
    let node = node.filter(|n| matches!(n.tree, Tree::Map(_)))?;
    let mut out = Vec::new();
    let mut good = true;
    for entry in node.entries() {
        let Some(axis) = phase.axis(&entry.key, axes) else {
            let help = allowed(&entry.key, phase.axes.iter().map(|&a| axes[a].name.as_str()));
            let message = format!("there is no axis `{}` in phase `{}`", entry.key, phase.name);
            report.error(entry.at, message, help);
            good = false;
            continue;
        };
        let single = std::slice::from_ref(&entry.value);
        let wanted = if let Tree::Seq(items) = &entry.value.tree { items } else { single };
        let mut places = HashSet::new();
        for item in wanted {
            let value = item.to_value();
            if let Some(place) = axes[axis].find(&value) {
                places.insert(place);
            } else if !written_values(document, &phase.name, &entry.key).any(|v| v == value) {
                // a value that only this profile drops from the axis is no mistake
                let values: Vec<String> = axes[axis].values.iter().map(crate::graph::plain).collect();
                let help = allowed(&crate::graph::plain(&value), values.iter().map(String::as_str));
                let message = format!("the axis `{}` never is {}", entry.key, item.describe());
                report.error(item.at, message, help);
            }
        }
        out.push((axis, places));
    }
    good.then_some(out)
}

/// The values of an axis in the file as written, before profile and `--set`.
fn written_values<'a>(document: &'a Document, phase: &str, axis: &str) -> impl Iterator<Item = Value> + 'a {
    let own = document.written.get("phases").and_then(|p| p.get(phase)).and_then(|p| p.get("matrix"));
    let matrix = [own, document.written.get("matrix")];
    let found = matrix.into_iter().flatten().find_map(|m| m.get(axis));
    found.map(Node::items).unwrap_or_default().iter().map(Node::to_value)
}

/// The roles of a merged body.
pub(crate) fn roles(body: &Node) -> Vec<Role> {
    let mut out = Vec::new();
    for (section, service) in [("inputs", false), ("services", true)] {
        for entry in body.get(section).map(Node::entries).unwrap_or_default() {
            let sources = match &entry.value.tree {
                Tree::Seq(items) => items.iter().filter_map(source).collect(),
                _ => source(&entry.value).into_iter().collect(),
            };
            out.push(Role { name: entry.key.clone(), at: entry.at, service, sources });
        }
    }
    out
}

fn source(node: &Node) -> Option<Source> {
    if let Some(phase) = node.as_str() {
        return Some(Source { phase: phase.to_owned(), at: node.at, points: Vec::new() });
    }
    let named = node.get("phase")?;
    let points = node.get("at").map(Node::entries).unwrap_or_default();
    Some(Source {
        phase: named.as_str()?.to_owned(),
        at: named.at,
        points: points.iter().map(|e| (e.key.clone(), e.at, e.value.clone())).collect(),
    })
}

/// Adds to every phase's axes those of everything upstream, until nothing changes. Uses more sources than a point may
/// have (all variants): an axis too many costs time, not truth, because tasks are told apart by content.
fn relevance(job: &mut Job) {
    let mut edges: Vec<(usize, usize, HashSet<String>)> = Vec::new();
    for (p, phase) in job.phases.iter().enumerate() {
        let bodies = std::iter::once(&phase.base).chain(phase.variants.iter().map(|v| &v.body));
        for source in bodies.flat_map(roles).flat_map(|r| r.sources) {
            let pinned: HashSet<String> = source.points.iter().map(|(axis, ..)| axis.clone()).collect();
            for name in candidates(&source.phase, phase, &job.axes) {
                if let Some(&q) = job.by_name.get(&name) {
                    edges.push((p, q, pinned.clone()));
                }
            }
        }
    }
    let mut sets: Vec<BTreeSet<usize>> =
        job.phases.iter().map(|p| p.relevant.iter().copied().collect()).collect();
    loop {
        let mut changed = false;
        for (p, q, pinned) in &edges {
            let upstream: Vec<usize> = sets[*q].iter().copied().collect();
            for axis in upstream {
                let name = &job.axes[axis].name;
                if pinned.contains(name) {
                    continue;
                }
                if let Some(mine) = job.phases[*p].axis(name, &job.axes) {
                    changed |= sets[*p].insert(mine);
                }
            }
        }
        if !changed {
            break;
        }
    }
    for (phase, set) in job.phases.iter_mut().zip(sets) {
        phase.relevant = set.into_iter().collect();
    }
}

/// Every phase name that `text` can become.
fn candidates(text: &str, phase: &Phase, axes: &[AxisDef]) -> Vec<String> {
    const MOST: usize = 100_000;
    let Ok(parts) = template::parts(text) else { return Vec::new() };
    let mut out = vec![String::new()];
    for part in parts {
        match part {
            Part::Text(t) => out.iter_mut().for_each(|s| s.push_str(t)),
            Part::Axis(name) => {
                let Some(axis) = phase.axis(name, axes) else { return Vec::new() };
                let values = &axes[axis].values;
                if out.len().saturating_mul(values.len()) > MOST {
                    return Vec::new();
                }
                out = out
                    .iter()
                    .flat_map(|s| values.iter().map(move |v| format!("{s}{}", crate::graph::plain(v))))
                    .collect();
            }
        }
    }
    out.sort();
    out.dedup();
    out
}
