//! Ctrl-C while a sweep is shown or driven: the first asks for checkpoints, the second kills.

use crate::failure::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use record::{StartRecord, atomic, layout};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Signals are caught by handlers rather than blocked: the mask would be inherited by every job we start. A thread of
/// their own, since the driver may be waiting for a scheduler or for the jobs' checkpoints.
#[derive(Debug)]
pub struct Interrupts {
    count: Arc<AtomicU32>,
    /// True from the first signal on.
    pub stop: Arc<AtomicBool>,
}

impl Interrupts {
    /// `driven`: the run directory of a sweep whose tasks are to be killed by the second signal.
    ///
    /// # Errors
    /// Of sigaction.
    pub fn listen(driven: Option<PathBuf>) -> Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let me = Self { count: Arc::default(), stop: Arc::default() };
        let (count, stop) = (Arc::clone(&me.count), Arc::clone(&me.stop));
        std::thread::spawn(move || {
            for _ in signals.forever() {
                stop.store(true, Ordering::Relaxed);
                if count.fetch_add(1, Ordering::Relaxed) > 0
                    && let Some(dir) = &driven
                {
                    kill_running(dir);
                }
            }
        });
        Ok(me)
    }

    /// How many signals came so far.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }
}

/// Tells the supervisors of running attempts to kill at once (QUIT); they still write their records.
fn kill_running(run_dir: &Path) {
    let boot = crate::supervise::boot_id();
    let tasks =
        std::fs::read_dir(run_dir.join("tasks")).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
    for task in tasks {
        let Some(n) = layout::attempts(&task).ok().and_then(|a| a.last().copied()) else { continue };
        let dir = layout::attempt_dir(&task, n);
        if dir.join(layout::RECORD).exists() {
            continue;
        }
        let Ok(Some(s)) = atomic::read_json::<StartRecord>(&dir.join(layout::STARTED)) else { continue };
        // a pid is a name only together with its start time and its boot
        if s.boot_id == boot
            && crate::supervise::pid_start(s.pid) == Some(s.pid_start)
            && let Ok(pid) = i32::try_from(s.pid)
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
        }
    }
}
