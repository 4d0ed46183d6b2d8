//! What a slot is to be, and what it says of itself when it stands.

use super::{Decoder, Encoder, Malformed, VERSION};

/// A host directory or file that is visible, read-only, in the slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Absolute host path.
    pub source: String,
    /// Absolute path inside.
    pub target: String,
}

/// What stands between a program and the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// Namespaces with a root of their own (tiers A, B and B-).
    #[default]
    Namespaces,
    /// A directory of the host, Landlock rules and a filter for each program (tier C).
    Landlock,
    /// A filter alone, under which a program opens no file at all (tier D).
    Filter,
}

impl Isolation {
    const ALL: [Self; 3] = [Self::Namespaces, Self::Landlock, Self::Filter];

    fn encode(self, e: &mut Encoder) {
        e.u8(Self::ALL.iter().position(|i| *i == self).and_then(|i| u8::try_from(i).ok()).unwrap_or(0));
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let at = d.at;
        Self::ALL.get(usize::from(d.u8()?)).copied().ok_or(Malformed { at, want: "a kind of isolation" })
    }
}

/// What the slot is, sent once by the supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Process id of the supervisor: the keeper ends the slot when that process ends.
    pub supervisor: u32,
    /// When the supervisor is uid 0: the host uid and gid that programs get. 0 means "keep my own".
    pub run_as: u32,
    /// Size of all scratch directories together, bytes.
    pub scratch_bytes: u64,
    /// Number of files in all scratch directories together.
    pub scratch_files: u64,
    /// What the slot is built of.
    pub isolation: Isolation,
    /// Outside of namespaces: the host directory in which the slot makes its own.
    pub directory: String,
    /// What of the host is visible. Outside of namespaces programs see the sources where they are.
    pub binds: Vec<Bind>,
    /// Symbolic links made in the root: (path inside, what it points to).
    pub links: Vec<(String, String)>,
    /// Small files made in the root, read-only: (path inside, content).
    pub files: Vec<(String, Vec<u8>)>,
    /// Ask for an own network namespace. Refusal by the kernel is not an error here: it is told in [`Hello`].
    pub want_net_namespace: bool,
    /// argv of an interpreter to exec as process 1 (the Python lane); empty for the exec lane.
    pub zygote_argv: Vec<Vec<u8>>,
    /// Its environment.
    pub zygote_env: Vec<Vec<u8>>,
}

impl Setup {
    /// As a packet body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::default();
        e.u32(VERSION);
        e.u32(self.supervisor);
        e.u32(self.run_as);
        e.u64(self.scratch_bytes);
        e.u64(self.scratch_files);
        self.isolation.encode(&mut e);
        e.bytes(self.directory.as_bytes());
        e.list(&self.binds, |e, b| {
            e.bytes(b.source.as_bytes());
            e.bytes(b.target.as_bytes());
        });
        e.list(&self.links, |e, (a, b)| {
            e.bytes(a.as_bytes());
            e.bytes(b.as_bytes());
        });
        e.list(&self.files, |e, (p, data)| {
            e.bytes(p.as_bytes());
            e.bytes(data);
        });
        e.u8(u8::from(self.want_net_namespace));
        e.list(&self.zygote_argv, |e, a| e.bytes(a));
        e.list(&self.zygote_env, |e, a| e.bytes(a));
        e.0
    }

    /// From a packet body.
    ///
    /// # Errors
    /// The body is not one of this version.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut d = Decoder::new(body);
        if d.u32()? != VERSION {
            return Err(Malformed { at: 0, want: "this protocol's version" });
        }
        let out = Self {
            supervisor: d.u32()?,
            run_as: d.u32()?,
            scratch_bytes: d.u64()?,
            scratch_files: d.u64()?,
            isolation: Isolation::decode(&mut d)?,
            directory: d.text()?,
            binds: d.list(|d| Ok(Bind { source: d.text()?, target: d.text()? }))?,
            links: d.list(|d| Ok((d.text()?, d.text()?)))?,
            files: d.list(|d| Ok((d.text()?, d.bytes()?)))?,
            want_net_namespace: d.bool()?,
            zygote_argv: d.list(Decoder::bytes)?,
            zygote_env: d.list(Decoder::bytes)?,
        };
        d.end()?;
        Ok(out)
    }
}

/// The slot's first word: it stands, or why it does not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// Empty when the slot stands; else what failed. Text is for people.
    pub error: String,
    /// It has its own network namespace.
    pub net_namespace: bool,
    /// A `/proc` of its own pid namespace is mounted.
    pub proc_mounted: bool,
    /// Process 1 can read every process' statistics (memory and CPU of a whole run can be summed).
    pub can_observe: bool,
    /// `RLIMIT_NPROC` counts only this slot's processes.
    pub processes_scoped: bool,
    /// Landlock ABI in force, 0 for none.
    pub landlock: u32,
    /// Version of the warm interpreter, empty in the exec lane.
    pub interpreter: String,
    /// What it is built of.
    pub isolation: Isolation,
    /// Outside of namespaces: the host directory that stands for the root; what is `/work` elsewhere is `work` in it.
    pub root: String,
}

impl Hello {
    /// As a packet body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::default();
        e.u32(VERSION);
        e.bytes(self.error.as_bytes());
        e.u8(u8::from(self.net_namespace));
        e.u8(u8::from(self.proc_mounted));
        e.u8(u8::from(self.can_observe));
        e.u8(u8::from(self.processes_scoped));
        e.u32(self.landlock);
        e.bytes(self.interpreter.as_bytes());
        self.isolation.encode(&mut e);
        e.bytes(self.root.as_bytes());
        e.0
    }

    /// From a packet body.
    ///
    /// # Errors
    /// The body is not one of this version.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut d = Decoder::new(body);
        if d.u32()? != VERSION {
            return Err(Malformed { at: 0, want: "this protocol's version" });
        }
        let out = Self {
            error: d.text()?,
            net_namespace: d.bool()?,
            proc_mounted: d.bool()?,
            can_observe: d.bool()?,
            processes_scoped: d.bool()?,
            landlock: d.u32()?,
            interpreter: d.text()?,
            isolation: Isolation::decode(&mut d)?,
            root: d.text()?,
        };
        d.end()?;
        Ok(out)
    }
}
