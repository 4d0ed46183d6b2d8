//! Walks the job file's tree along the JSON Schema and reports every mistake at its place. Only the keywords that our
//! own schemas use are known; a validator crate would report JSON pointers, not what is meant and where.

use crate::diagnostic::{Report, allowed};
use crate::node::{Node, Tree};
use crate::schema::RULES;
use crate::template::is_template;
use crate::units;
use serde_json::Value;

pub(crate) struct Checker<'a> {
    pub report: &'a mut Report,
    /// Strings with `${axis}` are skipped: they are checked once their value is known.
    pub templates: bool,
    /// Whether keys may be missing (before defaults and variants are merged they may).
    pub partial: bool,
}

impl Checker<'_> {
    /// Checks `node`, which stands under the key `name`. Returns whether it was right.
    pub fn check(&mut self, name: &str, node: &Node, schema: &Value) -> bool {
        let schema = resolve(schema);
        if self.templates && node.as_str().is_some_and(is_template) {
            return true;
        }
        if let Some(unit) = schema.get("x-unit").and_then(Value::as_str) {
            return self.unit(name, node, unit);
        }
        if let Some(choices) = choices(schema) {
            return self.choice(name, node, &choices);
        }
        if let Some(alternatives) = alternatives(schema) {
            return match alternatives.iter().find(|s| may_be(node, s)) {
                Some(chosen) => self.check(name, node, chosen),
                None => self.wrong_type(name, node, schema),
            };
        }
        if !may_be(node, schema) {
            return self.wrong_type(name, node, schema);
        }
        match &node.tree {
            Tree::Scalar(Value::Number(_)) => self.bounds(name, node, schema),
            Tree::Scalar(_) => true,
            Tree::Seq(items) => {
                if items.is_empty() && schema.get("minItems").and_then(Value::as_u64).unwrap_or(0) > 0 {
                    self.report.error(node.at, format!("`{name}` must not be empty"), String::new());
                    return false;
                }
                let Some(item_schema) = schema.get("items") else { return true };
                let mut ok = true;
                for item in items {
                    ok &= self.check(name, item, item_schema);
                }
                ok
            }
            Tree::Map(_) => self.object(name, node, schema),
        }
    }

    fn object(&mut self, name: &str, node: &Node, schema: &Value) -> bool {
        let properties = schema.get("properties").and_then(Value::as_object);
        let additional = schema.get("additionalProperties");
        let mut ok = true;
        for entry in node.entries() {
            if let Some(rule) = properties.and_then(|p| p.get(&entry.key)) {
                ok &= self.check(&entry.key, &entry.value, rule);
            } else if additional == Some(&Value::Bool(false)) {
                let keys = properties.into_iter().flatten().map(|(k, _)| k.as_str());
                let help = allowed(&entry.key, keys);
                self.report.error(entry.at, format!("unknown key `{}` in {}", entry.key, quoted(name)), help);
                ok = false;
            } else if let Some(rule) = additional {
                ok &= self.check(&entry.key, &entry.value, rule);
            }
        }
        if schema.get("minProperties").is_some() && node.entries().is_empty() {
            self.report.error(node.at, format!("`{name}` must not be empty"), String::new());
            ok = false;
        }
        if !self.partial {
            let required = schema.get("required").and_then(Value::as_array);
            for key in required.into_iter().flatten().filter_map(Value::as_str) {
                if node.get(key).is_none() {
                    let help = properties
                        .and_then(|p| p.get(key))
                        .and_then(|s| s.get("description"))
                        .and_then(Value::as_str)
                        .map(|d| format!("add `{key}:` ({})", d.trim_end_matches('.')))
                        .unwrap_or_else(|| format!("add `{key}:`"));
                    self.report.error(node.at, format!("{} lacks the key `{key}`", quoted(name)), help);
                    ok = false;
                }
            }
        }
        ok
    }

    fn choice(&mut self, name: &str, node: &Node, choices: &[&Value]) -> bool {
        if node.as_scalar().is_some_and(|v| choices.contains(&v)) {
            return true;
        }
        let words: Vec<String> = choices.iter().map(|c| crate::graph::plain(c)).collect();
        let word = node.as_scalar().map(crate::graph::plain).unwrap_or_default();
        let help = allowed(&word, words.iter().map(String::as_str));
        self.report.error(node.at, format!("`{name}` cannot be {}", node.describe()), help);
        false
    }

    fn wrong_type(&mut self, name: &str, node: &Node, schema: &Value) -> bool {
        let expected = expected(schema);
        let help = match (node.as_str(), expected.as_str()) {
            (Some("yes" | "no" | "on" | "off"), "true or false") => {
                "YAML 1.2: write true or false".to_owned()
            }
            (None, "text") if node.as_scalar().is_some_and(|v| !v.is_null()) => {
                "put it into quotes".to_owned()
            }
            (Some(s), e) if e.contains("number") && s.parse::<f64>().is_ok() => {
                format!("write {s} without quotes")
            }
            _ if schema.get("type") == Some(&Value::from("array")) && node.as_scalar().is_some() => {
                "write it as a list: [ … ]".to_owned()
            }
            _ => String::new(),
        };
        self.report.error(
            node.at,
            format!("{} must be {expected}, not {}", quoted(name), node.describe()),
            help,
        );
        false
    }

    fn unit(&mut self, name: &str, node: &Node, unit: &str) -> bool {
        let text = match node.as_scalar() {
            Some(Value::String(s)) => s.clone(),
            Some(Value::Number(n)) => n.to_string(),
            _ => {
                let example = if unit == "time" { "90s, 30m, 2h" } else { "500MB, 2GB, 16GiB" };
                let message = format!("`{name}` must be {}, not {}", unit_name(unit), node.describe());
                self.report.error(node.at, message, format!("write e.g. {example}"));
                return false;
            }
        };
        let read = if unit == "time" { units::duration(&text) } else { units::memory(&text) };
        match read {
            Ok(_) => true,
            Err((message, help)) => {
                self.report.error(node.at, format!("`{name}`: {message}"), help);
                false
            }
        }
    }

    fn bounds(&mut self, name: &str, node: &Node, schema: &Value) -> bool {
        let Some(Value::Number(n)) = node.as_scalar() else { return true };
        let value = n.as_f64().unwrap_or(f64::NAN);
        let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
        let most = bound("maximum").or(match schema.get("format").and_then(Value::as_str) {
            Some("uint32") => Some(f64::from(u32::MAX)),
            Some("uint16") => Some(f64::from(u16::MAX)),
            Some("uint8") => Some(f64::from(u8::MAX)),
            _ => None,
        });
        let wrong = if let Some(least) = bound("minimum").filter(|b| value < *b) {
            format!("at least {least}")
        } else if let Some(least) = bound("exclusiveMinimum").filter(|b| value <= *b) {
            format!("more than {least}")
        } else if let Some(most) = most.filter(|b| value > *b) {
            format!("at most {most}")
        } else if let Some(most) = bound("exclusiveMaximum").filter(|b| value >= *b) {
            format!("less than {most}")
        } else {
            return true;
        };
        self.report.error(node.at, format!("`{name}` must be {wrong}, not {n}"), String::new());
        false
    }
}

/// A key in back quotes; a description (with blanks) as it is.
fn quoted(name: &str) -> String {
    if name.contains(' ') { name.to_owned() } else { format!("`{name}`") }
}

fn unit_name(unit: &str) -> &'static str {
    if unit == "time" { "a time" } else { "an amount of memory" }
}

/// Where text is wanted, an axis value that a `${axis}` brought becomes text: `argv: [run, "${seed}"]`.
/// `written` is the tree before the axes were filled in.
pub(crate) fn axes_as_text(written: &Node, filled: &mut Node, schema: &Value) {
    let schema = resolve(schema);
    match (&written.tree, &mut filled.tree) {
        (Tree::Scalar(Value::String(s)), Tree::Scalar(v)) => {
            let text = schema.get("type") == Some(&Value::from("string")) && schema.get("x-unit").is_none();
            if text && is_template(s) && (v.is_number() || v.is_boolean()) {
                *v = Value::String(v.to_string());
            }
        }
        (Tree::Seq(before), Tree::Seq(after)) => {
            let Some(rule) = schema.get("items") else { return };
            before.iter().zip(after).for_each(|(b, a)| axes_as_text(b, a, rule));
        }
        (Tree::Map(before), Tree::Map(after)) => {
            for (b, a) in before.iter().zip(after) {
                let rule = schema.get("properties").and_then(|p| p.get(&a.key));
                if let Some(rule) = rule.or_else(|| schema.get("additionalProperties")) {
                    axes_as_text(&b.value, &mut a.value, rule);
                }
            }
        }
        _ => {}
    }
}

fn resolve(schema: &Value) -> &Value {
    let mut schema = schema;
    // a chain of references cannot be longer than the number of definitions
    for _ in 0..=RULES.defs.len() {
        let target = schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|r| r.strip_prefix("#/$defs/"))
            .and_then(|name| RULES.defs.get(name));
        match target {
            Some(t) => schema = t,
            None => break,
        }
    }
    schema
}

fn alternatives(schema: &Value) -> Option<&Vec<Value>> {
    schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array)
}

/// The values of an enumeration, if the schema is nothing else.
fn choices(schema: &Value) -> Option<Vec<&Value>> {
    let schema = resolve(schema);
    if let Some(value) = schema.get("const") {
        return Some(vec![value]);
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return Some(values.iter().collect());
    }
    let mut all = Vec::new();
    for alternative in alternatives(schema)? {
        all.extend(choices(alternative)?);
    }
    Some(all)
}

/// Whether the node's type fits.
fn may_be(node: &Node, schema: &Value) -> bool {
    let schema = resolve(schema);
    if let Some(alternatives) = alternatives(schema) {
        return alternatives.iter().any(|s| may_be(node, s));
    }
    if let Some(choices) = choices(schema) {
        return node.as_scalar().is_some_and(|v| {
            choices.iter().any(|c| std::mem::discriminant(*c) == std::mem::discriminant(v))
        });
    }
    if schema.get("x-unit").is_some() {
        return node.as_scalar().is_some();
    }
    let one = |t: &str| match (&node.tree, t) {
        (Tree::Scalar(Value::Null), "null")
        | (Tree::Scalar(Value::Bool(_)), "boolean")
        | (Tree::Scalar(Value::String(_)), "string")
        | (Tree::Scalar(Value::Number(_)), "number")
        | (Tree::Seq(_), "array")
        | (Tree::Map(_), "object") => true,
        (Tree::Scalar(Value::Number(n)), "integer") => n.is_i64() || n.is_u64(),
        // an empty section
        (Tree::Scalar(Value::Null), "object") => schema.get("required").is_none(),
        _ => false,
    };
    match schema.get("type") {
        Some(Value::String(t)) => one(t),
        Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).any(one),
        _ => true,
    }
}

/// What a schema wants, in words.
fn expected(schema: &Value) -> String {
    let schema = resolve(schema);
    let words = |t: &str| {
        match t {
            "null" => "null",
            "boolean" => "true or false",
            "string" => "text",
            "number" => "a number",
            "integer" => "a whole number",
            "array" => "a list",
            _ => "a mapping",
        }
        .to_owned()
    };
    if let Some(unit) = schema.get("x-unit").and_then(Value::as_str) {
        return unit_name(unit).to_owned();
    }
    let mut all: Vec<String> = if let Some(choices) = choices(schema) {
        choices.into_iter().map(|c| format!("`{}`", crate::graph::plain(c))).collect()
    } else if let Some(alternatives) = alternatives(schema) {
        alternatives.iter().map(expected).collect()
    } else {
        match schema.get("type") {
            Some(Value::String(t)) => vec![words(t)],
            Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).map(words).collect(),
            _ => vec!["something else".to_owned()],
        }
    };
    all.dedup();
    all.join(" or ")
}
