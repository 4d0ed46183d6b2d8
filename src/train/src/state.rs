//! Checkpoints of a training: optimizer and weights, generator state, counters; through `record::checkpoint`.

use crate::optimizer::{AdamW, Scaler};
use crate::{Error, Result};
use model::{shim, weights};
use record::checkpoint::Store;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use tch::Tensor;

const TENSORS: &str = "state.safetensors";
const COUNTERS: &str = "state.json";
const RNG: &str = "rng";

#[derive(Serialize, serde::Deserialize)]
struct Saved<T> {
    step: u64,
    scaler: Scaler,
    own: T,
}

/// Writes the checkpoint of `step`: the optimizer with its parameters, `extra` tensors, libtorch's generator, and the
/// run's `own` counters.
///
/// # Errors
/// I/O errors; nothing is left in place then.
pub fn save<T: Serialize>(
    store: &Store,
    step: u64,
    optimizer: &AdamW,
    extra: &[(String, Tensor)],
    own: &T,
) -> Result<()> {
    store.write(step, |dir| -> Result<()> {
        let mut tensors = optimizer.tensors();
        tensors.extend(extra.iter().map(|(n, t)| (format!("x.{n}"), t.detach())));
        tensors.push((RNG.to_owned(), shim::rng_state()?));
        weights::save(&dir.join(TENSORS), &tensors)?;
        let saved = Saved { step, scaler: optimizer.scaler.clone(), own };
        Ok(record::atomic::write_json(&dir.join(COUNTERS), &saved)?)
    })?;
    Ok(())
}

/// What a checkpoint gave back; the optimizer, its parameters and the generator are already restored.
#[derive(Debug)]
pub struct Resumed<T> {
    pub step: u64,
    pub attempt: u32,
    pub own: T,
    /// `extra` of [`save`].
    pub extra: BTreeMap<String, Tensor>,
}

/// Restores the newest whole checkpoint of the task, if there is one.
///
/// # Errors
/// I/O errors; a checkpoint that does not fit the run.
pub fn load<T: DeserializeOwned>(store: &Store, optimizer: &mut AdamW) -> Result<Option<Resumed<T>>> {
    let Some(found) = store.newest()? else { return Ok(None) };
    let path = found.dir.join(COUNTERS);
    let saved: Saved<T> = record::atomic::read_json(&path)?
        .ok_or_else(|| Error::Invalid(format!("{} is not there", path.display())))?;
    let mut tensors = weights::read_all(&found.dir.join(TENSORS))?;
    optimizer.restore(&tensors)?;
    optimizer.scaler = saved.scaler;
    let rng = tensors
        .remove(RNG)
        .ok_or_else(|| Error::Invalid(format!("{}: no generator state", found.dir.display())))?;
    shim::set_rng_state(&rng)?;
    let extra =
        tensors.into_iter().filter_map(|(n, t)| n.strip_prefix("x.").map(|n| (n.to_owned(), t))).collect();
    Ok(Some(Resumed { step: saved.step, attempt: found.attempt, own: saved.own, extra }))
}
