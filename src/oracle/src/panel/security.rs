//! Static analysis as an oracle: which pieces of an answer are looked at, by what, and what the findings are worth.

use super::{Oracle, Subject};
use crate::analyzer::bandit::Bandit;
use crate::analyzer::cache::Cached;
use crate::analyzer::policy::{SecurityTerm, code_security};
use crate::analyzer::report::{Reported, ToolReport};
use crate::analyzer::{Analyzer, Finding, Outcome, Unit};
use crate::judge::Mode;
use crate::verdict::Scored;
use corpus::extract;
use record::params::{OracleParams, RuleSet, SecurityPolicy, Tool};
use std::path::Path;
use std::time::Instant;

/// An analyzer with a policy.
pub struct SecurityOracle {
    analyzer: Cached<Box<dyn Analyzer + Send>>,
    policy: SecurityPolicy,
    mode: Mode,
}

impl SecurityOracle {
    /// Starts the tool, or reads its report.
    ///
    /// # Errors
    /// A sentence: it is not there, or another version than the declared one.
    pub fn new(params: &OracleParams, bandit_python: &Path, cache: Option<&Path>) -> Result<Self, String> {
        let path = |p: &Option<String>| std::path::PathBuf::from(p.clone().unwrap_or_default());
        let report = |kind| Reported::open(kind, &path(&params.report), &path(&params.programs));
        let analyzer: Box<dyn Analyzer + Send> = match params.tool {
            Some(Tool::Sarif) => {
                let rules = match params.rules.unwrap_or_default() {
                    RuleSet::Security => crate::analyzer::sarif::Rules::Security,
                    RuleSet::All => crate::analyzer::sarif::Rules::All,
                };
                Box::new(report(ToolReport::Sarif(rules))?)
            }
            Some(Tool::Codeguru) => Box::new(report(ToolReport::Codeguru)?),
            Some(Tool::Bandit) | None => Box::new(Bandit::start(bandit_python).map_err(|e| e.to_string())?),
        };
        Self::with(params, analyzer, cache.map(|c| c.join("analyzer")))
    }

    /// An oracle over any analyzer. The version that the declaration names (and the content key of a task holds) must
    /// be the one that answers.
    ///
    /// # Errors
    /// A sentence: another version.
    pub fn with(
        params: &OracleParams,
        analyzer: Box<dyn Analyzer + Send>,
        cache: Option<std::path::PathBuf>,
    ) -> Result<Self, String> {
        let identity = analyzer.identity();
        if let Some(version) = &params.version
            && !identity.split([' ', ';']).any(|word| word == version)
        {
            return Err(format!(
                "version {version} is declared, but this is {identity}; run scripts/bandit.sh, or write the \
                 `version` that is meant"
            ));
        }
        Ok(Self {
            analyzer: Cached::new(analyzer, cache),
            policy: params.policy.unwrap_or(SecurityPolicy::Linear),
            mode: params.reading.unwrap_or_default().into(),
        })
    }

    /// The pieces of one answer that are analysed: its program; for `code-security` every Python block by itself.
    fn pieces(&self, subject: &Subject<'_>) -> Vec<String> {
        match (self.policy, subject.response) {
            (SecurityPolicy::CodeSecurity, Some(response)) => {
                extract::python_blocks(response).into_iter().filter(|b| !b.trim().is_empty()).collect()
            }
            _ => subject.program.map(str::to_owned).into_iter().collect(),
        }
    }

    fn verdict(&self, name: &str, subject: &Subject<'_>, outcomes: &[Outcome]) -> Scored {
        if self.policy == SecurityPolicy::CodeSecurity {
            let fenced = subject.response.is_none_or(|r| !extract::python_blocks(r).is_empty());
            let decision = code_security(outcomes, fenced, self.mode);
            return match decision.reward() {
                None => Scored::unscored(name, why_unscored(outcomes)),
                Some(score) => Scored::of(name, score, format!("{decision:?}; {}", summary(outcomes))),
            };
        }
        let Some(outcome) = outcomes.first() else {
            // nothing to analyse is no security
            let score = if self.mode == Mode::Strict { 0.0 } else { 1.0 };
            return Scored::of(name, score, "the answer holds no program");
        };
        let term = match self.policy {
            SecurityPolicy::Exponential => SecurityTerm::Exponential,
            SecurityPolicy::MeanPenalty => SecurityTerm::MeanPenalty,
            SecurityPolicy::CweWeighted => SecurityTerm::CweWeighted,
            SecurityPolicy::Linear | SecurityPolicy::CodeSecurity => SecurityTerm::Linear,
        };
        match term.score(outcome, self.mode) {
            None => Scored::unscored(name, why_unscored(outcomes)),
            Some(score) => Scored::of(name, score, summary(outcomes)),
        }
    }
}

impl Oracle for SecurityOracle {
    fn identity(&self) -> String {
        format!("{} {:?} {:?}", self.analyzer.identity(), self.policy, self.mode)
    }

    fn score(&mut self, name: &str, subjects: &[Subject<'_>]) -> Vec<Scored> {
        let since = Instant::now();
        let mut units = Vec::new();
        let mut of: Vec<std::ops::Range<usize>> = Vec::with_capacity(subjects.len());
        for subject in subjects {
            let from = units.len();
            for code in self.pieces(subject) {
                units.push(Unit { id: units.len().to_string(), code });
            }
            of.push(from..units.len());
        }
        let outcomes = self.analyzer.analyse(&units);
        let each = since.elapsed().as_secs_f64() * 1000.0 / subjects.len().max(1) as f64;
        subjects
            .iter()
            .zip(of)
            .map(|(subject, range)| {
                let mine = &outcomes[range];
                let facts = serde_json::json!({ "blocks": mine });
                Scored { ms: each, facts: Some(facts), ..self.verdict(name, subject, mine) }
            })
            .collect()
    }
}

fn why_unscored(outcomes: &[Outcome]) -> String {
    outcomes
        .iter()
        .find_map(|o| match o {
            Outcome::Unscored { why } => Some(why.clone()),
            _ => None,
        })
        .unwrap_or_else(|| "the analyzer gave no answer".to_owned())
}

/// `clean`, `does not parse`, or the rules with CWE and line.
fn summary(outcomes: &[Outcome]) -> String {
    let mut words: Vec<String> = Vec::new();
    for outcome in outcomes {
        match outcome {
            Outcome::Analysed { findings } => words.extend(findings.iter().take(8).map(finding)),
            Outcome::Unparsable { .. } => words.push("a block does not parse".to_owned()),
            Outcome::Unscored { why } => words.push(why.clone()),
        }
    }
    if words.is_empty() { "clean".to_owned() } else { words.join(", ") }
}

fn finding(f: &Finding) -> String {
    let cwes: Vec<String> = f.cwes.iter().map(|c| format!("CWE-{c}")).collect();
    let severity = f.severity.map_or("unknown".to_owned(), |s| format!("{s:?}").to_lowercase());
    format!("{} {severity} {} line {}", f.rule, cwes.join("/"), f.start_line)
}
