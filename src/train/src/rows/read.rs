//! Data files: JSONL rows of a prompt and its completion, or of a conversation.

use crate::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// Roles that chat templates know.
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// One turn of a conversation, as axolotl writes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Turn {
    pub role: String,
    pub content: String,
    /// Whether the turn carries loss; absent: assistant turns do.
    #[serde(default)]
    pub train: Option<bool>,
}

impl Turn {
    pub(super) fn trained(&self) -> bool {
        self.role == "assistant" && self.train.unwrap_or(true)
    }
}

/// What a row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// `{"prompt": ..., "completion": ...}`: the completion carries loss, and an end token after it.
    Pair { prompt: String, completion: String },
    /// `{"messages": [{"role", "content", "train"}]}`: at least one turn carries loss.
    Chat(Vec<Turn>),
}

/// Where a row was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub path: Arc<Path>,
    /// From 1.
    pub line: usize,
}

/// One row of a data file. Other fields are passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub text: Text,
    pub origin: Option<Origin>,
}

impl Row {
    #[must_use]
    pub fn pair(prompt: impl Into<String>, completion: impl Into<String>) -> Self {
        Self { text: Text::Pair { prompt: prompt.into(), completion: completion.into() }, origin: None }
    }

    /// Reads a JSON object; whatever file it came from.
    ///
    /// # Errors
    /// What is wrong with it and what is wanted, without a place.
    pub fn from_json(mut row: Value) -> std::result::Result<Text, String> {
        const WANTED: &str =
            "wanted {\"messages\": [{\"role\", \"content\"}, ...]} or {\"prompt\": ..., \"completion\": ...}";
        let Some(map) = row.as_object_mut() else { return Err(format!("not an object; {WANTED}")) };
        let mut text = |key: &str| match map.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(format!("`{key}` is {other:.60}, not a text")),
        };
        let pair = (text("prompt")?, text("completion")?);
        match (map.remove("messages").filter(|m| !m.is_null()), pair) {
            (None, (Some(prompt), Some(completion))) => Ok(Text::Pair { prompt, completion }),
            (None, (Some(_), None)) => Err(format!("`completion` is missing; {WANTED}")),
            (None, (None, Some(_))) => Err(format!("`prompt` is missing; {WANTED}")),
            (None, (None, None)) => {
                let mut keys: Vec<&str> = map.keys().map(String::as_str).collect();
                keys.truncate(8);
                Err(format!("neither `messages` nor `prompt` among its keys ({}); {WANTED}", keys.join(", ")))
            }
            (Some(_), (Some(_), _) | (_, Some(_))) => {
                Err("`messages` and `prompt` or `completion` in one row: keep one of the two forms".into())
            }
            (Some(messages), (None, None)) => chat(messages),
        }
    }

    pub(super) fn wrong(&self, what: String) -> Error {
        match &self.origin {
            Some(o) => Error::Row { path: o.path.to_path_buf(), line: o.line, what },
            None => Error::Invalid(what),
        }
    }
}

fn chat(messages: Value) -> std::result::Result<Text, String> {
    let Value::Array(messages) = messages else { return Err("`messages` is not a list of turns".into()) };
    let mut turns = Vec::with_capacity(messages.len());
    for (i, value) in messages.into_iter().enumerate() {
        let n = i + 1;
        let turn: Turn = serde_json::from_value(value).map_err(|e| {
            format!("turn {n}: {e}; wanted {{\"role\": ..., \"content\": ..., \"train\": true|false}}")
        })?;
        if !ROLES.contains(&turn.role.as_str()) {
            return Err(format!("turn {n}: unknown role {:?}; known: {}", turn.role, ROLES.join(", ")));
        }
        if turn.train == Some(true) && turn.role != "assistant" {
            return Err(format!(
                "turn {n}: `train` is true on a turn of the {}; only assistant turns carry loss",
                turn.role
            ));
        }
        turns.push(turn);
    }
    if !turns.iter().any(Turn::trained) {
        return Err(
            "no turn carries loss: at least one assistant turn without `\"train\": false` is wanted".into()
        );
    }
    Ok(Text::Chat(turns))
}

/// Reads a JSONL file of rows.
///
/// # Errors
/// I/O errors; a line that is not a row, with its number; an empty file.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let content =
        std::fs::read_to_string(path).map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))?;
    let shared: Arc<Path> = path.into();
    let mut rows = Vec::new();
    for (i, line) in content.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let text = serde_json::from_str::<Value>(line)
            .map_err(|e| format!("not JSON: {e}"))
            .and_then(Row::from_json)
            .map_err(|what| Error::Row { path: path.into(), line: i + 1, what })?;
        rows.push(Row { text, origin: Some(Origin { path: Arc::clone(&shared), line: i + 1 }) });
    }
    if rows.is_empty() {
        return Err(Error::Invalid(format!("{} has no rows: nothing to train on", path.display())));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_line_is_named_with_its_number_and_what_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.jsonl");
        let good = r#"{"prompt": "a", "completion": "b", "more": 1}"#;
        for (bad, words) in [
            (r#"{"prompt": 3}"#, "`prompt` is 3, not a text"),
            (r#"{"prompt": "a"}"#, "`completion` is missing"),
            (r#"{"text": "a"}"#, "among its keys (text)"),
            ("{", "not JSON"),
            ("[]", "not an object"),
            (r#"{"messages": [], "prompt": "a"}"#, "keep one of the two forms"),
            (r#"{"messages": [{"role": "user", "content": "a"}]}"#, "no turn carries loss"),
            (
                r#"{"messages": [{"role": "assistant", "content": "a", "train": false}]}"#,
                "no turn carries loss",
            ),
            (r#"{"messages": [{"role": "human", "content": "a"}]}"#, "turn 1: unknown role \"human\""),
            (r#"{"messages": [{"role": "user", "content": "a", "train": true}]}"#, "turn 1: `train` is true"),
            (r#"{"messages": [{"role": "user"}]}"#, "turn 1: missing field `content`"),
        ] {
            std::fs::write(&path, format!("{good}\n\n{bad}\n")).unwrap();
            let said = read(&path).unwrap_err().to_string();
            assert!(said.contains("data.jsonl:3: ") && said.contains(words), "{bad}: {said}");
        }
        std::fs::write(&path, "\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("no rows"));
        std::fs::write(&path, good).unwrap();
        assert_eq!(read(&path).unwrap()[0].text, Row::pair("a", "b").text);
    }
}
