//! Chat templates, rendered as transformers renders them.

use crate::error::{Error, Result};
use generate::Message;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::Value as Json;
use std::path::Path;

/// The template of our own small models: the contents as they are, so that a chat with one user turn is a plain prompt.
pub const PLAIN: &str = "{% for message in messages %}{{ message['content'] }}{% endfor %}";

/// A model's template and the special tokens that it may name.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
    pad: String,
}

impl ChatTemplate {
    /// Reads `chat_template.jinja` or the `chat_template` of `tokenizer_config.json`; [`PLAIN`] if there is neither.
    ///
    /// # Errors
    /// Malformed files or templates, with the path.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer_config.json");
        let doc: Json = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|e| Error::format(&path, e.to_string()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Json::Null,
            Err(e) => return Err(Error::io(&path)(e)),
        };
        let file = dir.join("chat_template.jinja");
        let source = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => named(&doc["chat_template"]),
            Err(e) => return Err(Error::io(&file)(e)),
        };
        Self::new(
            &source,
            &special(&doc["bos_token"]),
            &special(&doc["eos_token"]),
            &special(&doc["pad_token"]),
        )
    }

    /// # Errors
    /// A template that does not parse.
    pub fn new(source: &str, bos: &str, eos: &str, pad: &str) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |text: String| -> std::result::Result<Value, _> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        });
        environment.add_filter("tojson", tojson);
        environment
            .add_template_owned("chat", strip_generation(source))
            .map_err(|e| Error::Template(format!("{e:#}")))?;
        let [bos, eos, pad] = [bos, eos, pad].map(str::to_owned);
        Ok(Self { environment, source: source.to_owned(), bos, eos, pad })
    }

    /// The template's text, as it is saved with a model.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Text of a conversation; `answer` asks for the header of the assistant's turn.
    ///
    /// # Errors
    /// The template's own complaint (`raise_exception`) or a mistake in it.
    pub fn render(&self, messages: &[Message], answer: bool) -> Result<String> {
        let messages: Vec<Json> =
            messages.iter().map(|m| serde_json::json!({"role": m.role, "content": m.content})).collect();
        self.render_json(&serde_json::json!({ "messages": messages, "add_generation_prompt": answer }))
    }

    /// Like [`Self::render`] with every variable in the caller's hand (tools, documents).
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_json(&self, variables: &Json) -> Result<String> {
        let mut all =
            serde_json::json!({"bos_token": self.bos, "eos_token": self.eos, "pad_token": self.pad});
        if let (Some(all), Some(given)) = (all.as_object_mut(), variables.as_object()) {
            all.extend(given.clone());
        }
        self.environment
            .get_template("chat")
            .and_then(|t| t.render(Value::from_serialize(&all)))
            .map_err(|e| Error::Template(format!("{e:#}")))
    }
}

/// `chat_template`: a text, or a list of named ones of which "default" counts.
fn named(v: &Json) -> String {
    match v {
        Json::String(s) => s.clone(),
        Json::Array(many) => many
            .iter()
            .find(|t| t["name"] == "default")
            .and_then(|t| t["template"].as_str())
            .unwrap_or(PLAIN)
            .to_owned(),
        _ => PLAIN.to_owned(),
    }
}

/// A special token is a text or an object with `content`.
fn special(v: &Json) -> String {
    v.as_str().or_else(|| v["content"].as_str()).unwrap_or("").to_owned()
}

/// `{% generation %}` marks the assistant's text for masking; it prints nothing, and minijinja does not know it.
fn strip_generation(source: &str) -> String {
    let mut out = source.to_owned();
    for word in ["generation", "endgeneration"] {
        for open in ["{%-", "{%"] {
            for close in ["-%}", "%}"] {
                let with = if open.ends_with('-') { "{%- if true %}" } else { "{% if true %}" };
                let with =
                    if word == "endgeneration" { with.replace("if true", "endif") } else { with.to_owned() };
                let with = if close.starts_with('-') { with.replace(" %}", " -%}") } else { with };
                out = out.replace(&format!("{open} {word} {close}"), &with);
            }
        }
    }
    out
}

/// `tojson` as Python's `json.dumps(ensure_ascii=False)`: ", " and ": ", nothing escaped for HTML.
fn tojson(value: &Value, options: minijinja::value::Kwargs) -> std::result::Result<Value, minijinja::Error> {
    let json = serde_json::to_value(value)
        .map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let indent = options.get::<Option<usize>>("indent")?;
    let mut out = String::new();
    python_json(&json, indent, 0, &mut out);
    Ok(Value::from_safe_string(out))
}

fn python_json(v: &Json, indent: Option<usize>, depth: usize, out: &mut String) {
    let line = |out: &mut String, depth: usize| {
        if let Some(n) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', n * depth));
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    match v {
        Json::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(comma);
                }
                line(out, depth + 1);
                python_json(item, indent, depth + 1, out);
            }
            line(out, depth);
            out.push(']');
        }
        Json::Object(map) if !map.is_empty() => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                if i > 0 {
                    out.push_str(comma);
                }
                line(out, depth + 1);
                out.push_str(&Json::String(key.clone()).to_string());
                out.push_str(": ");
                python_json(item, indent, depth + 1, out);
            }
            line(out, depth);
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(content: &str) -> Vec<Message> {
        vec![Message { role: "user".into(), content: content.into() }]
    }

    #[test]
    fn the_plain_template_is_the_prompt_itself() {
        let t = ChatTemplate::new(PLAIN, "", "", "").unwrap();
        assert_eq!(t.render(&user("Read n.\n"), true).unwrap(), "Read n.\n");
    }

    #[test]
    fn python_string_methods_loops_and_special_tokens_work() {
        let source = "{{ bos_token }}{% for m in messages %}\n  {% if m['role'].upper() == 'USER' %}\n[{{ m['content'].strip() }}]\n{% endif %}\n{% endfor %}{% if add_generation_prompt %}->{% endif %}";
        let t = ChatTemplate::new(source, "<s>", "</s>", "").unwrap();
        assert_eq!(t.render(&user(" hi "), true).unwrap(), "<s>[hi]\n->");
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let t = ChatTemplate::new("{{ tools | tojson }}", "", "", "").unwrap();
        let tools = serde_json::json!({"tools": [{"z": "<é>", "a": [1, 2.5, true, null]}, {}]});
        assert_eq!(t.render_json(&tools).unwrap(), r#"[{"z": "<é>", "a": [1, 2.5, true, null]}, {}]"#);
    }

    #[test]
    fn a_template_can_refuse_and_generation_marks_print_nothing() {
        let t = ChatTemplate::new("{{ raise_exception('no system turn') }}", "", "", "").unwrap();
        assert!(t.render(&user("x"), false).unwrap_err().to_string().contains("no system turn"));
        let t = ChatTemplate::new("a{% generation %}b{%- endgeneration %}c", "", "", "").unwrap();
        assert_eq!(t.render(&user("x"), false).unwrap(), "abc");
    }
}
