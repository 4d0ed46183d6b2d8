//! YAML 1.2 text to [`Node`]s with positions. Own tree building over `saphyr-parser`'s events, because no value type
//! keeps the places of keys and values that a good message needs.

use crate::diagnostic::Report;
use crate::node::{Entry, Node, Pos, Tree};
use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Number, Value};
use std::collections::HashMap;

/// Deeper nesting than any sensible file; guards recursion elsewhere.
const MAX_DEPTH: usize = 64;
/// Nodes that aliases may create: a "billion laughs" file ends here.
const MAX_ALIASED: usize = 1_000_000;

struct Open {
    at: Pos,
    anchor: usize,
    /// For a mapping: the key that waits for its value.
    key: Option<(String, Pos)>,
    tree: Tree,
    /// Values of `<<`, applied at the end because explicit keys win.
    merges: Vec<Node>,
}

/// Reads one document. `shift` is added to the columns of the first line (`--set NAME=` before the value).
pub(crate) fn parse(source: u16, shift: u32, text: &str, report: &mut Report) -> Option<Node> {
    let pos = |m: &saphyr_parser::Marker| {
        let line = u32::try_from(m.line().max(1)).unwrap_or(u32::MAX);
        let column = u32::try_from(m.col() + 1).unwrap_or(u32::MAX);
        Pos { source, line, column: if line == 1 { column.saturating_add(shift) } else { column } }
    };
    let mut stack: Vec<Open> = Vec::new();
    let mut anchors: HashMap<usize, Node> = HashMap::new();
    let mut aliased = 0usize;
    let mut root: Option<Node> = None;
    let mut documents = 0;
    let mut parser = Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    while let Some(event) = parser.next_event() {
        let (event, span) = match event {
            Ok(e) => e,
            Err(e) => {
                report.error(
                    pos(e.marker()),
                    format!("this is not YAML: {}", e.info()),
                    "check indentation, brackets and quotes at and just before this place".into(),
                );
                return None;
            }
        };
        let at = pos(&span.start);
        let done = match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    report.error(at, "a second YAML document starts here".into(), "one file, one job".into());
                    return None;
                }
                continue;
            }
            Event::StreamEnd => break,
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref(), at, report);
                Some((Node { at, tree: Tree::Scalar(value) }, anchor))
            }
            Event::Alias(id) => {
                let Some(node) = anchors.get(&id) else {
                    report.error(at, "this alias contains itself".into(), String::new());
                    return None;
                };
                aliased += size(node);
                if aliased > MAX_ALIASED {
                    report.error(at, "the aliases of this file unfold without bound".into(), String::new());
                    return None;
                }
                Some((node.clone(), 0))
            }
            Event::SequenceStart(anchor, ref tag) | Event::MappingStart(anchor, ref tag) => {
                if let Some(tag) = tag
                    && !tag.is_yaml_core_schema()
                {
                    unknown_tag(tag, at, report);
                }
                if stack.len() >= MAX_DEPTH {
                    report.error(at, format!("nested deeper than {MAX_DEPTH} levels"), String::new());
                    return None;
                }
                let tree = match event {
                    Event::SequenceStart(..) => Tree::Seq(Vec::new()),
                    _ => Tree::Map(Vec::new()),
                };
                stack.push(Open { at, anchor, key: None, tree, merges: Vec::new() });
                None
            }
            Event::SequenceEnd | Event::MappingEnd => {
                stack.pop().map(|open| (close(open.at, open.tree, open.merges), open.anchor))
            }
            Event::Nothing | Event::StreamStart | Event::DocumentEnd => None,
        };
        let Some((node, anchor)) = done else { continue };
        if anchor != 0 {
            anchors.insert(anchor, node.clone());
        }
        match stack.last_mut() {
            None => root = Some(node),
            Some(open) => attach(open, node, report)?,
        }
        if stack.iter().map(|o| o.merges.len()).sum::<usize>() > MAX_DEPTH * 16 {
            report.error(at, "too many merge keys".into(), String::new());
            return None;
        }
    }
    root
}

/// Hangs a finished node into the collection that is open.
fn attach(open: &mut Open, node: Node, report: &mut Report) -> Option<()> {
    match &mut open.tree {
        Tree::Seq(items) => items.push(node),
        Tree::Map(entries) => match open.key.take() {
            None => match &node.tree {
                Tree::Scalar(Value::String(s)) => open.key = Some((s.clone(), node.at)),
                Tree::Scalar(v) => open.key = Some((v.to_string(), node.at)),
                _ => {
                    report.error(
                        node.at,
                        "a key must be a word, not a list or a mapping".into(),
                        "quote text that starts with [, { or contains `: `".into(),
                    );
                    return None;
                }
            },
            Some((key, at)) if key == "<<" => {
                let many = matches!(node.tree, Tree::Seq(_));
                let maps = if many { node.items().to_vec() } else { vec![node] };
                if maps.iter().any(|m| !matches!(m.tree, Tree::Map(_))) {
                    report.error(at, "`<<` merges mappings only".into(), "write `<<: *anchor`".into());
                    return None;
                }
                open.merges.extend(maps);
            }
            Some((key, at)) => entries.push(Entry { key, at, value: node }),
        },
        Tree::Scalar(_) => {}
    }
    Some(())
}

fn close(at: Pos, tree: Tree, merges: Vec<Node>) -> Node {
    let mut node = Node { at, tree };
    if let Tree::Map(entries) = &mut node.tree {
        for merge in merges {
            for entry in merge.entries() {
                if !entries.iter().any(|e| e.key == entry.key) {
                    entries.push(entry.clone());
                }
            }
        }
    }
    node
}

/// Reports every key that stands twice in one mapping.
pub(crate) fn duplicates(node: &Node, report: &mut Report) {
    let mut seen: HashMap<&str, Pos> = HashMap::new();
    for entry in node.entries() {
        match seen.get(entry.key.as_str()) {
            // the same entry seen through two aliases is no second definition
            Some(first) if *first != entry.at => report.error(
                entry.at,
                format!("the key `{}` stands twice in this mapping", entry.key),
                format!("first at line {}; keep one of them", first.line),
            ),
            Some(_) => {}
            None => {
                seen.insert(&entry.key, entry.at);
            }
        }
        duplicates(&entry.value, report);
    }
    for item in node.items() {
        duplicates(item, report);
    }
}

fn size(node: &Node) -> usize {
    1 + node.items().iter().map(size).sum::<usize>()
        + node.entries().iter().map(|e| 1 + size(&e.value)).sum::<usize>()
}

/// YAML 1.2 core schema: what a scalar means.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Pos, report: &mut Report) -> Value {
    if let Some(tag) = tag {
        let known = tag.is_yaml_core_schema().then_some(tag.suffix.as_str());
        match known {
            Some("str") => return Value::String(text.to_owned()),
            Some("int" | "float" | "bool" | "null") => return plain(text, at, report),
            _ => {
                unknown_tag(tag, at, report);
                return Value::Null;
            }
        }
    }
    if style == ScalarStyle::Plain { plain(text, at, report) } else { Value::String(text.to_owned()) }
}

fn unknown_tag(tag: &Tag, at: Pos, report: &mut Report) {
    let help = "job files use plain YAML: remove the tag".to_owned();
    report.error(at, format!("the tag `{}{}` is unknown", tag.handle, tag.suffix), help);
}

fn plain(text: &str, at: Pos, report: &mut Report) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        report.error(at, format!("`{text}` is not a finite number"), String::new());
        return Value::Null;
    }
    let radix = |prefix: &str, radix| {
        text.strip_prefix(prefix).filter(|d| d.chars().all(|c| c.is_digit(radix))).map(|d| (d, radix))
    };
    if let Some((digits, radix)) = radix("0x", 16).or_else(|| radix("0o", 8))
        && let Ok(n) = u64::from_str_radix(digits, radix)
    {
        return n.into();
    }
    if !looks_like_number(unsigned) {
        return Value::String(text.to_owned());
    }
    let digits_only = unsigned.bytes().all(|b| b.is_ascii_digit());
    let whole = text.strip_prefix('+').unwrap_or(text);
    if digits_only {
        if let Ok(n) = whole.parse::<u64>() {
            return n.into();
        }
        if let Ok(n) = whole.parse::<i64>() {
            return n.into();
        }
    }
    match whole.parse::<f64>().ok().and_then(Number::from_f64) {
        // a whole number beyond 64 bits would silently lose digits
        Some(n) if !digits_only => Value::Number(n),
        _ => {
            report.error(at, format!("the number {text} is too large"), "quote it if it is text".into());
            Value::Null
        }
    }
}

/// `[0-9]+ ( \. [0-9]* )? | \. [0-9]+`, then an optional exponent.
fn looks_like_number(s: &str) -> bool {
    let (mantissa, exponent) = match s.find(['e', 'E']) {
        Some(i) => (&s[..i], Some(&s[i + 1..])),
        None => (s, None),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mantissa_ok = digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    let exponent_ok = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['-', '+']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    mantissa_ok && exponent_ok
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Result<Value, Vec<String>> {
        let mut report = Report::new("f");
        let node = parse(0, 0, text, &mut report);
        if let Some(node) = &node {
            duplicates(node, &mut report);
        }
        let found = report.finish();
        if found.is_empty() {
            Ok(node.map_or(Value::Null, |n| n.to_value()))
        } else {
            Err(found.iter().map(ToString::to_string).collect())
        }
    }

    #[test]
    fn scalars_mean_what_yaml_1_2_says() {
        let text = "[1, -2, 1e-4, .5, 0x1f, true, yes, ~, '1', 1.0, 01:30:00, 1h, '', 1-2, 7.]";
        let value =
            json!([1, -2, 1e-4, 0.5, 31, true, "yes", null, "1", 1.0, "01:30:00", "1h", "", "1-2", 7.0]);
        assert_eq!(read(text), Ok(value));
    }

    #[test]
    fn anchors_and_merge_keys_work_and_explicit_keys_win() {
        let text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\n";
        assert_eq!(
            read(text),
            Ok(json!({"a": {"x": 1, "y": 2}, "b": {"y": 3, "x": 1}, "c": {"x": 1, "y": 2}}))
        );
    }

    #[test]
    fn a_key_that_stands_twice_is_pointed_at() {
        let found = read("a:\n  b: 1\n  c: 2\n  b: 3\n").unwrap_err();
        assert_eq!(
            found,
            ["f:4:3: the key `b` stands twice in this mapping; first at line 2; keep one of them"]
        );
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let many = vec![format!("*a{}", i - 1); 10].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{many}]\n"));
        }
        assert!(read(&text).unwrap_err()[0].contains("without bound"));
        assert!(read(&"[".repeat(5000)).is_err());
        assert!(read("a: &a [*a]").is_err());
    }

    #[test]
    fn syntax_errors_have_a_place() {
        assert!(
            read("a: [1, 2\nb: 3\n").unwrap_err()[0].starts_with("f:2:"),
            "{:?}",
            read("a: [1, 2\nb: 3\n")
        );
        assert!(read("a: !custom 3").unwrap_err()[0].starts_with("f:1:"));
        assert!(read("a: .nan").is_err());
        assert!(read("a: 123456789012345678901234567890").is_err());
    }
}
