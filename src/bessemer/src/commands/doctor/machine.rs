//! File systems, room, clock.

use super::Finding;
use crate::filesystem;
use std::path::Path;
use std::time::SystemTime;

/// Where the ledger lies decides how SQLite may work there (specs: F30).
pub fn ledger(state_dir: &Path) -> Finding {
    match filesystem::of(state_dir) {
        Err(e) => Finding::bad(
            "ledger",
            format!("{}: {e}", state_dir.display()),
            "name a directory that can be read with --state-dir",
        ),
        Ok(f) if f.network => Finding::warn(
            "ledger",
            format!("{} lies on {}, shared by several machines", state_dir.display(), f.name),
            "it works there with a rollback journal; if locks are broken on it (\"cannot be locked\"), put the ledger on \
             a local disk of the login node with --state-dir: `bessemer rebuild` makes it anew from the run directories",
        )
        .facts(f),
        Ok(f) => Finding::ok("ledger", format!("{} lies on {}", state_dir.display(), f.name)).facts(f),
    }
}

/// Checkpoints and outputs need room; a record needs an inode.
pub fn room(check: &'static str, dir: &Path) -> Finding {
    let f = match filesystem::of(dir) {
        Ok(f) => f,
        Err(e) => {
            return Finding::bad(
                check,
                format!("{}: {e}", dir.display()),
                "name another directory with --runs-dir",
            );
        }
    };
    #[allow(clippy::cast_precision_loss)]
    let gb = f.free_bytes as f64 / 1e9;
    let inodes = f.free_inodes.map_or_else(String::new, |n| format!(", {n} files"));
    let text = format!("{} on {} has room for {gb:.1} GB{inodes}", dir.display(), f.name);
    let advice = "free some (`bessemer gc SWEEP` removes what no result needs), or choose another place with --runs-dir";
    if gb < 1.0 || f.free_inodes.is_some_and(|n| n < 1000) {
        Finding::bad(check, text, advice).facts(f)
    } else if gb < 10.0 || f.free_inodes.is_some_and(|n| n < 50_000) {
        Finding::warn(check, text, advice).facts(f)
    } else {
        Finding::ok(check, text).facts(f)
    }
}

/// Durations come from the monotonic clock and moments are stored in UTC, so a wrong clock spoils less than elsewhere;
/// but heartbeats of services and ages of records are compared across machines.
pub fn clock(dir: &Path) -> Finding {
    // long before this program was written: the battery is empty and nobody has set it
    if record::now_ms() < 1_735_689_600_000 {
        return Finding::bad("clock", "the clock of this machine is years behind", "set it (chrony or ntpd)");
    }
    match skew_s(dir) {
        Some(s) if s.abs() > 30.0 => Finding::bad(
            "clock",
            format!("files in {} get times {s:+.0} s away from this machine's clock", dir.display()),
            "set the clocks of this machine and of the file server (chrony or ntpd): services are taken for dead",
        ),
        Some(s) if s.abs() > 5.0 => Finding::warn(
            "clock",
            format!("files in {} get times {s:+.0} s away from this machine's clock", dir.display()),
            "ask the administrators to look at the clocks",
        ),
        _ => Finding::ok("clock", format!("{} UTC", jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S"))),
    }
}

/// The file server's clock minus ours, by a file that is made for this.
fn skew_s(dir: &Path) -> Option<f64> {
    let there = dir.ancestors().find(|p| !p.as_os_str().is_empty() && p.is_dir()).unwrap_or(Path::new("."));
    let path = there.join(format!(".bessemer-clock-{}", std::process::id()));
    std::fs::write(&path, b"x").ok()?;
    let theirs = std::fs::metadata(&path).and_then(|m| m.modified()).ok();
    let ours = SystemTime::now();
    let _ = std::fs::remove_file(&path);
    let theirs = theirs?;
    Some(match theirs.duration_since(ours) {
        Ok(ahead) => ahead.as_secs_f64(),
        Err(e) => -e.duration().as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Level;

    #[test]
    fn a_local_directory_is_fine_and_its_clock_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        assert!(skew_s(dir.path()).is_some_and(|s| s.abs() < 5.0));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
        assert_ne!(clock(dir.path()).level, Level::Bad);
    }
}
