//! Sample runs, of which [`pages::learn`] learns what runs use: programs, and rehearsals of the other kinds of runs, which
//! the Python side gives (`zygote.py`).

use crate::pages;
use crate::python;
use crate::script::{self, Tools};
use slot::spawn::prepare_child;
use slot::{Result, SlotError};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

/// Runs of a program as `__main__`.
pub const PROGRAM: usize = 0;
/// Processes that answer calls.
pub const CALLS: usize = 1;
/// Processes that run tests.
pub const TESTS: usize = 2;
/// How many groups there are.
pub const GROUPS: usize = 3;

/// Programs of the kind that will come.
const PROGRAMS: [&CStr; 3] = [
    c"import sys\ndata = sys.stdin.read().split()\nn = len(data)\nprint(max(map(int, data)), n)\n",
    c"def solve(n, a):\n    seen = {}\n    for i, x in enumerate(a):\n        if n - x in seen:\n            return seen[n - x], i\n\
      \x20       seen[x] = i\n    return -1, -1\nn = int(input())\na = list(map(int, input().split()))\nprint(*solve(n, sorted(a)))\n",
    c"import sys\nfrom collections import defaultdict\ndef main():\n    lines = [l.strip() for l in sys.stdin]\n\
      \x20   count = defaultdict(int)\n    for l in lines:\n        for w in l.split():\n            count[w] += 1\n\
      \x20   for w, c in sorted(count.items(), key=lambda p: -p[1])[:3]:\n        print(f'{w}: {c}')\n\
      if __name__ == '__main__':\n    main()\n",
];
const INPUT: &[u8] = b"12\n7 3 9 1 5 2 8 4 6 11 10 12\n";

/// Whether sample `i` is one of which it is learnt what it reads: the last of the programs, and the rehearsals.
fn is_thorough(i: usize) -> bool {
    i + 1 >= PROGRAMS.len()
}

/// The group of each sample, and whether it is thorough: the programs, then the rehearsals.
pub fn all(tools: &Tools) -> Vec<(usize, bool)> {
    let rehearsals = tools.rehearsals.iter().map(|r| usize::from(r.group).min(GROUPS - 1));
    let groups = std::iter::repeat_n(PROGRAM, PROGRAMS.len()).chain(rehearsals);
    groups.enumerate().map(|(i, group)| (group, is_thorough(i))).collect()
}

/// Sample `i`. False: it did not end well, and nothing can be learnt of it.
pub fn run(tools: &Tools, i: usize, sheet: &pages::Sheet) -> Result<bool> {
    let (ours, theirs) = channel()?;
    for message in
        i.checked_sub(PROGRAMS.len()).and_then(|i| tools.rehearsals.get(i)).iter().flat_map(|r| &r.hears)
    {
        // SAFETY: sends bytes of ours; where it fails the sample hears less, and does not end well.
        unsafe { libc::send(ours.as_raw_fd(), message.as_ptr().cast(), message.len(), libc::MSG_NOSIGNAL) };
    }
    // What it says stays in the socket; the end of what it hears comes behind the messages.
    // SAFETY: a plain call on our descriptor.
    unsafe { libc::shutdown(ours.as_raw_fd(), libc::SHUT_WR) };
    let files = [file(INPUT)?, file(b"")?, file(b"")?];
    let fds: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).chain([theirs.as_raw_fd()]).collect();
    // SAFETY: as for a run; the child leaves in script::run, or here when the sample does not compile.
    unsafe {
        match libc::fork() {
            -1 => Err(SlotError(format!("fork: {}", io::Error::last_os_error()))),
            0 => {
                if prepare_child(&fds, &[], false).is_ok() {
                    if is_thorough(i) {
                        sheet.begin();
                    }
                    match i.checked_sub(PROGRAMS.len()) {
                        None => script::run(tools, PROGRAMS[i].to_bytes_with_nul(), Some(sheet)),
                        Some(n) => {
                            if python::call_for_number_of(tools.rehearse, n) == Some(0) {
                                sheet.fill();
                                libc::_exit(0);
                            }
                        }
                    }
                }
                libc::_exit(1)
            }
            pid => {
                let mut status = 0;
                Ok(libc::waitpid(pid, &raw mut status, 0) == pid && status == 0)
            }
        }
    }
}

/// An input or output of a sample run.
fn file(data: &[u8]) -> Result<File> {
    // SAFETY: makes a new descriptor, which is ours then, or fails.
    let file = unsafe {
        match libc::memfd_create(c"sample".as_ptr(), libc::MFD_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(File::from_raw_fd(fd)),
        }
    };
    file.and_then(|f| f.write_all_at(data, 0).map(|()| f))
        .map_err(|e| SlotError(format!("a file for a sample run: {e}")))
}

/// A channel as runs have one, but with borders between messages, because all of them are sent at once.
fn channel() -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: makes two new descriptors, which are ours then, or fails.
    unsafe {
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        if libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) != 0 {
            return Err(SlotError(format!("a channel for a sample run: {}", io::Error::last_os_error())));
        }
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}
