//! Rows to score, as JSON lines.

use corpus::extract::{Given, Program, Shape, assemble};
use sandbox::Job;
use sandbox::wire::Request;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::BufRead;
use std::sync::Arc;

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {why}")]
pub struct BadRow {
    pub file: String,
    /// From 1.
    pub line: usize,
    pub why: String,
}

/// Problems that rows may name instead of repeating them: id -> problem, from a file of JSON lines.
#[derive(Debug, Default)]
pub struct Problems(HashMap<String, Arc<Map<String, Value>>>);

impl Problems {
    /// Reads one problem a line; each has an `id`.
    ///
    /// # Errors
    /// The first bad line.
    pub fn read(file: &str, from: impl BufRead) -> Result<Self, BadRow> {
        let mut known = HashMap::new();
        for (number, line) in (1..).zip(from.split(b'\n')) {
            let bad = |why: String| BadRow { file: file.to_owned(), line: number, why };
            let line = line.map_err(|e| bad(e.to_string()))?;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let problem: Map<String, Value> =
                serde_json::from_slice(&line).map_err(|e| bad(e.to_string()))?;
            let id = problem.get("id").and_then(Value::as_str);
            let id = id.ok_or_else(|| bad("the problem has no `id`".into()))?.to_owned();
            if known.insert(id.clone(), Arc::new(problem)).is_some() {
                return Err(bad(format!("problem {id:?} stands there twice")));
            }
        }
        Ok(Self(known))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    id: String,
    code: Option<String>,
    completion: Option<String>,
    response: Option<String>,
    language: Option<String>,
    /// What was asked; else the problem's `prompt`.
    prompt: Option<String>,
    /// The other program of a comparison.
    other: Option<String>,
    problem: Option<ProblemField>,
    #[serde(default)]
    sample: u32,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ProblemField {
    Named(String),
    Here(Map<String, Value>),
}

/// A row, ready to be judged.
#[derive(Debug, Clone)]
pub struct Row {
    pub id: String,
    pub sample: u32,
    /// The problem's id, empty where it has none.
    pub problem: String,
    pub response: Option<String>,
    pub prompt: Option<String>,
    pub other: Option<String>,
    pub program: Option<Program>,
    /// The program with its tests. `Err`: why it cannot be run; an answer without a program has `Ok(None)`.
    pub job: Result<Option<Box<Job>>, String>,
}

impl Row {
    /// Reads a line. `execute`: the row has to have tests.
    ///
    /// # Errors
    /// What is wrong, without the place.
    pub fn read(line: &[u8], problems: &Problems, execute: bool) -> Result<Self, String> {
        let raw: Raw = serde_json::from_slice(line).map_err(|e| e.to_string())?;
        let problem = match &raw.problem {
            None => Arc::default(),
            Some(ProblemField::Here(map)) => Arc::new(map.clone()),
            Some(ProblemField::Named(id)) => Arc::clone(problems.0.get(id).ok_or_else(|| {
                format!("problem {id:?} is not known; give the file that holds it with --problems")
            })?),
        };
        let given = match (&raw.code, &raw.completion, &raw.response) {
            (Some(code), None, None) => Given::Code(code),
            (None, Some(completion), None) => Given::Completion(completion),
            (None, None, Some(response)) => Given::Response(response),
            (None, None, None) => return Err("give one of `code`, `completion`, `response`".to_owned()),
            _ => return Err("`code`, `completion` and `response` exclude each other".to_owned()),
        };
        let text = |key: &str| -> Result<Option<&str>, String> {
            match problem.get(key) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(s)) => Ok(Some(s)),
                Some(other) => Err(format!("the problem's `{key}` must be text, not {other}")),
            }
        };
        let shape = Shape {
            language: raw.language.as_deref().map_or_else(|| text("language"), |l| Ok(Some(l)))?,
            stub: text("stub")?,
            prefix: text("prefix")?,
            guard: text("guard")?,
        };
        let program = assemble(given, &shape);
        let job = match &program {
            Some(program) if execute => job(&problem, program).map(|j| Some(Box::new(j))),
            _ => Ok(None),
        };
        // a problem that is wrong is the row's mistake, whatever the answer
        let job = match job {
            Err(why) if execute => return Err(format!("the problem: {why}")),
            other => other,
        };
        Ok(Self {
            problem: text("id")?.unwrap_or_default().to_owned(),
            prompt: raw.prompt.clone().or(text("prompt")?.map(str::to_owned)),
            id: raw.id,
            sample: raw.sample,
            response: raw.response,
            other: raw.other,
            program,
            job,
        })
    }
}

/// Keys of a problem that say how a program is made and what was asked; the others are those of a sandbox request.
const OWN: [&str; 6] = ["id", "prompt", "stub", "prefix", "guard", "language"];

fn job(problem: &Map<String, Value>, program: &Program) -> Result<Job, String> {
    let mut request: Map<String, Value> = problem
        .iter()
        .filter(|(k, _)| !OWN.contains(&k.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if !request.contains_key("tests")
        && !request.contains_key("test_code")
        && !request.contains_key("test_code_b64")
    {
        return Err("it has neither `tests` nor `test_code`".to_owned());
    }
    request.insert("id".into(), json!("score"));
    request.insert("code".into(), json!(program.code));
    request.insert("language".into(), json!(program.language));
    let request: Request = serde_json::from_value(Value::Object(request)).map_err(|e| e.to_string())?;
    request.into_job().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox::Mode;

    fn row(value: Value) -> Result<Row, String> {
        Row::read(value.to_string().as_bytes(), &Problems::default(), true)
    }

    #[test]
    fn rows_of_every_mode_become_jobs() {
        let mode = |problem: Value| {
            row(json!({"id": "a", "code": "x = 1", "problem": problem})).unwrap().job.unwrap().unwrap().mode
        };
        assert!(matches!(mode(json!({"tests": [{"stdin": "", "expected": "1"}]})), Mode::Stdio { .. }));
        let call = json!({"entry": "f", "tests": [{"args": [1], "expected": 2}]});
        assert!(matches!(mode(call), Mode::Function { .. }));
        assert!(matches!(mode(json!({"test_code": "def test_x(): pass"})), Mode::Pytest { .. }));
        assert!(matches!(mode(json!({"mode": "script", "test_code": "assert x"})), Mode::Script { .. }));
    }

    #[test]
    fn answers_are_made_into_programs_by_the_shared_rules() {
        let problem = json!({"id": "p", "prompt": "Q", "stub": "def f():\n", "prefix": "import os",
            "mode": "script", "test_code": "f()"});
        let r = row(json!({"id": "a", "completion": "    return 1\n", "problem": problem})).unwrap();
        assert_eq!(r.program.unwrap().code, "import os\ndef f():\n    return 1\n");
        assert_eq!((r.problem.as_str(), r.prompt.as_deref()), ("p", Some("Q")));
        let none = row(json!({"id": "a", "response": "```java\nx\n```", "problem": problem})).unwrap();
        assert!(none.program.is_none() && none.job.unwrap().is_none());
    }

    #[test]
    fn mistakes_are_named() {
        let tests = json!([{"stdin": "", "expected": "1"}]);
        let error = |value: Value| row(value).unwrap_err();
        assert!(error(json!({"id": "a", "problem": {"tests": tests}})).contains("one of `code`"));
        assert!(error(json!({"id": "a", "code": "x", "response": "x"})).contains("exclude"));
        assert!(error(json!({"id": "a", "code": "x", "problem": {"tset": 1}})).contains("neither `tests`"));
        let typo = json!({"tests": tests, "comparater": "tokens"});
        assert!(error(json!({"id": "a", "code": "x", "problem": typo})).contains("comparater"));
        assert!(error(json!({"id": "a", "code": "x", "problem": "gone"})).contains("--problems"));
        assert!(error(json!({"code": "x"})).contains("id"));
    }

    #[test]
    fn problems_may_stand_in_a_file_of_their_own() {
        let file = b"{\"id\": \"p\", \"tests\": [{\"stdin\": \"\", \"expected\": \"1\"}]}\n\n";
        let known = Problems::read("p.jsonl", &file[..]).unwrap();
        let line = br#"{"id": "a", "code": "print(1)", "problem": "p"}"#;
        assert!(Row::read(line, &known, true).unwrap().job.unwrap().is_some());
        let bad = Problems::read("p.jsonl", &b"{\"id\": \"p\"}\n{\"id\": \"p\"}\n"[..]).unwrap_err();
        assert_eq!(bad.to_string(), "p.jsonl:2: problem \"p\" stands there twice");
    }
}
