//! Custom checkers: a program of the problem's author that says whether an output is right, where no rule of
//! [`crate::Comparator`] can ("any shortest path").
//!
//! It is called as testlib's checkers are: three arguments name the input, the output and the expected answer, in this
//! order. Exit status 0: right, 1: wrong; what it prints is the reason. Everything else (another status, a signal, a
//! limit, an exception that the interpreter turned into status 1) means that nobody has judged: `unscored`. It runs in the
//! slot for tests, never in the program's, because it is shown the expected answer.

use crate::bytes::Bytes;
use crate::compile::{Compiled, compile};
use crate::compile_cache::CompileCache;
use crate::job::{Job, Limits, Profile, StdioTest};
use crate::judge::{exec, next_program, run_limits};
use crate::lang::{self, Language, Toolchain};
use crate::slot_handle::{Outcome, SlotHandle};
use serde::{Deserialize, Serialize};
use slot::wire::{End, How, PlacedFile, Run};

/// A program that judges outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Checker {
    /// A name of [`crate::lang::names`].
    pub language: String,
    /// Source text.
    pub code: Bytes,
    /// For each call; its compiler has those of every compiler.
    pub limits: Limits,
}

/// A checker as it stands in a request.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default = "python")]
    language: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code_b64: Option<Bytes>,
    #[serde(default)]
    limits: Limits,
}

fn python() -> String {
    "python".into()
}

impl TryFrom<Raw> for Checker {
    type Error = String;
    fn try_from(raw: Raw) -> Result<Self, String> {
        let code = match (raw.code, raw.code_b64) {
            (Some(_), Some(_)) => {
                return Err("both code and code_b64 of the checker; give one of them".into());
            }
            (Some(text), None) => text.into(),
            (None, Some(bytes)) => bytes,
            (None, None) => return Err("code of the checker is missing".into()),
        };
        Ok(Self { language: raw.language, code, limits: raw.limits })
    }
}

impl From<Checker> for Raw {
    fn from(c: Checker) -> Self {
        Self { language: c.language, code: None, code_b64: Some(c.code), limits: c.limits }
    }
}

/// What a checker says of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ruling {
    Right,
    /// With what it printed.
    Wrong(String),
    /// It did not judge, for this reason.
    None(String),
}

/// The working directory's names of the three files, in the order of the arguments.
const FILES: [&str; 3] = ["input", "output", "answer"];
/// How much of what it printed becomes a reason.
const SAID_MAX: usize = 500;

/// Gives a Python checker its arguments, whether it runs in a fork of the warm interpreter or in one of its own.
const PYTHON_BOOT: &str = "\
import os, sys
sys.argv = [os.path.join(os.path.dirname(__file__), 'checker.py')]
sys.argv += [os.path.join(os.getcwd(), name) for name in ('input', 'output', 'answer')]
exec(compile(open(sys.argv[0], 'rb').read(), sys.argv[0], 'exec', dont_inherit=True))
";

/// A checker that is ready to be called, for the tests of one job.
pub(crate) struct Ready<'a> {
    language: &'static Language,
    run: Run,
    slot: &'a mut SlotHandle,
}

impl<'a> Ready<'a> {
    /// Compiles the checker where its language wants that.
    ///
    /// # Errors
    /// Why it cannot be called.
    pub fn new(
        checker: &Checker,
        slot: &'a mut SlotHandle,
        (language, toolchain): (&'static Language, &Toolchain),
        cache: Option<&CompileCache>,
        compile_wall_s: f64,
    ) -> Result<Self, String> {
        let file =
            |path: &str, executable: bool, data: Vec<u8>| PlacedFile { path: path.into(), executable, data };
        let source = file(language.source, false, checker.code.0.clone());
        let arguments = FILES.iter().map(|f| format!("/work/{f}"));
        let argv: Vec<_> = toolchain.run.iter().cloned().chain(arguments).collect();
        let warm = language.name == "python" && !slot.hello.interpreter.is_empty();
        let (how, program_files) = match &toolchain.compile {
            Some(command) => {
                let built =
                    compile(slot, cache, language, toolchain, command, source, Vec::new(), compile_wall_s);
                match built.map_err(|e| format!("the checker's slot failed: {e}"))? {
                    Compiled { binary: Some(b), .. } => {
                        (exec(&argv, toolchain, &[]), vec![file(lang::PROGRAM, true, b)])
                    }
                    Compiled { compile, why, .. } => {
                        let said = why.unwrap_or_else(|| cut(&compile.output));
                        return Err(format!("the checker does not compile: {said}"));
                    }
                }
            }
            None if language.name == "python" => {
                let boot = file(language.source, false, PYTHON_BOOT.into());
                let files = vec![boot, file("checker.py", false, checker.code.0.clone())];
                let how = if warm {
                    How::Python { kind: crate::calls::KIND_MAIN }
                } else {
                    exec(&toolchain.run, toolchain, &[])
                };
                (how, files)
            }
            None => (exec(&argv, toolchain, &[]), vec![source]),
        };
        let run = Run {
            how,
            limits: run_limits(&checker.limits, language, Profile::Multi),
            channel: false,
            spawns: false,
            program: next_program(),
            program_files,
            work_files: Vec::new(),
            fetch: Vec::new(),
            fetch_max: 0,
        };
        Ok(Self { language, run, slot })
    }

    /// Asks it about one output.
    pub fn ask(&mut self, test: &StdioTest, output: &[u8], expected: &[u8]) -> Ruling {
        self.run.work_files = FILES
            .iter()
            .zip([&*test.stdin, output, expected])
            .map(|(name, data)| PlacedFile { path: (*name).into(), executable: false, data: data.to_vec() })
            .collect();
        match self.slot.run(&self.run, b"") {
            Ok(out) => self.ruling(&out),
            Err(e) => Ruling::None(format!("the checker's slot failed: {e}")),
        }
    }

    fn ruling(&self, out: &Outcome) -> Ruling {
        let said = || cut(if out.stderr.is_empty() { &out.stdout } else { &out.stderr });
        match &out.report.end {
            End::Exited(0) => Ruling::Right,
            End::Exited(1) if !uncaught(self.language, &out.stderr) => Ruling::Wrong(said()),
            End::Exited(1) => Ruling::None(format!("the checker raised: {}", said())),
            End::Exited(n) => {
                Ruling::None(format!("the checker left with status {n} (0: right, 1: wrong): {}", said()))
            }
            End::Signaled(n) => Ruling::None(format!("the checker died of signal {n}: {}", said())),
            End::Wall | End::Cpu => Ruling::None("the checker passed its time limit".into()),
            End::Memory => Ruling::None("the checker passed its memory limit".into()),
            End::Output => Ruling::None("the checker passed its output limit".into()),
            End::Processes => Ruling::None("the checker passed its limit of processes".into()),
            End::Failed(why) => Ruling::None(format!("the checker could not be run: {why}")),
        }
    }
}

/// Python and node leave with status 1 after an exception that nobody catches: that is no judgement.
fn uncaught(language: &Language, stderr: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stderr);
    match language.name {
        "python" => text.contains("Traceback (most recent call last):") || lang::is_syntax_error(stderr),
        "nodejs" => text.trim_end().lines().last().is_some_and(|l| l.starts_with("Node.js v")),
        _ => false,
    }
}

/// The end of what it printed: that is where the reason stands.
fn cut(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let text = text.trim();
    let skip = text.chars().count().saturating_sub(SAID_MAX);
    text.chars().skip(skip).collect()
}

/// The checker of a job, if it has one.
pub(crate) fn of(job: &Job) -> Option<&Checker> {
    match &job.comparator {
        crate::Comparator::Checker(c) => Some(c),
        _ => None,
    }
}
