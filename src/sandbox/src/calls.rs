//! A conversation with a Python process in a slot: frames of values over a socket that only that process holds.

use crate::job::{Job, Limits, Profile};
use crate::judge::{FETCH_MAX, exec, next_program, run_limits};
use crate::lang::{Language, Toolchain};
use crate::slot_handle::{LOOK_EVERY, Outcome, Running, SlotHandle};
use crate::value::{NotAValue, Value};
use slot::soon;
use slot::wire::{How, PlacedFile, Run, RunLimits};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The Python side.
pub(crate) const CHILD: &str = include_str!("child.py");
/// A frame larger than this is refused: long lists and tuples cross in parts, and nothing else in a test is so large.
pub(crate) const FRAME_MAX: usize = 16 << 20;
/// What a process may take to start and load the program, beside the time that its tests have.
const LOAD_S: f64 = 5.0;

/// What a process in a slot is started for.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    /// To answer calls of the program's functions.
    Calls = 1,
    /// To run test functions.
    Tests = 2,
    /// To run one test script.
    Script = 3,
    /// To run test functions by the real pytest (4 is [`KIND_PARSE`]).
    Pytest = 5,
}

/// The other kinds of forks of a warm interpreter (`zygote.py`).
pub(crate) const KIND_MAIN: u32 = 0;
/// Only compiles what comes on stdin.
pub(crate) const KIND_PARSE: u32 = 4;

/// What a process gets to do.
pub(crate) struct Brief<'a> {
    pub part: Part,
    /// The program, or the tests.
    pub source: &'a [u8],
    /// How many tests its own limits are meant for.
    pub tests: usize,
}

/// A process in a slot that talks to us.
pub(crate) struct Session<'a> {
    slot: &'a mut SlotHandle,
    running: Option<Running>,
    stream: UnixStream,
    /// What has been read and not been asked for yet.
    heard: Vec<u8>,
    readings: u64,
    read_timeout: Duration,
    write_timeout: Duration,
}

/// What came over the channel: a [`Value`], or the bytes of a part of one.
pub(crate) enum Heard<T = Value> {
    /// A frame.
    Value(T),
    /// Nothing in time.
    Late,
    /// It announced a frame larger than [`FRAME_MAX`]; nothing more can be heard from it.
    TooLarge,
    /// The process closed its end, or sent something that is no frame of values.
    Gone,
}

impl<T> Heard<T> {
    /// The same of nothing.
    pub fn drop_value(self) -> Heard<()> {
        match self {
            Self::Value(_) => Heard::Value(()),
            Self::Late => Heard::Late,
            Self::TooLarge => Heard::TooLarge,
            Self::Gone => Heard::Gone,
        }
    }
}

/// The bytes of a value as a frame.
pub(crate) fn frame(body: &[u8]) -> Vec<u8> {
    // Beyond 4 GiB the length is wrong, and whoever reads it gives up; no memory limit leaves room for such a value.
    let n = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&n.to_le_bytes(), body].concat()
}

impl<'a> Session<'a> {
    /// Starts a process.
    pub fn open(
        slot: &'a mut SlotHandle,
        job: &Job,
        language: &Language,
        toolchain: &Toolchain,
        brief: &Brief<'_>,
    ) -> io::Result<Self> {
        let Brief { part, source, tests } = *brief;
        let (ours, theirs) = UnixStream::pair()?;
        let kind = match part {
            Part::Calls => "calls",
            Part::Tests => "tests",
            Part::Script => "script",
            Part::Pytest => "pytest",
        };
        let boot = format!(
            "import sys\nsys.argv = ['/prog/main.py']\nspace = {{'__name__': 'bessemer_child'}}\n\
             exec(compile(open('/prog/.child.py').read(), 'child.py', 'exec'), space)\n\
             read = lambda path: open(path, 'rb').read()\n\
             space['start']({kind:?}, read('/prog/main.py'))\n"
        );
        let mut argv = toolchain.run.clone();
        argv.pop(); // the program's path
        argv.extend(["-c".to_owned(), boot]);
        let file = |path: &str, data: &[u8]| PlacedFile {
            path: path.into(),
            executable: false,
            data: data.to_vec(),
        };
        // The process lives through many tests, so its own limits are the sum; each test is timed from here.
        #[allow(clippy::cast_precision_loss, reason = "a number of tests")]
        let times = tests.max(1) as f64;
        let limits = Limits {
            wall_s: job.limits.wall_s * times + LOAD_S,
            cpu_s: job.limits.cpu_s * times + LOAD_S,
            ..job.limits
        };
        let warm = !slot.hello.interpreter.is_empty();
        let how = if warm { How::Python { kind: part as u32 } } else { exec(&argv, toolchain, &[]) };
        let mut program_files = vec![file(language.source, source)];
        if !warm {
            program_files.push(file(".child.py", CHILD.as_bytes()));
        }
        let run = Run {
            how,
            limits: RunLimits { ..run_limits(&limits, language, Profile::Multi) },
            channel: true,
            spawns: false,
            program: next_program(),
            program_files,
            work_files: crate::judge::work_files(job),
            fetch: Vec::new(),
            fetch_max: FETCH_MAX,
        };
        let running = slot.begin(&run, b"", Some(theirs.into()))?;
        Ok(Self {
            slot,
            running: Some(running),
            stream: ours,
            heard: Vec::new(),
            readings: 0,
            read_timeout: Duration::ZERO,
            write_timeout: Duration::ZERO,
        })
    }

    /// Time that a process has for starting and loading.
    pub fn load_time(limits: &Limits) -> Duration {
        Duration::from_secs_f64((limits.wall_s + LOAD_S).clamp(0.0, 1e6))
    }

    /// Sends a frame. False: the process does not read any more.
    pub fn say(&mut self, value: &Value, wait: Duration) -> bool {
        self.say_frames(&frame(&value.encode()), wait)
    }

    /// Sends what [`frame`] has made.
    pub fn say_frames(&mut self, frames: &[u8], wait: Duration) -> bool {
        self.write_within(wait) && self.stream.write_all(frames).is_ok()
    }

    /// Sets a time-out of the socket, unless it is what it was: a system call for each frame saved.
    fn write_within(&mut self, wait: Duration) -> bool {
        let wait = wait.max(Duration::from_millis(1));
        if self.write_timeout != wait {
            if self.stream.set_write_timeout(Some(wait)).is_err() {
                return false;
            }
            self.write_timeout = wait;
        }
        true
    }

    /// Whether there is something to read that nobody asked for.
    pub fn has_more(&self) -> bool {
        if !self.heard.is_empty() {
            return true;
        }
        let mut byte = [0_u8; 1];
        // SAFETY: peeks one byte into a buffer of one byte.
        let n = unsafe {
            libc::recv(
                self.stream.as_raw_fd(),
                byte.as_mut_ptr().cast(),
                1,
                libc::MSG_PEEK | libc::MSG_DONTWAIT,
            )
        };
        n > 0
    }

    /// The next frame, which comes after a while.
    pub fn hear(&mut self, wait: Duration) -> Heard {
        self.hear_by(wait, false)
    }

    /// The next frame, which may be there within microseconds: an answer to what was just said.
    pub fn hear_soon(&mut self, wait: Duration) -> Heard {
        self.hear_by(wait, true)
    }

    fn hear_by(&mut self, wait: Duration, quick: bool) -> Heard {
        self.hear_frame(wait, quick, Value::decode)
    }

    /// The next frame, which is a part of a large value, as `read` makes something of it.
    pub fn hear_part<T>(&mut self, wait: Duration, read: impl Fn(&[u8]) -> Result<T, NotAValue>) -> Heard<T> {
        self.hear_frame(wait, true, read)
    }

    /// How often something has been read: frames between two readings came together.
    pub fn readings(&self) -> u64 {
        self.readings
    }

    fn hear_frame<T>(
        &mut self,
        wait: Duration,
        quick: bool,
        read: impl Fn(&[u8]) -> Result<T, NotAValue>,
    ) -> Heard<T> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some((head, rest)) = self.heard.split_first_chunk::<4>() {
                let n = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
                if n > FRAME_MAX {
                    return Heard::TooLarge;
                }
                if let Some(body) = rest.get(..n) {
                    let value = read(body);
                    self.heard.drain(..4 + n);
                    return match value {
                        Ok(value) => Heard::Value(value),
                        Err(e) if e.is_too_large() => Heard::TooLarge,
                        Err(_) => Heard::Gone,
                    };
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Heard::Late;
            }
            if self.slot.cancel.is_cancelled() {
                return Heard::Late;
            }
            let look = left.min(LOOK_EVERY);
            if self.read_timeout != look {
                if self.stream.set_read_timeout(Some(look)).is_err() {
                    return Heard::Gone;
                }
                self.read_timeout = look;
            }
            let mut part = [0_u8; 16 * 1024];
            let fd = self.stream.as_raw_fd();
            let there = if quick { soon::soon(|| soon::look(fd, &mut part)) } else { None };
            let there = there.and_then(|n| usize::try_from(n).ok());
            match there.map_or_else(|| self.stream.read(&mut part), Ok) {
                Ok(0) => return Heard::Gone,
                Ok(n) => {
                    self.readings += 1;
                    self.heard.extend_from_slice(&part[..n]);
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => return Heard::Gone,
            }
        }
    }

    /// Ends the process, at once when `kill`, else by closing the channel; [`Session::dismissed`] follows.
    pub fn dismiss(&mut self, kill: bool) -> io::Result<()> {
        if kill {
            self.slot.stop()?;
        }
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        Ok(())
    }

    /// Ends the process, as [`Session::dismiss`] does, and waits for its report.
    pub fn close(mut self, kill: bool) -> io::Result<Outcome> {
        self.dismiss(kill)?;
        self.dismissed()
    }

    /// Waits for the report of a process that has been dismissed.
    pub fn dismissed(mut self) -> io::Result<Outcome> {
        let running = self.running.take().expect("this consumes the session, and only it takes this");
        // A program may ignore the closed channel; it gets no time for that.
        self.slot.finish_soon(running)
    }
}
