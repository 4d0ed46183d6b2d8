//! One run: files in place, start, wait, fetch, clean.

use crate::clean::Scratch;
use crate::observe::Whose;
use crate::spawn::Spawner;
use crate::wait::{self, Watch};
use crate::wire::{End, Fetched, Report, Run};
use crate::{clean, limits};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::time::Instant;

/// What process 1 keeps between runs.
pub struct Slot {
    /// `/tmp`, `/work`, `/dev/shm`.
    pub writable: [OwnedFd; 3],
    /// `/prog`.
    pub prog: OwnedFd,
    /// `/proc` with every process of the slot.
    pub proc: Option<OwnedFd>,
    /// `RLIMIT_NPROC` counts only this slot.
    pub processes_scoped: bool,
    /// Scratch is a file system of its own, and every process that `/proc` shows is the slot's.
    pub namespaces: bool,
    /// What is in `/prog`.
    pub program: u64,
    /// The program's file, while it is the only thing in `/prog`: the next program is written over it.
    pub source: Option<Source>,
    /// See [`wait::child_signal`].
    pub child_signal: Option<OwnedFd>,
    /// The supervisor's socket, to hear that a run is to be stopped.
    pub socket: RawFd,
}

/// A file in `/prog` that is kept open. Programs see it read-only, and none of them lives when it is written.
pub struct Source {
    path: String,
    file: File,
}

impl Slot {
    /// Does one run from beginning to end. Everything that goes wrong is in the report.
    pub fn run(&mut self, run: &mut Run, fds: &mut Vec<OwnedFd>, spawner: &mut dyn Spawner) -> Report {
        let mut report = Report {
            end: End::Failed(String::new()),
            wall_us: 0,
            cpu_us: 0,
            peak_kb: 0,
            leftovers: 0,
            retire: false,
            fetched: Vec::new(),
        };
        let given = 3 + usize::from(run.channel) + run.how.descriptors();
        if fds.len() < given {
            report.end = End::Failed("a run without its descriptors".into());
            return report;
        }
        let baseline = match self.prepare(run) {
            Ok(baseline) => baseline,
            Err(e) => {
                // Too large for scratch, or a bad name: the job's fault, but nothing was run, so nothing is judged.
                report.end = End::Failed(format!("placing files: {e}"));
                report.retire = true;
                return report;
            }
        };
        let raw: Vec<RawFd> = fds.iter().take(given).map(AsRawFd::as_raw_fd).collect();
        let table = limits::table(&run.limits, self.processes_scoped);
        let started = Instant::now();
        let spawned = spawner.spawn(run, &raw, &table);
        if run.channel {
            drop(fds.remove(3)); // only the program may hold it, so that its end is seen
        }
        match spawned {
            Ok(pid) => {
                let watch = Watch {
                    proc: self.proc.as_ref(),
                    outputs: &fds[1..3 + run.how.tests()],
                    whose: if self.namespaces { Whose::Namespace } else { Whose::Ours },
                    scratch: (self.scratch(), baseline.1),
                    count_processes: !self.processes_scoped,
                    child_signal: self.child_signal.as_ref().filter(|_| run.channel),
                    socket: self.socket,
                };
                let seen = wait::run(pid, started, &run.limits, &watch);
                report.end = seen.end;
                report.wall_us = u64::try_from(seen.wall.as_micros()).unwrap_or(u64::MAX);
                report.cpu_us = seen.cpu_us;
                report.peak_kb = seen.peak_kb;
                report.leftovers = seen.leftovers;
                if let e @ 1.. = spawner.failure() {
                    report.end =
                        End::Failed(format!("preparing the process: {}", nix::errno::Errno::from_raw(e)));
                }
            }
            Err(e) => report.end = End::Failed(e.to_string()),
        }
        let mut left = run.fetch_max;
        for path in &run.fetch {
            report.fetched.push(match clean::fetch(&self.writable[1], path, left) {
                Ok(data) => {
                    left -= data.len() as u64;
                    Fetched::Data(data)
                }
                Err(e) => Fetched::Refused(e.to_string()),
            });
        }
        report.retire |= self.clean(run, baseline).is_err();
        report
    }

    fn scratch(&self) -> Scratch<'_> {
        if self.namespaces { Scratch::FileSystem(&self.prog) } else { Scratch::Directories(&self.writable) }
    }

    /// Puts the files in place; returns what is in use before the program starts.
    ///
    /// What was placed is wiped from our memory: a fork of this process must not find the code of another job there.
    fn prepare(&mut self, run: &mut Run) -> io::Result<(u64, u64)> {
        if self.program != run.program {
            self.program = 0;
            self.place_program(run)?;
            self.program = run.program;
        }
        let baseline = self.scratch().in_use()?;
        for f in &mut run.work_files {
            clean::place(&self.writable[1], &f.path, &f.data, f.executable)?;
            f.data.fill(0);
        }
        Ok(baseline)
    }

    fn place_program(&mut self, run: &mut Run) -> io::Result<()> {
        // An executable stays closed: a file that is open for writing cannot be exec'd.
        let alone = match run.program_files.as_mut_slice() {
            [one] if !one.executable => Some(one),
            _ => None,
        };
        if let (Some(one), Some(held)) = (&alone, &self.source)
            && one.path == held.path
        {
            // In this order the file keeps its memory; what the last program had more is gone, to the byte.
            held.file.write_all_at(&one.data, 0)?;
            held.file.set_len(one.data.len() as u64)?;
        } else {
            self.source = None;
            clean::empty(&self.prog)?;
            if let Some(one) = &alone {
                let file = clean::place(&self.prog, &one.path, &one.data, false)?;
                self.source = Some(Source { path: one.path.clone(), file });
            } else {
                for f in &run.program_files {
                    clean::place(&self.prog, &f.path, &f.data, f.executable)?;
                }
            }
        }
        for f in &mut run.program_files {
            f.data.fill(0);
        }
        Ok(())
    }

    fn clean(&self, run: &Run, baseline: (u64, u64)) -> io::Result<()> {
        if run.work_files.is_empty() && self.scratch().in_use()? == baseline {
            return Ok(()); // the usual case: one statfs
        }
        for dir in &self.writable {
            clean::empty(dir)?;
        }
        if self.scratch().in_use()? == baseline {
            return Ok(());
        }
        Err(io::Error::other("scratch did not come clean"))
    }
}
