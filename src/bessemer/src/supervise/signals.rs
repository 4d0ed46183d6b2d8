//! Signals as something to wait for. Blocked from the moment [`Signals`] exists and read from a descriptor, so that
//! nothing can arrive between a look and a wait, and no handler runs at a bad moment.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks `signals` for this thread and those it starts later: to be called before any other thread exists.
    ///
    /// # Errors
    /// Of sigprocmask and signalfd; none is expected on Linux.
    pub fn block(signals: &[Signal]) -> io::Result<Self> {
        let set: SigSet = signals.iter().copied().collect();
        set.thread_block()?;
        Ok(Self { fd: SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)? })
    }

    /// Waits at most `timeout` for one, then returns all that have arrived.
    ///
    /// # Errors
    /// Of poll and read.
    pub fn wait(&self, timeout: Duration) -> io::Result<Vec<Signal>> {
        // rounded up: a wait of less than a millisecond must not become a spin
        let ms = u16::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        match poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], PollTimeout::from(ms)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut arrived = Vec::new();
        while let Some(info) = self.fd.read_signal()? {
            if let Ok(s) = Signal::try_from(i32::try_from(info.ssi_signo).unwrap_or(0)) {
                arrived.push(s);
            }
        }
        Ok(arrived)
    }
}
