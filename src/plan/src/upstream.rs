//! What a phase at a point needs: roles filled with phases, points translated from one phase's axes to another's.

use crate::body::Body;
use crate::diagnostic::allowed;
use crate::expand::{Expander, Instance};
use crate::graph::plain;
use crate::job::Source;
use crate::node::{Node, Pos, Tree};
use crate::roles;
use crate::template;
use record::source::is_external;
use serde_json::Value;
use std::rc::Rc;

/// One task that another needs, before it is known which task it is.
pub(crate) struct Need {
    pub role: Rc<str>,
    pub service: bool,
    pub of: Instance,
    /// Where the job file asks for it.
    pub at: Pos,
    /// Bits of the upstream's relevant axes that `at:` fixes.
    pub pinned: u64,
}

/// One input that no phase makes.
pub(crate) struct External {
    pub role: Rc<str>,
    pub source: record::Source,
}

impl Expander<'_> {
    /// Every input and service of an instance; `None` if one is wrong.
    pub(crate) fn needs(
        &mut self,
        me: Instance,
        digits: &[u32],
        body: &Body,
    ) -> Option<(Vec<Need>, Vec<External>)> {
        let job = self.job;
        let phase = &job.phases[me.phase];
        let axis = |name: &str| Self::value(job, me.phase, digits, name);
        let mut out: Vec<Need> = Vec::new();
        let mut externals: Vec<External> = Vec::new();
        let mut good = true;
        let mut filled: Vec<(Rc<str>, bool)> = Vec::new();
        for role in &body.roles {
            let Some(name) = template::fill_text(&role.name, &axis) else {
                good = false;
                continue;
            };
            let section = if role.service { "services" } else { "inputs" };
            if let Some(names) = roles::names(phase.kind, role.service)
                && !names.contains(&name.as_str())
            {
                let message =
                    format!("a phase of kind {} has no role `{name}` in `{section}`", phase.kind.name());
                self.report.error(role.at, message, allowed(&name, names.iter().copied()));
                good = false;
                continue;
            }
            if filled.iter().any(|(n, _)| **n == *name) {
                let message = format!("the role `{name}` is filled twice");
                self.report.error(role.at, message, "inputs and services share their roles' names".into());
                good = false;
                continue;
            }
            let name: Rc<str> = name.into();
            filled.push((name.clone(), role.service));
            let before = out.len() + externals.len();
            for source in &role.sources {
                if let Some(text) = template::fill_text(&source.phase, &axis)
                    && is_external(&text)
                {
                    match self.external(phase.kind, &name, &text, source, role.service) {
                        Some(source) => externals.push(External { role: name.clone(), source }),
                        None => good = false,
                    }
                    continue;
                }
                match self.upstream(me, digits, source, role.service, &name) {
                    Some(found) => out.extend(found.into_iter().map(|(of, pinned)| Need {
                        role: name.clone(),
                        service: role.service,
                        of,
                        at: source.at,
                        pinned,
                    })),
                    None => good = false,
                }
            }
            let several = out.len() + externals.len() - before > 1;
            if several && (role.service || !roles::many(phase.kind, &name)) {
                let message = format!(
                    "the role `{name}` takes one task, this is {}",
                    out.len() + externals.len() - before
                );
                self.report.error(role.at, message, "name one phase, and one point with `at:`".into());
                good = false;
            }
        }
        for (required, service) in [(phase.kind.roles().0, false), (phase.kind.service_roles(), true)] {
            for role in required {
                if !filled.iter().any(|(n, s)| **n == **role && *s == service) {
                    let (section, who) = if service {
                        ("services", "PHASE of kind serve".to_owned())
                    } else {
                        let kinds: Vec<&str> = roles::accepted(phase.kind, role)
                            .into_iter()
                            .flatten()
                            .map(|k| k.name())
                            .collect();
                        ("inputs", format!("PHASE of kind {}", kinds.join(" or ")))
                    };
                    let kind = phase.kind.name();
                    let message =
                        format!("phase `{}` (kind {kind}) lacks `{role}` in `{section}`", phase.name);
                    self.report.error(
                        phase.at,
                        message,
                        format!("add `{section}: {{{role}: PHASE}}`, {who}"),
                    );
                    good = false;
                }
            }
        }
        good.then_some((out, externals))
    }

    /// A repository of the Hub, or a file or directory of the user's, under a role.
    fn external(
        &mut self,
        kind: record::Kind,
        role: &str,
        text: &str,
        source: &Source,
        service: bool,
    ) -> Option<record::Source> {
        if let Err((message, help)) = roles::external(kind, role, text, service) {
            self.report.error(source.at, message, help);
            return None;
        }
        if let Some((_, at, _)) = source.points.first() {
            let message = format!("`at:` has no meaning for `{text}`");
            self.report.error(*at, message, "only phases have points".into());
            return None;
        }
        if !self.found.contains_key(text) {
            let found = match self.outside.find(text) {
                Ok(found) => Some(found),
                Err(missing) => {
                    self.report.error(source.at, missing.message, missing.help);
                    None
                }
            };
            self.found.insert(text.to_owned(), found);
        }
        let found = self.found.get(text).and_then(Option::as_ref)?;
        if roles::model(role) && kind != record::Kind::Command && !found.is_model {
            let message = format!(
                "`{text}` is no model: {} is no directory with a config.json",
                found.source.path.display()
            );
            let help =
                "a model is a directory in Hugging Face's layout: config.json, tokenizer.json, *.safetensors"
                    .into();
            self.report.error(source.at, message, help);
            return None;
        }
        Some(found.source.clone())
    }

    /// The instances that one source means at this point, with the axes that `at:` fixed.
    fn upstream(
        &mut self,
        me: Instance,
        digits: &[u32],
        source: &Source,
        service: bool,
        role: &str,
    ) -> Option<Vec<(Instance, u64)>> {
        let job = self.job;
        let phase = &job.phases[me.phase];
        let axis = |name: &str| Self::value(job, me.phase, digits, name);
        let name = template::fill_text(&source.phase, &axis)?;
        let Some(&q) = job.by_name.get(&name) else {
            if job.broken.contains(&name) {
                return None;
            }
            let help = allowed(&name, job.phases.iter().map(|p| p.name.as_str()));
            self.report.error(source.at, format!("there is no phase `{name}`"), help);
            return None;
        };
        let up = &job.phases[q];
        if up.kind.is_service() != service {
            let (message, help) = if service {
                (
                    format!("`{name}` is no service (its kind is {})", up.kind.name()),
                    "name a phase of kind serve",
                )
            } else {
                (format!("`{name}` is a service and has no outputs"), "put it under `services:`")
            };
            self.report.error(source.at, message, help.into());
            return None;
        }
        if let Some(kinds) = roles::accepted(phase.kind, role)
            && !service
            && !kinds.contains(&up.kind)
        {
            let words: Vec<&str> = kinds.iter().map(|k| k.name()).collect();
            let message = format!("`{role}` cannot be `{name}` (its kind is {})", up.kind.name());
            self.report.error(source.at, message, format!("a phase of kind {}", words.join(", ")));
            return None;
        }
        let mut good = true;
        // per relevant axis of the upstream: the places that are meant
        let mut wanted: Vec<Option<Vec<u32>>> = vec![None; up.relevant.len()];
        let mut pinned = 0u64;
        for (axis_name, at, node) in &source.points {
            let Some(target) = up.axis(axis_name, &job.axes) else {
                let help = allowed(axis_name, up.axes.iter().map(|&a| job.axes[a].name.as_str()));
                self.report.error(*at, format!("phase `{name}` has no axis `{axis_name}`"), help);
                good = false;
                continue;
            };
            let places = self.places(target, node, &axis, &name);
            match (places, up.relevant.iter().position(|&a| a == target)) {
                (None, _) => good = false,
                // the point exists, and the upstream does not depend on this axis
                (Some(_), None) => {}
                (Some(places), Some(i)) => {
                    wanted[i] = Some(places);
                    pinned |= 1 << i;
                }
            }
        }
        for (i, &target) in up.relevant.iter().enumerate() {
            if wanted[i].is_some() {
                continue;
            }
            let def = &job.axes[target];
            let mine = phase.relevant.iter().position(|&a| job.axes[a].name == def.name);
            let place = match mine {
                Some(m) if phase.relevant[m] == target => Some(digits[m]),
                Some(m) => {
                    let value = &job.axes[phase.relevant[m]].values[digits[m] as usize];
                    let place = def.find(value);
                    if place.is_none() {
                        self.no_point(source.at, &name, target, value);
                    }
                    place
                }
                None if good => {
                    let message =
                        format!("phase `{name}` has an axis `{}` that `{}` has not", def.name, phase.name);
                    let example = def.values.first().map(plain).unwrap_or_default();
                    let help = format!(
                        "say which: {{phase: {name}, at: {{{}: {example}}}}}, or at: {{{}: \"*\"}} for all",
                        def.name, def.name
                    );
                    self.report.error(source.at, message, help);
                    None
                }
                None => None,
            };
            match place {
                Some(p) => wanted[i] = Some(vec![p]),
                None => good = false,
            }
        }
        if !good {
            return None;
        }
        let mut points: Vec<Vec<u32>> = vec![Vec::with_capacity(wanted.len())];
        for places in wanted.into_iter().flatten() {
            points = points
                .iter()
                .flat_map(|p| {
                    places.iter().map(move |&place| {
                        let mut p = p.clone();
                        p.push(place);
                        p
                    })
                })
                .collect();
        }
        Some(points.iter().map(|p| (Instance { phase: q, id: self.id(q, p) }, pinned)).collect())
    }

    /// The places of the values under one axis of `at:`.
    fn places<'v>(
        &mut self,
        target: usize,
        node: &Node,
        axis: &impl Fn(&str) -> Option<&'v Value>,
        phase: &str,
    ) -> Option<Vec<u32>> {
        let filled = template::fill_node(node, axis)?;
        let def = &self.job.axes[target];
        if filled.as_str() == Some("*") {
            return Some((0..u32::try_from(def.values.len()).unwrap_or(0)).collect());
        }
        let single = std::slice::from_ref(&filled);
        let items = if let Tree::Seq(items) = &filled.tree { items } else { single };
        let mut out = Vec::new();
        for item in items {
            let value = item.to_value();
            match def.find(&value) {
                Some(place) if out.contains(&place) => {}
                Some(place) => out.push(place),
                None => {
                    self.no_point(item.at, phase, target, &value);
                    return None;
                }
            }
        }
        (!out.is_empty()).then_some(out)
    }

    fn no_point(&mut self, at: Pos, phase: &str, target: usize, value: &Value) {
        let def = &self.job.axes[target];
        let words: Vec<String> = def.values.iter().map(plain).collect();
        let help = allowed(&plain(value), words.iter().map(String::as_str));
        self.report.error(
            at,
            format!("phase `{phase}` has no point with {} = {}", def.name, plain(value)),
            help,
        );
    }
}
