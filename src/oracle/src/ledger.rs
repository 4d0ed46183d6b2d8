//! The reward ledger: one row per judged answer, so that a curve that looks too good can be looked into.

use crate::verdict::Scored;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// One judged answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerRow {
    /// Episode or batch.
    pub step: u64,
    pub problem: String,
    /// Which of the answers to this problem in this step.
    pub sample: u32,
    /// SHA-256 of the extracted program; `None` where the answer holds none.
    pub program: Option<String>,
    /// Each oracle's word.
    pub oracles: Vec<Scored>,
    /// What the learner was given; `None`: nothing, the sample was left out.
    pub reward: Option<f64>,
}

/// Appends rows to a JSON Lines file. Rows of one call are handed to the file system together.
#[derive(Debug)]
pub struct RewardLedger {
    file: BufWriter<File>,
}

impl RewardLedger {
    /// # Errors
    /// I/O errors of opening for append.
    pub fn append(path: &Path) -> io::Result<Self> {
        Ok(Self { file: BufWriter::new(File::options().create(true).append(true).open(path)?) })
    }

    /// # Errors
    /// I/O errors of the write.
    pub fn push(&mut self, rows: &[LedgerRow]) -> io::Result<()> {
        for row in rows {
            serde_json::to_writer(&mut self.file, row).map_err(io::Error::other)?;
            self.file.write_all(b"\n")?;
        }
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_appended_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rewards.jsonl");
        let row = LedgerRow {
            step: 3,
            problem: "p".into(),
            sample: 1,
            program: None,
            oracles: vec![Scored::unscored("tests", "no sandbox"), Scored::of("format", 1.0, "fine")],
            reward: None,
        };
        for _ in 0..2 {
            RewardLedger::append(&path).unwrap().push(std::slice::from_ref(&row)).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let rows: Vec<LedgerRow> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(rows, [row.clone(), row]);
    }
}
