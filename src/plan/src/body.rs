//! What one phase says at a set of points where the same variants apply, and its decoding at one point.

use crate::check::{Checker, axes_as_text};
use crate::diagnostic::Report;
use crate::graph::Retry;
use crate::job::{Job, Phase, Role, roles};
use crate::node::{Level, Node};
use crate::schema;
use crate::template;
use crate::units;
use record::params::Params;
use record::{Kind, Resources, key};
use serde_json::Value;
use std::collections::HashSet;

pub(crate) struct Body {
    /// Counts bodies of the whole job: for memo tables.
    pub number: usize,
    node: Node,
    extra: Vec<Node>,
    pub roles: Vec<Role>,
    /// Places among the phase's relevant axes that the parameters mention.
    pub params_axes: Vec<usize>,
    /// Parameters and variants together mention every relevant axis: no two points have the same parameters.
    pub distinct: bool,
    /// As `params_axes` for resources, retry, extra, estimate, margin.
    pub terms_axes: Vec<usize>,
    /// Relevant axes that decide the content here, as bits: parameters, roles, variants.
    pub content_uses: u64,
}

/// Parameters at one point, decoded, and their canonical text for the content key.
pub(crate) struct Decoded {
    pub params: Params,
    pub canonical: String,
}

/// What a task asks of scheduler and planner; not part of its content.
pub(crate) struct Terms {
    pub resources: Resources,
    pub retry: Retry,
    pub extra: Vec<String>,
    pub estimate_s: Option<u64>,
    pub margin_s: u64,
}

const TERMS: [&str; 4] = ["resources", "retry", "estimate", "margin"];

pub(crate) fn body_of(job: &Job, phase: &Phase, active: &[u32], number: usize) -> Body {
    let mut node = phase.base.clone();
    let mut extra = phase.extra.clone();
    for &i in active {
        let variant = &phase.variants[i as usize];
        node = node.merged(&variant.body, Level::Phase);
        extra.extend(variant.extra.iter().cloned());
    }
    let places = |nodes: &mut dyn Iterator<Item = &Node>| {
        let mut places = Vec::new();
        for node in nodes {
            let mut found = |name: &str, _| {
                let place = phase.relevant.iter().position(|&a| job.axes[a].name == name);
                if let Some(place) = place.filter(|p| !places.contains(p)) {
                    places.push(place);
                }
            };
            template::axes_in(node, &mut found, &mut |_, _| {});
        }
        places.sort_unstable();
        places
    };
    let params_axes = places(&mut node.get("params").into_iter());
    let role_axes = places(&mut ["inputs", "services"].iter().filter_map(|k| node.get(k)));
    let terms_axes = places(&mut TERMS.iter().filter_map(|k| node.get(k)).chain(&extra));
    let when_axes = phase.content_when.iter().filter_map(|a| phase.relevant.iter().position(|r| r == a));
    let content_uses = params_axes
        .iter()
        .copied()
        .chain(role_axes)
        .chain(when_axes)
        .fold(0, |bits, place| bits | 1 << place);
    let selecting = phase.variants.iter().flat_map(|v| &v.when).map(|(axis, _)| *axis);
    let mentioned: HashSet<usize> =
        params_axes.iter().map(|&place| phase.relevant[place]).chain(selecting).collect();
    let distinct = mentioned.len() == phase.relevant.len();
    let roles = roles(&node);
    Body { number, node, extra, roles, params_axes, distinct, terms_axes, content_uses }
}

/// Parameters of a phase at one point. `None` after a report.
pub(crate) fn decode<'v>(
    phase: &Phase,
    body: &Body,
    axis: &impl Fn(&str) -> Option<&'v Value>,
    report: &mut Report,
) -> Option<Decoded> {
    let empty = Node::empty_map(phase.at);
    let node = body.node.get("params").filter(|n| !n.is_null()).unwrap_or(&empty);
    let mut filled = template::fill_node(node, axis)?;
    let rule = schema::params_ref(phase.kind);
    if !body.params_axes.is_empty() {
        axes_as_text(node, &mut filled, &rule);
    }
    if !(Checker { report, templates: false, partial: false }).check("params", &filled, &rule) {
        return None;
    }
    match params_from(phase.kind, filled.to_value()) {
        Ok((params, full)) => {
            let wrong = params.contradictions();
            for (name, message) in &wrong {
                let at = filled.get(name).map_or(filled.at, |n| n.at);
                report.error(at, format!("`{name}`: {message}"), String::new());
            }
            wrong.is_empty().then(|| Decoded { params, canonical: key::canonical(&full) })
        }
        Err(message) => {
            report.error(filled.at, format!("`params`: {message}"), String::new());
            None
        }
    }
}

/// Typed parameters, and the same as JSON with every default filled in: what is spelled out changes no key.
fn params_from(kind: Kind, given: Value) -> Result<(Params, Value), serde_json::Error> {
    macro_rules! by_kind {
        ($($variant:ident),*) => {
            match kind {
                $(Kind::$variant => {
                    let typed = serde_json::from_value(given)?;
                    let full = serde_json::to_value(&typed)?;
                    (Params::$variant(typed), full)
                })*
            }
        };
    }
    Ok(by_kind!(Corpus, Base, Serve, Sample, Sft, Rl, Eval, Command))
}

/// Resources, retry and the rest at one point. `None` after a report.
pub(crate) fn terms<'v>(
    phase: &Phase,
    body: &Body,
    axis: &impl Fn(&str) -> Option<&'v Value>,
    report: &mut Report,
) -> Option<Terms> {
    let mut good = true;
    let mut section = |name: &str| -> Option<Node> {
        let filled = template::fill_node(body.node.get(name)?, axis)?;
        let mut checker = Checker { report, templates: false, partial: false };
        let rule = match name {
            "resources" | "retry" => schema::reference(name),
            _ => schema::reference("duration"),
        };
        good &= checker.check(name, &filled, &rule);
        Some(filled)
    };
    let (resources, retry) = (section("resources"), section("retry"));
    let (estimate, margin) = (section("estimate"), section("margin"));
    let mut extra = Vec::new();
    for item in &body.extra {
        // `extra: ["${partition}"]` may bring a number
        match item.as_str() {
            Some(text) => extra.push(template::fill_text(text, axis)?),
            None => {
                report.error(item.at, format!("`extra` holds text, not {}", item.describe()), String::new());
                good = false;
            }
        }
    }
    if !good {
        return None;
    }
    let resources = resources_of(resources.as_ref());
    let limit = resources.walltime_s;
    let margin_s = match &margin {
        Some(node) => {
            let margin = time(Some(node)).unwrap_or(0);
            if margin >= limit {
                report.error(
                    node.at,
                    format!("the margin ({}) is not shorter than the walltime", units::show_duration(margin)),
                    format!("the walltime is {}", units::show_duration(limit)),
                );
                return None;
            }
            margin
        }
        None => (limit / 10).clamp(10, 300).min(limit / 2),
    };
    if limit == 0 {
        report.error(
            phase.at,
            format!("phase `{}` has a walltime of 0", phase.name),
            "write e.g. 30m".into(),
        );
        return None;
    }
    Some(Terms {
        resources,
        retry: retry_of(retry.as_ref()),
        extra,
        estimate_s: time(estimate.as_ref()),
        margin_s,
    })
}

fn time(node: Option<&Node>) -> Option<u64> {
    units::duration(node?.as_str()?).ok()
}

fn memory(node: Option<&Node>) -> Option<u64> {
    units::memory(node?.as_str()?).ok()
}

fn number(node: Option<&Node>) -> Option<u32> {
    u32::try_from(node?.as_scalar()?.as_u64()?).ok()
}

fn resources_of(node: Option<&Node>) -> Resources {
    let get = |key: &str| node.and_then(|n| n.get(key));
    Resources {
        cpus: number(get("cpus")).unwrap_or(1),
        gpus: number(get("gpus")).unwrap_or(0),
        memory_mb: memory(get("memory")).unwrap_or(2000),
        walltime_s: time(get("walltime")).unwrap_or(3600),
    }
}

fn retry_of(node: Option<&Node>) -> Retry {
    let get = |key: &str| node.and_then(|n| n.get(key));
    let usual = Retry::default();
    Retry {
        error: number(get("error")).unwrap_or(usual.error),
        node_unfit: number(get("node_unfit")).unwrap_or(usual.node_unfit),
        oom: number(get("oom")).unwrap_or(usual.oom),
        oom_factor: get("oom_factor")
            .and_then(Node::as_scalar)
            .and_then(Value::as_f64)
            .unwrap_or(usual.oom_factor),
        oom_cap_mb: memory(get("oom_cap")).unwrap_or(usual.oom_cap_mb),
        timeout: number(get("timeout")).unwrap_or(usual.timeout),
        // "unlimited" is no number
        preempted: number(get("preempted")).or(usual.preempted),
        try_again: number(get("try_again")).unwrap_or(usual.try_again),
        setup: number(get("setup")).unwrap_or(usual.setup),
        backoff_s: time(get("backoff")).unwrap_or(usual.backoff_s),
        backoff_max_s: time(get("backoff_max")).unwrap_or(usual.backoff_max_s),
    }
}
