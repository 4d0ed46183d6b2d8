//! Resource limits of a run's main process; its children inherit them.

use crate::wire::RunLimits;

/// One `setrlimit`: resource, soft limit, hard limit.
pub type Rlimit = (u32, u64, u64);
/// Open files of one process.
const OPEN_FILES: u64 = 256;

/// The limits of a run in the kernel's terms. Computed before the fork, because the child may not allocate.
#[must_use]
pub fn table(l: &RunLimits, count_processes: bool) -> [Rlimit; 6] {
    let same = |r: libc::__rlimit_resource_t, v: u64| (r, v, v);
    let cpu_s = l.cpu_us.div_ceil(1_000_000).max(1);
    // Process 1 has the same uid in this namespace, so it counts too. Where the kernel does not count for us, what holds for
    // process 1 stays: more would need a privilege.
    let processes = if count_processes { l.processes + 1 } else { own_processes() };
    [
        same(libc::RLIMIT_AS, l.address_space),
        same(libc::RLIMIT_DATA, l.memory),
        // Equal values would mean a bare SIGKILL, which cannot be told from other kills.
        (libc::RLIMIT_CPU, cpu_s, cpu_s + 1),
        same(libc::RLIMIT_FSIZE, l.file.max(l.output.saturating_add(1))),
        same(libc::RLIMIT_STACK, l.stack),
        same(libc::RLIMIT_NPROC, processes),
    ]
}

/// The hard limit on processes that holds for this process.
fn own_processes() -> u64 {
    let mut own = libc::rlimit64 { rlim_cur: 0, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: fills a struct on our stack.
    unsafe { libc::getrlimit64(libc::RLIMIT_NPROC, &raw mut own) };
    own.rlim_max
}

/// Limits that process 1 sets for itself, once: every program inherits them.
pub const SAME_FOR_ALL: [Rlimit; 4] = [
    (libc::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES),
    (libc::RLIMIT_CORE, 0, 0),
    (libc::RLIMIT_MEMLOCK, 0, 0),
    (libc::RLIMIT_MSGQUEUE, 0, 0),
];

/// Sets them. Safe to call between fork and exec.
///
/// # Errors
/// The first that the kernel refused, as errno.
pub fn apply(table: &[Rlimit]) -> Result<(), i32> {
    for (resource, soft, hard) in table {
        let value = libc::rlimit64 { rlim_cur: *soft, rlim_max: *hard };
        // SAFETY: a plain system call; `value` outlives it.
        let done = unsafe {
            libc::syscall(
                libc::SYS_prlimit64,
                0,
                *resource,
                &raw const value,
                std::ptr::null_mut::<libc::rlimit64>(),
            )
        };
        if done != 0 {
            return Err(nix::errno::Errno::last_raw());
        }
    }
    Ok(())
}
