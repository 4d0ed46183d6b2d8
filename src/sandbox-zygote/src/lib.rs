//! The Python lane's process 1: CPython with its modules imported, in the serve loop of this extension module.
//!
//! A run is a fork of it. Only the stable ABI is used ([`python`]), so one build serves CPython 3.8 and later. The
//! module's one function, `serve(hello, tools)`, never returns: it ends the process when the supervisor is gone. A forked
//! process runs a program as `__main__` ([`script`]) or calls `child(kind, source)`, which never returns either. [`pages`] makes
//! the forks cheap.

mod around;
mod heap;
mod pages;
mod python;
mod sample;
mod script;
mod worth;

use around::Around;
use script::Tools;
use slot::limits::Rlimit;
use slot::spawn::{ExecSpawner, Spawner, prepare_child};
use slot::wire::{Hello, How, Run};
use slot::{Result, SlotError};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

/// A run of the program in `/prog` as `__main__`; every other kind is the Python side's.
const KIND_MAIN: u32 = 0;

/// What a child is forked for.
#[derive(Clone, Copy)]
enum Task {
    /// A kind of `zygote.py`.
    Kind(u32),
    /// As many tests of the program.
    Tests(usize),
}

impl Task {
    /// The [`sample`] group of runs that use the same pages.
    fn group(self) -> usize {
        match self {
            Self::Tests(_) => sample::PROGRAM,
            Self::Kind(1) => sample::CALLS,
            Self::Kind(2 | 3 | 5) => sample::TESTS,
            Self::Kind(_) => sample::PROGRAM,
        }
    }
}

/// Forks the interpreter for Python runs; other languages are exec'd as in the exec lane.
struct ZygoteSpawner {
    exec: ExecSpawner,
    tools: Tools,
    /// Shared with a child until it is ready: what went wrong before.
    error: *mut AtomicI32,
    /// What is left to tidy up in our memory.
    around: Option<Around>,
    fork: unsafe extern "C" fn() -> libc::pid_t,
}

/// `_Fork` where the C library has it (glibc 2.34), else `fork`: what `fork` does besides is for threads and for handlers
/// that libraries leave there for threads. This process has one, and touches fewer pages without.
fn plain_fork() -> unsafe extern "C" fn() -> libc::pid_t {
    // SAFETY: looks a name up; the function of that name has this type.
    unsafe {
        let found = libc::dlsym(libc::RTLD_DEFAULT, c"_Fork".as_ptr());
        if found.is_null() {
            libc::fork
        } else {
            std::mem::transmute::<*mut libc::c_void, unsafe extern "C" fn() -> libc::pid_t>(found)
        }
    }
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
        let task = match &run.how {
            How::Exec { argv, env } => return self.exec.exec(argv, env, fds, limits, run.spawns),
            How::Python { kind } => Task::Kind(*kind),
            How::Tests { count } => Task::Tests(usize::from(*count)),
        };
        if let Some(around) = &mut self.around {
            around.step();
        }
        // SAFETY: the page lives as long as the process.
        let error = unsafe { &*self.error };
        error.store(0, Ordering::Relaxed);
        // SAFETY: this process has one thread, which holds the interpreter's lock; the child goes on with both.
        match unsafe { (self.fork)() } {
            -1 => Err(SlotError(format!("fork: {}", std::io::Error::last_os_error()))),
            0 => self.become_program(task, fds, limits),
            pid => Ok(pid),
        }
    }

    fn failure(&self) -> i32 {
        // SAFETY: the page lives as long as the process.
        unsafe { &*self.error }.load(Ordering::Relaxed)
    }
}

impl ZygoteSpawner {
    fn become_program(&self, task: Task, fds: &[RawFd], limits: &[Rlimit]) -> ! {
        pages::populate(task.group());
        if slot::jail::opens_nothing() {
            script::hold_source();
        }
        if let Err(e) = prepare_child(fds, limits, false) {
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
        match task {
            Task::Tests(count) => script::many_tests(&self.tools, count),
            Task::Kind(kind) => {
                if kind == KIND_MAIN {
                    script::main_program(&self.tools);
                }
                script::other(&self.tools, kind);
            }
        }
        // The Python side ends the process itself; an exception that got this far has been printed.
        // SAFETY: ends this process.
        unsafe { libc::_exit(1) }
    }
}

/// Body of `serve(hello, tools)`.
fn serve(hello: &[u8], tools: Tools) -> Result<()> {
    let mut hello = Hello::decode(hello).map_err(|e| SlotError(e.to_string()))?;
    hello.interpreter = python::version();
    if !hello.root.is_empty() {
        slot::outside::set_root(&hello.root)?;
        script::set_root(&hello.root)?;
    }
    let mut spawner = Box::new(ZygoteSpawner {
        exec: ExecSpawner::default(),
        tools,
        error: shared_page()?,
        around: None,
        fork: plain_fork(),
    });
    let tools = &spawner.tools;
    // Speed only: where a step is refused the runs are slower, and right.
    heap::fill_pools();
    heap::fill_malloc();
    let _ = pages::huge_text();
    let learnt = pages::snapshot().and_then(|()| {
        pages::learn(&sample::all(tools), |i, sheet| sample::run(tools, i, sheet).unwrap_or(false))
    });
    // A second time, because the sample runs and the learning have left traces in our page table.
    if let Ok(learnt) = learnt
        && pages::snapshot().is_ok()
    {
        pages::heat(learnt);
        spawner.around = Around::new().ok();
    }
    slot::serve::serve_inherited(&hello, spawner)
}
