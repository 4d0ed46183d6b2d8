//! A run of a program as `__main__`, from source to exit, with as few steps of the interpreter as can be: each object
//! that is touched costs a copied page.
//!
//! What is out of the ordinary (a source that does not compile, an exception, `exit()`, threads, exit handlers, replaced
//! streams) goes to the Python side (`zygote.py`), which does what the interpreter does then.

use crate::pages::Sheet;
use crate::python::{self, Object};
use slot::wire::Told;
use slot::{Context, Result};
use std::ffi::{CStr, CString};
use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::time::Instant;

/// What a run needs of the interpreter, looked up once.
pub struct Tools {
    /// `child(kind, source)`: a run of any other kind, or of one whose source is `None`; never returns.
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
    /// Exit handlers that were there before any program: those of modules, which have nothing to do when the program has
    /// not used them (that of `logging` flushes what each handler has flushed already).
    pub handlers_before: (Option<i64>, isize),
    /// `again()`: makes stdin, stdout and the interpreter's settings new for another test; raises when it cannot.
    pub again: Object,
    /// `rehearse(n)`: does what a run of another kind does; 0 when it went well.
    pub rehearse: Object,
    /// What there is to rehearse.
    pub rehearsals: Vec<Rehearsal>,
}

/// A rehearsal for [`crate::sample`].
pub struct Rehearsal {
    /// The group of runs that it stands for.
    pub group: u8,
    /// What it hears on its channel.
    pub hears: Vec<Vec<u8>>,
}

impl Tools {
    /// From the fifteen arguments of `serve` that follow the first. The last lists the rehearsals: for each a byte with its
    /// group, its messages, and an empty bytes object.
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
            again: of[12],
            rehearse: of[13],
            rehearsals: python::list_of_bytes(of[14])
                .split(Vec::is_empty)
                .filter_map(|r| Some(Rehearsal { group: *r.first()?.first()?, hears: r[1..].to_vec() }))
                .collect(),
            handlers_before: (python::call_for_number(of[5]), python::list_size(of[6])),
        }
    }
}

static MAIN: OnceLock<CString> = OnceLock::new();
/// The program's text, in a process that cannot read it any more.
static HELD: OnceLock<Vec<u8>> = OnceLock::new();

/// The program's file.
fn main_file() -> &'static CStr {
    MAIN.get().map_or(c"/prog/main.py", CString::as_c_str)
}

/// Says where the slot's directory is, outside of namespaces: once, before anything runs.
///
/// # Errors
/// A path with a NUL byte.
pub fn set_root(root: &str) -> Result<()> {
    let main = CString::new(format!("{root}/prog/main.py")).context(|| "the slot's directory".into())?;
    let _ = MAIN.set(main); // only ever the same
    Ok(())
}

/// Reads the program before the door closes.
pub fn hold_source() {
    if let Some(text) = read_source() {
        let _ = HELD.set(text);
    }
}

/// The text that [`hold_source`] has read, without a NUL behind it.
pub fn held_source() -> Option<&'static [u8]> {
    HELD.get().map(|text| &text[..text.len() - 1])
}

/// Larger sources go the slow way.
const SOURCE_MAX: usize = 256 << 20;

/// The program's text, with a NUL at the end, and none in it. `None`: the slow way will tell what is wrong.
fn source() -> Option<Vec<u8>> {
    let text = match HELD.get() {
        Some(held) => held.clone(),
        None => read_source()?,
    };
    (!text[..text.len() - 1].contains(&0)).then_some(text)
}

/// Reads the program, and adds a NUL at its end.
fn read_source() -> Option<Vec<u8>> {
    // SAFETY: plain calls; the buffer has the size that is given.
    unsafe {
        let fd = libc::open(main_file().as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        let mut stat: libc::stat = std::mem::zeroed();
        if fd < 0 || libc::fstat(fd, &raw mut stat) != 0 {
            return None;
        }
        let size = usize::try_from(stat.st_size).ok().filter(|n| *n < SOURCE_MAX)?;
        let mut text = vec![0_u8; size + 1];
        let n = libc::read(fd, text.as_mut_ptr().cast(), size);
        libc::close(fd);
        (usize::try_from(n) == Ok(size)).then_some(text)
    }
}

/// The program in `/prog`. Returns when it has to go the slow way from the start.
pub fn main_program(tools: &Tools) {
    if let Some(text) = source() {
        run(tools, &text, None);
    }
}

/// A run of another kind than [`main_program`], with what lies in `/prog` as its source. Returns when the Python side
/// raised something.
pub fn other(tools: &Tools, kind: u32) {
    let text = source();
    python::call_with_number_and_bytes(tools.child, kind, text.as_deref().map(|t| &t[..t.len() - 1]));
}

/// Compiles and runs a source text (with a NUL at its end), and ends the process. Returns when it does not compile.
pub fn run(tools: &Tools, text: &[u8], sheet: Option<&Sheet>) {
    let Ok(text) = CStr::from_bytes_with_nul(text) else { return };
    let Some(code) = python::compile(text, main_file()) else { return };
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
        && python::call_for_number(tools.handlers) == tools.handlers_before.0
        && python::list_size(tools.thread_handlers) == tools.handlers_before.1
        && python::sys_is(c"stdout", tools.streams[0].0)
        && python::sys_is(c"stderr", tools.streams[1].0)
        && !python::has_instance(tools.space, tools.file)
        && tools.streams.iter().all(|(_, flush)| python::call(*flush))
}

/// The program once for each test, in this process: fresh globals and streams, one compilation. Each test that ends in a
/// plain way is told so; after the first that does not (an exception, threads, exit handlers, files left) the process
/// leaves, and the rest are for others to run.
pub fn many_tests(tools: &Tools, count: usize) {
    let Ok(count) = RawFd::try_from(count) else { return };
    let Some(text) = source() else { return };
    let Ok(text) = CStr::from_bytes_with_nul(&text) else { return };
    let Some(code) = python::compile(text, main_file()) else { return };
    let clean = files();
    for i in 0..count {
        // SAFETY: plain calls on descriptors that process 1 has put there.
        let ready = unsafe { libc::dup2(3 + count + i, 0) == 0 && libc::dup2(3 + i, 1) == 1 };
        if !ready || (i > 0 && !python::call(tools.again)) {
            break;
        }
        let (start, cpu) = (Instant::now(), cpu_us());
        let ended = match python::eval(code, tools.space) {
            Ok(()) => true,
            Err(raised) => python::is_exit_0(raised),
        };
        let plain = ended && plain_end(tools) && files() == clean;
        let micros = |n: u128| u32::try_from(n).unwrap_or(u32::MAX);
        let told = Told {
            plain,
            wall_us: micros(start.elapsed().as_micros()),
            cpu_us: micros(u128::from(cpu_us().saturating_sub(cpu))),
        }
        .encode();
        let at = libc::off_t::from(i) * libc::off_t::try_from(Told::SIZE).unwrap_or(0);
        // SAFETY: writes an array on our stack.
        unsafe { libc::pwrite(3 + 2 * count, told.as_ptr().cast(), told.len(), at) };
        if !plain {
            break;
        }
    }
    // SAFETY: ends this process.
    unsafe { libc::_exit(0) }
}

/// CPU time of this process, in microseconds.
fn cpu_us() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills a struct on our stack.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut t) };
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1000
}

/// Free files and blocks of the scratch space. Outside of namespaces the file system is everybody's, and this is when the
/// working directory was last changed; what a program leaves in the other two shows at the end of the run only.
fn files() -> (u64, u64) {
    // SAFETY: fills structs on our stack, for which all zeroes is valid.
    unsafe {
        if slot::jail::in_force() {
            let mut s: libc::stat = std::mem::zeroed();
            libc::stat(slot::outside::work().as_ptr(), &raw mut s);
            return (s.st_ctime.cast_unsigned(), s.st_ctime_nsec.cast_unsigned());
        }
        let mut s: libc::statfs = std::mem::zeroed();
        libc::statfs(c"/work".as_ptr(), &raw mut s);
        (s.f_ffree, s.f_bfree)
    }
}
