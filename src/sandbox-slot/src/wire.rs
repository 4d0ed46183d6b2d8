//! What supervisor and slot say to each other: one packet per message, lengths in front, little endian.
//!
//! Packets travel over a `SOCK_SEQPACKET` pair together with descriptors. A body larger than [`INLINE_MAX`] goes in a
//! memfd, which is then the last descriptor. Decoding never panics and never allocates more than the packet holds,
//! because a broken slot must not take the supervisor down.

mod setup;

pub use setup::{Bind, Hello, Isolation, Setup};
use std::fmt;

/// Bodies up to this many bytes travel inside the packet itself.
pub const INLINE_MAX: usize = 60 * 1024;
/// No body is larger than this; it bounds what a confused peer can make the other side allocate.
pub const BODY_MAX: usize = 256 << 20;
/// The most descriptors one packet carries.
pub const FDS_MAX: usize = 8 + 2 * TESTS_MAX;
/// The most tests that one process may be given ([`How::Tests`]).
pub const TESTS_MAX: usize = 32;
/// Version of this protocol: supervisor and slot are built together, so any difference is an error.
pub const VERSION: u32 = 2;

/// A message that does not follow this module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Offset in the body where decoding stopped.
    pub at: usize,
    /// What was expected there.
    pub want: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed message at byte {}: expected {}", self.at, self.want)
    }
}

impl std::error::Error for Malformed {}

/// Writes fields one after the other.
#[derive(Default)]
pub struct Encoder(pub Vec<u8>);

impl Encoder {
    /// One byte.
    pub fn u8(&mut self, v: u8) {
        self.0.push(v);
    }
    /// Four bytes, little endian.
    pub fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    /// Eight bytes, little endian.
    pub fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    /// Length and bytes.
    pub fn bytes(&mut self, v: &[u8]) {
        self.u64(v.len() as u64);
        self.0.extend_from_slice(v);
    }
    /// Number of items, then each.
    pub fn list<T>(&mut self, items: &[T], mut one: impl FnMut(&mut Self, &T)) {
        self.u64(items.len() as u64);
        for item in items {
            one(self, item);
        }
    }
}

/// Reads fields one after the other.
pub struct Decoder<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    /// Starts at the first byte of `data`.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    fn take(&mut self, n: usize, want: &'static str) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(n).filter(|e| *e <= self.data.len());
        let end = end.ok_or(Malformed { at: self.at, want })?;
        let part = &self.data[self.at..end];
        self.at = end;
        Ok(part)
    }

    /// One byte.
    ///
    /// # Errors
    /// The body ends before it.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1, "a byte")?[0])
    }

    /// A byte that is 0 or 1.
    ///
    /// # Errors
    /// The body ends, or the byte is another one.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed { at: self.at - 1, want: "0 or 1" }),
        }
    }

    /// Four bytes.
    ///
    /// # Errors
    /// The body ends before it.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        let b = self.take(4, "a 32-bit number")?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// The body ends before it.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        let b = self.take(8, "a 64-bit number")?;
        Ok(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
    }

    /// Length and bytes.
    ///
    /// # Errors
    /// The body ends before it.
    pub fn bytes(&mut self) -> Result<Vec<u8>, Malformed> {
        let n = usize::try_from(self.u64()?).map_err(|_| Malformed { at: self.at, want: "a length" })?;
        Ok(self.take(n, "as many bytes as announced")?.to_vec())
    }

    /// UTF-8 text.
    ///
    /// # Errors
    /// The body ends, or the bytes are no UTF-8.
    pub fn text(&mut self) -> Result<String, Malformed> {
        let at = self.at;
        String::from_utf8(self.bytes()?).map_err(|_| Malformed { at, want: "UTF-8 text" })
    }

    /// Number of items, then each.
    ///
    /// # Errors
    /// The body ends, or an item is malformed.
    pub fn list<T>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let n = self.u64()?;
        let mut out = Vec::new();
        for _ in 0..n {
            out.push(one(self)?); // ends at the end of the body, so a huge n cannot allocate
        }
        Ok(out)
    }

    /// Nothing may follow.
    ///
    /// # Errors
    /// Something does.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.at == self.data.len() {
            Ok(())
        } else {
            Err(Malformed { at: self.at, want: "the end of the message" })
        }
    }
}

/// A file that process 1 puts in place before a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedFile {
    /// Path below the target directory: relative, no `..`.
    pub path: String,
    /// Whether it gets mode 0755 (else 0644).
    pub executable: bool,
    /// Its content.
    pub data: Vec<u8>,
}

impl PlacedFile {
    fn encode(&self, e: &mut Encoder) {
        e.bytes(self.path.as_bytes());
        e.u8(u8::from(self.executable));
        e.bytes(&self.data);
    }
    fn decode(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Ok(Self { path: d.text()?, executable: d.bool()?, data: d.bytes()? })
    }
}

/// What one run may use. Zero never means "no limit".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunLimits {
    /// Wall-clock time, microseconds.
    pub wall_us: u64,
    /// CPU time of all processes together, microseconds.
    pub cpu_us: u64,
    /// Memory of all processes together, bytes.
    pub memory: u64,
    /// Address space of one process, bytes; larger than `memory` for runtimes that reserve much and touch little.
    pub address_space: u64,
    /// Bytes on stdout, and as many on stderr.
    pub output: u64,
    /// Largest file in scratch, bytes.
    pub file: u64,
    /// Processes and threads, the main one included.
    pub processes: u64,
    /// Stack of the main thread, bytes.
    pub stack: u64,
}

impl RunLimits {
    fn fields(&self) -> [u64; 8] {
        let l = self;
        [l.wall_us, l.cpu_us, l.memory, l.address_space, l.output, l.file, l.processes, l.stack]
    }
}

/// How the child of a run starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// exec of a program.
    Exec {
        /// Program and arguments; the program is an absolute path inside.
        argv: Vec<Vec<u8>>,
        /// The whole environment.
        env: Vec<Vec<u8>>,
    },
    /// A fork of the warm interpreter.
    Python {
        /// What the child does with the files in `/prog`; see `zygote.py`.
        kind: u32,
    },
    /// A fork of the warm interpreter that runs the program once for each test. Descriptors behind the first three: the
    /// stdout of each test, the stdin of each test, and one for [`Told`] of each test.
    Tests {
        /// How many: 1 to [`TESTS_MAX`].
        count: u8,
    },
}

impl How {
    /// Tests that one process is given.
    #[must_use]
    pub fn tests(&self) -> usize {
        if let Self::Tests { count } = self { usize::from(*count) } else { 0 }
    }

    /// Descriptors of the run behind the first three, the channel aside.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        match self.tests() {
            0 => 0,
            n => 2 * n + 1,
        }
    }
}

/// What the process of [`How::Tests`] says of a test that it has run. It is only believed where the output is right too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// It ended as a program does: by its end or by `exit(0)`, without threads, handlers or files left behind.
    pub plain: bool,
    /// Wall-clock time, microseconds.
    pub wall_us: u32,
    /// CPU time, microseconds.
    pub cpu_us: u32,
}

impl Told {
    /// Bytes of one.
    pub const SIZE: usize = 12;

    /// As it is written.
    #[must_use]
    pub fn encode(self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[0] = u8::from(self.plain);
        out[4..8].copy_from_slice(&self.wall_us.to_le_bytes());
        out[8..].copy_from_slice(&self.cpu_us.to_le_bytes());
        out
    }

    /// As it is read.
    #[must_use]
    pub fn decode(b: &[u8; Self::SIZE]) -> Self {
        let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        Self { plain: b[0] == 1, wall_us: word(4), cpu_us: word(8) }
    }
}

/// Instead of a [`Run`]: end the one that is going on. Between runs it means nothing.
pub const STOP: &[u8] = &[0xff];

/// One run. Descriptors with it: stdin, stdout, stderr, the channel if there is one, a memfd for a large report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// How to start it.
    pub how: How,
    /// Limits.
    pub limits: RunLimits,
    /// The program gets the fourth descriptor as its own number 3.
    pub channel: bool,
    /// It is a compiler: outside of namespaces only these may start processes of their own.
    pub spawns: bool,
    /// Names the content of `/prog`; 0 = empty. When it is not what is there, `program_files` replace it.
    pub program: u64,
    /// The program's own files, read-only for it, in `/prog`.
    pub program_files: Vec<PlacedFile>,
    /// Files in the working directory `/work`.
    pub work_files: Vec<PlacedFile>,
    /// Files of `/work` that are wanted back: plain files only, links are never followed.
    pub fetch: Vec<String>,
    /// The most bytes that all fetched files may have together.
    pub fetch_max: u64,
}

impl Run {
    /// As a packet body; without the program's files when the slot has them already.
    #[must_use]
    pub fn encode(&self, with_program: bool) -> Vec<u8> {
        let mut e = Encoder::default();
        match &self.how {
            How::Exec { argv, env } => {
                e.u8(0);
                e.list(argv, |e, a| e.bytes(a));
                e.list(env, |e, a| e.bytes(a));
            }
            How::Python { kind } => {
                e.u8(1);
                e.u32(*kind);
            }
            How::Tests { count } => {
                e.u8(2);
                e.u8(*count);
            }
        }
        for v in self.limits.fields() {
            e.u64(v);
        }
        e.u8(u8::from(self.channel));
        e.u8(u8::from(self.spawns));
        e.u64(self.program);
        let program_files = if with_program { self.program_files.as_slice() } else { &[] };
        e.list(program_files, |e, f| f.encode(e));
        e.list(&self.work_files, |e, f| f.encode(e));
        e.list(&self.fetch, |e, f| e.bytes(f.as_bytes()));
        e.u64(self.fetch_max);
        e.0
    }

    /// From a packet body.
    ///
    /// # Errors
    /// The body is malformed.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut d = Decoder::new(body);
        let how = match d.u8()? {
            0 => How::Exec { argv: d.list(Decoder::bytes)?, env: d.list(Decoder::bytes)? },
            1 => How::Python { kind: d.u32()? },
            2 => match d.u8()? {
                count if (1..=TESTS_MAX).contains(&usize::from(count)) => How::Tests { count },
                _ => return Err(Malformed { at: 1, want: "a number of tests" }),
            },
            _ => return Err(Malformed { at: 0, want: "a way to start" }),
        };
        let mut l = [0_u64; 8];
        for v in &mut l {
            *v = d.u64()?;
        }
        let limits = RunLimits {
            wall_us: l[0],
            cpu_us: l[1],
            memory: l[2],
            address_space: l[3],
            output: l[4],
            file: l[5],
            processes: l[6],
            stack: l[7],
        };
        let out = Self {
            how,
            limits,
            channel: d.bool()?,
            spawns: d.bool()?,
            program: d.u64()?,
            program_files: d.list(PlacedFile::decode)?,
            work_files: d.list(PlacedFile::decode)?,
            fetch: d.list(Decoder::text)?,
            fetch_max: d.u64()?,
        };
        d.end()?;
        Ok(out)
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The main process left with this status.
    Exited(u8),
    /// The main process died of this signal, by its own doing.
    Signaled(u8),
    /// Killed at the wall-clock limit.
    Wall,
    /// Killed at the CPU limit.
    Cpu,
    /// Killed at the memory limit.
    Memory,
    /// Killed at the output limit.
    Output,
    /// Killed because it had more processes than allowed (only where the kernel cannot count them itself).
    Processes,
    /// The slot could not start it. This is the sandbox's failure, not the program's.
    Failed(String),
}

/// A file that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// Its content.
    Data(Vec<u8>),
    /// It is not there, not a plain file, or too large: which, for people.
    Refused(String),
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How it ended.
    pub end: End,
    /// Wall-clock time, microseconds.
    pub wall_us: u64,
    /// CPU time of all processes, microseconds.
    pub cpu_us: u64,
    /// Peak memory, KiB: of the largest process, or of all together where that was seen to be more.
    pub peak_kb: u64,
    /// Processes that were still alive when the main one had ended.
    pub leftovers: u32,
    /// Something could not be cleaned: the supervisor must replace this slot.
    pub retire: bool,
    /// What was asked for in [`Run::fetch`], same order.
    pub fetched: Vec<Fetched>,
}

impl Report {
    /// As a packet body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::default();
        let (tag, n, text) = match &self.end {
            End::Exited(n) => (0, *n, ""),
            End::Signaled(n) => (1, *n, ""),
            End::Wall => (2, 0, ""),
            End::Cpu => (3, 0, ""),
            End::Memory => (4, 0, ""),
            End::Output => (5, 0, ""),
            End::Processes => (6, 0, ""),
            End::Failed(t) => (7, 0, t.as_str()),
        };
        e.u8(tag);
        e.u8(n);
        e.bytes(text.as_bytes());
        e.u64(self.wall_us);
        e.u64(self.cpu_us);
        e.u64(self.peak_kb);
        e.u32(self.leftovers);
        e.u8(u8::from(self.retire));
        e.list(&self.fetched, |e, f| match f {
            Fetched::Data(d) => {
                e.u8(0);
                e.bytes(d);
            }
            Fetched::Refused(t) => {
                e.u8(1);
                e.bytes(t.as_bytes());
            }
        });
        e.0
    }

    /// From a packet body.
    ///
    /// # Errors
    /// The body is malformed.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut d = Decoder::new(body);
        let (tag, n, text) = (d.u8()?, d.u8()?, d.text()?);
        let plain = n == 0 && text.is_empty();
        let end = match tag {
            0 if text.is_empty() => End::Exited(n),
            1 if text.is_empty() => End::Signaled(n),
            2 if plain => End::Wall,
            3 if plain => End::Cpu,
            4 if plain => End::Memory,
            5 if plain => End::Output,
            6 if plain => End::Processes,
            7 if n == 0 => End::Failed(text),
            _ => return Err(Malformed { at: 0, want: "an end" }),
        };
        let out = Self {
            end,
            wall_us: d.u64()?,
            cpu_us: d.u64()?,
            peak_kb: d.u64()?,
            leftovers: d.u32()?,
            retire: d.bool()?,
            fetched: d.list(|d| {
                Ok(match d.u8()? {
                    0 => Fetched::Data(d.bytes()?),
                    1 => Fetched::Refused(d.text()?),
                    _ => return Err(Malformed { at: 0, want: "a fetched file" }),
                })
            })?,
        };
        d.end()?;
        Ok(out)
    }
}
