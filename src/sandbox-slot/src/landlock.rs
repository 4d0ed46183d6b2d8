//! Landlock: a second lock on files, TCP, signals and abstract sockets, which holds when the mounts should not.
//!
//! Process 1 takes it on once and every program inherits it. Rules are about inodes: process 1 itself writes `/prog` through
//! the mount that it kept, so that directory is writable here, and stays read-only to programs by its mount.

use crate::run::Slot;
use crate::{Result, SlotError};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Rights over files, as the kernel numbers them (`linux/landlock.h`).
mod fs {
    pub const EXECUTE: u64 = 1;
    pub const WRITE_FILE: u64 = 1 << 1;
    pub const READ_FILE: u64 = 1 << 2;
    pub const READ_DIR: u64 = 1 << 3;
    pub const MAKE_CHAR: u64 = 1 << 6;
    pub const MAKE_BLOCK: u64 = 1 << 11;
    /// Those of ABI 1: all up to MAKE_SYM.
    pub const FIRST: u64 = (1 << 13) - 1;
    pub const REFER: u64 = 1 << 13;
    pub const TRUNCATE: u64 = 1 << 14;
    pub const IOCTL_DEV: u64 = 1 << 15;
}

#[repr(C)]
struct RulesetAttr {
    handled_fs: u64,
    handled_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: RawFd,
}

/// What a kernel of this ABI can hold back: rights over files, over TCP ports, and scopes; and the size of its attribute.
fn handled(abi: u32) -> (RulesetAttr, usize) {
    let since = |version: u32, bits: u64| if abi >= version { bits } else { 0 };
    let handled_fs = fs::FIRST | since(2, fs::REFER) | since(3, fs::TRUNCATE) | since(5, fs::IOCTL_DEV);
    // Binding and connecting; abstract sockets and signals to the outside.
    let attr = RulesetAttr { handled_fs, handled_net: since(4, 3), scoped: since(6, 3) };
    let size = match abi {
        ..=3 => 8,
        4..=5 => 16,
        _ => 24,
    };
    (attr, size)
}

/// The ABI of this kernel; 0: it has no Landlock, or it is switched off.
#[must_use]
pub fn abi() -> u32 {
    const VERSION: libc::c_long = 1;
    // SAFETY: a null attribute of size 0 with this flag only asks.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0_usize, 0_usize, VERSION) };
    u32::try_from(abi).unwrap_or(0)
}

fn failed(what: &str) -> SlotError {
    SlotError(format!("Landlock: {what}: {}", Errno::last()))
}

fn allow(ruleset: &OwnedFd, dir: RawFd, allowed: u64, what: &str) -> Result<()> {
    let rule = PathBeneath { allowed, parent: dir };
    // SAFETY: the kernel reads one rule of this type from our stack.
    let done =
        unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), 1, &raw const rule, 0) };
    if done == 0 { Ok(()) } else { Err(failed(what)) }
}

/// An empty set of rules for this kernel's ABI.
fn ruleset(abi: u32) -> Result<(OwnedFd, RulesetAttr)> {
    let (attr, size) = handled(abi);
    // SAFETY: the kernel reads `size` bytes, at most those of the struct; a new descriptor is ours.
    let fd = unsafe {
        let fd = libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size, 0);
        let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(|| failed("a ruleset"))?;
        OwnedFd::from_raw_fd(fd)
    };
    Ok((fd, attr))
}

fn opened(path: &str) -> Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| SlotError(format!("Landlock: opening {path}: {e}")))
}

/// Puts a set of rules into force for this process and all that it will start. Allocates nothing.
///
/// # Errors
/// The kernel refused.
pub fn enforce(ruleset: RawFd) -> std::result::Result<(), Errno> {
    // SAFETY: plain numbers.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) };
    if done == 0 { Ok(()) } else { Err(Errno::last()) }
}

/// What may be done with a file that is opened for reading and writing.
fn writing(attr: &RulesetAttr) -> u64 {
    fs::WRITE_FILE | (attr.handled_fs & (fs::TRUNCATE | fs::IOCTL_DEV))
}

/// Restricts this process and all that it will start to what a slot's programs, and its process 1, have to reach. Returns
/// the ABI in force, 0 where there is none. `no_new_privs` must be set.
///
/// # Errors
/// The kernel has Landlock, but refused a step: the slot must not serve then.
pub fn restrict(slot: &Slot) -> Result<u32> {
    let abi = abi();
    if abi == 0 {
        return Ok(0);
    }
    let (ruleset, attr) = ruleset(abi)?;
    let read = fs::READ_FILE | fs::READ_DIR;
    let write = writing(&attr);
    for (path, allowed) in [("/", read | fs::EXECUTE), ("/dev", read | write), ("/proc", read | write)] {
        allow(&ruleset, opened(path)?.as_raw_fd(), allowed, path)?;
    }
    let all = attr.handled_fs & !(fs::MAKE_CHAR | fs::MAKE_BLOCK);
    for dir in slot.writable.iter().chain([&slot.prog]) {
        allow(&ruleset, dir.as_raw_fd(), all, "scratch")?;
    }
    if let Some(proc) = &slot.proc {
        allow(&ruleset, proc.as_raw_fd(), read, "the slot's /proc")?;
    }
    enforce(ruleset.as_raw_fd()).map_err(|e| SlotError(format!("Landlock: restricting process 1: {e}")))?;
    Ok(abi)
}

/// The two sets of rules of a slot without namespaces, where Landlock is the only lock on files: one for process 1, and a
/// narrower one that each program takes on besides.
pub struct Outside {
    /// For process 1: it writes `prog` and reads `/proc`, where it watches its programs.
    pub process_one: OwnedFd,
    /// For programs: what the machine has in `visible`, four devices, scratch.
    pub programs: OwnedFd,
    /// The kernel's ABI.
    pub abi: u32,
}

/// Devices that programs have.
pub const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];

/// Makes both. `visible`: host paths that programs may read and execute. `scratch`: directories that they may write.
///
/// # Errors
/// There is no Landlock, or the kernel refused a step.
pub fn outside(visible: &[&str], scratch: &[OwnedFd], prog: &OwnedFd) -> Result<Outside> {
    let abi = abi();
    if abi == 0 {
        return Err(SlotError(
            "this kernel has no Landlock, or it is switched off (the boot parameter `lsm=`)".into(),
        ));
    }
    let (process_one, attr) = ruleset(abi)?;
    let (programs, _) = ruleset(abi)?;
    let of_file = fs::EXECUTE | fs::READ_FILE;
    let all = attr.handled_fs & !(fs::MAKE_CHAR | fs::MAKE_BLOCK);
    let write = writing(&attr);
    let each = |dir: RawFd, first: u64, second: u64, what: &str| {
        allow(&process_one, dir, first, what)?;
        allow(&programs, dir, second, what)
    };
    for path in visible {
        let at = opened(path)?;
        let is_dir = nix::sys::stat::fstat(&at).is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFDIR);
        let allowed = if is_dir { of_file | fs::READ_DIR } else { of_file };
        each(at.as_raw_fd(), allowed, allowed, path)?;
    }
    for path in DEVICES {
        let allowed = fs::READ_FILE | write;
        each(opened(path)?.as_raw_fd(), allowed, allowed, path)?;
    }
    for dir in scratch {
        each(dir.as_raw_fd(), all, all, "scratch")?;
    }
    each(prog.as_raw_fd(), all, of_file | fs::READ_DIR, "the program's directory")?;
    allow(&process_one, opened("/proc")?.as_raw_fd(), fs::READ_FILE | fs::READ_DIR, "/proc")?;
    Ok(Outside { process_one, programs, abi })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_not_asked_for_what_it_does_not_know() {
        let sizes: Vec<_> = (1..=7).map(|abi| handled(abi).1).collect();
        assert_eq!(sizes, [8, 8, 8, 16, 16, 24, 24]);
        let files: Vec<_> = [1, 2, 3, 4, 5].map(|abi| handled(abi).0.handled_fs).to_vec();
        assert_eq!(files, [0x1fff, 0x3fff, 0x7fff, 0x7fff, 0xffff]);
        assert_eq!([3, 4].map(|abi| handled(abi).0.handled_net), [0, 3]);
        assert_eq!([5, 6].map(|abi| handled(abi).0.scoped), [0, 3]);
    }

    /// Only the calling thread is restricted, so the test takes one of its own.
    #[test]
    fn writes_outside_of_scratch_and_tcp_are_refused_where_the_kernel_can() {
        let root = tempfile::tempdir().expect("a directory");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let at = |name: &str| root.path().join(name);
        std::fs::write(at("outside"), "kept").expect("written");
        let dir = |name: &str| {
            std::fs::create_dir(at(name)).expect("made");
            OwnedFd::from(std::fs::File::open(at(name)).expect("open"))
        };
        let slot = Slot {
            writable: [dir("tmp"), dir("work"), dir("shm")],
            prog: dir("prog"),
            proc: None,
            processes_scoped: false,
            namespaces: true,
            program: 0,
            source: None,
            child_signal: None,
            socket: -1,
        };
        let seen = std::thread::scope(|s| {
            let there = s.spawn(|| {
                // SAFETY: prctl with plain numbers.
                unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
                let abi = restrict(&slot).expect("the kernel takes the rules");
                let outside = std::fs::write(at("outside"), "changed").map_err(|e| e.kind());
                let made = std::fs::write(at("new"), "").map_err(|e| e.kind());
                let inside = std::fs::write(at("work").join("file"), "x").map_err(|e| e.kind());
                let read = std::fs::read_to_string(at("outside")).map_err(|e| e.kind());
                let tcp = std::net::TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|e| e.kind());
                (abi, outside, made, inside, read, tcp)
            });
            there.join().expect("no panic")
        });
        let (abi, outside, made, inside, read, tcp) = seen;
        assert_eq!(abi, super::abi());
        if abi == 0 {
            return; // nothing is promised on such a kernel
        }
        let refused = Err(std::io::ErrorKind::PermissionDenied);
        assert_eq!((outside, made, inside), (refused, refused, Ok(())));
        assert_eq!(read.as_deref(), Ok("kept"));
        assert_eq!(tcp, if abi >= 4 { refused } else { Ok(()) });
    }
}
