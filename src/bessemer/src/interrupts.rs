//! Ctrl-C while a sweep runs here: the first asks for checkpoints, the second kills.

use crate::failure::Result;
use ledger::view::{TaskState, View};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use record::{StartRecord, atomic, layout};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Handlers rather than a blocked mask: the mask would be inherited by every job we start.
pub struct Interrupts {
    signals: Signals,
    seen: u32,
}

/// What the newest signals ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    GoOn,
    /// Checkpoint and leave.
    Leave,
    /// Now.
    Kill,
}

impl Interrupts {
    /// # Errors
    /// Of sigaction.
    pub fn listen() -> Result<Self> {
        Ok(Self { signals: Signals::new([SIGINT, SIGTERM, SIGHUP])?, seen: 0 })
    }

    pub fn look(&mut self) -> Wish {
        let new = u32::try_from(self.signals.pending().count()).unwrap_or(u32::MAX);
        self.seen = self.seen.saturating_add(new);
        match (new, self.seen) {
            (0, _) => Wish::GoOn,
            (_, 1) => Wish::Leave,
            _ => Wish::Kill,
        }
    }

    /// The whole of a driver's reaction. The line to show, if there is news.
    pub fn react(&mut self, view: &View, stop: &AtomicBool) -> Option<String> {
        match self.look() {
            Wish::GoOn => None,
            Wish::Leave => {
                stop.store(true, Ordering::Relaxed);
                Some("stopping: running tasks write their checkpoints. Ctrl-C again kills them".into())
            }
            Wish::Kill => {
                stop.store(true, Ordering::Relaxed);
                let n = kill_running(view);
                Some(format!("killing {n} running tasks without waiting for checkpoints"))
            }
        }
    }
}

/// Tells the supervisors of running tasks to kill at once (QUIT); they still write their records. How many were told.
fn kill_running(view: &View) -> usize {
    let boot = crate::supervise::boot_id();
    view.tasks
        .iter()
        .filter(|t| matches!(t.state, TaskState::Running | TaskState::Queued | TaskState::Submitting))
        .filter_map(|t| {
            let dir = layout::attempt_dir(&layout::task_dir(Path::new(&view.run_dir), &t.key), t.attempt?);
            atomic::read_json::<StartRecord>(&dir.join(layout::STARTED)).ok().flatten()
        })
        // a pid is a name only together with its start time and its boot
        .filter(|s| s.boot_id == boot && crate::supervise::pid_start(s.pid) == Some(s.pid_start))
        .filter_map(|s| i32::try_from(s.pid).ok())
        .filter(|pid| kill(Pid::from_raw(*pid), Signal::SIGQUIT).is_ok())
        .count()
}
