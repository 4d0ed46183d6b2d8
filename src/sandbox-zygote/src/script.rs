//! A run of a program as `__main__`, from source to exit, with as few steps of the interpreter as can be: each object
//! that is touched costs a copied page.
//!
//! What is out of the ordinary (a source that does not compile, an exception, `exit()`, threads, exit handlers, replaced
//! streams) goes to the Python side (`zygote.py`), which does what the interpreter does then.

use crate::pages::Sheet;
use crate::python::{self, Object};
use std::ffi::CStr;

/// What a run needs of the interpreter, looked up once.
pub struct Tools {
    /// `child(kind)`: a run of any other kind; never returns.
    pub child: Object,
    /// `failed(exception)`: ends the process as the interpreter does after an exception; never returns.
    pub failed: Object,
    /// `finish(status)`: ends the process with all that the interpreter does first; never returns.
    pub finish: Object,
    /// The globals of `__main__`.
    pub space: Object,
    /// `_thread._count`.
    pub threads: Object,
    /// `atexit._ncallbacks`.
    pub handlers: Object,
    /// `threading._threading_atexits`, a list.
    pub thread_handlers: Object,
    /// `sys.stdout` and `sys.stderr`, and their `flush`.
    pub streams: [(Object, Object); 2],
    /// `io.IOBase`.
    pub file: Object,
}

impl Tools {
    /// From the twelve arguments of `serve` that follow the first.
    pub fn new(of: &[Object]) -> Self {
        Self {
            child: of[0],
            failed: of[1],
            finish: of[2],
            space: of[3],
            threads: of[4],
            handlers: of[5],
            thread_handlers: of[6],
            file: of[7],
            streams: [(of[8], of[9]), (of[10], of[11])],
        }
    }
}

const MAIN: &CStr = c"/prog/main.py";
/// Larger sources go the slow way.
const SOURCE_MAX: usize = 256 << 20;

/// Reads the program; with a NUL at the end, and none in it. `None`: the slow way will tell what is wrong.
fn source() -> Option<Vec<u8>> {
    // SAFETY: plain calls; the buffer has the size that is given.
    unsafe {
        let fd = libc::open(MAIN.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        let mut stat: libc::stat = std::mem::zeroed();
        if fd < 0 || libc::fstat(fd, &raw mut stat) != 0 {
            return None;
        }
        let size = usize::try_from(stat.st_size).ok().filter(|n| *n < SOURCE_MAX)?;
        let mut text = vec![0_u8; size + 1];
        let n = libc::read(fd, text.as_mut_ptr().cast(), size);
        libc::close(fd);
        (usize::try_from(n) == Ok(size) && !text[..size].contains(&0)).then_some(text)
    }
}

/// The program in `/prog`. Returns when it has to go the slow way from the start.
pub fn main_program(tools: &Tools) {
    if let Some(text) = source() {
        run(tools, &text, None);
    }
}

/// Compiles and runs a source text (with a NUL at its end), and ends the process. Returns when it does not compile.
pub fn run(tools: &Tools, text: &[u8], sheet: Option<&Sheet>) {
    let Ok(text) = CStr::from_bytes_with_nul(text) else { return };
    let Some(code) = python::compile(text, MAIN) else { return };
    match python::eval(code, tools.space) {
        Ok(()) if plain_end(tools) => {}
        Ok(()) => python::call_with_number(tools.finish, 0),
        Err(raised) => python::call_with(tools.failed, raised),
    }
    if let Some(sheet) = sheet {
        sheet.fill();
    }
    // SAFETY: ends this process.
    unsafe { libc::_exit(0) }
}

/// Whether nothing is left to do: no threads, no exit handlers, the streams of the start, which are flushed here.
fn plain_end(tools: &Tools) -> bool {
    python::call_for_number(tools.threads) == Some(0)
        && python::call_for_number(tools.handlers) == Some(0)
        && python::list_is_empty(tools.thread_handlers)
        && python::sys_is(c"stdout", tools.streams[0].0)
        && python::sys_is(c"stderr", tools.streams[1].0)
        && !python::has_instance(tools.space, tools.file)
        && tools.streams.iter().all(|(_, flush)| python::call(*flush))
}
