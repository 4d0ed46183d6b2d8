//! What attempts leave in their directories: claims, records, events. Read here, decided elsewhere.

use record::{
    AttemptRecord, ContentKey, Event, ResultPointer, StartRecord, Status, Token, atomic, layout, verify,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// The files of one attempt that decide something.
#[derive(Debug, Default)]
pub struct Traces {
    pub started: Option<StartRecord>,
    pub record: Option<AttemptRecord>,
    /// The record says ok and every output has its size.
    pub whole: bool,
    /// What could not be read, for people; an unreadable file counts as absent.
    pub problems: Vec<String>,
}

/// Reads the claim and the record of an attempt. Files that belong to another token or task are told and left out.
#[must_use]
pub fn traces(attempt_dir: &Path, key: &ContentKey, token: &Token) -> Traces {
    let mut t = Traces::default();
    let ours = |k: &ContentKey, tok: &Token| k == key && tok == token;
    match atomic::read_json::<StartRecord>(&attempt_dir.join(layout::STARTED)) {
        Ok(Some(s)) if ours(&s.key, &s.token) => t.started = Some(s),
        Ok(Some(s)) => t.problems.push(foreign(attempt_dir, layout::STARTED, &s.token)),
        Ok(None) => {}
        Err(e) => t.problems.push(e.to_string()),
    }
    match atomic::read_json::<AttemptRecord>(&attempt_dir.join(layout::RECORD)) {
        Ok(Some(r)) if ours(&r.key, &r.token) => {
            if r.status == Status::Ok {
                match verify::outputs(&attempt_dir.join(layout::OUT), &r.outputs, verify::Depth::Size) {
                    Ok(()) => t.whole = true,
                    Err(e) => t.problems.push(e.to_string()),
                }
            }
            t.record = Some(r);
        }
        Ok(Some(r)) => t.problems.push(foreign(attempt_dir, layout::RECORD, &r.token)),
        Ok(None) => {}
        Err(e) => t.problems.push(e.to_string()),
    }
    t
}

fn foreign(dir: &Path, file: &str, token: &Token) -> String {
    format!("{} belongs to {token}, not to this attempt: ignored", dir.join(file).display())
}

/// Publishes `result.json` for an attempt whose record says ok, if its supervisor died in between. The first one wins.
///
/// # Errors
/// I/O errors, with the path.
pub fn publish(task_dir: &Path, attempt: u32) -> io::Result<()> {
    let path = task_dir.join(layout::RESULT);
    if path.exists() {
        return Ok(());
    }
    let record_path = layout::attempt_dir(task_dir, attempt).join(layout::RECORD);
    let bytes = std::fs::read(&record_path)?;
    let record: AttemptRecord = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
    let pointer = ResultPointer {
        format: record::FORMAT,
        key: record.key,
        attempt,
        token: record.token,
        record_sha256: record::key::sha256_hex(&bytes),
    };
    let mut json = serde_json::to_vec_pretty(&pointer).map_err(io::Error::other)?;
    json.push(b'\n');
    atomic::publish_once(&path, &json).map(|_| ())
}

/// The newest news of a running attempt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// Steps in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// Newest value of each quantity that was reported.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Time of the newest event, milliseconds since the epoch.
    pub at_ms: i64,
    /// First step that was seen and its time: for the speed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<(u64, i64)>,
}

impl Progress {
    /// Seconds until the last step at the speed so far; `None` while nothing is known.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn eta_s(&self) -> Option<f64> {
        let (first_step, first_ms) = self.first?;
        let (step, of) = (self.step?, self.of?);
        let (done, ms) = (step.checked_sub(first_step)?, self.at_ms - first_ms);
        (done > 0 && ms > 0).then(|| (of.saturating_sub(step)) as f64 * (ms as f64 / 1000.0) / done as f64)
    }

    fn take(&mut self, e: Event) {
        self.at_ms = self.at_ms.max(e.at);
        if let Some(step) = e.step {
            self.step = Some(step);
            self.first.get_or_insert((step, e.at));
        }
        self.of = e.of.or(self.of);
        self.values.extend(e.values);
        if e.note.is_some() {
            self.note = e.note;
        }
    }
}

/// Most bytes of events that one look reads per attempt: the rest comes with the next look.
const PIECE: u64 = 4 << 20;

/// Reads the whole lines of `events.jsonl` from `offset` on and folds them into `progress`. Returns the new offset, behind
/// the last whole line. A file that is shorter than `offset` (a requeue truncated it) is read from its start.
///
/// # Errors
/// I/O errors other than "not found".
pub fn read_events(path: &Path, offset: u64, progress: &mut Progress) -> io::Result<u64> {
    let mut file = match std::fs::File::open(path) {
        Ok(f) => f,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(offset),
        Err(e) => return Err(e),
    };
    let len = file.metadata()?.len();
    let offset = if len < offset { 0 } else { offset };
    if len == offset {
        return Ok(offset);
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(PIECE).read_to_end(&mut bytes)?;
    let Some(end) = bytes.iter().rposition(|b| *b == b'\n') else {
        // a line longer than a whole piece is not ours: step over it rather than stand still for ever
        return Ok(if bytes.len() as u64 == PIECE { offset + PIECE } else { offset });
    };
    for line in bytes[..end].split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        if let Ok(event) = serde_json::from_slice::<Event>(line) {
            progress.take(event);
        }
    }
    Ok(offset + end as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::event::EventLog;

    #[test]
    fn events_are_read_a_piece_at_a_time_and_a_torn_line_waits_for_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut p = Progress::default();
        assert_eq!(read_events(&path, 0, &mut p).unwrap(), 0);
        let mut log = EventLog::append(&path).unwrap();
        log.step(1, Some(10), [("loss", 2.0)]).unwrap();
        let first = read_events(&path, 0, &mut p).unwrap();
        assert_eq!((p.step, p.of, p.values["loss"]), (Some(1), Some(10), 2.0));

        log.step(2, None, [("reward", 0.5)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        assert_eq!(read_events(&path, first, &mut p).unwrap(), first, "half a line is no line");
        assert_eq!(p.step, Some(1));
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(read_events(&path, first, &mut p).unwrap(), whole.len() as u64);
        assert_eq!((p.step, p.of), (Some(2), Some(10)));
        assert_eq!(p.values.len(), 2, "a quantity keeps its newest value");
    }

    #[test]
    fn a_truncated_event_file_is_read_again_from_its_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let mut p = Progress::default();
        EventLog::append(&path).unwrap().step(7, None, []).unwrap();
        read_events(&path, 5000, &mut p).unwrap();
        assert_eq!(p.step, Some(7));
    }

    #[test]
    fn the_estimate_uses_the_speed_between_the_events() {
        let p = Progress {
            step: Some(30),
            of: Some(100),
            first: Some((10, 1000)),
            at_ms: 21_000,
            ..Progress::default()
        };
        assert_eq!(p.eta_s(), Some(70.0));
        assert_eq!(Progress::default().eta_s(), None);
    }
}
