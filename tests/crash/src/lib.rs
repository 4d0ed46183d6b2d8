//! A fake Slurm for tests: `sbatch`, `squeue`, `sacct`, `scancel` and `scontrol` as one multi-call program over a directory
//! ([`store`]), with faults that a test asks for ([`Faults`]). There is no daemon: every call advances the cluster.
//!
//! It speaks as much of Slurm as `cluster::slurm` uses, and does what specs say real ones do when things go wrong: a job
//! that is accepted although `sbatch` times out, a queue that lags, finished jobs that are forgotten, limits that count
//! array elements.

pub mod commands;
pub mod jobs;
pub mod store;

use serde::{Deserialize, Serialize};

/// Environment variable with the directory of the cluster. Not `SLURM_*` or `BESSEMER_*`: those are scrubbed.
pub const DIR: &str = "FAKE_SLURM_DIR";

/// What goes wrong, and how often; written to `faults.json` in the cluster's directory, read at every call. Shares are in
/// 0..1 and are drawn from `seed` and the number of the call, so that a run can be repeated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Faults {
    pub seed: u64,
    /// `sbatch` takes the job and then says that it timed out (specs: F2).
    pub accept_then_time_out: f64,
    /// `sbatch` says that it timed out, and the job was never there.
    pub lose_then_time_out: f64,
    /// `sbatch` refuses.
    pub refuse: f64,
    /// The controller cannot be reached; nothing was sent.
    pub unreachable: f64,
    /// `squeue` and `sacct` fail.
    pub blind: f64,
    /// `sbatch` sleeps up to this before it takes the job: a planner that is killed meanwhile leaves it behind.
    pub delay_before_ms: u64,
    /// ... and after it has taken it, before it prints the id.
    pub delay_after_ms: u64,
    /// A job is visible in `squeue` only this long after it was taken.
    pub lag_ms: u64,
    /// ... and in `sacct` this long.
    pub sacct_lag_ms: u64,
    /// `squeue` forgets a job this long after its end (`MinJobAge`).
    pub purge_ms: u64,
    /// No accounting at all.
    pub no_accounting: bool,
    /// Most live jobs, array elements counted; 0: no limit.
    pub max_submit: u64,
    /// A job runs at least this long before it ends.
    pub run_ms: u64,
    /// Nothing starts.
    pub hold: bool,
    /// Jobs are really run (`bash job.sh`), not played.
    pub real: bool,
}

/// A number in 0..1 from seed and position: splitmix64.
#[must_use]
pub fn draw(seed: u64, position: u64) -> f64 {
    let mut z =
        seed.wrapping_add(position.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    #[allow(clippy::cast_precision_loss)]
    {
        (z >> 11) as f64 / (1u64 << 53) as f64
    }
}
