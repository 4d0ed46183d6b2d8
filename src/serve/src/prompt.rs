//! The forms in which a prompt may come.

use crate::fields::ApiError;
use generate::Message;
use serde_json::Value;

/// One prompt, before the engine has seen it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Prompt {
    /// For the model's chat template.
    Chat(Vec<Message>),
    Text(String),
    Tokens(Vec<u32>),
}

/// `messages` of a chat request: contents are strings or lists of text parts.
pub(crate) fn messages(value: Option<Value>) -> Result<Prompt, ApiError> {
    let bad = |why: String| ApiError::bad("messages", why);
    let Some(Value::Array(items)) = value else {
        return Err(bad("messages must be a list of objects with role and content".into()));
    };
    if items.is_empty() {
        return Err(bad("messages must not be empty".into()));
    }
    let mut out = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let role = item.get("role").and_then(Value::as_str);
        let role = role.ok_or_else(|| bad(format!("messages[{i}].role must be a string")))?;
        if !matches!(role, "system" | "developer" | "user" | "assistant") {
            return Err(bad(format!(
                "messages[{i}].role is {role:?}: allowed are system, developer, user, assistant"
            )));
        }
        let content = content(item.get("content"))
            .ok_or_else(|| bad(format!("messages[{i}].content must be a string or a list of text parts")))?;
        // the newer name of the same role
        let role = if role == "developer" { "system" } else { role };
        out.push(Message { role: role.to_owned(), content });
    }
    Ok(Prompt::Chat(out))
}

fn content(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(s) => Some(s.clone()),
        Value::Array(parts) => parts
            .iter()
            .map(|part| match part.get("type").and_then(Value::as_str) {
                Some("text") => part.get("text").and_then(Value::as_str),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .map(|parts| parts.concat()),
        _ => None,
    }
}

/// `prompt` of a completion request: a string, a list of strings, a list of token ids, or a list of such lists.
pub(crate) fn prompts(value: Option<Value>) -> Result<Vec<Prompt>, ApiError> {
    let wrong = || {
        ApiError::bad(
            "prompt",
            "prompt must be a string, a list of strings, a list of token ids, or a list of those",
        )
    };
    match value {
        Some(Value::String(s)) => Ok(vec![Prompt::Text(s)]),
        Some(Value::Array(items)) if items.is_empty() => Err(wrong()),
        Some(Value::Array(items)) if items[0].is_number() => Ok(vec![tokens(&items).ok_or_else(wrong)?]),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| match item {
                Value::String(s) => Ok(Prompt::Text(s.clone())),
                Value::Array(ids) => tokens(ids).ok_or_else(wrong),
                _ => Err(wrong()),
            })
            .collect(),
        _ => Err(wrong()),
    }
}

fn tokens(items: &[Value]) -> Option<Prompt> {
    let ids =
        items.iter().map(|v| v.as_u64().and_then(|n| u32::try_from(n).ok())).collect::<Option<Vec<_>>>()?;
    Some(Prompt::Tokens(ids))
}

/// `stop`: a string or a list of at most 16.
pub(crate) fn stops(value: Option<Value>) -> Result<Vec<String>, ApiError> {
    let wrong = || ApiError::bad("stop", "stop must be a string or a list of at most 16 non-empty strings");
    let list = match value {
        None => vec![],
        Some(Value::String(s)) => vec![s],
        Some(Value::Array(items)) => items
            .into_iter()
            .map(|v| v.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(wrong)?,
        Some(_) => return Err(wrong()),
    };
    if list.len() > 16 || list.iter().any(String::is_empty) { Err(wrong()) } else { Ok(list) }
}
