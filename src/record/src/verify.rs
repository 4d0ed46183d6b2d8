//! Whether a task's result can be trusted: the one definition of "succeeded" that guard, ledger and `verify` share.

use crate::attempt::{AttemptRecord, OutputFile, ResultPointer, Status};
use crate::key::{ContentKey, sha256_file, sha256_hex};
use crate::{atomic, layout};
use std::fs::File;
use std::path::{Path, PathBuf};

/// How closely outputs are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every output exists and has its recorded size: cheap, done by every guard.
    Size,
    /// Also the SHA-256 of every output: reads everything.
    Hash,
}

/// A result that holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Whole {
    pub pointer: ResultPointer,
    pub record: AttemptRecord,
    pub attempt_dir: PathBuf,
    /// Directory of the outputs (`attempt-<n>/out`).
    pub out_dir: PathBuf,
}

/// Why a result does not hold. The text names the file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Nothing there (yet): the only problem that waiting can mend.
    #[error("{} is not there: the task has not succeeded", .0.display())]
    NoResult(PathBuf),
    #[error("{why}")]
    Unreadable { why: String },
    #[error("{} belongs to task {found}, not to {wanted}", path.display())]
    WrongKey { path: PathBuf, found: ContentKey, wanted: ContentKey },
    #[error("{} has format {found}, this program knows up to {}: update bessemer", path.display(), crate::FORMAT)]
    Newer { path: PathBuf, found: u32 },
    #[error("{} was changed after it was published (its SHA-256 is not the one in result.json)", .0.display())]
    RecordChanged(PathBuf),
    #[error("{} says {status:?}, not ok", path.display())]
    NotOk { path: PathBuf, status: Status },
    #[error("output {} {what}", path.display())]
    Output { path: PathBuf, what: String },
}

/// Follows `result.json` of a task: the pointer, the record it names, and the outputs the record lists.
///
/// # Errors
/// The first [`Problem`] found.
pub fn result(task_dir: &Path, key: &ContentKey, depth: Depth) -> Result<Whole, Problem> {
    let path = task_dir.join(layout::RESULT);
    let pointer: ResultPointer = atomic::read_json(&path)
        .map_err(|e| Problem::Unreadable { why: e.to_string() })?
        .ok_or_else(|| Problem::NoResult(path.clone()))?;
    if pointer.format > crate::FORMAT {
        return Err(Problem::Newer { path, found: pointer.format });
    }
    if pointer.key != *key {
        return Err(Problem::WrongKey { path, found: pointer.key, wanted: key.clone() });
    }
    let attempt_dir = layout::attempt_dir(task_dir, pointer.attempt);
    let path = attempt_dir.join(layout::RECORD);
    // As in `read_json`: opening the directory makes an NFS client revalidate it.
    let _ = File::open(&attempt_dir);
    let bytes = std::fs::read(&path)
        .map_err(|e| Problem::Unreadable { why: format!("cannot read {}: {e}", path.display()) })?;
    if sha256_hex(&bytes) != pointer.record_sha256 {
        return Err(Problem::RecordChanged(path));
    }
    let record: AttemptRecord = serde_json::from_slice(&bytes)
        .map_err(|e| Problem::Unreadable { why: format!("{}: {e}", path.display()) })?;
    if record.format > crate::FORMAT {
        return Err(Problem::Newer { path, found: record.format });
    }
    if record.key != *key {
        return Err(Problem::WrongKey { path, found: record.key, wanted: key.clone() });
    }
    if record.status != Status::Ok {
        return Err(Problem::NotOk { path, status: record.status });
    }
    let out_dir = attempt_dir.join(layout::OUT);
    outputs(&out_dir, &record.outputs, depth)?;
    Ok(Whole { pointer, record, attempt_dir, out_dir })
}

/// Checks outputs against what was recorded.
///
/// # Errors
/// The first output that is missing or differs.
pub fn outputs(out_dir: &Path, files: &[OutputFile], depth: Depth) -> Result<(), Problem> {
    for f in files {
        let path = out_dir.join(&f.path);
        let bad = |what: String| Problem::Output { path: path.clone(), what };
        let meta = std::fs::metadata(&path).map_err(|e| bad(format!("cannot be read: {e}")))?;
        if meta.len() != f.bytes {
            return Err(bad(format!("has {} bytes, recorded were {}", meta.len(), f.bytes)));
        }
        if depth == Depth::Hash {
            let sha = sha256_file(&path).map_err(|e| bad(format!("cannot be read: {e}")))?;
            if sha != f.sha256 {
                return Err(bad("has another content than was recorded (SHA-256 differs)".into()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Token, Usage};
    use std::collections::BTreeMap;

    fn finished(task_dir: &Path) -> ContentKey {
        let key = ContentKey::of("command", &serde_json::json!({}), &BTreeMap::new());
        let token = Token::new("n", "command", &key, 1);
        let dir = layout::attempt_dir(task_dir, 1);
        std::fs::create_dir_all(dir.join("out")).unwrap();
        std::fs::write(dir.join("out/a"), "abc").unwrap();
        let record = AttemptRecord {
            format: crate::FORMAT,
            token: token.clone(),
            key: key.clone(),
            attempt: 1,
            status: Status::Ok,
            class: None,
            message: String::new(),
            exit_code: Some(0),
            signal: None,
            job_id: String::new(),
            restart: 0,
            host: "h".into(),
            gpus: vec![],
            started_ms: 0,
            ended_ms: 0,
            usage: Usage::default(),
            outputs: vec![OutputFile { path: "a".into(), bytes: 3, sha256: sha256_hex(b"abc") }],
            metrics: vec![],
            facts: BTreeMap::new(),
            checkpoint_step: None,
            program: "test".into(),
        };
        let bytes = serde_json::to_vec(&record).unwrap();
        atomic::write(&dir.join(layout::RECORD), &bytes).unwrap();
        let pointer = ResultPointer {
            format: crate::FORMAT,
            key: key.clone(),
            attempt: 1,
            token,
            record_sha256: sha256_hex(&bytes),
        };
        atomic::write_json(&task_dir.join(layout::RESULT), &pointer).unwrap();
        key
    }

    #[test]
    fn a_result_holds_until_an_output_the_record_or_the_key_differs() {
        let dir = tempfile::tempdir().unwrap();
        let t = dir.path();
        let none = ContentKey("x".into());
        assert!(matches!(result(t, &none, Depth::Size), Err(Problem::NoResult(_))));
        let key = finished(t);
        assert!(result(t, &key, Depth::Hash).is_ok());
        assert!(matches!(result(t, &none, Depth::Size), Err(Problem::WrongKey { .. })));

        std::fs::write(t.join("attempt-1/out/a"), "abd").unwrap();
        assert!(result(t, &key, Depth::Size).is_ok(), "same size is all that Depth::Size sees");
        assert!(matches!(result(t, &key, Depth::Hash), Err(Problem::Output { .. })));
        std::fs::write(t.join("attempt-1/out/a"), "ab").unwrap();
        assert!(matches!(result(t, &key, Depth::Size), Err(Problem::Output { .. })));
        std::fs::write(t.join("attempt-1/out/a"), "abc").unwrap();

        let record = t.join("attempt-1/record.json");
        let text = std::fs::read_to_string(&record).unwrap();
        std::fs::write(&record, text.replace("\"host\":\"h\"", "\"host\":\"i\"")).unwrap();
        assert!(matches!(result(t, &key, Depth::Size), Err(Problem::RecordChanged(_))));
    }
}
