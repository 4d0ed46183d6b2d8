//! `${axis}` in strings. A scalar that is nothing but `${axis}` takes the axis value with its type; inside other text
//! the value is written as text. `$${` is a literal `${`.

use crate::graph::plain;
use crate::node::{Entry, Node, Pos, Tree};
use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Part<'a> {
    Text(&'a str),
    Axis(&'a str),
}

/// Whether a string needs [`parts`] at all.
pub(crate) fn is_template(text: &str) -> bool {
    text.contains("${")
}

/// Splits a string at its `${axis}`.
///
/// # Errors
/// A sentence about an unclosed or empty `${`.
pub(crate) fn parts(text: &str) -> Result<Vec<Part<'_>>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(i) = rest.find("${") {
        let literal = rest[..i].ends_with('$');
        let before = if literal { &rest[..i - 1] } else { &rest[..i] };
        if !before.is_empty() {
            out.push(Part::Text(before));
        }
        if literal {
            out.push(Part::Text("${"));
            rest = &rest[i + 2..];
            continue;
        }
        let Some(end) = rest[i..].find('}') else {
            return Err(format!("`{text}` has a `${{` without its `}}`"));
        };
        let axis = rest[i + 2..i + end].trim();
        if axis.is_empty() {
            return Err(format!("`{text}` names no axis between `${{` and `}}`"));
        }
        out.push(Part::Axis(axis));
        rest = &rest[i + end + 1..];
    }
    if !rest.is_empty() {
        out.push(Part::Text(rest));
    }
    Ok(out)
}

/// Calls `found` for every axis that a string below `node` (keys included) mentions, `bad` for every malformed one.
pub(crate) fn axes_in(node: &Node, found: &mut impl FnMut(&str, Pos), bad: &mut impl FnMut(String, Pos)) {
    let mut look = |text: &str, at: Pos| {
        if is_template(text) {
            match parts(text) {
                Ok(parts) => {
                    for part in parts {
                        if let Part::Axis(axis) = part {
                            found(axis, at);
                        }
                    }
                }
                Err(message) => bad(message, at),
            }
        }
    };
    let mut stack = vec![node];
    while let Some(node) = stack.pop() {
        match &node.tree {
            Tree::Scalar(Value::String(s)) => look(s, node.at),
            Tree::Scalar(_) => {}
            Tree::Seq(items) => stack.extend(items.iter().rev()),
            Tree::Map(entries) => {
                for entry in entries.iter().rev() {
                    look(&entry.key, entry.at);
                    stack.push(&entry.value);
                }
            }
        }
    }
}

/// A string with the axes' values put in; `None` if an axis is unknown (reported before).
pub(crate) fn fill<'v>(text: &str, axis: &impl Fn(&str) -> Option<&'v Value>) -> Option<Value> {
    if !is_template(text) {
        return Some(Value::String(text.to_owned()));
    }
    let parts = parts(text).ok()?;
    if let [Part::Axis(name)] = parts.as_slice() {
        return axis(name).cloned();
    }
    let mut out = String::new();
    for part in parts {
        match part {
            Part::Text(t) => out.push_str(t),
            Part::Axis(name) => out.push_str(&plain(axis(name)?)),
        }
    }
    Some(Value::String(out))
}

/// As [`fill`], as text.
pub(crate) fn fill_text<'v>(text: &str, axis: &impl Fn(&str) -> Option<&'v Value>) -> Option<String> {
    fill(text, axis).map(|v| plain(&v))
}

/// A whole tree with the axes' values put in. Places stay those of the templates.
pub(crate) fn fill_node<'v>(node: &Node, axis: &impl Fn(&str) -> Option<&'v Value>) -> Option<Node> {
    let tree = match &node.tree {
        Tree::Scalar(Value::String(s)) if is_template(s) => {
            return Some(from_value(&fill(s, axis)?, node.at));
        }
        Tree::Scalar(v) => Tree::Scalar(v.clone()),
        Tree::Seq(items) => Tree::Seq(items.iter().map(|n| fill_node(n, axis)).collect::<Option<_>>()?),
        Tree::Map(entries) => Tree::Map(
            entries
                .iter()
                .map(|e| {
                    let key = if is_template(&e.key) { fill_text(&e.key, axis)? } else { e.key.clone() };
                    Some(Entry { key, at: e.at, value: fill_node(&e.value, axis)? })
                })
                .collect::<Option<_>>()?,
        ),
    };
    Some(Node { at: node.at, tree })
}

/// A value as if it had been written at `at`.
fn from_value(value: &Value, at: Pos) -> Node {
    let tree = match value {
        Value::Array(items) => Tree::Seq(items.iter().map(|v| from_value(v, at)).collect()),
        Value::Object(map) => Tree::Map(
            map.iter().map(|(k, v)| Entry { key: k.clone(), at, value: from_value(v, at) }).collect(),
        ),
        scalar => Tree::Scalar(scalar.clone()),
    };
    Node { at, tree }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn filled(text: &str) -> Option<Value> {
        let (seed, name) = (json!(3), json!("x"));
        fill(text, &|axis: &str| match axis {
            "seed" => Some(&seed),
            "name" => Some(&name),
            _ => None,
        })
    }

    #[test]
    fn a_whole_scalar_keeps_the_type_and_text_does_not() {
        assert_eq!(filled("${seed}"), Some(json!(3)));
        assert_eq!(filled("${ seed }"), Some(json!(3)));
        assert_eq!(filled("s${seed}-${name}"), Some(json!("s3-x")));
        assert_eq!(filled("plain"), Some(json!("plain")));
        assert_eq!(filled("${other}"), None);
    }

    #[test]
    fn a_doubled_dollar_is_literal() {
        assert_eq!(filled("$${HOME}/${name}"), Some(json!("${HOME}/x")));
    }

    #[test]
    fn an_unclosed_brace_is_a_mistake() {
        assert!(parts("a ${seed").is_err());
        assert!(parts("${}").is_err());
    }
}
