//! Jobs as JSON: what `bessemer sandbox batch` reads, one object per line.
//!
//! Results are [`JobResult`]s as they serialize. Everything that is bytes may come as text under its plain name or in
//! base64 under `NAME_b64`.

use crate::bigint;
use crate::bytes::Bytes;
use crate::compare::Comparator;
use crate::config::Tier;
use crate::job::{Call, File, Grade, Job, JobResult, Limits, Mode, Profile, StdioTest};
use crate::value::Value;
use serde::{Deserialize, Deserializer};

/// One line of a batch.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Comes back in the result.
    pub id: String,
    /// `python`, `c`, `cpp`, `rust`, `nodejs`, `bash`.
    #[serde(default = "python")]
    pub language: String,
    code: Option<String>,
    code_b64: Option<Bytes>,
    /// What is done with the code; told from the other fields where it is left out.
    mode: Option<ModeName>,
    #[serde(default)]
    tests: Vec<Test>,
    /// `function`: the name that is called.
    entry: Option<String>,
    /// `pytest`, `script`: the source of the tests.
    test_code: Option<String>,
    test_code_b64: Option<Bytes>,
    comparator: Option<Comparator>,
    #[serde(default)]
    limits: Limits,
    /// Seconds for a compiler.
    compile_wall_s: Option<f64>,
    #[serde(default)]
    files: Vec<FileEntry>,
    #[serde(default)]
    fetch: Vec<String>,
    #[serde(default)]
    stop_on_first_failure: bool,
    #[serde(default)]
    profile: Profile,
    #[serde(default)]
    grade: GradeName,
}

/// The grades that can be asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum GradeName {
    #[default]
    Test,
    Program,
}

fn python() -> String {
    "python".into()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ModeName {
    Stdio,
    Function,
    Pytest,
    Script,
    Parse,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    stdin: Option<String>,
    stdin_b64: Option<Bytes>,
    args: Option<Vec<serde_json::Value>>,
    /// Text for `stdio`, any value for `function`; null in `stdio`: nothing is compared.
    #[serde(default, deserialize_with = "there")]
    expected: Option<serde_json::Value>,
    expected_b64: Option<Bytes>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    path: String,
    data: Option<String>,
    data_b64: Option<Bytes>,
}

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// It is no JSON of this shape.
    #[error("{0}")]
    Json(String),
    /// A field is missing, or there are two of a kind.
    #[error("{0}")]
    Field(String),
}

fn one(name: &str, text: Option<String>, b64: Option<Bytes>) -> Result<Option<Bytes>, BadRequest> {
    match (text, b64) {
        (Some(_), Some(_)) => Err(BadRequest::Field(format!("both {name} and {name}_b64; give one of them"))),
        (Some(text), None) => Ok(Some(text.into())),
        (None, b64) => Ok(b64),
    }
}

fn need<T>(name: &str, value: Option<T>) -> Result<T, BadRequest> {
    value.ok_or_else(|| BadRequest::Field(format!("{name} is missing")))
}

impl Request {
    /// Reads one line.
    ///
    /// # Errors
    /// What is wrong with it, with the column.
    pub fn parse(line: &[u8]) -> Result<Self, BadRequest> {
        serde_json::from_slice(&bigint::wrap(line)).map_err(|e| BadRequest::Json(e.to_string()))
    }

    /// The job that it asks for.
    ///
    /// # Errors
    /// A field that its mode needs is missing, one is there that means nothing in it, or one is given twice; a limit of
    /// nothing; a path that leaves the working directory.
    pub fn into_job(self) -> Result<Job, BadRequest> {
        let test_code = one("test_code", self.test_code, self.test_code_b64)?;
        let name = self.mode.unwrap_or(match (&self.entry, &test_code) {
            (Some(_), _) => ModeName::Function,
            (None, Some(_)) => ModeName::Pytest,
            (None, None) => ModeName::Stdio,
        });
        // A field that is not looked at would be a mistake that nobody sees.
        let foreign = [
            ("entry", self.entry.is_some(), name != ModeName::Function),
            ("test_code", test_code.is_some(), !matches!(name, ModeName::Pytest | ModeName::Script)),
            ("tests", !self.tests.is_empty(), !matches!(name, ModeName::Stdio | ModeName::Function)),
            ("comparator", self.comparator.is_some(), !matches!(name, ModeName::Stdio | ModeName::Function)),
        ];
        if let Some((field, ..)) = foreign.into_iter().find(|(_, there, foreign)| *there && *foreign) {
            let text = format!(
                "{field} means nothing in the mode {}; leave it out, or say another mode",
                name.word()
            );
            return Err(BadRequest::Field(text));
        }
        let comparator = self.comparator.unwrap_or_default();
        let numbered = |tests: Vec<Test>| tests.into_iter().enumerate();
        let at = |i: usize| move |e: BadRequest| BadRequest::Field(format!("tests[{i}]: {e}"));
        let mode = match name {
            ModeName::Stdio => Mode::Stdio {
                tests: numbered(self.tests)
                    .map(|(i, t)| stdio(t).map_err(at(i)))
                    .collect::<Result<_, _>>()?,
            },
            ModeName::Function => {
                if !matches!(comparator, Comparator::ExactStripped | Comparator::Float { .. }) {
                    let text = "comparator: values of a function are compared as values; only float makes sense with them";
                    return Err(BadRequest::Field(text.into()));
                }
                Mode::Function {
                    entry: need("entry", self.entry)?,
                    tests: numbered(self.tests)
                        .map(|(i, t)| call(t).map_err(at(i)))
                        .collect::<Result<_, _>>()?,
                }
            }
            ModeName::Pytest => Mode::Pytest { test_code: need("test_code", test_code)? },
            ModeName::Script => Mode::Script { test_code: need("test_code", test_code)? },
            ModeName::Parse => Mode::Parse,
        };
        let code = need("code", one("code", self.code, self.code_b64)?)?;
        let files = self.files.into_iter().enumerate().map(|(i, f)| {
            let data = one("data", f.data, f.data_b64).and_then(|d| need("data", d));
            Ok(File { data: data.map_err(|e| BadRequest::Field(format!("files[{i}]: {e}")))?, path: f.path })
        });
        let plain = Job::stdio(self.id, self.language, code);
        let job = Job {
            mode,
            comparator,
            limits: self.limits,
            compile_wall_s: self.compile_wall_s.unwrap_or(plain.compile_wall_s),
            files: files.collect::<Result<_, BadRequest>>()?,
            fetch: self.fetch,
            stop_on_first_failure: self.stop_on_first_failure,
            profile: self.profile,
            grade: if self.grade == GradeName::Program { Grade::Program } else { Grade::Test },
            ..plain
        };
        job.check().map_err(BadRequest::Field)?;
        Ok(job)
    }
}

impl ModeName {
    fn word(self) -> &'static str {
        match self {
            Self::Stdio => "stdio",
            Self::Function => "function",
            Self::Pytest => "pytest",
            Self::Script => "script",
            Self::Parse => "parse",
        }
    }
}

fn stdio(t: Test) -> Result<StdioTest, BadRequest> {
    if t.args.is_some() {
        return Err(BadRequest::Field(
            "args in a stdio test; say \"mode\": \"function\" and an entry".into(),
        ));
    }
    let expected = match t.expected {
        None | Some(serde_json::Value::Null) => None,
        Some(serde_json::Value::String(s)) => Some(s),
        Some(other) => {
            return Err(BadRequest::Field(format!("expected is {other}; a stdio test wants text or null")));
        }
    };
    Ok(StdioTest {
        stdin: one("stdin", t.stdin, t.stdin_b64)?.unwrap_or_default(),
        expected: one("expected", expected, t.expected_b64)?,
    })
}

fn call(t: Test) -> Result<Call, BadRequest> {
    if t.stdin.is_some() || t.stdin_b64.is_some() || t.expected_b64.is_some() {
        return Err(BadRequest::Field(
            "a call has args and expected; stdin and expected_b64 belong to stdio".into(),
        ));
    }
    let args = need("args", t.args)?;
    // null is a value that a function may return, so its absence cannot stand for it.
    let expected = need("expected", t.expected)?;
    Ok(Call { args: args.iter().map(Value::from).collect(), expected: Value::from(&expected) })
}

/// Tells a field that is null from one that is not there.
fn there<'de, D: Deserializer<'de>>(d: D) -> Result<Option<serde_json::Value>, D::Error> {
    serde_json::Value::deserialize(d).map(Some)
}

/// One line of a batch as a job; a line that is none gives the result that says so, under its `id` where it has one.
///
/// # Errors
/// The result for a bad line: verdict `unscored`.
pub fn job_of_line(number: usize, line: &[u8], tier: Tier) -> Result<Job, Box<JobResult>> {
    Request::parse(line).and_then(Request::into_job).map_err(|e| {
        let id = serde_json::from_slice::<serde_json::Value>(line)
            .ok()
            .and_then(|v| v.get("id").and_then(|id| id.as_str().map(str::to_owned)))
            .unwrap_or_default();
        let nothing = Job::python(id, "");
        Box::new(JobResult::unscored(&nothing, tier, format!("line {number}: {e}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(text: &str) -> Result<Job, BadRequest> {
        Request::parse(text.as_bytes()).and_then(Request::into_job)
    }

    #[test]
    fn a_stdio_request_is_read_whole() {
        let j = job(r#"{"id":"a","language":"cpp","code":"x","comparator":{"float":{"tolerance":0.001}},
            "tests":[{"stdin":"1","expected":"2"},{"stdin_b64":"/w==","expected":null}],
            "limits":{"wall_s":2,"memory_mb":64},"files":[{"path":"a/b","data":"c"}],"fetch":["o"],
            "stop_on_first_failure":true,"profile":"solo"}"#)
        .expect("a request");
        assert_eq!((j.id.as_str(), j.language.as_str(), &*j.code), ("a", "cpp", &b"x"[..]));
        assert_eq!(j.comparator, Comparator::Float { tolerance: 0.001 });
        assert_eq!((j.limits.wall_s, j.limits.memory_mb, j.limits.cpu_s), (2.0, 64, 5.0));
        assert_eq!((j.profile, j.stop_on_first_failure, j.files.len()), (Profile::Solo, true, 1));
        let Mode::Stdio { tests } = j.mode else { panic!("{:?}", j.mode) };
        assert_eq!(tests[0].expected.as_deref(), Some(&b"2"[..]));
        assert_eq!((&*tests[1].stdin, &tests[1].expected), (&b"\xff"[..], &None));
    }

    #[test]
    fn the_mode_follows_from_the_fields() {
        let f = job(r#"{"id":"a","code":"x","entry":"f","tests":[{"args":[1],"expected":null}]}"#)
            .expect("a request");
        assert!(matches!(f.mode, Mode::Function { ref tests, .. } if tests[0].expected == Value::None));
        let p = job(r#"{"id":"a","code":"x","test_code":"y"}"#).expect("a request");
        assert!(matches!(p.mode, Mode::Pytest { .. }));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| job(text).expect_err("a mistake").to_string();
        assert!(error(r#"{"id":"a","code":"x","code_b64":"eA=="}"#).contains("code_b64"));
        assert!(error(r#"{"id":"a"}"#).contains("code is missing"));
        assert!(error(r#"{"id":"a","code":"x","limts":{}}"#).contains("limts"));
        assert!(error(r#"{"id":"a","code":"x","tests":[{"stdin":"","expected":5}]}"#).contains('5'));
        assert!(error(r#"{"id":"a","code":"x","mode":"function"}"#).contains("entry"));
        let line = |rest: &str| error(&format!(r#"{{"id":"a","code":"x",{rest}}}"#));
        assert!(line(r#""entry":"f","tests":[{"args":[]}]"#).contains("tests[0]: expected is missing"));
        assert!(line(r#""tests":[{},{"args":[1]}]"#).contains("tests[1]: args"));
        assert!(
            line(r#""test_code":"y","tests":[{"stdin":"x"}]"#)
                .contains("tests means nothing in the mode pytest")
        );
        assert!(line(r#""mode":"stdio","entry":"f""#).contains("entry means nothing"));
        assert!(line(r#""entry":"f","comparator":"tokens""#).contains("comparator"));
        assert!(line(r#""limits":{"wall_s":0}"#).contains("wall_s is 0"));
        assert!(line(r#""limits":{"memory_mb":0}"#).contains("memory_mb"));
        assert!(line(r#""limits":{"memory_mb":-5}"#).contains("-5"));
        assert!(line(r#""compile_wall_s":-1"#).contains("compile_wall_s"));
        assert!(line(r#""files":[{"path":"../x","data":""}]"#).contains("files[0]"));
        assert!(line(r#""files":[{"path":"x","data":""},{"path":"x","data":""}]"#).contains("twice"));
        assert!(line(r#""files":[{"path":"x"}]"#).contains("files[0]: data is missing"));
        assert!(line(r#""comparator":"token""#).contains("tokens"), "the known names are listed");
        assert!(line(r#""comparator":{"float":{"tolerance":-1}}"#).contains("tolerance"));
        assert!(line(r#""comparator":{"checker":{"language":"python"}}"#).contains("code of the checker"));
        assert!(line(r#""comparator":{"checker":{"code":"x"}},"entry":"f""#).contains("comparator"));
        assert!(line(r#""tests":[{"stdin_b64":"?"}]"#).contains("column"));
        assert!(error("{").contains("column"));
        let r = job_of_line(7, br#"{"id":"q","nope":1}"#, Tier::B).expect_err("a mistake");
        assert_eq!((r.id.as_str(), r.verdict), ("q", crate::Verdict::Unscored));
        assert!(r.reason.expect("a reason").starts_with("line 7: "));
    }
}
