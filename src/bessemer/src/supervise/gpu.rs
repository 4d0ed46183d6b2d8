//! A first look at the GPUs, before anything is loaded (specs: F27). The worker's own preflight (compute capability,
//! memory, a small product with a known result) follows; this one catches what makes loading pointless, and picks
//! devices where the scheduler does not.

use nix::fcntl::{Flock, FlockArg};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

/// What the worker gets to see.
#[derive(Debug, Default)]
pub struct Gpus {
    /// UUIDs, where they could be read.
    pub uuids: Vec<String>,
    /// Value for `CUDA_VISIBLE_DEVICES`; `None` leaves it as it is.
    pub visible: Option<String>,
    /// Held for as long as the supervisor lives: keeps others of ours from the same devices.
    locks: Vec<Flock<File>>,
}

/// One GPU as the driver lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Device {
    index: String,
    uuid: String,
}

/// `wanted` GPUs for this attempt.
///
/// # Errors
/// A sentence that makes the node unfit.
pub fn look(wanted: u32, env: impl Fn(&str) -> Option<String>) -> Result<Gpus, String> {
    let visible = env("CUDA_VISIBLE_DEVICES").or_else(|| env("PBS_GPUFILE").and_then(|f| torque(&f)));
    if wanted == 0 {
        // a task that asked for no GPU must not disturb one that did
        return Ok(Gpus { visible: visible.is_none().then(String::new), ..Gpus::default() });
    }
    let wanted = wanted as usize;
    if visible.as_deref().is_some_and(|v| v.trim().is_empty()) {
        return Err(format!("{wanted} GPUs were asked for, but CUDA_VISIBLE_DEVICES is empty"));
    }
    let Some(devices) = devices()? else {
        // no nvidia-smi: containers often lack it; the worker will see for itself
        return Ok(Gpus { visible, ..Gpus::default() });
    };
    let Some(list) = visible else {
        return pick(&devices, wanted, &busy());
    };
    let uuids = resolve(&list, &devices);
    if uuids.len() < wanted {
        return Err(format!(
            "{wanted} GPUs were asked for, CUDA_VISIBLE_DEVICES is {list}, and the driver knows {} of these: {:?}",
            uuids.len(),
            devices.iter().map(|d| &d.uuid).collect::<Vec<_>>()
        ));
    }
    Ok(Gpus { uuids, visible: Some(list), locks: vec![] })
}

/// Torque lists `host-gpu3`, one a line, and sets nothing else.
fn torque(file: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let ids: Vec<&str> = text.lines().filter_map(|l| l.trim().rsplit_once("-gpu").map(|(_, i)| i)).collect();
    (!ids.is_empty()).then(|| ids.join(","))
}

fn devices() -> Result<Option<Vec<Device>>, String> {
    let Some(text) = nvidia_smi(&["--query-gpu=index,uuid", "--format=csv,noheader"])? else {
        return Ok(None);
    };
    let found = parse_devices(&text);
    if found.is_empty() { Err("nvidia-smi lists no GPU".into()) } else { Ok(Some(found)) }
}

fn parse_devices(text: &str) -> Vec<Device> {
    text.lines()
        .filter_map(|l| l.split_once(','))
        .map(|(i, u)| Device { index: i.trim().into(), uuid: u.trim().into() })
        .filter(|d| d.uuid.starts_with("GPU-"))
        .collect()
}

/// UUIDs of GPUs on which somebody computes.
fn busy() -> BTreeSet<String> {
    nvidia_smi(&["--query-compute-apps=gpu_uuid", "--format=csv,noheader"])
        .ok()
        .flatten()
        .map(|t| t.lines().map(|l| l.trim().to_owned()).collect())
        .unwrap_or_default()
}

/// Entries of `CUDA_VISIBLE_DEVICES` are indices or UUIDs (or beginnings of UUIDs). Inside a container or a control
/// group the driver counts only the granted ones from 0, while the variable may hold numbers of the node: a list that
/// does not resolve at all but has as many entries as there are devices means these.
fn resolve(list: &str, devices: &[Device]) -> Vec<String> {
    let entries: Vec<&str> = list.split(',').map(str::trim).filter(|e| !e.is_empty()).collect();
    // slices of a GPU have names of their own, which the list of whole ones does not hold
    if entries.iter().any(|e| e.starts_with("MIG-")) {
        return entries.into_iter().map(str::to_owned).collect();
    }
    let found: Vec<String> = entries
        .iter()
        .filter_map(|&e| {
            devices.iter().find(|d| d.index == *e || (e.starts_with("GPU-") && d.uuid.starts_with(e)))
        })
        .map(|d| d.uuid.clone())
        .collect();
    if found.len() < entries.len() && entries.len() == devices.len() {
        return devices.iter().map(|d| d.uuid.clone()).collect();
    }
    found
}

/// No scheduler has chosen: take free ones, with a lock that other attempts on this node respect.
fn pick(devices: &[Device], wanted: usize, busy: &BTreeSet<String>) -> Result<Gpus, String> {
    let mut got = Gpus::default();
    for d in devices.iter().filter(|d| devices.len() <= wanted || !busy.contains(&d.uuid)) {
        if got.uuids.len() == wanted {
            break;
        }
        let path = std::env::temp_dir().join(format!("bessemer-{}.lock", d.uuid));
        let file = OpenOptions::new().create(true).append(true).mode(0o666).open(&path);
        // a lock file of another user that we may not open: that user has been here, take the next one
        if let Ok(lock) =
            file.map_err(|_| ()).and_then(|f| Flock::lock(f, FlockArg::LockExclusiveNonblock).map_err(|_| ()))
        {
            got.locks.push(lock);
            got.uuids.push(d.uuid.clone());
        }
    }
    if got.uuids.len() < wanted {
        return Err(format!(
            "{wanted} GPUs were asked for, but of the {} on this node only {} are free",
            devices.len(),
            got.uuids.len()
        ));
    }
    got.visible = Some(got.uuids.join(","));
    Ok(got)
}

/// Standard output; `None` when there is no such program.
fn nvidia_smi(args: &[&str]) -> Result<Option<String>, String> {
    let started =
        duct::cmd("nvidia-smi", args).stdin_null().stdout_capture().stderr_capture().unchecked().start();
    let handle = match started {
        Ok(h) => h,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("nvidia-smi cannot be started: {e}")),
    };
    match handle.wait_timeout(Duration::from_secs(60)) {
        Ok(Some(out)) if out.status.success() => Ok(Some(String::from_utf8_lossy(&out.stdout).into_owned())),
        Ok(Some(out)) => {
            let text = [out.stdout.as_slice(), out.stderr.as_slice()].concat();
            Err(format!("nvidia-smi failed ({}): {}", out.status, String::from_utf8_lossy(&text).trim()))
        }
        Ok(None) => {
            let _ = handle.kill();
            Err("nvidia-smi gave no answer within a minute: the driver or a GPU hangs".into())
        }
        Err(e) => Err(format!("nvidia-smi: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Vec<Device> {
        parse_devices("0, GPU-aaaa-1\n1, GPU-bbbb-2\nnonsense\n")
    }

    #[test]
    fn visible_devices_are_indices_uuids_or_the_nodes_own_numbers() {
        assert_eq!(resolve("1", &two()), ["GPU-bbbb-2"]);
        assert_eq!(resolve("GPU-aaaa", &two()), ["GPU-aaaa-1"]);
        assert_eq!(resolve("4,5", &two()), ["GPU-aaaa-1", "GPU-bbbb-2"], "renumbered by a control group");
        assert!(resolve("4", &two()).is_empty());
        assert_eq!(resolve("MIG-aaaa-1-0", &two()), ["MIG-aaaa-1-0"]);
    }

    #[test]
    fn a_task_without_gpus_sees_none_and_an_empty_grant_is_unfit() {
        assert_eq!(look(0, |_| None).unwrap().visible.as_deref(), Some(""));
        let empty = |k: &str| (k == "CUDA_VISIBLE_DEVICES").then(String::new);
        assert!(look(1, empty).unwrap_err().contains("empty"));
    }

    #[test]
    fn a_free_device_is_picked_and_two_attempts_never_pick_the_same() {
        let name = format!("GPU-test-{}", std::process::id());
        let devices: Vec<_> =
            (0..2).map(|i| Device { index: i.to_string(), uuid: format!("{name}-{i}") }).collect();
        let a = pick(&devices, 1, &BTreeSet::new()).unwrap();
        let b = pick(&devices, 1, &BTreeSet::new()).unwrap();
        assert_ne!(a.uuids, b.uuids);
        assert!(pick(&devices, 1, &BTreeSet::new()).is_err());
        drop(a);
        assert!(pick(&devices, 1, &BTreeSet::from([devices[0].uuid.clone()])).is_err(), "busy is not free");
        for d in &devices {
            let _ = std::fs::remove_file(std::env::temp_dir().join(format!("bessemer-{}.lock", d.uuid)));
        }
    }
}
