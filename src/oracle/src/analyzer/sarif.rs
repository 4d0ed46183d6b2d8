//! SARIF 2.1.0, as CodeQL and Semgrep write it.

use super::{Finding, Severity};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Which rules count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rules {
    /// Rules that the tool marks as security: a `security` tag, a CWE, or a security severity.
    #[default]
    Security,
    /// Every rule, quality included; one without a score counts as MEDIUM (the published reading; specs: PurpCode D7).
    All,
}

/// What one SARIF file says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// Tool and version of the first run.
    pub tool: String,
    /// File (as written in the report) -> findings. A file that is not in here was *not found in the report*: only the
    /// list of files given to the tool says whether it was analysed.
    pub findings: BTreeMap<String, Vec<Finding>>,
    /// Files with a syntax error, by rule id or by tool notification.
    pub unparsable: BTreeSet<String>,
    /// The tool says of itself that a run failed: nothing in the report is a clean bill.
    pub failed: bool,
}

#[derive(Deserialize)]
struct Sarif {
    runs: Vec<Run>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    tool: Tool,
    #[serde(default)]
    results: Vec<RunResult>,
    #[serde(default)]
    invocations: Vec<Invocation>,
}

#[derive(Deserialize)]
struct Tool {
    driver: Component,
    #[serde(default)]
    extensions: Vec<Component>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Component {
    name: String,
    #[serde(default)]
    semantic_version: Option<String>,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    id: String,
    properties: Properties,
    default_configuration: Configuration,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Properties {
    tags: Vec<String>,
    #[serde(rename = "security-severity")]
    security_severity: Option<serde_json::Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Configuration {
    level: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RunResult {
    #[serde(default)]
    rule_id: Option<String>,
    #[serde(default)]
    rule_index: Option<i64>,
    #[serde(default)]
    rule: Option<RuleRef>,
    #[serde(default)]
    level: Option<String>,
    #[serde(default)]
    message: Text,
    #[serde(default)]
    locations: Vec<Location>,
    #[serde(default)]
    kind: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RuleRef {
    id: Option<String>,
    index: Option<i64>,
    tool_component: ComponentRef,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ComponentRef {
    index: Option<usize>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Text {
    text: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Location {
    physical_location: Physical,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Physical {
    artifact_location: Artifact,
    region: Region,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Artifact {
    uri: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Region {
    start_line: Option<u32>,
    end_line: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Invocation {
    #[serde(default)]
    execution_successful: Option<bool>,
    #[serde(default)]
    tool_execution_notifications: Vec<Notification>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Notification {
    #[serde(default)]
    descriptor: Option<RuleRef>,
    #[serde(default)]
    message: Text,
    #[serde(default)]
    locations: Vec<Location>,
}

/// Reads a SARIF file.
///
/// # Errors
/// A sentence, when it is no SARIF.
pub fn read(json: &str, rules: Rules) -> Result<Report, String> {
    let sarif: Sarif = serde_json::from_str(json).map_err(|e| format!("this is no SARIF 2.1.0: {e}"))?;
    let mut report = Report::default();
    for run in sarif.runs {
        let d = &run.tool.driver;
        if report.tool.is_empty() {
            let version = d.semantic_version.as_deref().or(d.version.as_deref()).unwrap_or("unknown");
            report.tool = format!("{} {version}", d.name);
        }
        for i in &run.invocations {
            report.failed |= i.execution_successful == Some(false);
            for n in &i.tool_execution_notifications {
                let id = n.descriptor.as_ref().and_then(|d| d.id.as_deref()).unwrap_or("");
                if is_syntax_error(id) || n.message.text.to_lowercase().contains("syntax error") {
                    report.unparsable.extend(n.locations.iter().map(file).filter(|f| !f.is_empty()));
                }
            }
        }
        let by_id: HashMap<&str, &Rule> = std::iter::once(d)
            .chain(&run.tool.extensions)
            .flat_map(|c| c.rules.iter().map(|r| (r.id.as_str(), r)))
            .collect();
        for r in &run.results {
            // "pass", "open" and the like are not findings. `suppressions` is not looked at on purpose: a finding that
            // the model's own comment (`# nosec`) suppresses is still a finding.
            if r.kind.as_deref().is_some_and(|k| k != "fail") {
                continue;
            }
            let rule = find_rule(r, &run.tool, &by_id);
            let id = r
                .rule_id
                .as_deref()
                .or_else(|| r.rule.as_ref()?.id.as_deref())
                .or_else(|| rule.map(|r| r.id.as_str()))
                .unwrap_or("unknown");
            let place = r.locations.first().map(|l| &l.physical_location);
            let name = r.locations.first().map(file).unwrap_or_default();
            if is_syntax_error(id) {
                report.unparsable.insert(name);
                continue;
            }
            let cwes = rule.map(|r| cwes(&r.properties.tags)).unwrap_or_default();
            let score = rule.and_then(|r| r.properties.security_severity.as_ref()).and_then(number);
            let tagged =
                rule.is_some_and(|r| r.properties.tags.iter().any(|t| t.eq_ignore_ascii_case("security")));
            if rules == Rules::Security && !tagged && cwes.is_empty() && score.is_none() {
                continue;
            }
            let level = r.level.as_deref().or_else(|| rule?.default_configuration.level.as_deref());
            let severity = match (score, rules) {
                (Some(s), _) => Some(Severity::of_score(s)),
                (None, Rules::All) => Some(Severity::of_score(5.0)),
                (None, Rules::Security) => level.and_then(Severity::read),
            };
            let start = place.and_then(|p| p.region.start_line).unwrap_or(1);
            report.findings.entry(name).or_default().push(Finding {
                rule: id.to_owned(),
                severity,
                confidence: None,
                cwes,
                start_line: start,
                end_line: place.and_then(|p| p.region.end_line).unwrap_or(start),
                message: r.message.text.clone(),
            });
        }
    }
    Ok(report)
}

fn find_rule<'a>(r: &RunResult, tool: &'a Tool, by_id: &HashMap<&str, &'a Rule>) -> Option<&'a Rule> {
    if let Some(id) = r.rule_id.as_deref().or_else(|| r.rule.as_ref()?.id.as_deref()) {
        return by_id.get(id).copied();
    }
    let component = match r.rule.as_ref().and_then(|r| r.tool_component.index) {
        Some(i) => tool.extensions.get(i)?,
        None => &tool.driver,
    };
    let index = r.rule.as_ref().and_then(|r| r.index).or(r.rule_index)?;
    component.rules.get(usize::try_from(index).ok()?)
}

fn file(l: &Location) -> String {
    l.physical_location.artifact_location.uri.clone()
}

fn is_syntax_error(id: &str) -> bool {
    id.ends_with("/syntax-error") || id.ends_with("/diagnostics/extraction-errors")
}

/// A number, or a number in quotes (CodeQL).
fn number(v: &serde_json::Value) -> Option<f64> {
    v.as_f64().or_else(|| v.as_str()?.trim().parse().ok())
}

/// `external/cwe/cwe-089` (CodeQL), `CWE-89: ...` (Semgrep).
fn cwes(tags: &[String]) -> BTreeSet<u32> {
    tags.iter()
        .filter_map(|t| {
            let t = t.to_ascii_lowercase();
            let at = t.rfind("cwe-")? + "cwe-".len();
            let digits: String = t[at..].chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODEQL: &str = r#"{"version": "2.1.0", "runs": [{
      "tool": {"driver": {"name": "CodeQL", "semanticVersion": "2.21.0"}, "extensions": [{"name": "pack", "rules": [
        {"id": "py/sql-injection", "properties": {"tags": ["security", "external/cwe/cwe-089"], "security-severity": "8.8"}},
        {"id": "py/unused-local-variable", "properties": {"tags": ["maintainability"]}}]}]},
      "invocations": [{"executionSuccessful": true}],
      "results": [
        {"ruleId": "py/sql-injection", "message": {"text": "m"}, "locations": [{"physicalLocation":
          {"artifactLocation": {"uri": "a.py"}, "region": {"startLine": 4}}}]},
        {"rule": {"index": 1, "toolComponent": {"index": 0}}, "locations": [{"physicalLocation":
          {"artifactLocation": {"uri": "b.py"}}}]},
        {"ruleId": "py/syntax-error", "locations": [{"physicalLocation": {"artifactLocation": {"uri": "c.py"}}}]}]}]}"#;

    #[test]
    fn security_rules_count_and_quality_rules_only_in_the_published_reading() {
        let strict = read(CODEQL, Rules::Security).unwrap();
        assert_eq!(strict.tool, "CodeQL 2.21.0");
        let f = &strict.findings["a.py"][0];
        assert_eq!((f.severity, f.start_line, f.end_line), (Some(Severity::High), 4, 4));
        assert_eq!(f.cwes, BTreeSet::from([89]));
        assert!(!strict.findings.contains_key("b.py"));
        assert_eq!(strict.unparsable, BTreeSet::from(["c.py".to_owned()]));
        let all = read(CODEQL, Rules::All).unwrap();
        assert_eq!(all.findings["b.py"][0].rule, "py/unused-local-variable");
        assert_eq!(all.findings["b.py"][0].severity, Some(Severity::Medium));
    }

    #[test]
    fn a_run_that_failed_says_so() {
        let json = CODEQL.replace("\"executionSuccessful\": true", "\"executionSuccessful\": false");
        assert!(read(&json, Rules::Security).unwrap().failed);
        assert!(read("[]", Rules::Security).is_err());
    }

    #[test]
    fn semgrep_levels_and_cwe_texts_are_read() {
        let json = r#"{"runs": [{"tool": {"driver": {"name": "Semgrep OSS", "semanticVersion": "1.90.0", "rules": [
          {"id": "x.eval", "defaultConfiguration": {"level": "warning"},
           "properties": {"tags": ["CWE-95: Eval Injection", "LOW CONFIDENCE", "security"]}}]}},
          "results": [{"ruleId": "x.eval", "message": {"text": "eval"}, "locations": [{"physicalLocation":
            {"artifactLocation": {"uri": "a.py"}, "region": {"startLine": 2, "endLine": 3}}}]}]}]}"#;
        let f = &read(json, Rules::Security).unwrap().findings["a.py"][0];
        assert_eq!((f.severity, f.end_line), (Some(Severity::Medium), 3));
        assert_eq!(f.cwes, BTreeSet::from([95]));
    }
}
