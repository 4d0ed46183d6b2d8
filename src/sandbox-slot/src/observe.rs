//! Looking at the processes of a run from outside them: memory and CPU time of all together.

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What the live processes of the slot, process 1 aside, use at one moment.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// CPU time so far, microseconds (tick resolution), of processes that are not reaped yet.
    pub cpu_us: u64,
    /// Memory, bytes: an upper bound, since pages that processes share count for each.
    pub memory: u64,
    /// Processes.
    pub processes: u64,
    /// Threads.
    pub threads: u64,
}

/// More of them than a run may have are not looked for: compilers have tens.
const DESCENDANTS_MAX: usize = 1000;

fn read_small(proc: BorrowedFd<'_>, path: &str, buf: &mut [u8]) -> Option<usize> {
    let fd = openat(proc, path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    File::from(fd).read(buf).ok()
}

/// Whose processes are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Every one that `/proc` shows but process 1: those of a pid namespace.
    Namespace,
    /// Those that stem from this process, which is told of orphans among them (`PR_SET_CHILD_SUBREAPER`).
    Ours,
}

/// Children of a process of ours, by any of its threads.
fn children(proc: BorrowedFd<'_>, pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut buf = [0_u8; 4096];
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(tasks) = openat(proc, format!("{pid}/task").as_str(), flags, Mode::empty()) else { return found };
    let Ok(mut dir) = nix::dir::Dir::from_fd(tasks) else { return found };
    for task in dir.iter().flatten() {
        let Some(task) = task.file_name().to_str().ok().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let path = format!("{pid}/task/{task}/children");
        let Some(n) = read_small(proc, &path, &mut buf) else { continue };
        let text = String::from_utf8_lossy(&buf[..n]);
        found.extend(text.split_ascii_whitespace().filter_map(|p| p.parse::<u32>().ok()));
    }
    found
}

/// Our own children, orphans that came to us among them.
#[must_use]
pub fn own_children(proc: &OwnedFd) -> Vec<u32> {
    children(proc.as_fd(), std::process::id())
}

fn pids(proc: &OwnedFd, whose: Whose) -> Vec<u32> {
    if whose == Whose::Ours {
        let mut found = own_children(proc);
        let mut at = 0;
        while at < found.len() && found.len() < DESCENDANTS_MAX {
            found.extend(children(proc.as_fd(), found[at]));
            at += 1;
        }
        return found;
    }
    let Ok(again) =
        openat(proc.as_fd(), ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
    else {
        return Vec::new();
    };
    let Ok(mut dir) = nix::dir::Dir::from_fd(again) else { return Vec::new() };
    dir.iter()
        .flatten()
        .filter_map(|e| e.file_name().to_str().ok().and_then(|n| n.parse().ok()))
        .filter(|pid| *pid != 1)
        .collect()
}

/// Sums over the live processes.
#[must_use]
pub fn usage(proc: &OwnedFd, whose: Whose) -> Usage {
    let mut sum = Usage::default();
    let mut buf = [0_u8; 1024];
    for pid in pids(proc, whose) {
        let Some(n) = read_small(proc.as_fd(), &format!("{pid}/stat"), &mut buf) else { continue };
        let Some((ticks, threads)) = parse_stat(&buf[..n]) else { continue };
        sum.cpu_us += ticks * 1_000_000 / ticks_per_second();
        sum.processes += 1;
        sum.threads += threads;
        if let Some(n) = read_small(proc.as_fd(), &format!("{pid}/statm"), &mut buf) {
            sum.memory += parse_statm(&buf[..n]).unwrap_or(0) * page_size();
        }
        if let Some(n) = read_small(proc.as_fd(), &format!("{pid}/status"), &mut buf) {
            sum.memory += parse_field(&buf[..n], b"RssShmem:").unwrap_or(0) * 1024;
        }
    }
    sum
}

/// Memory of the live processes with shared pages counted once, where the kernel tells; else the upper bound.
#[must_use]
pub fn exact_memory(proc: &OwnedFd, whose: Whose, bound: u64) -> u64 {
    let mut sum = 0;
    let mut buf = [0_u8; 2048];
    for pid in pids(proc, whose) {
        let Some(n) = read_small(proc.as_fd(), &format!("{pid}/smaps_rollup"), &mut buf) else {
            return bound;
        };
        let anon = parse_field(&buf[..n], b"Pss_Anon:");
        let shmem = parse_field(&buf[..n], b"Pss_Shmem:");
        let (Some(anon), Some(shmem)) = (anon, shmem) else { return bound };
        sum += (anon + shmem) * 1024;
    }
    sum.min(bound)
}

/// utime + stime in ticks, and the number of threads. The command name may hold anything, so start behind its last `)`.
fn parse_stat(text: &[u8]) -> Option<(u64, u64)> {
    let close = text.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(text.get(close + 2..)?).ok()?;
    let field = |n: usize| rest.split(' ').nth(n - 3).and_then(|v| v.parse::<u64>().ok());
    Some((field(14)? + field(15)?, field(20)?))
}

/// Private pages: resident minus shared (file and shmem).
fn parse_statm(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let mut fields = text.split_ascii_whitespace().map(str::parse::<u64>);
    let resident = fields.nth(1)?.ok()?;
    let shared = fields.next()?.ok()?;
    Some(resident.saturating_sub(shared))
}

/// `Name:   123 kB` -> 123.
fn parse_field(text: &[u8], name: &[u8]) -> Option<u64> {
    let line = text.split(|b| *b == b'\n').find(|l| l.starts_with(name))?;
    std::str::from_utf8(&line[name.len()..]).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

fn page_size() -> u64 {
    // SAFETY: no arguments that could be wrong.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

fn ticks_per_second() -> u64 {
    // SAFETY: no arguments that could be wrong.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let mut line = String::from("7 (a) S) (x) R 1 7 7 0 -1 4194304 100 0 0 0 ");
        line.push_str("12 30 0 0 20 0 5 0 1000 1 1 1");
        assert_eq!(parse_stat(line.as_bytes()), Some((42, 5)));
    }

    #[test]
    fn private_pages_are_resident_minus_shared() {
        assert_eq!(parse_statm(b"5000 300 120 1 0 200 0"), Some(180));
        assert_eq!(parse_statm(b"garbage"), None);
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = b"Pss:   9 kB\nPss_Anon:             77 kB\n";
        assert_eq!(parse_field(text, b"Pss_Anon:"), Some(77));
        assert_eq!(parse_field(text, b"Pss_Shmem:"), None);
    }
}
