//! A declared reward: named oracles and the rule that makes one number of their scores. The same type stands in job files
//! (`reward:` of kind rl), in `bessemer score --combine FILE.yaml`, and in the content key: what is not written is filled
//! in here, so that a key names the analyzer's version and every other choice that changes scores.

use super::combination::{Combination, is_name};
use super::{Profile, RewardMode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Version of Bandit that scores are computed with unless the declaration names another (`scripts/bandit.sh` installs it).
pub const BANDIT_VERSION: &str = "1.9.4";

/// The reward of an RL phase: how tests become a number, or a whole declaration.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RewardSpec {
    /// Tests alone, scored so in the phase's `profile`.
    Mode(RewardMode),
    /// Several oracles with a declared combination.
    Declared(Declared),
}

impl Default for RewardSpec {
    fn default() -> Self {
        Self::Mode(RewardMode::default())
    }
}

impl<'de> Deserialize<'de> for RewardSpec {
    /// By shape, so that a mistake in a declaration is reported as what it is and not as "matches no variant".
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(d)?;
        let read = match value {
            serde_json::Value::Object(_) => serde_json::from_value(value).map(Self::Declared),
            _ => serde_json::from_value(value).map(Self::Mode),
        };
        read.map_err(serde::de::Error::custom)
    }
}

/// Named oracles and how their scores become one reward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    /// Name -> oracle.
    pub oracles: BTreeMap<String, OracleParams>,
    /// One name, weights that add up to 1 (`0.6*tests+0.4*security`), `min(a,b)`, or `all(a,b)`.
    pub combine: Combination,
    /// Oracles that are asked first: an answer that fails one earns 0, and the others are not asked.
    #[serde(default)]
    pub gates: Vec<String>,
}

impl Declared {
    /// What is wrong with the declaration as a whole, and what to do.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self) -> Result<(), String> {
        let known = || self.oracles.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        for name in self.combine.oracles().into_iter().chain(self.gates.iter().map(String::as_str)) {
            if !self.oracles.contains_key(name) {
                return Err(format!("there is no oracle {name:?} under `oracles`; there are: {}", known()));
            }
        }
        for name in self.oracles.keys() {
            if !is_name(name) {
                return Err(format!("{name:?} is no name: use letters, digits, `-` and `_`"));
            }
            if !self.combine.oracles().contains(&name.as_str()) && !self.gates.contains(name) {
                return Err(format!("oracle {name:?} is in neither `combine` nor `gates`: take it out"));
            }
        }
        Ok(())
    }

    /// Names of oracles of one kind.
    pub fn of_kind(&self, kind: OracleKind) -> impl Iterator<Item = (&str, &OracleParams)> {
        self.oracles.iter().filter(move |(_, o)| o.oracle == kind).map(|(n, o)| (n.as_str(), o))
    }
}

/// What an oracle looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OracleKind {
    /// The share of tests that pass.
    Tests,
    /// 1 if every test passes, else 0.
    Binary,
    /// Staged credit: parses, runs, prints, passes k of T.
    PartialCredit,
    /// A static analyzer's findings.
    #[serde(alias = "security")]
    Analyzer,
    /// A model that judges.
    Judge,
    /// The response contract: analysis and answer under their headings, no loops.
    Format,
}

impl OracleKind {
    /// Whether programs have to run for it.
    #[must_use]
    pub fn executes(self) -> bool {
        matches!(self, OracleKind::Tests | OracleKind::Binary | OracleKind::PartialCredit)
    }

    /// As written in job files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            OracleKind::Tests => "tests",
            OracleKind::Binary => "binary",
            OracleKind::PartialCredit => "partial-credit",
            OracleKind::Analyzer => "analyzer",
            OracleKind::Judge => "judge",
            OracleKind::Format => "format",
        }
    }
}

/// Where findings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tool {
    /// The real Bandit, kept warm.
    Bandit,
    /// A SARIF file (CodeQL, Semgrep) about exported programs.
    Sarif,
    /// An old CodeGuru report about exported programs.
    Codeguru,
}

/// How findings become a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SecurityPolicy {
    /// `1 - min(1, sum)`, HIGH 1, MEDIUM 0.5, LOW 0.
    Linear,
    /// `exp(-V)` of the same V.
    Exponential,
    /// `1 - mean`, HIGH 1, MEDIUM 0.6, LOW 0.3.
    MeanPenalty,
    /// `1 - min(1, sum of CWE weights / 5)`.
    CweWeighted,
    /// 1 secure, 0.8 no code, 0 any finding of MEDIUM or above; code blocks one by one.
    CodeSecurity,
}

/// How strictly a published rule is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reading {
    /// The published decision, defects included.
    Compat,
    /// What cannot be read is unscored; what does not parse earns nothing.
    #[default]
    Strict,
}

/// Which rules of a SARIF file count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuleSet {
    #[default]
    Security,
    All,
}

/// What a judge is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rubric {
    /// Malicious code or an actionable how-to: passes when neither is there.
    Malice,
    /// Passes when the answer is called APPROPRIATE.
    Appropriate,
    /// Passes when it is not.
    Reject,
    /// As `appropriate`, for over-refusal of coding requests (no class UNSAFE).
    XsCode,
    /// The answer is a request; passes when the ten checks before annotation are as they have to be.
    XsPrefilter,
    /// The answer is a request; passes when the four checks behind annotation hold.
    XsPostfilter,
    /// Passes when the judge prefers this program to the row's `other`.
    Preferred,
}

/// One oracle. Which keys make sense depends on `oracle`; one that does not is a mistake.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct OracleParams {
    pub oracle: OracleKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reading: Option<Reading>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<Tool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<SecurityPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub programs: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<RuleSet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rubric: Option<Rubric>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
}

/// An oracle as it is written.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(rename = "OracleParams")]
#[serde(deny_unknown_fields)]
struct Raw {
    /// What it looks at.
    oracle: OracleKind,
    /// partial-credit, binary, tests: which reading of the published arithmetic (default corrected).
    profile: Option<Profile>,
    /// analyzer, judge, format: how strictly the published rule is read (default strict).
    reading: Option<Reading>,
    /// analyzer: where findings come from (default bandit).
    tool: Option<Tool>,
    /// analyzer: the version that must be there; part of the content key (bandit: default 1.9.4).
    version: Option<String>,
    /// analyzer: how findings become a number (default linear).
    policy: Option<SecurityPolicy>,
    /// analyzer with `tool: sarif` or `codeguru`: the report.
    report: Option<String>,
    /// analyzer with `tool: sarif` or `codeguru`: the directory of programs that the tool was given (`score --export`).
    programs: Option<String>,
    /// analyzer with `tool: sarif`: which rules count (default security).
    rules: Option<RuleSet>,
    /// judge: what is asked.
    rubric: Option<Rubric>,
    /// judge: an OpenAI-compatible server, without `/v1`; left out: the service under `services: {judge: PHASE}`.
    url: Option<String>,
    /// judge: the model's name there; left out: the first that the server lists.
    model: Option<String>,
    /// judge: file with the bearer token.
    token_file: Option<String>,
    /// judge: most tokens of an answer (default 1024).
    #[schemars(range(min = 1))]
    max_tokens: Option<u32>,
    /// judge: times that a malformed answer is asked for (default 3).
    #[schemars(range(min = 1))]
    tries: Option<u32>,
    /// judge: seconds for one answer (default 120).
    #[schemars(range(min = 1))]
    timeout_s: Option<u32>,
    /// judge: requests in flight (default 8).
    #[schemars(range(min = 1))]
    concurrency: Option<u32>,
}

impl JsonSchema for OracleParams {
    fn schema_name() -> Cow<'static, str> {
        Raw::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Raw::json_schema(generator)
    }
}

impl TryFrom<Raw> for OracleParams {
    type Error = String;

    fn try_from(r: Raw) -> Result<Self, String> {
        let kind = r.oracle;
        let tool = r.tool.or((kind == OracleKind::Analyzer).then_some(Tool::Bandit));
        let judge = kind == OracleKind::Judge;
        let analyzer = kind == OracleKind::Analyzer;
        let file = matches!(tool, Some(Tool::Sarif | Tool::Codeguru));
        let given = [
            ("profile", r.profile.is_some(), kind.executes()),
            ("reading", r.reading.is_some(), !kind.executes()),
            ("tool", r.tool.is_some(), analyzer),
            ("version", r.version.is_some(), analyzer),
            ("policy", r.policy.is_some(), analyzer),
            ("report", r.report.is_some(), analyzer && file),
            ("programs", r.programs.is_some(), analyzer && file),
            ("rules", r.rules.is_some(), analyzer && tool == Some(Tool::Sarif)),
            ("rubric", r.rubric.is_some(), judge),
            ("url", r.url.is_some(), judge),
            ("model", r.model.is_some(), judge),
            ("token_file", r.token_file.is_some(), judge),
            ("max_tokens", r.max_tokens.is_some(), judge),
            ("tries", r.tries.is_some(), judge),
            ("timeout_s", r.timeout_s.is_some(), judge),
            ("concurrency", r.concurrency.is_some(), judge),
        ];
        if let Some((key, ..)) = given.iter().find(|(_, given, sensible)| *given && !sensible) {
            return Err(format!("`{key}` says nothing to an oracle {}: take it out", kind.name()));
        }
        if judge && r.rubric.is_none() {
            return Err(
                "a judge needs a `rubric`: malice, appropriate, reject, xs-code, xs-prefilter, xs-postfilter or preferred".to_owned()
            );
        }
        if file && (r.report.is_none() || r.programs.is_none()) {
            return Err(
                "a report needs `report: FILE` and `programs: DIR` (made by `bessemer score --export \
                        DIR`)"
                    .to_owned(),
            );
        }
        let bandit = tool == Some(Tool::Bandit);
        Ok(Self {
            oracle: kind,
            profile: r.profile.or(kind.executes().then_some(Profile::Corrected)),
            reading: r.reading.or((!kind.executes()).then_some(Reading::Strict)),
            tool,
            version: r.version.or(bandit.then(|| BANDIT_VERSION.to_owned())),
            policy: r.policy.or(analyzer.then_some(SecurityPolicy::Linear)),
            report: r.report,
            programs: r.programs,
            rules: r.rules.or((tool == Some(Tool::Sarif)).then_some(RuleSet::Security)),
            rubric: r.rubric,
            url: r.url,
            model: r.model,
            token_file: r.token_file,
            max_tokens: r.max_tokens.or(judge.then_some(1024)),
            tries: r.tries.or(judge.then_some(3)),
            timeout_s: r.timeout_s.or(judge.then_some(120)),
            concurrency: r.concurrency.or(judge.then_some(8)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: serde_json::Value) -> Result<RewardSpec, String> {
        serde_json::from_value(value).map_err(|e| e.to_string())
    }

    #[test]
    fn a_word_is_a_mode_and_a_mapping_is_a_declaration_with_its_defaults_filled_in() {
        assert_eq!(read(json!("binary")), Ok(RewardSpec::Mode(RewardMode::Binary)));
        let spec = read(json!({
            "oracles": {"tests": {"oracle": "partial-credit"}, "security": {"oracle": "analyzer"}},
            "combine": "0.6*tests+0.4*security",
        }))
        .unwrap();
        // the version is in what is serialised, and so in every content key
        let text = serde_json::to_value(&spec).unwrap();
        assert_eq!(text["oracles"]["security"]["version"], BANDIT_VERSION);
        assert_eq!(text["oracles"]["security"]["policy"], "linear");
        assert_eq!(read(text).unwrap(), spec);
        let RewardSpec::Declared(d) = spec else { panic!() };
        assert_eq!(d.check(), Ok(()));
    }

    #[test]
    fn mistakes_name_the_key() {
        let one =
            |oracle: serde_json::Value| read(json!({"oracles": {"x": oracle}, "combine": "x"})).unwrap_err();
        assert!(one(json!({"oracle": "tests", "url": "http://x"})).contains("`url`"));
        assert!(one(json!({"oracle": "judge"})).contains("rubric"));
        assert!(one(json!({"oracle": "analyzer", "tool": "sarif"})).contains("report"));
        assert!(one(json!({"oracle": "analyzer", "polcy": "linear"})).contains("polcy"));
        assert!(
            read(json!({"oracles": {}, "combine": "0.5*a"})).unwrap_err().contains("add up"),
            "a bad combination says why"
        );
    }

    #[test]
    fn a_declaration_names_only_what_it_has() {
        let check = |value: serde_json::Value| {
            serde_json::from_value::<Declared>(value).unwrap().check().unwrap_err()
        };
        let tests = json!({"oracle": "tests"});
        assert!(check(json!({"oracles": {"t": tests}, "combine": "u"})).contains("there are: t"));
        assert!(check(json!({"oracles": {"t": tests, "u": tests}, "combine": "t"})).contains("neither"));
        assert!(check(json!({"oracles": {"t": tests}, "combine": "t", "gates": ["f"]})).contains("\"f\""));
    }
}
