//! SandboxFusion's `/submit`, for problems that come with the request: `config.provided_data` holds the tests, so that no
//! data set is needed. Of its kinds of data sets only `CommonOJDataset` (programs that read and write) works that way.
//!
//! Differences on purpose: a completion without a fence is code as a whole (SandboxFusion looks for function definitions
//! there, which loses the rest of the program); `custom_extract_logic`, which is code for the server itself, is refused.

use super::RunCodeResponse;
use crate::compare::Comparator;
use crate::job::{Job, JobResult, Limits, StdioTest, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// The one kind of data set that is served.
pub(super) const COMMON_OJ: &str = "CommonOJDataset";
/// Characters of an input or output that are shown of a test that passed.
const SHOWN: usize = 1000;

/// Body of `POST /submit`.
#[derive(Debug, Clone, Deserialize)]
pub struct Submit {
    /// Name of a data set; there are none here, so any name goes.
    pub dataset: String,
    /// The problem's; comes back. A number or text.
    pub id: Json,
    /// What a model said.
    pub completion: String,
    /// See [`TestConfig`].
    pub config: TestConfig,
}

/// How a submission is judged.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct TestConfig {
    /// `CommonOJDataset`.
    #[serde(default)]
    pub dataset_type: Option<String>,
    /// SandboxFusion's name of the language.
    #[serde(default)]
    pub language: Option<String>,
    /// Seconds.
    #[serde(default)]
    pub compile_timeout: Option<f64>,
    /// Seconds.
    #[serde(default)]
    pub run_timeout: Option<f64>,
    /// Refused.
    #[serde(default)]
    pub custom_extract_logic: Option<String>,
    /// `{"test": [{"input": {"stdin"}, "output": {"stdout"}}]}`; `test` may be that list as JSON text.
    #[serde(default)]
    pub provided_data: Option<Json>,
    /// `run_all_cases`: go on behind the first failure; `return_full_case`: tests come back uncut.
    #[serde(default)]
    pub extra: BTreeMap<String, Json>,
}

/// A test as it comes and as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdioCase {
    /// `stdin`, and names of files that nothing reads.
    pub input: BTreeMap<String, String>,
    /// `stdout`.
    pub output: BTreeMap<String, String>,
}

/// What came of one test.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalTestCase {
    /// Ended well, with the right output.
    pub passed: bool,
    /// As `/run_code` would have answered.
    pub exec_info: RunCodeResponse,
    /// The test.
    pub test_info: Option<StdioCase>,
}

/// Answer of `POST /submit`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalResult {
    /// The problem's.
    pub id: Json,
    /// Every test passed, and there was one.
    pub accepted: bool,
    /// What was taken for the program.
    pub extracted_code: String,
    /// Always null, as there.
    pub full_code: Option<String>,
    /// Always null, as there.
    pub test_code: Option<String>,
    /// The tests that were run: up to the first that failed, without `run_all_cases`.
    pub tests: Vec<EvalTestCase>,
    /// Always null, as there.
    pub extracted_type: Option<String>,
    /// Always null, as there.
    pub extra: Option<Json>,
}

/// A submission that is ready to be run.
#[derive(Debug, Clone)]
pub struct Submission {
    /// What is to be run.
    pub job: Job,
    id: Json,
    code: String,
    cases: Vec<StdioCase>,
    full: bool,
}

impl Submit {
    /// The job that judges it.
    ///
    /// # Errors
    /// What SandboxFusion answers with status 400: `detail`.
    pub fn prepare(self) -> Result<Submission, String> {
        let Self { dataset, id, completion, config } = self;
        if !(id.is_string() || id.is_i64() || id.is_u64()) {
            return Err(format!("id is {id}; it must be a number or text"));
        }
        super::prompts::check_kind(&dataset, &config)?;
        if config.custom_extract_logic.is_some() {
            return Err("config.custom_extract_logic is code for the server; it is not run here. Extract the code yourself and send it in a fence".into());
        }
        let language =
            config.language.ok_or("config.language field must exist for CommonOJDataset, got None")?;
        let Some(Json::Object(mut data)) = config.provided_data else {
            return Err("config.provided_data should be an object with the key test".into());
        };
        let test = match data.remove("test") {
            Some(Json::String(text)) => {
                serde_json::from_str(&text).map_err(|e| format!("config.provided_data.test: {e}"))?
            }
            Some(list) => list,
            None => return Err("config.provided_data has no key test".into()),
        };
        let cases: Vec<StdioCase> =
            serde_json::from_value(test).map_err(|e| format!("config.provided_data.test: {e}"))?;
        let field = |map: &BTreeMap<String, String>, i: usize, side: &str, key: &str| {
            map.get(key).cloned().ok_or(format!("config.provided_data.test[{i}].{side} has no {key}"))
        };
        let code = extract(&completion, &language);
        let compiled = matches!(language.as_str(), "cpp" | "go" | "java");
        let seconds = config.run_timeout.filter(|s| *s != 0.0).unwrap_or(if compiled { 10.0 } else { 20.0 });
        let mut job = Job::stdio("submit", language, code.as_str());
        job.limits = Limits { wall_s: seconds, cpu_s: seconds, ..super::default_limits() };
        job.compile_wall_s = config.compile_timeout.filter(|s| *s != 0.0).unwrap_or(10.0);
        job.comparator = Comparator::SandboxFusion;
        job.stop_on_first_failure = !truth(&config.extra, "run_all_cases");
        let tests = cases.iter().enumerate().map(|(i, c)| {
            Ok(StdioTest {
                stdin: field(&c.input, i, "input", "stdin")?.into(),
                expected: Some(field(&c.output, i, "output", "stdout")?.into()),
            })
        });
        job.mode = crate::Mode::Stdio { tests: tests.collect::<Result<_, String>>()? };
        job.check()?;
        Ok(Submission { job, id, code, cases, full: truth(&config.extra, "return_full_case") })
    }
}

impl Submission {
    /// The answer.
    ///
    /// # Errors
    /// Nobody has judged it: a failure of ours (status 500 there), or there were no tests.
    pub fn answer(self, r: &JobResult) -> Result<EvalResult, String> {
        if r.verdict == Verdict::Unscored {
            return Err(r.reason.clone().unwrap_or_default());
        }
        let mut tests: Vec<EvalTestCase> = Vec::new();
        for (test, case) in r.tests.iter().zip(&self.cases) {
            let passed = test.verdict == Verdict::Pass;
            let shown = if passed && !self.full { case.cut() } else { case.clone() };
            tests.push(EvalTestCase {
                passed,
                exec_info: RunCodeResponse::of_test(r, Some(test)),
                test_info: Some(shown),
            });
        }
        if r.tests.is_empty() {
            // It did not compile: that is how its first test failed.
            let info = self.cases.into_iter().next();
            tests.push(EvalTestCase {
                passed: false,
                exec_info: RunCodeResponse::of_test(r, None),
                test_info: info,
            });
        }
        Ok(EvalResult {
            id: self.id,
            accepted: r.passed_all(),
            extracted_code: self.code,
            full_code: None,
            test_code: None,
            tests,
            extracted_type: None,
            extra: None,
        })
    }
}

impl StdioCase {
    fn cut(&self) -> Self {
        let all = |map: &BTreeMap<String, String>| map.iter().map(|(k, v)| (k.clone(), cut(v))).collect();
        Self { input: all(&self.input), output: all(&self.output) }
    }
}

/// Both ends of a long text.
fn cut(text: &str) -> String {
    let n = text.chars().count();
    if n <= SHOWN {
        return text.to_owned();
    }
    let half = (SHOWN - 3) / 2;
    let head: String = text.chars().take(half).collect();
    let tail: String = text.chars().skip(n - half).collect();
    format!("{head}...{tail}")
}

/// Python's idea of a true value, for flags.
fn truth(extra: &BTreeMap<String, Json>, key: &str) -> bool {
    match extra.get(key) {
        None | Some(Json::Null | Json::Bool(false)) => false,
        Some(Json::Number(n)) => n.as_f64() != Some(0.0),
        Some(Json::String(s)) => !s.is_empty(),
        Some(Json::Array(a)) => !a.is_empty(),
        Some(Json::Object(o)) => !o.is_empty(),
        Some(Json::Bool(true)) => true,
    }
}

/// The program in a completion: the first closed fence of the language, else the first of any; without one, the open fence
/// at the end; without that, everything.
fn extract(completion: &str, language: &str) -> String {
    let mut closed: Vec<(&str, &str)> = Vec::new();
    let mut rest = completion;
    while let Some(at) = rest.find("```") {
        let Some((info, body)) = rest[at + 3..].split_once('\n') else { break };
        let Some((code, after)) = to_closing(body) else {
            return match pick(&closed, language) {
                Some(code) => code.to_owned(),
                None => body.to_owned(),
            };
        };
        closed.push((info.trim(), code));
        rest = after;
    }
    pick(&closed, language).unwrap_or(completion).to_owned()
}

/// What stands before a line that begins with a closing fence, and what behind.
fn to_closing(body: &str) -> Option<(&str, &str)> {
    let mut start = 0;
    for line in body.split_inclusive('\n') {
        if line.trim_start().starts_with("```") {
            let fence = start + line.len() - line.trim_start().len() + 3;
            return Some((body[..start].strip_suffix('\n').unwrap_or(&body[..start]), &body[fence..]));
        }
        start += line.len();
    }
    None
}

fn pick<'a>(blocks: &[(&str, &'a str)], language: &str) -> Option<&'a str> {
    let wanted = crate::lang::by_name(language);
    let same = |info: &str| {
        let info = info.to_lowercase();
        info == language || wanted.is_some() && crate::lang::by_name(&info) == wanted
    };
    blocks.iter().find(|(info, _)| same(info)).or_else(|| blocks.first()).map(|(_, code)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_the_first_fence_of_its_language() {
        let text = "First:\n```text\nno\n```\nthen\n```Python3\nprint(1)\nprint(2)\n  ```\nor\n```py\nx\n```";
        assert_eq!(extract(text, "python"), "print(1)\nprint(2)");
        assert_eq!(extract(text, "cpp"), "no");
        assert_eq!(extract("so:\n```c++\nint main(){}\n```", "cpp"), "int main(){}");
        assert_eq!(extract("```python\nprint(1)\n", "python"), "print(1)\n");
        assert_eq!(extract("print(1)", "python"), "print(1)");
        assert_eq!(extract("```", "python"), "```");
        assert_eq!(extract("```\n```", "python"), "");
    }

    fn submit(config: Json) -> Result<Submission, String> {
        let body = serde_json::json!({"dataset": "d", "id": 3, "completion": "```python\nprint(1)\n```", "config": config});
        serde_json::from_value::<Submit>(body).expect("a request").prepare()
    }

    #[test]
    fn what_cannot_be_judged_is_refused_with_a_reason() {
        let error = |config: Json| submit(config).expect_err("a mistake");
        let json = |text: &str| serde_json::from_str(text).expect("JSON");
        assert!(error(json(r#"{"language":"python"}"#)).contains("no eval class found for dataset d"));
        assert!(error(json(r#"{"dataset_type":"MBPPDataset"}"#)).contains("MBPPDataset"));
        assert!(error(json(r#"{"dataset_type":"CommonOJDataset"}"#)).contains("config.language"));
        let with =
            |rest: &str| json(&format!(r#"{{"dataset_type":"CommonOJDataset","language":"python",{rest}}}"#));
        assert!(error(with(r#""provided_data":[]"#)).contains("provided_data"));
        assert!(error(with(r#""provided_data":{"tests":[]}"#)).contains("no key test"));
        assert!(
            error(with(r#""provided_data":{"test":[{"input":{},"output":{}}]}"#))
                .contains("test[0].input has no stdin")
        );
        assert!(
            error(with(r#""provided_data":{"test":[]},"custom_extract_logic":"x""#))
                .contains("custom_extract_logic")
        );
        assert!(error(with(r#""provided_data":{"test":[]},"run_timeout":-1"#)).contains("wall_s"));
    }

    #[test]
    fn tests_may_come_as_text() {
        let test = r#"[{"input":{"stdin":"1"},"output":{"stdout":"2"}}]"#;
        let s = submit(serde_json::json!({"dataset_type": COMMON_OJ, "language": "python", "provided_data": {"test": test},
            "extra": {"run_all_cases": true}}))
        .expect("a submission");
        assert_eq!((s.job.total(), s.job.stop_on_first_failure, s.job.limits.wall_s), (1, false, 20.0));
    }
}
