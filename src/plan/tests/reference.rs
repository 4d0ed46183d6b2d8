//! The tables of parameters in docs/JOBFILE.md are what the code says. `BLESS=1` rewrites them.

use record::Kind;
use serde_json::Value;
use std::path::Path;

const MARK: &str = "<!-- parameters:";

#[test]
fn the_parameter_tables_are_those_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/JOBFILE.md");
    let text = std::fs::read_to_string(&path).expect("docs/JOBFILE.md");
    let mark = text.find(MARK).expect("the mark of the generated part");
    let end = text[mark..].find('\n').expect("the mark is a line") + mark + 1;
    let wanted = format!("{}\n{}", &text[..end], tables());
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &wanted).expect("docs/JOBFILE.md can be written");
    }
    let help = "run: BLESS=1 cargo test -p bessemer-plan --test reference";
    assert!(text == wanted || std::env::var_os("BLESS").is_some(), "docs/JOBFILE.md is out of date; {help}");
}

fn tables() -> String {
    let schema = plan::schema();
    let defs = &schema["$defs"];
    let mut out = String::from("## Parameters by kind\n");
    for kind in Kind::ALL.map(Kind::name) {
        let name = format!("{}{}Params", kind[..1].to_uppercase(), &kind[1..]);
        out.push_str(&section(kind, defs, &name));
    }
    out.push_str(&section("lora (in sft and rl)", defs, "LoraParams"));
    out.push_str(&section("reward (in rl and eval)", defs, "Declared"));
    out.push_str(&section("oracles (in reward)", defs, "OracleParams"));
    out
}

fn section(title: &str, defs: &Value, name: &str) -> String {
    let def = &defs[name];
    let mut out = format!("\n### {title}\n\n{}\n\n| key | default | meaning |\n|---|---|---|\n", words(def));
    for (key, rule) in def["properties"].as_object().expect(name) {
        let target = targets(rule).into_iter().map(|t| &defs[t]).next();
        let mut meaning = words(rule);
        if meaning.is_empty() {
            meaning = target.map(words).unwrap_or_default();
        }
        let choices = target.map(choices).unwrap_or_default();
        if !choices.is_empty() {
            meaning.push_str(&format!(" One of {}.", choices.join(", ")));
        }
        let default = match rule.get("default") {
            // a mapping may always be left empty; anything else that may be null may be left out
            None if rule.to_string().replace("\"object\",\"null\"", "").contains("\"null\"") => {
                "-".to_owned()
            }
            None => "required".to_owned(),
            Some(Value::Object(map)) if !map.is_empty() => "see lora".to_owned(),
            Some(Value::String(s)) => format!("`{s}`"),
            Some(v) => format!("`{v}`").replace("\",\"", ", ").replace(['"'], ""),
        };
        out.push_str(&format!("| `{key}` | {default} | {} |\n", meaning.trim()));
    }
    out
}

fn words(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn targets(schema: &Value) -> Vec<&str> {
    let own = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/$defs/"));
    let nested = schema["anyOf"].as_array().into_iter().flatten().flat_map(targets);
    own.into_iter().chain(nested).filter(|t| *t != "template").collect()
}

fn choices(schema: &Value) -> Vec<String> {
    let own = schema["enum"].as_array().into_iter().flatten().chain(schema.get("const"));
    let nested = schema["oneOf"].as_array().into_iter().flatten().flat_map(choices);
    own.filter_map(Value::as_str).map(|s| format!("`{s}`")).chain(nested).collect()
}
