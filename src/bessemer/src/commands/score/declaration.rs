//! From what was typed to a declared reward.

use super::{Score, declaration_text};
use crate::failure::Failure;
use record::params::{Combination, Declared, OracleParams};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

pub fn read(args: &Score) -> Result<Declared, Failure> {
    if let Some(path) = args.combine.as_deref().filter(|c| is_file(c)) {
        if !args.oracles.is_empty() || !args.gates.is_empty() {
            return Err(Failure::usage(format!(
                "{path} declares oracles and gates itself: leave --oracle and --gate out"
            )));
        }
        let text = declaration_text(Path::new(path))?;
        let declared: Declared =
            serde_yaml::from_str(&text).map_err(|e| Failure::input(format!("{path}: {e}")))?;
        declared.check().map_err(|e| Failure::input(format!("{path}: {e}")))?;
        return Ok(declared);
    }
    let mut oracles: BTreeMap<String, OracleParams> = BTreeMap::new();
    let specs = if args.oracles.is_empty() { vec!["tests".to_owned()] } else { args.oracles.clone() };
    for text in &specs {
        let (name, params) = spec(text).map_err(|why| Failure::usage(format!("--oracle {text}: {why}")))?;
        if oracles.insert(name.clone(), params).is_some() {
            return Err(Failure::usage(format!(
                "two oracles are called {name:?}: give one another name, --oracle NAME={text}"
            )));
        }
    }
    let combine: Combination = match &args.combine {
        Some(rule) => rule.parse().map_err(|e| Failure::usage(format!("--combine: {e}")))?,
        None => {
            let mut rest = oracles.keys().filter(|n| !args.gates.contains(n));
            match (rest.next(), rest.next()) {
                (Some(one), None) => one.parse().map_err(Failure::usage)?,
                (None, _) => return Err(Failure::usage("every oracle is a gate: what is the reward?")),
                (Some(a), Some(b)) => {
                    return Err(Failure::usage(format!(
                        "several oracles: say how they become one reward, e.g. --combine 'all({a},{b})' or --combine \
                         '0.6*{a}+0.4*{b}'"
                    )));
                }
            }
        }
    };
    let declared = Declared { oracles, combine, gates: args.gates.clone() };
    declared.check().map_err(Failure::usage)?;
    Ok(declared)
}

fn is_file(combine: &str) -> bool {
    combine.ends_with(".yaml") || combine.ends_with(".yml")
}

/// `[NAME=]KIND[:WORD][,KEY=VALUE...]`.
fn spec(text: &str) -> Result<(String, OracleParams), String> {
    let mut parts = text.split(',');
    let head = parts.next().unwrap_or_default();
    let (name, rest) = match head.split_once('=') {
        Some((name, rest)) => (Some(name), rest),
        None => (None, head),
    };
    let (word, option) = match rest.split_once(':') {
        Some((kind, option)) => (kind, Some(option)),
        None => (rest, None),
    };
    // the tools' names are short for analyzers
    let (kind, mut option_key) = match word {
        "bandit" | "sarif" | "codeguru" => ("analyzer", "policy"),
        "tests" | "binary" | "partial-credit" => (word, "profile"),
        "format" => (word, "reading"),
        "analyzer" | "security" => (word, "tool"),
        "judge" => (word, "rubric"),
        other => {
            let hint = hint(other, &KINDS);
            return Err(format!("{other:?} is no oracle: {hint}write {}", KINDS.join(", ")));
        }
    };
    let mut map = Map::new();
    map.insert("oracle".into(), kind.into());
    if kind == "analyzer" && word != "analyzer" {
        map.insert("tool".into(), word.into());
    }
    if kind == "security" && option.is_some_and(|o| !matches!(o, "bandit" | "sarif" | "codeguru")) {
        option_key = "policy";
    }
    if let Some(option) = option {
        map.insert(option_key.into(), option.into());
    }
    for part in parts {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not KEY=VALUE"))?;
        let value = value.parse::<u64>().map_or_else(|_| Value::from(value), Value::from);
        // a model may be called by a number
        let text = matches!(key, "model" | "version");
        map.insert(key.to_owned(), if text { Value::from(plain(&value)) } else { value });
    }
    let params = serde_json::from_value(Value::Object(map)).map_err(|e| with_hint(&e.to_string()))?;
    let default = if kind == "analyzer" { "security" } else { kind };
    Ok((name.unwrap_or(default).to_owned(), params))
}

/// What `--oracle` may begin with.
const KINDS: [&str; 9] =
    ["tests", "binary", "partial-credit", "analyzer", "bandit", "sarif", "codeguru", "judge", "format"];

fn hint(word: &str, known: &[&str]) -> String {
    plan::diagnostic::nearest(word, known.iter().copied())
        .map(|c| format!("did you mean {c}? "))
        .unwrap_or_default()
}

/// Adds the nearest spelling to serde's "unknown field `x`, expected one of `a`, `b`".
fn with_hint(message: &str) -> String {
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match names.split_first() {
        Some((given, known)) if message.starts_with("unknown ") => format!("{}{message}", hint(given, known)),
        _ => message.to_owned(),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::params::{OracleKind, Profile, Rubric, SecurityPolicy, Tool};

    #[test]
    fn short_forms_name_every_oracle() {
        let of = |text: &str| spec(text).unwrap();
        assert_eq!(of("tests").0, "tests");
        let (name, p) = of("pc=partial-credit:as-published");
        assert_eq!(
            (name.as_str(), p.oracle, p.profile),
            ("pc", OracleKind::PartialCredit, Some(Profile::AsPublished))
        );
        let (name, p) = of("bandit:code-security,reading=compat");
        assert_eq!((name.as_str(), p.tool), ("security", Some(Tool::Bandit)));
        assert_eq!(p.policy, Some(SecurityPolicy::CodeSecurity));
        let (name, p) = of("judge:malice,url=http://h:1/v1,model=7,max_tokens=64");
        assert_eq!((name.as_str(), p.rubric, p.max_tokens), ("judge", Some(Rubric::Malice), Some(64)));
        assert_eq!((p.url.as_deref(), p.model.as_deref()), (Some("http://h:1/v1"), Some("7")));
        assert!(spec("sarif,report=r,programs=p").is_ok());
        assert_eq!(of("security:linear").1.tool, Some(Tool::Bandit));
    }

    #[test]
    fn mistakes_in_a_spec_are_named() {
        let error = |text: &str| spec(text).unwrap_err();
        assert!(error("test").contains("partial-credit"));
        assert!(error("tests:published").contains("published"));
        assert!(error("judge").contains("rubric"));
        assert!(error("tests,oops").contains("KEY=VALUE"));
        assert!(error("tests,url=x").contains("`url`"));
        // the nearest spelling, where there is one
        assert!(error("partial_credt").contains("did you mean partial-credit?"));
        assert!(
            error("judge:malise,url=u").contains("did you mean malice?"),
            "{}",
            error("judge:malise,url=u")
        );
        assert!(error("tests,profil=corrected").contains("did you mean profile?"));
        assert!(!error("xyz").contains("did you mean"));
    }
}
