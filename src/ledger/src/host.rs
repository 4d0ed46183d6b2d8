//! Who am I, and is that other one still there? Identity of processes that survives reused process ids.

use std::path::Path;

/// One process of one boot of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub host: String,
    /// Boot id and, inside a container, the pid namespace: two containers of one machine do not see each other.
    pub boot_id: String,
    pub pid: u32,
    /// Start time in clock ticks since boot (field 22 of /proc/PID/stat).
    pub pid_start: u64,
}

impl Process {
    /// This process.
    #[must_use]
    pub fn me() -> Self {
        let pid = std::process::id();
        Self { host: host_name(), boot_id: boot_id(), pid, pid_start: start_time(pid).unwrap_or(0) }
    }

    /// Whether it runs on the machine (and in the pid namespace) of this process, so that its death can be seen from here.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.host == host_name() && self.boot_id == boot_id()
    }

    /// `Some(true)`: certainly gone. `None`: it is on another machine, nobody can tell from here.
    #[must_use]
    pub fn is_gone(&self) -> Option<bool> {
        if self.host == host_name() && !self.is_here() {
            // Same machine, other boot: nothing of that boot is left. (Another pid namespace looks the same, so only
            // the plain boot id decides.)
            let plain = |s: &str| s.split('/').next().unwrap_or_default().to_owned();
            return (plain(&self.boot_id) != plain(&boot_id())).then_some(true);
        }
        if !self.is_here() {
            return None;
        }
        Some(start_time(self.pid) != Some(self.pid_start))
    }
}

/// Whether a process of this machine has `needle` in its command line: the scheduler command carries the token, and it
/// outlives a planner that is killed.
#[must_use]
pub fn command_line_has(needle: &str) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else { return true };
    entries
        .filter_map(Result::ok)
        .filter(|e| e.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|e| std::fs::read(e.path().join("cmdline")).ok())
        .any(|line| line.windows(needle.len()).any(|w| w == needle.as_bytes()))
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".into(), |s| s.trim().to_owned())
}

fn boot_id() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let ns =
        std::fs::read_link("/proc/self/ns/pid").map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{}/{ns}", boot.trim())
}

/// Field 22 of /proc/PID/stat; `None` when there is no such process or it is a zombie.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // the name (field 2) may contain anything; fields are counted after its closing parenthesis
    let mut rest = stat[stat.rfind(')')? + 1..].split_whitespace();
    if matches!(rest.next()?, "Z" | "X") {
        return None;
    }
    rest.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_here_while_it_lives_and_gone_afterwards() {
        assert_eq!(Process::me().is_gone(), Some(false));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let other = Process { pid: child.id(), pid_start: start_time(child.id()).unwrap(), ..Process::me() };
        assert_eq!(other.is_gone(), Some(false));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(other.is_gone(), Some(true));
    }

    #[test]
    fn a_reused_process_id_is_another_process_and_another_machine_cannot_be_judged() {
        let me = Process::me();
        assert_eq!(Process { pid_start: me.pid_start + 1, ..me.clone() }.is_gone(), Some(true));
        assert_eq!(Process { host: "elsewhere".into(), ..me.clone() }.is_gone(), None);
        assert_eq!(Process { boot_id: "an-older-boot/pid:[1]".into(), ..me }.is_gone(), Some(true));
    }

    #[test]
    fn a_running_command_is_found_by_its_token() {
        let token = format!("bx-{}", std::process::id());
        assert!(!command_line_has(&format!("{token}-never")));
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read x", &token])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // exec returns to us a moment before the kernel has the new arguments in place
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !command_line_has(&token) {
            assert!(std::time::Instant::now() < end, "the command is not found");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!command_line_has(&token));
    }
}
