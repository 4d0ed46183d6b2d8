//! The supervisor's end of one slot.

use crate::config::SandboxError;
use crate::helper;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::MFdFlags;
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, shutdown, socketpair};
use slot::net;
use slot::wire::{Hello, Report, Run, Setup};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A slot that does not stand after this long never will.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long after a run's wall limit the slot may take to report: killing, reaping, cleaning on a loaded machine.
const REPORT_GRACE: Duration = Duration::from_secs(10);
/// How long an idle slot may take to leave when asked to.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

/// A running slot. Dropping it ends every process in it.
pub(crate) struct SlotHandle {
    keeper: Child,
    socket: OwnedFd,
    buf: Vec<u8>,
    /// What the slot said of itself.
    pub hello: Hello,
    /// Runs so far.
    pub runs: u64,
}

/// What a run gave.
pub(crate) struct Outcome {
    pub report: Report,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub truncated: bool,
}

impl SlotHandle {
    /// Starts the helper and waits for its word.
    pub fn start(setup: &Setup) -> Result<Self, SandboxError> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|e| SandboxError::Helper(e.into()))?;
        let keeper = Command::new(helper::path()?)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(SandboxError::Helper)?;
        let mut slot = Self { keeper, socket: ours, buf: Vec::new(), hello: Hello::default(), runs: 0 };
        let fail = |e: io::Error| SandboxError::Slot(e.to_string());
        net::send(slot.socket.as_raw_fd(), &setup.encode(), &[]).map_err(fail)?;
        let (body, _) = slot.receive(START_TIMEOUT, None).map_err(fail)?;
        slot.hello = Hello::decode(&body).map_err(|e| SandboxError::Slot(e.to_string()))?;
        if slot.hello.error.is_empty() { Ok(slot) } else { Err(SandboxError::Slot(slot.hello.error.clone())) }
    }

    fn receive(&mut self, timeout: Duration, spare: Option<&OwnedFd>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let ms = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        loop {
            match poll(&mut fds, ms) {
                Ok(0) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the slot did not answer in time"));
                }
                Ok(_) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        net::receive_answer(self.socket.as_raw_fd(), &mut self.buf, spare)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the slot died"))
    }

    /// One run. After an error the slot must not be used again.
    pub fn run(&mut self, run: &Run, stdin: &[u8]) -> io::Result<Outcome> {
        self.runs += 1;
        let output = run.limits.output;
        let (stdin, stdout, stderr) = {
            let sealing = net::memfd(c"stdin", stdin, MFdFlags::MFD_ALLOW_SEALING)?;
            // SAFETY: fcntl with plain numbers on a descriptor that we own.
            unsafe { libc::fcntl(sealing.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) };
            // New ones for each run: flags and offsets that a program sets would stay on a used one.
            (
                sealing,
                net::memfd(c"stdout", b"", MFdFlags::empty())?,
                net::memfd(c"stderr", b"", MFdFlags::empty())?,
            )
        };
        // A large report, one with fetched files, needs a place that process 1 cannot make for itself.
        let spare =
            if run.fetch.is_empty() { None } else { Some(net::memfd(c"report", b"", MFdFlags::empty())?) };
        let mut fds = vec![stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()];
        fds.extend(spare.as_ref().map(AsRawFd::as_raw_fd));
        net::send(self.socket.as_raw_fd(), &run.encode(), &fds)?;
        let wall = Duration::from_micros(run.limits.wall_us);
        let (body, _) = self.receive(wall + REPORT_GRACE, spare.as_ref())?;
        let report = Report::decode(&body).map_err(io::Error::other)?;
        let (stdout, cut_out) = read_bounded(stdout, output)?;
        let (stderr, cut_err) = read_bounded(stderr, output)?;
        Ok(Outcome { report, stdout, stderr, truncated: cut_out || cut_err })
    }
}

/// The first `max` bytes, and whether there are more. Every process that could write is dead by now.
fn read_bounded(fd: OwnedFd, max: u64) -> io::Result<(Vec<u8>, bool)> {
    let file = File::from(fd);
    let size = file.metadata()?.len();
    let mut data = vec![0; usize::try_from(size.min(max)).map_err(io::Error::other)?];
    file.read_exact_at(&mut data, 0)?;
    Ok((data, size > max))
}

impl Drop for SlotHandle {
    fn drop(&mut self) {
        // An idle process 1 leaves when it reads the end of the socket; then its own end closes.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Write);
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::try_from(LEAVE_TIMEOUT).unwrap_or(PollTimeout::ZERO));
        // A busy or broken one dies with its keeper (PR_SET_PDEATHSIG), and its pid namespace with it.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
