//! Giving up every privilege, for good.

use crate::{Context, Result, SlotError};
use nix::errno::Errno;

fn check(done: libc::c_long, what: &str) -> Result<()> {
    if done < 0 { Err(SlotError(format!("{what}: {}", Errno::last()))) } else { Ok(()) }
}

/// Becomes the user `id` without capabilities, without a way to regain any. `None`: stays who it is, where it has no
/// privileges to begin with (the bounding set then is no concern of ours: `no_new_privs` keeps all of it out of reach).
///
/// # Errors
/// A step that the kernel refused: the slot must not serve then.
pub fn give_up(id: Option<u32>) -> Result<()> {
    // The bounding set first: dropping from it needs a capability that goes away below.
    for cap in (0..=63_u64).take_while(|_| id.is_some()) {
        // SAFETY: prctl with plain numbers.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, cap, 0, 0, 0) };
        if done < 0 && Errno::last() == Errno::EINVAL {
            break; // past the last capability of this kernel
        }
        check(done.into(), "PR_CAPBSET_DROP")?;
    }
    if let Some(id) = id.filter(|id| nix::unistd::geteuid().as_raw() != *id) {
        let gid = id.into();
        nix::unistd::setresgid(gid, gid, gid).context(|| "setresgid".into())?;
        let uid = id.into();
        nix::unistd::setresuid(uid, uid, uid).context(|| "setresuid".into())?;
    }
    let header = [0x2008_0522_u32, 0]; // _LINUX_CAPABILITY_VERSION_3, this process
    let empty = [0_u32; 6];
    // SAFETY: the kernel reads two and six words from arrays of that length; prctl takes plain numbers.
    unsafe {
        check(libc::syscall(libc::SYS_capset, header.as_ptr(), empty.as_ptr()), "capset")?;
        check(libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0).into(), "ambient")?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into(), "no_new_privs")?;
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0).into(), "PR_SET_PDEATHSIG")?;
    }
    undumpable()
}

/// Process 1 must not be readable through /proc or ptrace by programs, which have its uid. exec undoes this, so an
/// interpreter that became process 1 calls it again.
///
/// # Errors
/// The kernel refused.
pub fn undumpable() -> Result<()> {
    // SAFETY: prctl with plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }.into(), "PR_SET_DUMPABLE")
}

/// Whether what this process execs has the same addresses each time. The warm interpreter has: its forks know them anyway,
/// and where luck puts its libraries made runs up to a fifth slower in some slots than in others. Only a wish.
pub fn fixed_addresses(fixed: bool) {
    let wanted = if fixed { libc::ADDR_NO_RANDOMIZE } else { 0 };
    // SAFETY: a plain number.
    unsafe { libc::personality(libc::c_ulong::from(wanted.cast_unsigned())) };
}

/// Asks the scheduler to let process 1 run soon when it wakes, so that a run is not far beyond a limit when it is seen:
/// a short time slice, which kernels from 6.12 turn into an early deadline. Children get the ordinary one. Only a wish:
/// older kernels know no slices, and nothing depends on it.
pub fn wake_early() {
    #[repr(C)]
    #[derive(Default)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let attr = SchedAttr {
        size: u32::try_from(size_of::<SchedAttr>()).unwrap_or(48),
        flags: 1,         // SCHED_FLAG_RESET_ON_FORK
        runtime: 100_000, // nanoseconds, the least that is taken
        ..SchedAttr::default()
    };
    // SAFETY: the kernel reads `size` bytes of a struct on our stack.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
}
