//! Training rows: prompt and completion, as ids, and batches of them.

use crate::{Error, Result};
use model::Model;
use serde::Deserialize;
use std::path::Path;
use tch::{Device, Tensor};

/// One line of a data file. Other fields are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Row {
    pub prompt: String,
    pub completion: String,
}

/// Reads a JSONL file of rows.
///
/// # Errors
/// I/O errors; a line that is not a row, with its number; an empty file.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let text =
        std::fs::read_to_string(path).map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))?;
    let rows = text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty())
        .map(|(i, l)| {
            serde_json::from_str(l).map_err(|e| Error::Row {
                path: path.into(),
                line: i + 1,
                what: format!("{e}; wanted {{\"prompt\": ..., \"completion\": ...}}"),
            })
        })
        .collect::<Result<Vec<Row>>>()?;
    if rows.is_empty() {
        return Err(Error::Invalid(format!("{} has no rows: nothing to train on", path.display())));
    }
    Ok(rows)
}

/// A row as ids: `prompt` ids carry no loss, the others do (unless the run trains on everything).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    pub ids: Vec<u32>,
    /// How many of `ids` are the prompt.
    pub prompt: usize,
}

/// What encoding left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Rows whose prompt alone fills the length: nothing to learn from.
    pub too_long: usize,
    /// Rows whose completion was cut at the length.
    pub cut: usize,
}

/// Prompt text as the model is asked it everywhere (server, sampling, RL, evaluation): one user turn through the chat
/// template.
///
/// # Errors
/// The template's or the tokenizer's words.
pub fn prompt_ids(model: &Model, prompt: &str) -> Result<Vec<u32>> {
    let turn = generate::Message { role: "user".into(), content: prompt.into() };
    Ok(model.tokenizer.encode(&model.chat.render(&[turn], true)?)?)
}

/// Encodes rows: prompt, completion, end of sequence. Prompt and completion are encoded apart, so that the model learns
/// from exactly the ids that it will be asked with.
///
/// # Errors
/// As [`prompt_ids`]; no row is left.
pub fn encode(model: &Model, rows: &[Row], max_tokens: usize) -> Result<(Vec<Encoded>, Skipped)> {
    let mut out = Vec::with_capacity(rows.len());
    let mut skipped = Skipped::default();
    let end = model.eos.first().copied();
    for row in rows {
        let mut ids = prompt_ids(model, &row.prompt)?;
        let prompt = ids.len();
        if prompt + 1 >= max_tokens {
            skipped.too_long += 1;
            continue;
        }
        ids.extend(model.tokenizer.encode_piece(&row.completion)?);
        ids.extend(end);
        if ids.len() > max_tokens {
            ids.truncate(max_tokens);
            skipped.cut += 1;
        }
        out.push(Encoded { ids, prompt });
    }
    if out.is_empty() {
        return Err(Error::Invalid(format!(
            "every one of the {} rows has a prompt of {max_tokens} tokens or more: raise max_tokens",
            rows.len()
        )));
    }
    Ok((out, skipped))
}

/// Rows side by side, padded on the right.
#[derive(Debug)]
pub struct Batch {
    /// `[rows, length]` int64
    pub ids: Tensor,
    /// Flat positions `row * length + t` whose next token carries loss.
    pub at: Tensor,
    /// The next token at each of `at`.
    pub labels: Tensor,
}

/// Pads `rows` to the longest. Loss on every token after `prompt`.
#[must_use]
pub fn collate(rows: &[&Encoded], pad: u32, device: Device) -> Batch {
    let length = rows.iter().map(|r| r.ids.len()).max().unwrap_or(0);
    let mut ids = vec![i64::from(pad); rows.len() * length];
    let (mut at, mut labels) = (Vec::new(), Vec::new());
    for (i, row) in rows.iter().enumerate() {
        for (t, &id) in row.ids.iter().enumerate() {
            ids[i * length + t] = i64::from(id);
            if t >= row.prompt.max(1) {
                at.push((i * length + t - 1) as i64);
                labels.push(i64::from(id));
            }
        }
    }
    let ids = Tensor::from_slice(&ids).view([rows.len() as i64, length as i64]).to_device(device);
    Batch {
        ids,
        at: Tensor::from_slice(&at).to_device(device),
        labels: Tensor::from_slice(&labels).to_device(device),
    }
}

/// Tokens of a row that carry loss.
#[must_use]
pub fn trained_tokens(row: &Encoded) -> usize {
    row.ids.len() - row.prompt.max(1).min(row.ids.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_asks_for_completion_tokens_only_and_pads_on_the_right() {
        let a = Encoded { ids: vec![5, 6, 7, 8], prompt: 2 };
        let b = Encoded { ids: vec![9, 3], prompt: 1 };
        let batch = collate(&[&a, &b], 0, Device::Cpu);
        assert_eq!(Vec::<i64>::try_from(batch.ids.view(-1)).unwrap(), [5, 6, 7, 8, 9, 3, 0, 0]);
        assert_eq!(Vec::<i64>::try_from(batch.at).unwrap(), [1, 2, 4]);
        assert_eq!(Vec::<i64>::try_from(batch.labels).unwrap(), [7, 8, 3]);
        assert_eq!(trained_tokens(&a), 2);
    }

    #[test]
    fn a_bad_line_is_named_with_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.jsonl");
        std::fs::write(&path, "{\"prompt\": \"a\", \"completion\": \"b\", \"more\": 1}\n\n{\"prompt\": 3}\n")
            .unwrap();
        let words = read(&path).unwrap_err().to_string();
        assert!(words.contains("data.jsonl:3:"), "{words}");
        std::fs::write(&path, "\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("no rows"));
    }
}
