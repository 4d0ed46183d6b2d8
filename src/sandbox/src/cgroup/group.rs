//! One group: the limits of a run, and what the kernel counted.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The kernel charges memory in batches for each CPU; a limit to the byte would refuse what is below it.
const BATCHES: u64 = 512 << 10;

/// The group of one slot. Dropping it removes it; the slot must have been told to end.
#[derive(Debug)]
pub(crate) struct Group {
    dirs: Vec<PathBuf>,
    memory_max: File,
    memory_now: File,
    /// The highest use since it was last written to; `None` where this kernel cannot start anew.
    peak: Option<File>,
    events: File,
    pids_max: File,
    pids_now: File,
    stat: PathBuf,
    kill: Option<PathBuf>,
    /// Memory and processes of the slot itself.
    base: (u64, u64),
    /// The limits that are in force.
    set: Option<(u64, u64)>,
    /// Use when the run began.
    before: u64,
    /// Version 1: how often the limit was reached. Version 2 has that among its events.
    hits: Option<File>,
    /// Kills for want of memory, and how often our own limit was the cause, seen so far.
    seen: (u64, u64),
}

/// What the kernel counted in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Use {
    /// Highest memory of all processes, their files in scratch and their output, KiB; file pages that were read for the
    /// first time are in it. `None`: this kernel does not tell.
    pub peak_kb: Option<u64>,
    /// The kernel killed a process because the limit was reached.
    pub out_of_memory: bool,
    /// The kernel killed a process for want of memory though the limit was not reached: a group around ours, a batch job's
    /// say, or the machine was full.
    pub starved: bool,
}

fn named<T>(path: &Path, r: io::Result<T>) -> io::Result<T> {
    r.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

fn open(dir: &Path, name: &str, write: bool) -> io::Result<File> {
    let path = dir.join(name);
    named(&path, OpenOptions::new().read(true).write(write).open(&path))
}

/// One number; `max` is the largest.
fn number(file: &File) -> io::Result<u64> {
    let mut buf = [0_u8; 32];
    let n = file.read_at(&mut buf, 0)?;
    let text = std::str::from_utf8(&buf[..n]).unwrap_or_default().trim();
    if text == "max" {
        return Ok(u64::MAX);
    }
    text.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("no number: {text:?}")))
}

/// The number behind a key, in a file of `key number` lines.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

impl Group {
    /// A group of version 2.
    pub fn open_v2(dir: PathBuf) -> io::Result<Self> {
        let guard = Made(vec![dir.clone()]);
        // Swapped pages are not counted as memory: without this a program could grow past its limit there.
        let swap = dir.join("memory.swap.max");
        if swap.exists() {
            named(&swap, fs::write(&swap, "0"))?;
        }
        // Writing starts a new peak for this descriptor from 6.12; before, it is refused (and the file may be read-only).
        let peak = open(&dir, "memory.peak", true).ok().filter(|f| f.write_at(b"r\n", 0).is_ok());
        Ok(Self {
            memory_max: open(&dir, "memory.max", true)?,
            memory_now: open(&dir, "memory.current", false)?,
            peak,
            events: open(&dir, "memory.events", false)?,
            pids_max: open(&dir, "pids.max", true)?,
            pids_now: open(&dir, "pids.current", false)?,
            stat: dir.join("memory.stat"),
            kill: Some(dir.join("cgroup.kill")),
            base: (0, 0),
            set: None,
            before: 0,
            hits: None,
            seen: (0, 0),
            dirs: guard.keep(),
        })
    }

    /// The two directories of a group of version 1.
    pub fn open_v1(memory: PathBuf, pids: PathBuf) -> io::Result<Self> {
        let guard = Made(vec![memory.clone(), pids.clone()]);
        let _ = fs::write(memory.join("memory.swappiness"), "0"); // a wish: not every kernel has swap
        Ok(Self {
            memory_max: open(&memory, "memory.limit_in_bytes", true)?,
            memory_now: open(&memory, "memory.usage_in_bytes", false)?,
            peak: Some(open(&memory, "memory.max_usage_in_bytes", true)?),
            events: open(&memory, "memory.oom_control", false)?,
            pids_max: open(&pids, "pids.max", true)?,
            pids_now: open(&pids, "pids.current", false)?,
            stat: memory.join("memory.stat"),
            kill: None,
            base: (0, 0),
            set: None,
            before: 0,
            hits: Some(open(&memory, "memory.failcnt", false)?),
            seen: (0, 0),
            dirs: guard.keep(),
        })
    }

    /// Moves a process in; what it starts from now on is in it too.
    pub fn add(&self, pid: u32) -> io::Result<()> {
        self.dirs.iter().try_for_each(|dir| {
            let path = dir.join("cgroup.procs");
            named(&path, fs::write(&path, pid.to_string()))
        })
    }

    /// Measures what the slot itself uses: everything but file pages, which the kernel takes back under pressure.
    pub fn settle(&mut self) -> io::Result<()> {
        let stat = named(&self.stat, fs::read_to_string(&self.stat))?;
        let files = field(&stat, "active_file").unwrap_or(0) + field(&stat, "inactive_file").unwrap_or(0);
        self.base = (number(&self.memory_now)?.saturating_sub(files), number(&self.pids_now)?);
        self.seen = self.events()?;
        Ok(())
    }

    /// Before a run: its limits, in bytes and tasks.
    pub fn begin(&mut self, memory: u64, processes: u64) -> io::Result<()> {
        if self.set != Some((memory, processes)) {
            self.set = None; // what is in force is unknown until both are written
            let write = |file: &File, v: u64| file.write_at(v.to_string().as_bytes(), 0).map(drop);
            let page = 4096;
            let max = self.base.0.saturating_add(memory).saturating_add(BATCHES) / page * page;
            write(&self.memory_max, max)
                .map_err(|e| io::Error::new(e.kind(), format!("memory limit of the control group: {e}")))?;
            write(&self.pids_max, self.base.1.saturating_add(processes))
                .map_err(|e| io::Error::new(e.kind(), format!("process limit of the control group: {e}")))?;
            self.set = Some((memory, processes));
        }
        if let Some(peak) = &self.peak {
            peak.write_at(b"0\n", 0)?;
            self.before = number(&self.memory_now)?;
        }
        Ok(())
    }

    /// After a run. `ended_well`: the main process left by itself below its limits.
    pub fn end(&mut self, ended_well: bool) -> io::Result<Use> {
        let peak = self.peak.as_ref().map(number).transpose()?;
        // Reading the events costs more than the rest: they are looked at where something may have been killed.
        let near = peak.is_none_or(|p| p.saturating_add(BATCHES) >= self.limit());
        let (mut killed, mut ours) = (false, false);
        if near || !ended_well {
            let now = self.events()?;
            let seen = std::mem::replace(&mut self.seen, now);
            (killed, ours) = (now.0 != seen.0, now.1 != seen.1);
        }
        Ok(Use {
            peak_kb: peak.map(|p| p.saturating_sub(self.before) / 1024),
            out_of_memory: killed && ours,
            starved: killed && !ours,
        })
    }

    fn limit(&self) -> u64 {
        self.set.map_or(0, |(memory, _)| self.base.0.saturating_add(memory))
    }

    /// Kills so far; and how often our own limit had to be enforced, which a kill by it always counts in.
    fn events(&self) -> io::Result<(u64, u64)> {
        let mut buf = [0_u8; 512];
        let n = self.events.read_at(&mut buf, 0)?;
        let text = String::from_utf8_lossy(&buf[..n]);
        let hits = match &self.hits {
            Some(file) => number(file)?,
            None => field(&text, "oom").unwrap_or(0),
        };
        Ok((field(&text, "oom_kill").unwrap_or(0), hits))
    }
}

/// Directories that go away again unless they are kept.
struct Made(Vec<PathBuf>);

impl Made {
    fn keep(mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for dir in &self.0 {
            let _ = fs::remove_dir(dir); // empty
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(kill) = &self.kill {
            let _ = fs::write(kill, "1"); // before 5.14 there is none; the slot dies with its keeper anyway
        }
        for dir in &self.dirs {
            // The last process is killed, but may be on its way out. What stays is swept up by the next supervisor.
            for _ in 0..100 {
                match fs::remove_dir(dir) {
                    Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    _ => break,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like a group of version 2 in which a slot stands.
    fn fake(peak: bool) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("group");
        fs::create_dir(&dir).expect("made");
        let mib = |n: u64| (n << 20).to_string();
        let mut files = vec![
            ("memory.max", "max\n".to_owned()),
            ("memory.swap.max", "max\n".into()),
            ("memory.current", mib(30)),
            ("memory.stat", format!("anon 1\nfile 5\nactive_file {}\ninactive_file {}\n", mib(4), mib(6))),
            ("memory.events", "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n".into()),
            ("pids.max", "max\n".into()),
            ("pids.current", "2\n".into()),
            ("cgroup.procs", String::new()),
        ];
        if peak {
            files.push(("memory.peak", mib(31)));
        }
        for (name, text) in files {
            fs::write(dir.join(name), text).expect("written");
        }
        (root, dir)
    }

    fn read(dir: &Path, name: &str) -> String {
        fs::read_to_string(dir.join(name)).expect("there")
    }

    #[test]
    fn limits_are_those_of_the_run_beyond_what_the_slot_itself_needs() {
        let (_root, dir) = fake(true);
        let mut group = Group::open_v2(dir.clone()).expect("a group");
        assert_eq!(read(&dir, "memory.swap.max"), "0");
        group.add(77).expect("moved");
        assert_eq!(read(&dir, "cgroup.procs"), "77");
        group.settle().expect("measured");
        group.begin(100 << 20, 8).expect("set");
        // 30 MiB in use, 10 of them file pages; and two processes.
        let max: u64 = read(&dir, "memory.max").trim().parse().expect("a number");
        assert_eq!(max, (120 << 20) + BATCHES);
        assert!(read(&dir, "pids.max").starts_with("10"), "{}", read(&dir, "pids.max"));
    }

    #[test]
    fn a_kill_for_want_of_memory_is_told_once_and_earlier_ones_are_not() {
        let (_root, dir) = fake(true);
        let mut group = Group::open_v2(dir.clone()).expect("a group");
        group.settle().expect("measured");
        group.begin(64 << 20, 8).expect("set");
        fs::write(dir.join("memory.peak"), (84_u64 << 20).to_string()).expect("written");
        let fine = Use { peak_kb: Some(54 << 10), out_of_memory: false, starved: false };
        assert_eq!(group.end(true).expect("read"), fine);
        group.begin(64 << 20, 8).expect("set");
        fs::write(dir.join("memory.peak"), (84_u64 << 20).to_string()).expect("written");
        fs::write(dir.join("memory.events"), "oom 4\noom_kill 3\n").expect("written");
        assert!(group.end(true).expect("read").out_of_memory);
        assert!(!group.end(false).expect("read").out_of_memory);
    }

    #[test]
    fn without_a_peak_that_starts_anew_kills_are_still_seen() {
        let (_root, dir) = fake(false);
        let mut group = Group::open_v2(dir.clone()).expect("a group");
        group.settle().expect("measured");
        group.begin(64 << 20, 8).expect("set");
        fs::write(dir.join("memory.events"), "oom 4\noom_kill 3\n").expect("written");
        let killed = Use { peak_kb: None, out_of_memory: true, starved: false };
        assert_eq!(group.end(true).expect("read"), killed);
    }

    #[test]
    fn a_kill_that_our_own_limit_did_not_cause_is_told_apart() {
        let (_root, dir) = fake(false);
        let mut group = Group::open_v2(dir.clone()).expect("a group");
        group.settle().expect("measured");
        group.begin(64 << 20, 8).expect("set");
        fs::write(dir.join("memory.events"), "oom 3\noom_kill 3\n").expect("written");
        let starved = Use { peak_kb: None, out_of_memory: false, starved: true };
        assert_eq!(group.end(false).expect("read"), starved);
    }

    #[test]
    fn a_group_without_its_files_is_an_error_that_names_one_and_leaves_nothing() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("group");
        fs::create_dir(&dir).expect("made");
        let e = Group::open_v2(dir.clone()).expect_err("nothing is in it");
        assert!(e.to_string().contains("memory.max"), "{e}");
        assert!(!dir.exists());
    }
}
