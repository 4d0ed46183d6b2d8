//! What this machine has, what running jobs hold of it, and whether one more fits.

use crate::site::Local;
use record::Resources;
use std::fmt;

/// CPUs, memory and GPUs that may be handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Machine {
    pub cpus: u32,
    pub memory_mb: u64,
    /// As `CUDA_VISIBLE_DEVICES` names them: indices, or UUIDs if the user restricted us to some.
    pub gpus: Vec<String>,
}

/// A part of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Share {
    pub cpus: u32,
    pub memory_mb: u64,
    pub gpus: Vec<String>,
}

impl Machine {
    /// Measured, control groups included, where the site says nothing.
    pub(super) fn of(local: &Local) -> Self {
        let cpus =
            || std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        let gpus = match local.gpus {
            Some(n) => (0..n).map(|i| i.to_string()).collect(),
            None => visible_gpus(),
        };
        Self {
            cpus: local.cpus.unwrap_or_else(cpus),
            memory_mb: local.memory.map_or_else(total_memory_mb, |m| m.0),
            gpus,
        }
    }

    /// A share for `r` beside those that are held. `Err(true)`: not even the empty machine has that much.
    pub(super) fn place(&self, r: &Resources, held: &[Share]) -> Result<Share, bool> {
        let cpus = r.cpus.max(1);
        if cpus > self.cpus || r.memory_mb > self.memory_mb || r.gpus as usize > self.gpus.len() {
            return Err(true);
        }
        let cpus_held: u32 = held.iter().fold(0, |sum, h| sum.saturating_add(h.cpus));
        let memory_held: u64 = held.iter().fold(0, |sum, h| sum.saturating_add(h.memory_mb));
        let free: Vec<&String> =
            self.gpus.iter().filter(|g| !held.iter().any(|h| h.gpus.contains(g))).collect();
        let fits = cpus_held.saturating_add(cpus) <= self.cpus
            && memory_held.saturating_add(r.memory_mb) <= self.memory_mb
            && r.gpus as usize <= free.len();
        if !fits {
            return Err(false);
        }
        let gpus = free.into_iter().take(r.gpus as usize).cloned().collect();
        Ok(Share { cpus, memory_mb: r.memory_mb, gpus })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} CPUs, {} MB, {} GPUs", self.cpus, self.memory_mb, self.gpus.len())
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpus={} memory_mb={} gpus={}", self.cpus, self.memory_mb, self.gpus.join(","))
    }
}

impl Share {
    /// The inverse of `Display`; what is not understood counts as nothing.
    pub(super) fn parse(text: &str) -> Self {
        let mut share = Self::default();
        for (key, value) in text.split(' ').filter_map(|w| w.split_once('=')) {
            match key {
                "cpus" => share.cpus = value.parse().unwrap_or(0),
                "memory_mb" => share.memory_mb = value.parse().unwrap_or(0),
                "gpus" => {
                    share.gpus = value.split(',').filter(|g| !g.is_empty()).map(str::to_owned).collect()
                }
                _ => {}
            }
        }
        share
    }
}

fn total_memory_mb() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let bytes = system
        .cgroup_limits()
        .map_or_else(|| system.total_memory(), |c| c.total_memory.min(system.total_memory()));
    bytes / 1_000_000
}

/// The GPUs that the driver knows, or those that `CUDA_VISIBLE_DEVICES` leaves.
fn visible_gpus() -> Vec<String> {
    if let Ok(list) = std::env::var("CUDA_VISIBLE_DEVICES") {
        return list
            .split(',')
            .map(str::trim)
            .filter(|g| !g.is_empty() && *g != "-1")
            .map(str::to_owned)
            .collect();
    }
    let n = std::fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, Iterator::count);
    (0..n).map(|i| i.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine { cpus: 4, memory_mb: 8000, gpus: vec!["0".into(), "1".into()] }
    }

    fn r(cpus: u32, memory_mb: u64, gpus: u32) -> Resources {
        Resources { cpus, gpus, memory_mb, walltime_s: 60 }
    }

    #[test]
    fn shares_never_exceed_the_machine_and_no_gpu_is_given_twice() {
        let m = machine();
        let a = m.place(&r(2, 3000, 1), &[]).unwrap();
        let b = m.place(&r(2, 3000, 1), std::slice::from_ref(&a)).unwrap();
        assert_ne!(a.gpus, b.gpus);
        let held = [a, b];
        for full in [r(1, 100, 0), r(0, 100, 0)] {
            assert_eq!(m.place(&full, &held), Err(false));
        }
        assert_eq!(m.place(&r(1, 6000, 0), &held[..1]), Err(false), "memory");
        assert_eq!(m.place(&r(1, 100, 2), &held[..1]), Err(false), "GPUs");
    }

    #[test]
    fn what_never_fits_is_told_apart_from_what_does_not_fit_now() {
        for never in [r(5, 1, 0), r(1, 8001, 0), r(1, 1, 3)] {
            assert_eq!(machine().place(&never, &[]), Err(true));
        }
    }

    #[test]
    fn a_share_survives_the_environment() {
        let share = Share { cpus: 2, memory_mb: 1500, gpus: vec!["0".into(), "GPU-ab".into()] };
        assert_eq!(Share::parse(&share.to_string()), share);
        assert_eq!(Share::parse("nonsense"), Share::default());
    }

    #[test]
    fn the_machine_is_measured_and_overridden() {
        let measured = Machine::of(&Local::default());
        assert!(measured.cpus >= 1 && measured.memory_mb > 100);
        let local = Local {
            cpus: Some(7),
            memory: Some(crate::site::Megabytes(5)),
            gpus: Some(2),
            ..Local::default()
        };
        let m = Machine::of(&local);
        assert_eq!((m.cpus, m.memory_mb, m.gpus), (7, 5, vec!["0".to_owned(), "1".to_owned()]));
    }
}
