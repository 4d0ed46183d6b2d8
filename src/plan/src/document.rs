//! From text to one merged tree: parsing, static checks of every part (also of profiles that are not chosen), profile
//! and `--set` on top.

use crate::Options;
use crate::check::Checker;
use crate::diagnostic::{Report, allowed};
use crate::node::{Entry, Level, Node, Pos, Tree};
use crate::schema;
use crate::template;
use crate::yaml;
use record::Kind;
use serde_json::{Value, json};

/// The file as written, and as it is after profile and `--set`.
pub(crate) struct Document {
    pub written: Node,
    pub merged: Node,
}

pub(crate) fn read(text: &str, options: &Options, report: &mut Report) -> Option<Document> {
    let start = Pos { source: 0, line: 1, column: 1 };
    let written = match yaml::parse(0, 0, text, report) {
        Some(node) if !node.is_null() => node,
        Some(_) | None => {
            if report.is_empty() {
                let help = "start with `bessemer: 1`, `name:` and `phases:`; see docs/JOBFILE.md".to_owned();
                report.error(start, "the job file is empty".into(), help);
            }
            return None;
        }
    };
    yaml::duplicates(&written, report);
    let profiles = written.get("profiles").map(Node::entries).unwrap_or_default();
    let kinds = |name: &str| kind_of(written.get("phases")?.get(name)?);
    for profile in profiles {
        check_top(&profile.value, &profile.key, Some(&kinds), report);
    }
    let mut merged = without(&written, "profiles");
    if let Some(name) = &options.profile {
        match profiles.iter().find(|p| p.key == *name) {
            Some(profile) => merged = merged.merged(&profile.value, Level::Job),
            None => {
                let at = written.entry("profiles").map_or(start, |e| e.at);
                let help = if profiles.is_empty() {
                    "the job file has no `profiles:`; leave the profile out, or write one (docs/JOBFILE.md)"
                        .into()
                } else {
                    allowed(name, profiles.iter().map(|p| p.key.as_str()))
                };
                report.error(at, format!("there is no profile `{name}`"), help);
            }
        }
    }
    for (path, value) in &options.set {
        if let Some(node) = setting(&merged, path, value, report) {
            merged = merged.merged(&node, Level::Job);
        }
    }
    check_top(&merged, "the job file", None, report);
    Some(Document { written, merged })
}

/// `phases.rl.params.episodes` and `5` as a tree of nested mappings, to be laid over `merged`. Inside a list (`seed[0]` or
/// `seed.0`) the whole list with that one item changed.
fn setting(merged: &Node, path: &str, value: &str, report: &mut Report) -> Option<Node> {
    let source = report.add_source(format!("--set {path}={value}"));
    let start = Pos { source, line: 1, column: 1 };
    let Some(steps) = steps(path, start) else {
        let help = "write --set phases.PHASE.params.NAME=VALUE; an item of a list is NAME[0]".to_owned();
        report.error(start, format!("`{path}` is not a path"), help);
        return None;
    };
    let shift = u32::try_from(path.chars().count() + 1).unwrap_or(u32::MAX);
    let node = yaml::parse(source, shift, value, report).unwrap_or(Node {
        at: Pos { column: shift.saturating_add(1), ..start },
        tree: Tree::Scalar(Value::Null),
    });
    yaml::duplicates(&node, report);
    overlay(Some(merged), &steps, node, report)
}

/// One step of a path.
struct Step {
    key: String,
    /// A number, which counts from 0 in a list.
    index: Option<usize>,
    /// In brackets: certainly an item of a list.
    item: bool,
    at: Pos,
}

/// `a.b[2]` in steps; `None` if it is no path.
fn steps(path: &str, start: Pos) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut column = 1;
    for segment in path.split('.') {
        let mut at = |len: usize| {
            let at = Pos { column, ..start };
            column += u32::try_from(len).unwrap_or(0);
            at
        };
        let (name, mut items) = segment.find('[').map_or((segment, ""), |i| segment.split_at(i));
        let key = name.trim().to_owned();
        if key.is_empty() {
            return None;
        }
        steps.push(Step { index: key.parse().ok(), key, item: false, at: at(name.chars().count()) });
        while let Some(rest) = items.strip_prefix('[') {
            let (number, rest) = rest.split_once(']')?;
            let index = number.trim().parse().ok()?;
            let len = number.chars().count() + 2;
            steps.push(Step { key: number.trim().to_owned(), index: Some(index), item: true, at: at(len) });
            items = rest;
        }
        if !items.trim().is_empty() {
            return None;
        }
        at(1);
    }
    Some(steps)
}

/// `value` at the end of `steps`, as something that merging puts there. `here`: what stands at the beginning of them now.
fn overlay(here: Option<&Node>, steps: &[Step], value: Node, report: &mut Report) -> Option<Node> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    let list = here.and_then(|n| match &n.tree {
        Tree::Seq(items) => Some(items),
        _ => None,
    });
    match (list, step.index) {
        (Some(items), Some(k)) => {
            let Some(item) = items.get(k) else {
                let message = format!("there is no item {k} in this list");
                let help = match items.len() {
                    0 => "it is empty: set the whole list, NAME='[VALUE]'".to_owned(),
                    n => format!("it has the items 0 to {}; set the whole list to make it longer", n - 1),
                };
                report.error(step.at, message, help);
                return None;
            };
            let mut items = items.clone();
            items[k] = item.merged(&overlay(Some(item), rest, value, report)?, Level::Other);
            Some(Node { at: step.at, tree: Tree::Seq(items) })
        }
        _ if step.item => {
            let what = here.map_or("nothing".to_owned(), Node::describe);
            report.error(
                step.at,
                format!("there is no list here, but {what}"),
                "leave the brackets out".into(),
            );
            None
        }
        _ => {
            let below = here.and_then(|n| n.get(&step.key));
            let value = overlay(below, rest, value, report)?;
            let entry = Entry { key: step.key.clone(), at: step.at, value };
            Some(Node { at: step.at, tree: Tree::Map(vec![entry]) })
        }
    }
}

fn without(node: &Node, key: &str) -> Node {
    let entries = node.entries().iter().filter(|e| e.key != key).cloned().collect();
    match node.tree {
        Tree::Map(_) => Node { at: node.at, tree: Tree::Map(entries) },
        _ => node.clone(),
    }
}

pub(crate) fn kind_of(phase: &Node) -> Option<Kind> {
    let name = phase.get("kind")?.as_str()?;
    Kind::ALL.into_iter().find(|k| k.name() == name)
}

/// Kind of a phase of the file as written.
type KindsOf<'a> = &'a dyn Fn(&str) -> Option<Kind>;

/// Checks one whole tree. `kinds` is given for an overlay and knows the kinds of the phases it overlays.
fn check_top(node: &Node, name: &str, kinds: Option<KindsOf>, report: &mut Report) {
    let overlay = kinds.is_some();
    let mut checker = Checker { report, templates: true, partial: overlay };
    let rule = schema::top(json!({"type": "object"}), (!overlay).then(|| json!({"type": "object"})));
    if !checker.check(name, node, &rule) && !matches!(node.tree, Tree::Map(_)) {
        return;
    }
    for key in ["name", "matrix", "budget"] {
        if let Some(node) = node.get(key) {
            refuse_templates(node, &format!("`{key}`"), checker.report);
        }
    }
    if let Some(entry) = node.entry("name")
        && let Some(text) = entry.value.as_str()
    {
        name_ok("sweep", text, entry.value.at, checker.report);
    }
    axis_names(node.get("matrix"), checker.report);
    let phases = node.get("phases").map(Node::entries).unwrap_or_default();
    if phases.is_empty()
        && !overlay
        && let Some(at) = node.entry("phases").map(|e| e.at)
    {
        checker.report.error(at, "`phases` must not be empty".into(), "add a phase with a kind".into());
    }
    for phase in phases {
        let known = kinds.and_then(|k| k(&phase.key));
        let kind = kind_of(&phase.value).or(known);
        if let Some(kinds_of_file) = kinds
            && known.is_none()
            && kinds_of_file(&phase.key).is_none()
            && phase.value.get("kind").is_none()
        {
            let message = format!("there is no phase `{}` to change", phase.key);
            let help = "an overlay that adds a phase must give it a `kind`".to_owned();
            checker.report.error(phase.at, message, help);
        }
        name_ok("phase", &phase.key, phase.at, checker.report);
        let params = kind.map_or(json!({"type": "object"}), schema::params_ref);
        // parameters may still come from defaults and variants: missing ones are looked for at the end
        checker.partial = overlay;
        let body = without(&phase.value, "params");
        checker.check(&phase.key, &body, &schema::phase(&json!({"type": "object"}), overlay));
        checker.partial = true;
        if let Some(node) = phase.value.get("params") {
            checker.check("params", node, &params);
        }
        for variant in phase.value.get("variants").map(Node::items).unwrap_or_default() {
            if let Some(node) = variant.get("params") {
                checker.check("params", node, &params);
            }
            if let Some(when) = variant.get("when") {
                refuse_templates(when, "`when`", checker.report);
            }
        }
        for key in ["kind", "matrix"] {
            if let Some(node) = phase.value.get(key) {
                refuse_templates(node, &format!("`{key}`"), checker.report);
            }
        }
        axis_names(phase.value.get("matrix"), checker.report);
    }
}

fn axis_names(matrix: Option<&Node>, report: &mut Report) {
    for axis in matrix.map(Node::entries).unwrap_or_default() {
        name_ok("axis", &axis.key, axis.at, report);
    }
}

fn name_ok(what: &str, name: &str, at: Pos, report: &mut Report) {
    let mut chars = name.chars();
    let good = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && name.len() <= 64
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !good {
        report.error(
            at,
            format!("`{name}` cannot be the name of a {what}"),
            "a letter, then letters, digits, _ and -, 64 at the most".into(),
        );
    }
}

fn refuse_templates(node: &Node, place: &str, report: &mut Report) {
    let mut found = Vec::new();
    let mut bad = Vec::new();
    template::axes_in(node, &mut |_, at| found.push(at), &mut |_, at| bad.push(at));
    for at in found.into_iter().chain(bad) {
        report.error(at, format!("`${{…}}` has no meaning in {place}"), "write the value itself".into());
    }
}
