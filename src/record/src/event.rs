//! Progress of an attempt: one JSON object a line in `events.jsonl`, appended by the worker.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// One line of `events.jsonl`. Unknown fields are ignored by readers; a torn last line is skipped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since the epoch.
    pub at: i64,
    /// Steps finished; after a resume it continues from the checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// Steps in all, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// `loss`, `reward`, `tokens_per_s`, `kl`, ... : whatever the phase reports, for curves and `watch`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, f64>,
    /// A line for people: "checkpoint at step 40", "micro-batch halved to 4".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Appends events. Each line goes out in one write(2), so that a crash tears at most the last line.
#[derive(Debug)]
pub struct EventLog {
    file: File,
}

impl EventLog {
    /// # Errors
    /// I/O errors of opening for append.
    pub fn append(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::options().create(true).append(true).open(path)? })
    }

    /// # Errors
    /// I/O errors of the write.
    pub fn push(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event).map_err(io::Error::other)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }

    /// Progress with values: `log.step(10, Some(30), [("loss", 0.5)])`.
    ///
    /// # Errors
    /// I/O errors of the write.
    pub fn step<'a>(
        &mut self,
        step: u64,
        of: Option<u64>,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> io::Result<()> {
        let values = values.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        self.push(&Event { at: crate::now_ms(), step: Some(step), of, values, note: None })
    }

    /// # Errors
    /// I/O errors of the write.
    pub fn note(&mut self, text: impl Into<String>) -> io::Result<()> {
        let note = Some(text.into());
        self.push(&Event { at: crate::now_ms(), step: None, of: None, values: BTreeMap::new(), note })
    }
}

/// All whole lines of an event file; malformed ones (a torn write) are left out and counted.
///
/// # Errors
/// I/O errors other than "not found", which is an empty log.
pub fn read(path: &Path) -> io::Result<(Vec<Event>, usize)> {
    let text = match std::fs::read(path) {
        Ok(t) => t,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(e) => return Err(e),
    };
    let mut events = Vec::new();
    let mut bad = 0;
    for line in text.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(e) => events.push(e),
            Err(_) => bad += 1,
        }
    }
    Ok((events, bad))
}
