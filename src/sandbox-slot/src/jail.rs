//! What each program takes on where there are no namespaces (tiers C and D): Landlock rules and a second filter.
//!
//! Namespaces hide other processes and give a root that nobody else uses. Without them a program has the uid of the user's
//! other processes and sees the host's paths, and what Landlock does not know about (modes, owners, times, signals, limits of
//! other processes) is open to it. So a filter with the program's own process number in it is installed by each child:
//!
//! - no process is ever started, so that killing one is a complete kill; a program that tries dies of SIGSYS, and is
//!   `unscored`, because nobody can say what it would have done (compilers may, and are watched as a tree);
//! - signals go to the program itself only, and so do limits and CPU sets; nobody else's signal can be asked for by `fcntl`;
//! - modes, owners, times and attributes of files cannot be changed, and no file is truncated by its path;
//! - in tier D, where nothing guards files, every call with a path in it is refused.

use crate::filter::{self, ENOSYS, EPERM, KILL, Rule, number};
use crate::landlock;
use crate::wire::Isolation;
use libc::sock_filter;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;

/// Stands for the program's own process number until it is known. Larger than any.
const SELF: u32 = 0x7fff_fff1;
/// The longest program that is installed from a child's stack.
const LONGEST: usize = 1024;

/// The jail that this process puts its programs into.
struct Jail {
    isolation: Isolation,
    rules: Option<OwnedFd>,
    /// For programs, and for compilers.
    filters: [Vec<sock_filter>; 2],
    /// Process 1's number.
    parent: libc::pid_t,
}

static JAIL: OnceLock<Jail> = OnceLock::new();

/// From now on every child of this process takes these on. `abi`: Landlock's, where `rules` are given.
pub fn set(isolation: Isolation, rules: Option<OwnedFd>, abi: u32) {
    let filters = [false, true].map(|compiler| program(isolation, abi, compiler));
    let parent = nix::unistd::getpid().as_raw();
    let _ = JAIL.set(Jail { isolation, rules, filters, parent }); // once, at the end of the set-up
}

/// Whether programs of this process can open no file, so that what they need has to be read before [`lock`].
#[must_use]
pub fn opens_nothing() -> bool {
    JAIL.get().is_some_and(|j| j.isolation == Isolation::Filter)
}

/// Whether programs can start no process.
#[must_use]
pub fn in_force() -> bool {
    JAIL.get().is_some()
}

/// In a child, first of all: the rules about files. Only async-signal-safe calls.
///
/// # Errors
/// errno.
pub fn restrict() -> Result<(), i32> {
    let Some(rules) = JAIL.get().and_then(|j| j.rules.as_ref()) else { return Ok(()) };
    landlock::enforce(rules.as_raw_fd()).map_err(|e| e as i32)
}

/// In a child, last of all: dies with process 1, and takes the filter on. Only async-signal-safe calls.
///
/// # Errors
/// errno.
pub fn lock(compiler: bool) -> Result<(), i32> {
    let Some(jail) = JAIL.get() else { return Ok(()) };
    let template = &jail.filters[usize::from(compiler)];
    let mut own = [sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; LONGEST];
    let own = own.get_mut(..template.len()).ok_or(libc::E2BIG)?;
    own.copy_from_slice(template);
    // SAFETY: plain calls. Process 1 is looked for after the wish to die with it, so that its end is not missed.
    let me = unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) != 0 {
            return Err(Errno::last_raw());
        }
        if libc::getppid() != jail.parent {
            return Err(libc::ESRCH);
        }
        libc::getpid()
    };
    let me = u32::try_from(me).map_err(|_| libc::ERANGE)?;
    own.iter_mut().filter(|i| i.code == filter::IF_EQUAL && i.k == SELF).for_each(|i| i.k = me);
    filter::give_to_kernel(own).map_err(|e| e as i32)
}

const ONLY_SELF: Rule = Rule::AllowValues { argument: 0, values: [SELF, SELF] };
const SELF_OR_ZERO: Rule = Rule::AllowValues { argument: 0, values: [SELF, 0] };
const CLONE_THREAD: u32 = 0x0001_0000;
const AT_EMPTY_PATH: u32 = 0x1000;
const O_ACCMODE: u32 = 3;
const O_TRUNC: u32 = 0o1000;
/// F_SETOWN, F_SETSIG, F_SETOWN_EX: with these a signal of one's choice goes to whoever is named, as soon as a pipe is ready.
/// F_SETLEASE holds other processes up. F_NOTIFY watches directories.
const OF_OTHERS: &[u32] = &[8, 10, 15, 1024, 1026];
/// FIOSETOWN and SIOCSPGRP: the same as F_SETOWN; the two that push characters into a terminal.
const IOCTLS: &[u32] = &[0x8901, 0x8902, 0x5412, 0x541c];

fn program(isolation: Isolation, abi: u32, compiler: bool) -> Vec<sock_filter> {
    let mut rules: Vec<(u32, Rule)> = Vec::new();
    let mut all = |calls: &[libc::c_long], rule: Rule| rules.extend(calls.iter().map(|n| (number(*n), rule)));
    if !compiler {
        all(&[libc::SYS_clone], Rule::WithoutBits { argument: 0, bits: CLONE_THREAD, answer: KILL });
        all(FORKS_HERE, Rule::Answer(KILL));
    }
    if isolation == Isolation::Filter {
        all(&[libc::SYS_execve, libc::SYS_execveat], Rule::Answer(KILL));
        all(PATHS, Rule::Answer(EPERM));
        all(PATHS_HERE, Rule::Answer(EPERM));
        // fstat() of newer C libraries. With the flag a path may still be given, and its size and times be seen.
        all(&[libc::SYS_newfstatat], Rule::WithoutBits { argument: 3, bits: AT_EMPTY_PATH, answer: EPERM });
        all(&[libc::SYS_statx], Rule::WithoutBits { argument: 2, bits: AT_EMPTY_PATH, answer: EPERM });
    }
    all(
        &[libc::SYS_kill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo],
        ONLY_SELF,
    );
    all(&[libc::SYS_tkill, libc::SYS_pidfd_send_signal, libc::SYS_pidfd_open], Rule::Answer(EPERM));
    all(&[libc::SYS_prlimit64, libc::SYS_sched_setaffinity], SELF_OR_ZERO);
    all(&[libc::SYS_fcntl], Rule::RefuseValues { argument: 1, values: OF_OTHERS });
    all(&[libc::SYS_ioctl], Rule::RefuseValues { argument: 1, values: IOCTLS });
    // It has to die with process 1.
    all(&[libc::SYS_prctl], Rule::RefuseValues { argument: 0, values: &[1] });
    all(UNGUARDED, Rule::Answer(EPERM));
    all(UNGUARDED_HERE, Rule::Answer(EPERM));
    // Its flags lie behind a pointer, where a filter cannot see them. C libraries do not use it.
    all(&[libc::SYS_openat2], Rule::Answer(ENOSYS));
    if isolation == Isolation::Landlock && abi < 3 {
        // Before ABI 3 Landlock does not see that a file which is opened for reading can be cut to nothing by that.
        let cutting = |argument| Rule::RefuseMasked { argument, mask: O_TRUNC | O_ACCMODE, value: O_TRUNC };
        all(&[libc::SYS_openat], cutting(2));
        all(OPEN_HERE, cutting(1));
        all(&[libc::SYS_truncate], Rule::Answer(EPERM));
    }
    filter::assemble(rules, None)
}

/// What Landlock has no rights for: modes, owners, times and attributes of files, and watching directories.
const UNGUARDED: &[libc::c_long] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    452, // fchmodat2
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
];

/// Calls with a path, refused where nothing else guards files.
const PATHS: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    439, // faccessat2
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mknodat,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_truncate,
    libc::SYS_statfs,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
];

#[cfg(target_arch = "x86_64")]
mod here {
    //! Calls that newer architectures have in another form only.
    pub const FORKS: &[libc::c_long] = &[libc::SYS_fork, libc::SYS_vfork];
    pub const OPEN: &[libc::c_long] = &[libc::SYS_open];
    pub const UNGUARDED: &[libc::c_long] = &[
        libc::SYS_chmod,
        libc::SYS_chown,
        libc::SYS_lchown,
        libc::SYS_utime,
        libc::SYS_utimes,
        libc::SYS_futimesat,
        libc::SYS_inotify_init,
    ];
    pub const PATHS: &[libc::c_long] = &[
        libc::SYS_open,
        libc::SYS_creat,
        libc::SYS_stat,
        libc::SYS_lstat,
        libc::SYS_access,
        libc::SYS_readlink,
        libc::SYS_mkdir,
        libc::SYS_rmdir,
        libc::SYS_unlink,
        libc::SYS_rename,
        libc::SYS_link,
        libc::SYS_symlink,
        libc::SYS_mknod,
    ];
}
#[cfg(not(target_arch = "x86_64"))]
mod here {
    pub const FORKS: &[libc::c_long] = &[];
    pub const OPEN: &[libc::c_long] = &[];
    pub const UNGUARDED: &[libc::c_long] = &[];
    pub const PATHS: &[libc::c_long] = &[];
}
use here::{FORKS as FORKS_HERE, OPEN as OPEN_HERE, PATHS as PATHS_HERE, UNGUARDED as UNGUARDED_HERE};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{ALLOW, TESTED_ARCH, run_program};

    const OWN: u32 = 4711;

    fn answer(isolation: Isolation, abi: u32, compiler: bool, call: libc::c_long, args: [u32; 4]) -> u32 {
        let mut p = program(isolation, abi, compiler);
        assert!(p.len() < LONGEST, "{} instructions", p.len());
        p.iter_mut().filter(|i| i.code == filter::IF_EQUAL && i.k == SELF).for_each(|i| i.k = OWN);
        run_program(&p, TESTED_ARCH, number(call), args)
    }

    fn landlocked(call: libc::c_long, args: [u32; 4]) -> u32 {
        answer(Isolation::Landlock, 7, false, call, args)
    }

    #[test]
    fn threads_are_made_and_processes_are_not() {
        assert_eq!(landlocked(libc::SYS_clone, [0x003d_0f00, 0, 0, 0]), ALLOW);
        assert_eq!(landlocked(libc::SYS_clone, [0x11, 0, 0, 0]), KILL);
        assert_eq!(landlocked(libc::SYS_clone, [0x4111, 0, 0, 0]), KILL, "vfork");
        for call in FORKS_HERE {
            assert_eq!(landlocked(*call, [0; 4]), KILL);
        }
        for isolation in [Isolation::Landlock, Isolation::Filter] {
            assert_eq!(answer(isolation, 7, true, libc::SYS_clone, [0x11, 0, 0, 0]), ALLOW, "a compiler");
        }
    }

    #[test]
    fn signals_and_limits_are_for_the_program_itself() {
        for call in [libc::SYS_kill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo]
        {
            assert_eq!(landlocked(call, [OWN, 0, 0, 0]), ALLOW);
            for other in [0, 1, OWN + 1, OWN.wrapping_neg(), u32::MAX] {
                assert_eq!(landlocked(call, [other, 0, 0, 0]), EPERM, "call {call} for {other}");
            }
        }
        for call in [libc::SYS_prlimit64, libc::SYS_sched_setaffinity] {
            assert_eq!([0, OWN, 1].map(|pid| landlocked(call, [pid, 0, 0, 0])), [ALLOW, ALLOW, EPERM]);
        }
        assert_eq!(landlocked(libc::SYS_pidfd_open, [OWN, 0, 0, 0]), EPERM);
        for (command, want) in [(1, ALLOW), (6, ALLOW), (8, EPERM), (10, EPERM), (15, EPERM), (1024, EPERM)] {
            assert_eq!(landlocked(libc::SYS_fcntl, [3, command, 0, 0]), want, "fcntl {command}");
        }
        assert_eq!(landlocked(libc::SYS_ioctl, [0, 0x8901, 0, 0]), EPERM);
        assert_eq!(landlocked(libc::SYS_ioctl, [0, 0x5401, 0, 0]), ALLOW);
        assert_eq!(landlocked(libc::SYS_prctl, [1, 0, 0, 0]), EPERM, "it dies with process 1");
        assert_eq!(landlocked(libc::SYS_prctl, [4, 1, 0, 0]), ALLOW);
    }

    #[test]
    fn what_landlock_does_not_guard_is_refused() {
        for call in UNGUARDED.iter().chain(UNGUARDED_HERE) {
            assert_eq!(landlocked(*call, [0; 4]), EPERM, "call {call}");
        }
        let cut = [0, 0, O_TRUNC, 0];
        assert_eq!(answer(Isolation::Landlock, 2, false, libc::SYS_openat, cut), EPERM);
        assert_eq!(answer(Isolation::Landlock, 2, false, libc::SYS_openat, [0, 0, O_TRUNC | 1, 0]), ALLOW);
        assert_eq!(answer(Isolation::Landlock, 2, false, libc::SYS_openat, [0; 4]), ALLOW);
        assert_eq!(answer(Isolation::Landlock, 2, false, libc::SYS_truncate, [0; 4]), EPERM);
        assert_eq!(landlocked(libc::SYS_openat, cut), ALLOW, "ABI 3 and later see to it");
        assert_eq!(landlocked(libc::SYS_openat2, [0; 4]), ENOSYS);
    }

    #[test]
    fn in_tier_d_no_path_gets_to_the_kernel() {
        let d = |call, args| answer(Isolation::Filter, 0, false, call, args);
        for call in PATHS.iter().chain(PATHS_HERE) {
            assert_eq!(d(*call, [0; 4]), EPERM, "call {call}");
        }
        assert_eq!(d(libc::SYS_execve, [0; 4]), KILL);
        assert_eq!(d(libc::SYS_newfstatat, [1, 0, 0, 0]), EPERM);
        assert_eq!(d(libc::SYS_newfstatat, [1, 0, 0, AT_EMPTY_PATH]), ALLOW);
        assert_eq!([libc::SYS_read, libc::SYS_write, libc::SYS_mmap].map(|c| d(c, [0; 4])), [ALLOW; 3]);
    }
}
