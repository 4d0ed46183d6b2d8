//! Analyzers that are not here: a report that somebody made elsewhere about programs that we exported.
//!
//! `bessemer score --export DIR` writes every program as `<SHA-256>.py`. The tool is run on that directory, and its report
//! is read with the directory beside it: a program whose file is not there was never given to the tool, so silence about
//! it is no clean bill (specs: PurpCode D4, D9).

use super::{Analyzer, Finding, Outcome, Unit, codeguru, sarif};
use record::key::sha256_hex;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Which report it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolReport {
    Sarif(sarif::Rules),
    Codeguru,
}

/// A report, by content of the programs.
#[derive(Debug)]
pub struct Reported {
    identity: String,
    /// File stem (a SHA-256) -> findings.
    findings: HashMap<String, Vec<Finding>>,
    unparsable: HashSet<String>,
    /// The tool says that it failed.
    failed: bool,
    programs: PathBuf,
}

/// Name of the file that a program is exported as.
#[must_use]
pub fn file_name(code: &str) -> String {
    format!("{}.py", sha256_hex(code.as_bytes()))
}

impl Reported {
    /// Reads a report.
    ///
    /// # Errors
    /// A sentence with the path.
    pub fn open(kind: ToolReport, report: &Path, programs: &Path) -> Result<Self, String> {
        let at = report.display();
        let text = std::fs::read_to_string(report).map_err(|e| format!("cannot read {at}: {e}"))?;
        if !programs.is_dir() {
            return Err(format!(
                "{} is no directory: make it with `bessemer score --export DIR`, and run the tool on it",
                programs.display()
            ));
        }
        let digest = &sha256_hex(text.as_bytes())[..16];
        let mut findings: HashMap<String, Vec<Finding>> = HashMap::new();
        let mut unparsable = HashSet::new();
        let (identity, failed) = match kind {
            ToolReport::Sarif(rules) => {
                let read = sarif::read(&text, rules).map_err(|e| format!("{at}: {e}"))?;
                for (file, list) in read.findings {
                    findings.entry(stem(&file)).or_default().extend(list);
                }
                unparsable.extend(read.unparsable.iter().map(|f| stem(f)));
                (format!("{} {rules:?} report {digest}", read.tool), read.failed)
            }
            ToolReport::Codeguru => {
                for (file, finding) in codeguru::read(&text).map_err(|e| format!("{at}: {e}"))? {
                    findings.entry(stem(&file)).or_default().push(finding);
                }
                (format!("CodeGuru report {digest}"), false)
            }
        };
        Ok(Self { identity, findings, unparsable, failed, programs: programs.to_owned() })
    }
}

/// `dir/abc.py` -> `abc`.
fn stem(file: &str) -> String {
    Path::new(file).file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}

impl Analyzer for Reported {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn analyse(&mut self, units: &[Unit]) -> Vec<Outcome> {
        units
            .iter()
            .map(|unit| {
                let name = file_name(&unit.code);
                let key = stem(&name);
                if self.unparsable.contains(&key) {
                    return Outcome::Unparsable { why: "the tool reports a syntax error".into() };
                }
                if let Some(findings) = self.findings.get(&key) {
                    return Outcome::Analysed { findings: findings.clone() };
                }
                if self.failed {
                    return Outcome::Unscored { why: "the report says that the tool failed".into() };
                }
                // the exported file must hold this very program: a file of that name alone proves nothing
                match std::fs::read(self.programs.join(&name)) {
                    Ok(bytes) if bytes == unit.code.as_bytes() => Outcome::Analysed { findings: vec![] },
                    _ => Outcome::Unscored {
                        why: format!("{name} was not among the programs given to the tool"),
                    },
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_about_a_program_is_a_clean_bill_only_where_the_tool_was_given_it() {
        let dir = tempfile::tempdir().unwrap();
        let (bad, clean, unknown) = ("eval(input())\n", "print(1)\n", "print(2)\n");
        let programs = dir.path().join("programs");
        std::fs::create_dir(&programs).unwrap();
        for code in [bad, clean] {
            std::fs::write(programs.join(file_name(code)), code).unwrap();
        }
        let sarif = |ok: bool| {
            serde_json::json!({"runs": [{
                "tool": {"driver": {"name": "T", "version": "1", "rules": [
                    {"id": "r", "properties": {"tags": ["security", "CWE-95"], "security-severity": "9.3"}}]}},
                "invocations": [{"executionSuccessful": ok}],
                "results": [{"ruleId": "r", "message": {"text": "m"}, "locations": [{"physicalLocation":
                    {"artifactLocation": {"uri": format!("x/{}", file_name(bad))}}}]}]}]})
            .to_string()
        };
        let report = dir.path().join("r.sarif");
        let units: Vec<Unit> =
            [bad, clean, unknown].map(|c| Unit { id: String::new(), code: c.into() }).into();
        let analyse = |text: String| {
            std::fs::write(&report, text).unwrap();
            Reported::open(ToolReport::Sarif(sarif::Rules::Security), &report, &programs)
                .unwrap()
                .analyse(&units)
        };
        let outcomes = analyse(sarif(true));
        assert!(matches!(&outcomes[0], Outcome::Analysed { findings } if findings.len() == 1));
        assert_eq!(outcomes[1], Outcome::Analysed { findings: vec![] });
        assert!(matches!(outcomes[2], Outcome::Unscored { .. }));
        // a failed run is no clean bill, but its findings stand
        let outcomes = analyse(sarif(false));
        assert!(matches!(&outcomes[0], Outcome::Analysed { findings } if findings.len() == 1));
        assert!(matches!(outcomes[1], Outcome::Unscored { .. }));
        assert!(
            Reported::open(ToolReport::Codeguru, &report, &dir.path().join("no"))
                .unwrap_err()
                .contains("--export")
        );
    }
}
