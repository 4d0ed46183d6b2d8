//! Columns of somebody else's data set as training rows.

use record::params::Columns;
use serde_json::{Map, Value, json};

/// A training row: `{prompt, completion}` or `{messages: [{role, content, ...}]}`.
pub type Shaped = Value;

/// What `columns` make of a row. Without `columns` a row has `messages`, or `prompt` and `completion`.
///
/// # Errors
/// Which column is missing or of the wrong type, and which there are.
pub fn shape(row: &Map<String, Value>, columns: Option<&Columns>) -> Result<Shaped, String> {
    let given = |name: &str| -> Result<Value, String> {
        find(row, name).cloned().ok_or_else(|| format!("there is no column `{name}`; {}", there(row)))
    };
    let none = Columns::default();
    let columns = columns.unwrap_or(&none);
    if let Some(name) = &columns.messages {
        return turns(&given(name)?, name).map(|m| json!({"messages": m}));
    }
    if columns.prompt.is_none() && columns.completion.is_none() {
        if let Some(messages) = row.get("messages").filter(|m| m.is_array()) {
            return turns(messages, "messages").map(|m| json!({"messages": m}));
        }
        if !(row.contains_key("prompt") && row.contains_key("completion")) {
            return Err(format!(
                "there is neither `messages` nor `prompt` and `completion`; {}. Say which: columns: {{prompt: ..., completion: \
                 ...}} or columns: {{messages: ...}}",
                there(row)
            ));
        }
    }
    let name = |column: &Option<String>, usual: &str| column.clone().unwrap_or_else(|| usual.to_owned());
    let (prompt, completion) = (name(&columns.prompt, "prompt"), name(&columns.completion, "completion"));
    let answer = match given(&completion)? {
        Value::String(text) => text,
        other => return Err(format!("`{completion}` must be text, not {}", kind(&other))),
    };
    match given(&prompt)? {
        Value::String(text) => Ok(json!({"prompt": text, "completion": answer})),
        list @ Value::Array(_) => {
            let mut messages = turns(&list, &prompt)?;
            messages.push(json!({"role": "assistant", "content": answer}));
            Ok(json!({"messages": messages}))
        }
        other => Err(format!("`{prompt}` must be text or a list of messages, not {}", kind(&other))),
    }
}

/// A column by its name; `a.b` is the field `b` of the column `a`.
fn find<'a>(row: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = row.get(name) {
        return Some(value);
    }
    let mut parts = name.split('.');
    let first = row.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

fn there(row: &Map<String, Value>) -> String {
    let names: Vec<&str> = row.keys().map(String::as_str).collect();
    format!("there are: {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing (null)",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Messages as `{role, content}`; the older `{from, value}` with `human` and `gpt` is understood. Other fields stay.
fn turns(value: &Value, name: &str) -> Result<Vec<Value>, String> {
    let Value::Array(items) = value else {
        return Err(format!("`{name}` must be a list of messages, not {}", kind(value)));
    };
    let turn = |(i, item): (usize, &Value)| -> Result<Value, String> {
        let wrong = |what: &str| format!("`{name}`, message {}: {what}; wanted {{role, content}}", i + 1);
        let text = |keys: [&str; 2]| keys.iter().find_map(|k| item.get(*k)).and_then(Value::as_str);
        let role = match text(["role", "from"]).ok_or_else(|| wrong("no role"))? {
            "human" => "user",
            "gpt" => "assistant",
            role => role,
        };
        let content = text(["content", "value"]).ok_or_else(|| wrong("no text"))?;
        let mut out = Map::new();
        out.insert("role".into(), role.into());
        out.insert("content".into(), content.into());
        let rest = item.as_object().into_iter().flatten();
        // a null is parquet's way of saying that a field is absent
        out.extend(
            rest.filter(|(k, v)| !["role", "from", "content", "value"].contains(&k.as_str()) && !v.is_null())
                .map(|(k, v)| (k.clone(), v.clone())),
        );
        Ok(out.into())
    };
    items.iter().enumerate().map(turn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn columns(prompt: &str, completion: &str) -> Columns {
        Columns { prompt: Some(prompt.into()), completion: Some(completion.into()), messages: None }
    }

    #[test]
    fn columns_are_renamed_and_nested_fields_are_reached() {
        let r = row(json!({"instruction": "a", "extra": {"answer": "b"}}));
        assert_eq!(
            shape(&r, Some(&columns("instruction", "extra.answer"))).unwrap(),
            json!({"prompt": "a", "completion": "b"})
        );
        let r = row(json!({"prompt": [{"role": "user", "content": "q"}], "answer": "b"}));
        let got = shape(&r, Some(&columns("prompt", "answer"))).unwrap();
        assert_eq!(got["messages"][1], json!({"role": "assistant", "content": "b"}));
    }

    #[test]
    fn conversations_of_both_spellings_are_understood_and_flags_stay() {
        let m = Columns { messages: Some("conversations".into()), ..Columns::default() };
        let r = row(
            json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "train": false, "x": null}]}),
        );
        let got = shape(&r, Some(&m)).unwrap();
        assert_eq!(
            got,
            json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "train": false}]})
        );
        let r =
            row(json!({"messages": [{"role": "user", "content": "q"}], "prompt": "p", "completion": "c"}));
        assert!(shape(&r, None).unwrap().get("messages").is_some());
    }

    #[test]
    fn what_is_missing_is_named_with_what_is_there() {
        let r = row(json!({"instruction": "a", "output": 3}));
        let e = shape(&r, None).unwrap_err();
        assert!(e.contains("instruction, output") && e.contains("columns:"), "{e}");
        let e = shape(&r, Some(&columns("instruction", "outptu"))).unwrap_err();
        assert!(e.contains("no column `outptu`") && e.contains("instruction, output"), "{e}");
        let e = shape(&r, Some(&columns("instruction", "output"))).unwrap_err();
        assert!(e.contains("must be text, not a number"), "{e}");
        let e = shape(&row(json!({"messages": [{"role": "user"}]})), None).unwrap_err();
        assert!(e.contains("message 1: no text"), "{e}");
    }
}
