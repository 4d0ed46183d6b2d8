//! Old findings of CodeGuru Security. The service ended in November 2025 and can no longer be asked; reports that exist
//! (published data sets hold them) can still be read.

use super::{Finding, Severity};
use serde::Deserialize;
use std::collections::BTreeSet;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    detector_id: Option<String>,
    #[serde(default)]
    rule_id: Option<String>,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    severity: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    vulnerability: Option<Vulnerability>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vulnerability {
    #[serde(default)]
    related_vulnerabilities: Vec<String>,
    #[serde(default)]
    file_path: Option<FilePath>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FilePath {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    start_line: Option<u32>,
    #[serde(default)]
    end_line: Option<u32>,
}

/// Reads the `findings` list of a `get-findings` answer, or the bare list: file name and finding, in order.
///
/// # Errors
/// A sentence, when it is neither.
pub fn read(json: &str) -> Result<Vec<(String, Finding)>, String> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Report {
        Whole { findings: Vec<Raw> },
        Bare(Vec<Raw>),
    }
    let report: Report =
        serde_json::from_str(json).map_err(|_| "this is no list of CodeGuru findings".to_owned())?;
    let (Report::Whole { findings: raw } | Report::Bare(raw)) = report;
    Ok(raw
        .into_iter()
        // a finding that was closed by hand is not open any more
        .filter(|r| r.status.as_deref().is_none_or(|s| !s.eq_ignore_ascii_case("closed")))
        .map(|r| {
            let v = r.vulnerability.as_ref();
            let place = v.and_then(|v| v.file_path.as_ref());
            let start = place.and_then(|p| p.start_line).unwrap_or(1);
            let file = place.and_then(|p| p.name.clone().or_else(|| p.path.clone())).unwrap_or_default();
            let cwes =
                v.map(|v| v.related_vulnerabilities.iter().filter_map(|t| cwe(t)).collect::<BTreeSet<_>>());
            let finding = Finding {
                rule: r.detector_id.or(r.rule_id).unwrap_or_else(|| "unknown".to_owned()),
                severity: r.severity.as_deref().and_then(Severity::read),
                confidence: None,
                cwes: cwes.unwrap_or_default(),
                start_line: start,
                end_line: place.and_then(|p| p.end_line).unwrap_or(start),
                message: r.title.or(r.description).unwrap_or_default(),
            };
            (file, finding)
        })
        .collect())
}

fn cwe(text: &str) -> Option<u32> {
    text.to_ascii_uppercase().strip_prefix("CWE-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_findings_are_read_with_place_severity_and_cwe() {
        let json = r#"{"findings": [
          {"detectorId": "python/sql-injection@v1.0", "title": "CWE-89 - SQL injection", "severity": "Critical",
           "status": "Open", "vulnerability": {"id": "x", "relatedVulnerabilities": ["CWE-89"],
             "filePath": {"name": "a.py", "path": "d/a.py", "startLine": 7, "endLine": 9}}},
          {"detectorId": "python/other", "severity": "Low", "status": "Closed"}]}"#;
        let found = read(json).unwrap();
        assert_eq!(found.len(), 1);
        let (file, f) = &found[0];
        assert_eq!(
            (file.as_str(), f.severity, f.start_line, f.end_line),
            ("a.py", Some(Severity::Critical), 7, 9)
        );
        assert_eq!(f.cwes, BTreeSet::from([89]));
        assert!(read("[]").unwrap().is_empty());
        assert!(read("3").is_err());
    }
}
