//! The supervisor's end of one slot.

use crate::affinity;
use crate::cgroup::{Group, Groups};
use crate::config::SandboxError;
use crate::helper;
use crate::outside;
use crate::pool::{Cancel, isolates_alike};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::MFdFlags;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, setsockopt, shutdown, socketpair};
use nix::sys::time::{TimeVal, TimeValLike};
use slot::net;
use slot::wire::{End, Hello, Isolation, Report, Run, STOP, Setup};
use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A slot that does not stand after this long never will.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long after a run's wall limit the slot may take to report: killing, reaping, cleaning on a loaded machine.
const REPORT_GRACE: Duration = Duration::from_secs(10);
/// How long an idle slot may take to leave when asked to.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

/// A program dies of this when it wants what a slot without namespaces cannot give.
const SIGSYS: u8 = 31;
const BEYOND: &str = "the program started a process, or opened or imported what it cannot have in this tier, so nobody can \
                      say what it would have done; with user namespaces (tier B- and above) it can be run";
const STARVED: &str = "the kernel killed a process of the run for want of memory, though the run was below its own limit: this \
                       machine, or the control group of the batch job, is full; use fewer slots, or ask for more memory";

/// How often a wait looks whether the batch has been cancelled.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(LOOK_EVERY_MS.cast_unsigned());
const LOOK_EVERY_MS: i64 = 100;

/// What of the machine a slot, and each that replaces it, is given.
#[derive(Clone, Default)]
pub(crate) struct Share {
    /// The CPU that it keeps to.
    pub cpu: Option<usize>,
    /// The one that a slot for its tests keeps to: theirs get ready while its program loads.
    pub beside: Option<usize>,
    /// Where its control group is made; `None`: it gets none.
    pub groups: Option<Arc<Groups>>,
}

impl Share {
    /// That of the slot for its tests.
    pub fn of_tests(&self) -> Self {
        Self { cpu: self.beside, ..self.clone() }
    }
}

/// A running slot. Dropping it ends every process in it.
pub(crate) struct SlotHandle {
    keeper: Child,
    group: Option<Group>,
    socket: OwnedFd,
    buf: Vec<u8>,
    /// What the slot said of itself.
    pub hello: Hello,
    setup: Arc<Setup>,
    /// Runs so far.
    runs: u64,
    /// Runs after which it is replaced.
    runs_max: u64,
    /// It must be replaced before the next run.
    retired: bool,
    /// What lies in its `/prog`.
    program: u64,
    share: Share,
    /// stdout and stderr of the next run, made while the last one ran; and those of the last one, to be closed during the
    /// next: both take a good part of what a run costs us.
    fresh: Option<(File, File)>,
    used: Vec<File>,
    /// Of the batch that it works for: a run that goes on when it is set is stopped.
    pub cancel: Cancel,
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
    pub fn start(setup: &Arc<Setup>, runs_max: u64, share: &Share) -> Result<Self, SandboxError> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|e| SandboxError::Helper(e.into()))?;
        let beat = TimeVal::milliseconds(LOOK_EVERY_MS);
        setsockopt(&ours, ReceiveTimeout, &beat).map_err(|e| SandboxError::Helper(e.into()))?;
        let keeper = Command::new(helper::path()?)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(SandboxError::Helper)?;
        // Both before it is told to build anything: what it starts inherits them.
        if let Some(cpu) = share.cpu {
            affinity::pin(keeper.id(), cpu);
        }
        let mut slot = Self {
            keeper,
            group: None,
            socket: ours,
            buf: Vec::new(),
            hello: Hello::default(),
            setup: setup.clone(),
            runs: 0,
            runs_max,
            retired: false,
            program: 0,
            share: share.clone(),
            fresh: None,
            used: Vec::new(),
            cancel: Cancel::default(),
        };
        let fail = |e: io::Error| SandboxError::Slot(e.to_string());
        if let Some(groups) = &share.groups {
            let group = groups.make().map_err(fail)?;
            group.add(slot.keeper.id()).map_err(fail)?;
            slot.group = Some(group);
        }
        net::send(slot.socket.as_raw_fd(), &setup.encode(), &[]).map_err(fail)?;
        let (body, _) = slot.receive(START_TIMEOUT, None).map_err(fail)?;
        slot.hello = Hello::decode(&body).map_err(|e| SandboxError::Slot(e.to_string()))?;
        if !slot.hello.error.is_empty() {
            return Err(SandboxError::Slot(slot.hello.error.clone()));
        }
        slot.group.as_mut().map_or(Ok(()), Group::settle).map_err(fail)?;
        Ok(slot)
    }

    /// The socket's own time-out, [`LOOK_EVERY`], is the beat in which this looks at the clock.
    fn receive(&mut self, timeout: Duration, spare: Option<&OwnedFd>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut deadline = Instant::now() + timeout;
        let mut told = false;
        loop {
            match net::receive_answer(self.socket.as_raw_fd(), &mut self.buf, spare) {
                Ok(Some(packet)) => return Ok(packet),
                Ok(None) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the slot died")),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
            if Instant::now() >= deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the slot did not answer in time"));
            }
            if self.cancel.is_cancelled() && !told {
                told = true;
                self.stop()?;
                deadline = Instant::now() + REPORT_GRACE;
            }
        }
    }

    /// One run. After an error the slot replaces itself before the next.
    pub fn run(&mut self, run: &Run, stdin: &[u8]) -> io::Result<Outcome> {
        let running = self.begin(run, stdin, None)?;
        self.finish(running)
    }

    /// Starts a run, with a channel for the program if one is given. [`SlotHandle::finish`] must follow.
    pub fn begin(&mut self, run: &Run, stdin: &[u8], channel: Option<OwnedFd>) -> io::Result<Running> {
        self.begin_with(run, stdin, channel.as_slice())
    }

    /// As [`SlotHandle::begin`], with the descriptors that the run has behind the first three.
    pub fn begin_with(&mut self, run: &Run, stdin: &[u8], more: &[OwnedFd]) -> io::Result<Running> {
        if self.retired || self.runs >= self.runs_max {
            let (promised, cancel) = (self.hello.clone(), self.cancel.clone());
            *self = Self::start(&self.setup, self.runs_max, &self.share.clone()).map_err(io::Error::other)?;
            self.cancel = cancel;
            if !isolates_alike(&self.hello, &promised) {
                self.retired = true;
                return Err(io::Error::other("a new slot does not isolate as the one before it did"));
            }
        }
        self.runs += 1;
        self.retired = true; // until its report says that all is well
        if let Some(group) = &mut self.group {
            group.begin(run.limits.memory, run.limits.processes)?;
        }
        let stdin = net::memfd(c"stdin", stdin, MFdFlags::MFD_ALLOW_SEALING)?;
        // SAFETY: fcntl with plain numbers on a descriptor that we own.
        unsafe { libc::fcntl(stdin.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) };
        let (stdout, stderr) = self.fresh.take().map_or_else(outputs, Ok)?;
        // A large report, one with fetched files, needs a place that process 1 cannot make for itself.
        let spare =
            if run.fetch.is_empty() { None } else { Some(net::memfd(c"report", b"", MFdFlags::empty())?) };
        let mut fds = vec![stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()];
        fds.extend(more.iter().map(AsRawFd::as_raw_fd));
        fds.extend(spare.as_ref().map(AsRawFd::as_raw_fd));
        let rooted = match outside::rooted(&run.how, &self.hello.root) {
            Cow::Borrowed(_) => Cow::Borrowed(run),
            Cow::Owned(how) => Cow::Owned(Run { how, ..run.clone() }),
        };
        net::send(self.socket.as_raw_fd(), &rooted.encode(self.program != run.program), &fds)?;
        self.program = run.program;
        // While the program runs.
        self.used.clear();
        self.fresh = outputs().ok();
        let wall = Duration::from_micros(run.limits.wall_us);
        let since = Instant::now();
        Ok(Running {
            stdout,
            stderr,
            spare,
            output: run.limits.output,
            memory: run.limits.memory,
            wall,
            since,
        })
    }

    /// Asks for the end of the run that is going on; its report still follows.
    pub fn stop(&self) -> io::Result<()> {
        net::send(self.socket.as_raw_fd(), STOP, &[])
    }

    /// Waits for the end of a run that has been told to leave; stops it when it does not.
    pub fn finish_soon(&mut self, mut running: Running) -> io::Result<Outcome> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let wait = PollTimeout::try_from(LEAVE_TIMEOUT).unwrap_or(PollTimeout::ZERO);
        if matches!(poll(&mut fds, wait), Ok(0)) {
            self.stop()?;
        }
        running.wall = Duration::ZERO;
        self.finish(running)
    }

    /// Waits for a run's end.
    pub fn finish(&mut self, running: Running) -> io::Result<Outcome> {
        let report = match self.receive(running.wall + REPORT_GRACE, running.spare.as_ref()) {
            Ok((body, _)) => Report::decode(&body).map_err(io::Error::other)?,
            Err(e) => self.killed_for_memory(&running).ok_or(e)?,
        };
        self.retired = report.retire;
        let mut report = self.counted(report)?;
        if self.hello.isolation != Isolation::Namespaces && report.end == End::Signaled(SIGSYS) {
            report.end = End::Failed(BEYOND.into());
        }
        let (stdout, cut_out) = read_bounded(&running.stdout, running.output)?;
        let (stderr, cut_err) = read_bounded(&running.stderr, running.output)?;
        self.used.extend([running.stdout, running.stderr]);
        Ok(Outcome { report, stdout, stderr, truncated: cut_out || cut_err })
    }
}

impl SlotHandle {
    /// The report of a run during which the slot died, when it died because the run filled its memory: where a program is
    /// many small processes, the kernel may find none larger than process 1 itself.
    fn killed_for_memory(&mut self, running: &Running) -> Option<Report> {
        let used = self.group.as_mut()?.end(false).ok()?;
        used.out_of_memory.then(|| Report {
            end: End::Memory,
            wall_us: u64::try_from(running.since.elapsed().as_micros()).unwrap_or(u64::MAX),
            cpu_us: 0,
            peak_kb: used.peak_kb.unwrap_or(running.memory / 1024),
            leftovers: 0,
            retire: true,
            fetched: Vec::new(),
        })
    }

    /// The report with what the kernel counted, where it counts.
    fn counted(&mut self, mut report: Report) -> io::Result<Report> {
        let Some(group) = self.group.as_mut().filter(|_| !report.retire) else { return Ok(report) };
        let used = group.end(matches!(report.end, End::Exited(_)))?;
        report.peak_kb = used.peak_kb.unwrap_or(report.peak_kb);
        match report.end {
            End::Failed(_) => {}
            _ if used.out_of_memory => report.end = End::Memory,
            // What a machine cannot give says nothing about a program.
            _ if used.starved => report.end = End::Failed(STARVED.into()),
            _ => {}
        }
        Ok(report)
    }
}

impl SlotHandle {
    /// Waits this long for a run's report to come; false when it has not.
    pub fn ends_within(&self, wait: Duration) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        !matches!(poll(&mut fds, PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)), Ok(0))
    }
}

/// A run that has begun.
pub(crate) struct Running {
    stdout: File,
    stderr: File,
    spare: Option<OwnedFd>,
    output: u64,
    memory: u64,
    wall: Duration,
    since: Instant,
}

/// Files for stdout and stderr. New ones for each run: flags and offsets that a program sets would stay on a used one.
fn outputs() -> io::Result<(File, File)> {
    let new = |name| net::memfd(name, b"", MFdFlags::empty()).map(File::from);
    Ok((new(c"stdout")?, new(c"stderr")?))
}

/// The first `max` bytes, and whether there are more. Every process that could write is dead by now.
pub(crate) fn read_bounded(file: &File, max: u64) -> io::Result<(Vec<u8>, bool)> {
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
