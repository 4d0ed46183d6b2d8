//! The Python lane's process 1: CPython with its modules imported, in the serve loop of this extension module.
//!
//! A run is a fork of it. Only the stable ABI is used ([`python`]), so one build serves CPython 3.8 and later. The
//! module's one function, `serve(hello, child)`, never returns: it ends the process when the supervisor is gone. In a
//! forked process it calls `child(kind)`, which never returns either.

mod python;

use python::PyObject;
use slot::limits::Rlimit;
use slot::spawn::{ExecSpawner, Spawner, prepare_child};
use slot::wire::{Hello, How, Run};
use slot::{Result, SlotError};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

/// Forks the interpreter for Python runs; other languages are exec'd as in the exec lane.
struct ZygoteSpawner {
    exec: ExecSpawner,
    child: *mut PyObject,
    /// Shared with a child until it is ready: what went wrong before.
    error: *mut AtomicI32,
}

const PAGE: usize = 4096;

fn shared_page() -> Result<*mut AtomicI32> {
    // SAFETY: a new anonymous mapping; its zeroes are a valid AtomicI32.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(SlotError(format!("mmap: {}", std::io::Error::last_os_error())));
    }
    Ok(page.cast())
}

impl Spawner for ZygoteSpawner {
    fn spawn(&mut self, run: &Run, fds: &[RawFd], limits: &[Rlimit]) -> Result<libc::pid_t> {
        let kind = match &run.how {
            How::Exec { argv, env } => return self.exec.exec(argv, env, fds, limits),
            How::Python { kind } => *kind,
        };
        // SAFETY: the page lives as long as the process.
        let error = unsafe { &*self.error };
        error.store(0, Ordering::Relaxed);
        // SAFETY: this process has one thread, which holds the interpreter's lock; the child goes on with both.
        match unsafe { libc::fork() } {
            -1 => Err(SlotError(format!("fork: {}", std::io::Error::last_os_error()))),
            0 => self.become_program(kind, fds, limits),
            pid => Ok(pid),
        }
    }

    fn failure(&self) -> i32 {
        // SAFETY: the page lives as long as the process.
        unsafe { &*self.error }.load(Ordering::Relaxed)
    }
}

impl ZygoteSpawner {
    fn become_program(&self, kind: u32, fds: &[RawFd], limits: &[Rlimit]) -> ! {
        if let Err(e) = prepare_child(fds, limits) {
            // SAFETY: the page is shared with process 1, which reads it when we are gone.
            unsafe {
                (*self.error).store(e, Ordering::Relaxed);
                libc::_exit(127);
            }
        }
        // SAFETY: the page is ours to unmap, and nothing of this process uses it from here on; the program must not be
        // able to write it. prctl makes our own /proc/self ordinary again (process 1 is not dumpable).
        unsafe {
            libc::munmap(self.error.cast(), PAGE);
            libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0);
        }
        python::call_with_number(self.child, kind);
        // The Python side ends the process itself; an exception that got this far has been printed.
        // SAFETY: ends this process.
        unsafe { libc::_exit(1) }
    }
}

/// Body of `serve(hello, child)`.
fn serve(hello: &[u8], child: *mut PyObject) -> Result<()> {
    let mut hello = Hello::decode(hello).map_err(|e| SlotError(e.to_string()))?;
    hello.interpreter = python::version();
    let spawner = ZygoteSpawner { exec: ExecSpawner::default(), child, error: shared_page()? };
    slot::serve::serve_inherited(&hello, Box::new(spawner))
}
