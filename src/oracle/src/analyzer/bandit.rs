//! The real Bandit, one warm process for whole batches (a start costs 0.3 to 0.5 s, a file 2 ms), and its JSON.

use super::{Analyzer, Finding, Outcome, Severity, Unit};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// In the checkout.
const PYTHON: &str = ".venv-bandit/bin/python";

const DRIVER: &str = include_str!("bandit_driver.py");

/// How long Bandit may take: a base for the start, and a share for each block.
const START: Duration = Duration::from_secs(60);
const PER_UNIT: Duration = Duration::from_secs(5);

/// What keeps Bandit from starting.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("there is no Python with Bandit at {}: run `scripts/bandit.sh` to make its private environment, or name one in BESSEMER_BANDIT_PYTHON", .0.display())]
    NoPython(PathBuf),
    #[error("{} with Bandit could not be started: {why}; run `scripts/bandit.sh` to make its private environment", python.display())]
    Failed { python: PathBuf, why: String },
}

/// A warm Bandit.
#[derive(Debug)]
pub struct Bandit {
    python: PathBuf,
    identity: String,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

#[derive(Deserialize)]
struct Hello {
    version: String,
    python: String,
}

impl Bandit {
    /// The environment that `scripts/bandit.sh` makes, or the one `BESSEMER_BANDIT_PYTHON` names: looked for in `from` and
    /// above it, then above the running program. A worker's directory is deep below the checkout, or elsewhere.
    #[must_use]
    pub fn default_python(from: &Path) -> PathBuf {
        if let Some(named) = std::env::var_os("BESSEMER_BANDIT_PYTHON") {
            return named.into();
        }
        let program = std::env::current_exe().unwrap_or_default();
        from.ancestors()
            .chain(program.ancestors().skip(1))
            .map(|dir| dir.join(PYTHON))
            .find(|python| python.exists())
            .unwrap_or_else(|| from.join(PYTHON))
    }

    /// Starts it and asks for its version.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(python: &Path) -> Result<Self, StartError> {
        if !python.exists() {
            return Err(StartError::NoPython(python.to_owned()));
        }
        let (process, hello) = spawn(python)?;
        // Bandit reads code with its Python's own grammar, so that version decides what is unparsable.
        let identity = format!("bandit {} python {} nosec-ignored", hello.version, hello.python);
        Ok(Self { python: python.to_owned(), identity, process: Some(process) })
    }

    /// One round trip. An error says why the process is not to be trusted any more; it is gone then.
    fn ask(&mut self, units: &[Unit]) -> Result<Vec<Outcome>, String> {
        if self.process.is_none() {
            self.process = Some(spawn(&self.python).map_err(|e| e.to_string())?.0);
        }
        let process = self.process.as_mut().expect("set just above");
        let result = exchange(process, units);
        if result.is_err() {
            stop(self.process.take());
        }
        result
    }
}

impl Analyzer for Bandit {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn analyse(&mut self, units: &[Unit]) -> Vec<Outcome> {
        if units.is_empty() {
            return Vec::new();
        }
        match self.ask(units) {
            Ok(outcomes) => outcomes,
            Err(why) if units.len() == 1 => vec![Outcome::Unscored { why }],
            // One block brought the whole batch down: halve until it stands alone.
            Err(_) => {
                let (left, right) = units.split_at(units.len() / 2);
                let mut outcomes = self.analyse(left);
                outcomes.extend(self.analyse(right));
                outcomes
            }
        }
    }
}

impl Drop for Bandit {
    fn drop(&mut self) {
        stop(self.process.take());
    }
}

fn stop(process: Option<Process>) {
    if let Some(mut p) = process {
        let _ = p.child.kill();
        let _ = p.child.wait();
    }
}

fn spawn(python: &Path) -> Result<(Process, Hello), StartError> {
    let failed = |why: String| StartError::Failed { python: python.to_owned(), why };
    let mut child = Command::new(python)
        .args(["-I", "-c", DRIVER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let stdin = child.stdin.take().expect("piped");
    let stdout = child.stdout.take().expect("piped");
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    let mut process = Process { child, stdin, lines };
    let hello = match process.lines.recv_timeout(START) {
        Ok(line) => serde_json::from_str(&line).map_err(|e| e.to_string()),
        Err(_) => Err("it did not answer (is the package bandit installed there?)".to_owned()),
    };
    match hello {
        Ok(hello) => Ok((process, hello)),
        Err(why) => {
            let _ = process.child.kill();
            let _ = process.child.wait();
            Err(failed(why))
        }
    }
}

fn exchange(process: &mut Process, units: &[Unit]) -> Result<Vec<Outcome>, String> {
    let units_json: Vec<_> = units.iter().map(|u| serde_json::json!({"code": u.code})).collect();
    let mut line = serde_json::json!({ "units": units_json }).to_string();
    line.push('\n');
    process
        .stdin
        .write_all(line.as_bytes())
        .and_then(|()| process.stdin.flush())
        .map_err(|e| format!("Bandit went away: {e}"))?;
    let patience = START + PER_UNIT * u32::try_from(units.len()).unwrap_or(u32::MAX);
    let answer = match process.lines.recv_timeout(patience) {
        Ok(answer) => answer,
        Err(RecvTimeoutError::Timeout) => {
            return Err(format!("Bandit did not answer within {} s", patience.as_secs()));
        }
        Err(RecvTimeoutError::Disconnected) => return Err("Bandit crashed".to_owned()),
    };
    let outcomes = read_answer(&answer)?;
    if outcomes.len() != units.len() {
        return Err(format!("Bandit answered {} of {} blocks", outcomes.len(), units.len()));
    }
    Ok(outcomes)
}

/// An issue as Bandit writes it (`bandit -f json`, key `results`; the driver's lists hold the same objects).
#[derive(Debug, Deserialize)]
struct Issue {
    test_id: String,
    issue_severity: String,
    issue_confidence: String,
    issue_text: String,
    #[serde(default)]
    issue_cwe: Cwe,
    line_number: u32,
    #[serde(default)]
    line_range: Vec<u32>,
    #[serde(default)]
    filename: String,
}

/// `{}` for rules without one.
#[derive(Debug, Default, Deserialize)]
struct Cwe {
    #[serde(default)]
    id: Option<u32>,
}

impl From<Issue> for Finding {
    fn from(i: Issue) -> Self {
        Finding {
            severity: Severity::read(&i.issue_severity),
            confidence: Severity::read(&i.issue_confidence),
            // Bandit's own CWE field; the tables in circulation are wrong for several rules
            cwes: i.issue_cwe.id.into_iter().filter(|id| *id != 0).collect::<BTreeSet<_>>(),
            start_line: i.line_range.first().copied().unwrap_or(i.line_number),
            end_line: i.line_range.last().copied().unwrap_or(i.line_number),
            rule: i.test_id,
            message: i.issue_text,
        }
    }
}

fn read_answer(line: &str) -> Result<Vec<Outcome>, String> {
    #[derive(Deserialize)]
    struct Raw {
        status: String,
        #[serde(default)]
        why: String,
        #[serde(default)]
        findings: Vec<Issue>,
    }
    let raw: Vec<Raw> =
        serde_json::from_str(line).map_err(|e| format!("Bandit's answer cannot be read: {e}"))?;
    Ok(raw
        .into_iter()
        .map(|r| match r.status.as_str() {
            "analysed" => Outcome::Analysed { findings: r.findings.into_iter().map(Finding::from).collect() },
            "unparsable" => Outcome::Unparsable { why: r.why },
            _ => Outcome::Unscored { why: r.why },
        })
        .collect())
}

/// Reads a whole report of `bandit -f json`: findings by file name, and the files that it could not read.
///
/// # Errors
/// A sentence, when it is no such report.
pub fn read_report(json: &str) -> Result<Vec<(String, Outcome)>, String> {
    #[derive(Deserialize)]
    struct Skipped {
        filename: String,
        reason: String,
    }
    #[derive(Deserialize)]
    struct Report {
        results: Vec<Issue>,
        errors: Vec<Skipped>,
        metrics: std::collections::BTreeMap<String, serde_json::Value>,
    }
    let report: Report = serde_json::from_str(json).map_err(|e| format!("this is no Bandit report: {e}"))?;
    let mut by_file: std::collections::BTreeMap<String, Vec<Finding>> =
        report.metrics.into_keys().filter(|name| name != "_totals").map(|name| (name, Vec::new())).collect();
    for issue in report.results {
        by_file.entry(issue.filename.clone()).or_default().push(issue.into());
    }
    let mut out: Vec<(String, Outcome)> = Vec::with_capacity(by_file.len());
    for e in report.errors {
        by_file.remove(&e.filename);
        let outcome = if e.reason.contains("syntax error") {
            Outcome::Unparsable { why: e.reason }
        } else {
            Outcome::Unscored { why: e.reason }
        };
        out.push((e.filename, outcome));
    }
    out.extend(by_file.into_iter().map(|(name, findings)| (name, Outcome::Analysed { findings })));
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_keeps_clean_unparsable_and_failed_files_apart() {
        let json = r#"{
          "errors": [{"filename": "b.py", "reason": "syntax error while parsing AST from file"},
                     {"filename": "c.py", "reason": "exception while scanning file"}],
          "generated_at": "2026-01-01T00:00:00Z",
          "metrics": {"_totals": {}, "a.py": {}, "b.py": {}, "c.py": {}, "d.py": {}},
          "results": [{"filename": "a.py", "test_name": "x", "test_id": "B602", "issue_severity": "HIGH",
            "issue_cwe": {"id": 78, "link": "somewhere"}, "issue_confidence": "HIGH", "issue_text": "shell",
            "line_number": 3, "line_range": [3, 4], "col_offset": 0, "more_info": "", "code": ""}]}"#;
        let report = read_report(json).unwrap();
        let Outcome::Analysed { findings } = &report[0].1 else { panic!("{report:?}") };
        assert_eq!((findings[0].rule.as_str(), findings[0].severity), ("B602", Some(Severity::High)));
        assert_eq!(findings[0].cwes, BTreeSet::from([78]));
        assert_eq!((findings[0].start_line, findings[0].end_line), (3, 4));
        assert!(matches!(report[1].1, Outcome::Unparsable { .. }));
        assert!(matches!(report[2].1, Outcome::Unscored { .. }));
        assert_eq!(report[3].1, Outcome::Analysed { findings: vec![] });
        assert!(read_report("{}").is_err());
    }

    #[test]
    fn a_missing_python_says_what_to_run() {
        let e = Bandit::start(Path::new("/nonexistent/python")).unwrap_err();
        assert!(e.to_string().contains("scripts/bandit.sh"), "{e}");
    }

    /// A stand-in for a Bandit that dies on one block: the others must still be analysed, the one is unscored.
    #[test]
    fn a_block_that_crashes_the_analyzer_is_unscored_and_hurts_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let fake = dir.path().join("python");
        let script = r#"#!/bin/sh
echo '{"version": "0", "python": "0"}'
while read -r line; do
  case $line in *crash*) exit 1 ;; esac
  n=$(printf %s "$line" | grep -o '"code"' | wc -l); out=; i=0
  while [ $i -lt "$n" ]; do out="$out,{\"status\":\"analysed\"}"; i=$((i + 1)); done
  echo "[${out#,}]"
done
"#;
        std::fs::write(&fake, script).unwrap();
        std::fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut bandit = Bandit::start(&fake).unwrap();
        let units: Vec<Unit> = ["a", "b", "crash", "d", "e"]
            .iter()
            .map(|c| Unit { id: (*c).into(), code: (*c).into() })
            .collect();
        let outcomes = bandit.analyse(&units);
        assert_eq!(outcomes.len(), 5);
        for (i, o) in outcomes.iter().enumerate() {
            assert_eq!(matches!(o, Outcome::Unscored { .. }), i == 2, "{i}: {o:?}");
        }
    }
}
