//! Compilers run in the slot like any program, because code runs while code is compiled; what they make is kept by content.

use crate::bytes::Bytes;
use crate::compile_cache::{CompileCache, Key};
use crate::job::{Compile, Limits, Profile};
use crate::judge::{FETCH_MAX, exec, ms, next_program, run_limits};
use crate::lang::{self, Language, Toolchain};
use crate::slot_handle::SlotHandle;
use slot::wire::{End, Fetched, PlacedFile, Run, RunLimits};
use std::io;

/// What a compiler may use; the wall-clock time is the job's.
const COMPILER: Limits = Limits {
    wall_s: 60.0,
    cpu_s: 60.0,
    memory_mb: 2048,
    output_bytes: 1 << 20,
    scratch_mb: 1024,
    processes: 64,
};

/// What came of a compiler.
pub(crate) struct Compiled {
    pub compile: Compile,
    /// The program, when there is one.
    pub binary: Option<Vec<u8>>,
    /// Why there is none, where the compiler's own words do not say it: a limit, or the sandbox's failure.
    pub why: Option<String>,
    /// There is none because of us, not because of the source.
    pub failed: bool,
}

/// Compiles, or takes what the same compiler has made of the same source before.
///
/// # Errors
/// The slot has failed.
#[allow(
    clippy::too_many_arguments,
    reason = "two callers, and no two of these belong together more than the rest"
)]
pub(crate) fn compile(
    slot: &mut SlotHandle,
    cache: Option<&CompileCache>,
    language: &Language,
    toolchain: &Toolchain,
    argv: &[String],
    source: PlacedFile,
    work_files: Vec<PlacedFile>,
    wall_s: f64,
) -> io::Result<Compiled> {
    let key = cache.map(|_| Key::new(language.name, toolchain, argv, &source, &work_files));
    if let (Some(cache), Some(key)) = (cache, &key)
        && let Some(kept) = cache.get(key)
    {
        let compile = Compile {
            ok: true,
            exit_code: Some(0),
            output: Bytes(kept.messages),
            cached: true,
            wall_ms: kept.wall_ms,
        };
        return Ok(Compiled { compile, binary: Some(kept.binary), why: None, failed: false });
    }
    let compiler = Limits { wall_s, cpu_s: wall_s.max(COMPILER.cpu_s), ..COMPILER };
    let run = Run {
        how: exec(argv, toolchain, &[]),
        limits: RunLimits { address_space: 1 << 40, ..run_limits(&compiler, language, Profile::Multi) },
        channel: false,
        spawns: true,
        program: next_program(),
        program_files: vec![source],
        work_files,
        fetch: vec![lang::PROGRAM.to_owned()],
        fetch_max: FETCH_MAX,
    };
    let out = slot.run(&run, b"")?;
    let exit_code = if let End::Exited(n) = out.report.end { Some(i32::from(n)) } else { None };
    let mut output = out.stdout;
    output.extend(out.stderr);
    let (mut why, mut failed, mut binary) = (None, false, None);
    match (&out.report.end, out.report.fetched.into_iter().next()) {
        (End::Exited(0), Some(Fetched::Data(data))) => binary = Some(data),
        (End::Exited(0), Some(Fetched::Refused(e))) => {
            why = Some(format!("the compiler left no program: {e}"))
        }
        (End::Exited(0), None) => why = Some("the compiler left no program".into()),
        (End::Exited(_) | End::Signaled(_), _) => {}
        (End::Wall | End::Cpu, _) => why = Some(format!("the compiler passed its time limit of {wall_s} s")),
        (End::Memory, _) => {
            why = Some(format!("the compiler passed its memory limit of {} MiB", COMPILER.memory_mb))
        }
        (End::Output, _) => why = Some("the compiler passed its output limit of 1 MiB".into()),
        (End::Processes, _) => why = Some("the compiler passed its limit of processes".into()),
        (End::Failed(e), _) => {
            failed = true;
            why = Some(format!("the compiler could not be run: {e}"));
        }
    }
    let compile = Compile {
        ok: binary.is_some(),
        exit_code,
        output: Bytes(output),
        cached: false,
        wall_ms: ms(out.report.wall_us),
    };
    if let (Some(cache), Some(key), Some(binary)) = (cache, &key, &binary) {
        cache.put(key, &compile, binary);
    }
    Ok(Compiled { compile, binary, why, failed })
}
