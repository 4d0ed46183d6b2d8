//! Training rows: what a data file says, as ids, and batches of them.

mod encode;
mod read;

pub use encode::{Skipped, encode, prompt_ids};
pub use read::{Origin, Row, Text, Turn, read};

use model::Packing;
use std::ops::Range;
use tch::{Device, Tensor};

/// A row as ids, and which of them the model learns to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    pub ids: Vec<u32>,
    /// Ids that carry loss: ascending, apart, within `ids`. The first id of a row never does: nothing comes before it.
    pub trained: Vec<Range<usize>>,
}

impl Encoded {
    /// One prompt and one answer: `ids` from `prompt` on carry loss.
    #[must_use]
    pub fn answer(ids: Vec<u32>, prompt: usize) -> Self {
        let all = prompt.max(1).min(ids.len())..ids.len();
        Self { ids, trained: vec![all] }
    }

    /// Number of ids that carry loss.
    #[must_use]
    pub fn trained_tokens(&self) -> usize {
        self.trained.iter().map(|r| r.len()).sum()
    }
}

/// Rows as one tensor.
#[derive(Debug)]
pub struct Batch {
    /// `[rows, length]` int64
    pub ids: Tensor,
    /// One row holds all texts.
    pub packing: Option<Packing>,
    /// Flat positions whose next token carries loss.
    pub at: Tensor,
    /// The next token at each of `at`.
    pub labels: Tensor,
}

/// Rows side by side, padded on the right to the longest.
#[must_use]
pub fn collate(rows: &[&Encoded], pad: u32, device: Device) -> Batch {
    let length = rows.iter().map(|r| r.ids.len()).max().unwrap_or(0);
    let mut ids = vec![i64::from(pad); rows.len() * length];
    for (to, row) in ids.chunks_mut(length.max(1)).zip(rows) {
        to.iter_mut().zip(&row.ids).for_each(|(to, &id)| *to = i64::from(id));
    }
    let starts = (0..rows.len()).map(|i| i * length);
    assemble(rows, starts, &ids, [rows.len() as i64, length as i64], None, device)
}

/// Rows one after the other in one row, without padding.
#[must_use]
pub fn pack(rows: &[&Encoded], device: Device) -> Batch {
    let ids: Vec<i64> = rows.iter().flat_map(|r| r.ids.iter().map(|&id| i64::from(id))).collect();
    let lengths: Vec<i64> = rows.iter().map(|r| r.ids.len() as i64).collect();
    let starts = lengths.iter().scan(0, |at, &n| {
        *at += n as usize;
        Some(*at - n as usize)
    });
    let shape = [1, ids.len() as i64];
    assemble(rows, starts, &ids, shape, Some(Packing { lengths: lengths.clone() }), device)
}

fn assemble(
    rows: &[&Encoded],
    starts: impl Iterator<Item = usize>,
    ids: &[i64],
    shape: [i64; 2],
    packing: Option<Packing>,
    device: Device,
) -> Batch {
    let (mut at, mut labels) = (Vec::new(), Vec::new());
    for (row, start) in rows.iter().zip(starts) {
        for t in row.trained.iter().cloned().flatten() {
            at.push((start + t - 1) as i64);
            labels.push(i64::from(row.ids[t]));
        }
    }
    Batch {
        ids: Tensor::from_slice(ids).view(shape).to_device(device),
        packing,
        at: Tensor::from_slice(&at).to_device(device),
        labels: Tensor::from_slice(&labels).to_device(device),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(t: &Tensor) -> Vec<i64> {
        Vec::<i64>::try_from(t.view(-1)).unwrap()
    }

    #[test]
    fn a_batch_asks_for_trained_tokens_only_and_pads_on_the_right() {
        let a = Encoded::answer(vec![5, 6, 7, 8], 2);
        let b = Encoded::answer(vec![9, 3], 0);
        let batch = collate(&[&a, &b], 0, Device::Cpu);
        assert_eq!(flat(&batch.ids), [5, 6, 7, 8, 9, 3, 0, 0]);
        assert_eq!(flat(&batch.at), [1, 2, 4]);
        assert_eq!(flat(&batch.labels), [7, 8, 3]);
        assert_eq!((a.trained_tokens(), b.trained_tokens()), (2, 1));
    }

    #[test]
    fn a_packed_batch_has_the_same_labels_without_padding() {
        let a = Encoded { ids: vec![5, 6, 7, 8], trained: vec![1..2, 3..4] };
        let b = Encoded::answer(vec![9, 3], 1);
        let batch = pack(&[&a, &b], Device::Cpu);
        assert_eq!(batch.ids.size(), [1, 6]);
        assert_eq!(flat(&batch.at), [0, 2, 4]);
        assert_eq!(flat(&batch.labels), [6, 8, 3]);
        assert_eq!(batch.packing.unwrap().lengths, [4, 2]);
    }
}
