//! The seam to the scheduler's commands: one trait, so that every backend can be tested on recorded answers.

mod environment;
mod replay;

pub use environment::scrubbed;
pub use replay::{Exchange, Replay};

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One command. Never a shell line: arguments go as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CmdSpec {
    pub program: &'static str,
    pub args: Vec<String>,
    /// Set on top of the scrubbed environment.
    pub env: Vec<(&'static str, String)>,
    /// After this long the command and its children are killed.
    pub timeout: Duration,
}

impl CmdSpec {
    pub fn new(
        program: &'static str,
        args: impl IntoIterator<Item = impl Into<String>>,
        timeout: Duration,
    ) -> Self {
        Self { program, args: args.into_iter().map(Into::into).collect(), env: Vec::new(), timeout }
    }

    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// For messages: the program and its first arguments.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = self.program.to_owned();
        for arg in &self.args {
            if line.len() + arg.len() > 200 {
                line.push_str(" ...");
                break;
            }
            line.push(' ');
            line.push_str(arg);
        }
        line
    }
}

/// What a command that ended by itself said. Bytes that are not UTF-8 are replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CmdOut {
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl CmdOut {
    /// For messages: how it ended and the first lines of what it said.
    #[must_use]
    pub fn complaint(&self) -> String {
        let said = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|l| !l.is_empty()).take(4).collect();
        let end = self.code.map_or_else(|| "ended by a signal".into(), |c| format!("exit {c}"));
        if lines.is_empty() { end } else { format!("{} ({end})", lines.join("; ")) }
    }
}

/// A command that did not end by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    #[error("`{program}` is not installed here (not on PATH)")]
    Missing { program: String },
    #[error("`{command}` did not answer within {} s and was killed", timeout.as_secs())]
    TimedOut {
        command: String,
        timeout: Duration,
        /// What it had said by then.
        stdout: String,
        stderr: String,
    },
    #[error("`{command}` could not be run: {reason}")]
    Io { command: String, reason: String },
}

/// Runs commands, one at a time per call, from any thread.
pub trait Runner: Send + Sync {
    /// # Errors
    /// [`RunError`]; a non-zero exit is not one.
    fn run(&self, spec: &CmdSpec) -> Result<CmdOut, RunError>;

    /// How many commands were started.
    fn calls(&self) -> u64;
}

/// The real thing: scrubbed environment (specs: F17, F19), own process group, output captured, killed on time-out.
#[derive(Debug, Default)]
pub struct Real {
    calls: AtomicU64,
}

/// The program's file, so that the child need not search: with a PATH of its own a command could not be started by
/// posix_spawn, and a planner of some size would be copied by fork each time. What is not found is left to the system.
fn on_path(program: &str, env: &BTreeMap<OsString, OsString>) -> OsString {
    let path = env.get(OsStr::new("PATH")).cloned().unwrap_or_default();
    let is_program =
        |p: &PathBuf| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(program))
        .find(is_program)
        .map_or_else(|| program.into(), PathBuf::into_os_string)
}

/// How long a killed command's output is waited for: something that left its group may still hold the pipe.
const AFTER_KILL: Duration = Duration::from_secs(2);

impl Runner for Real {
    fn run(&self, spec: &CmdSpec) -> Result<CmdOut, RunError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut env = scrubbed(std::env::vars_os());
        for (name, value) in &spec.env {
            env.insert(OsString::from(name), OsString::from(value));
        }
        let io = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => RunError::Missing { program: spec.program.to_owned() },
            _ => RunError::Io { command: spec.line(), reason: e.to_string() },
        };
        // Its own group: Ctrl-C at the terminal must not cut a submission in half, and a wrapper's children die with it.
        let handle = duct::cmd(on_path(spec.program, &env), &spec.args)
            .full_env(env)
            .stdin_null()
            .stdout_capture()
            .stderr_capture()
            .unchecked()
            .before_spawn(|c| {
                c.process_group(0);
                Ok(())
            })
            .start()
            .map_err(io)?;
        let in_time = handle.wait_timeout(spec.timeout).map_err(io)?;
        let killed = in_time.is_none();
        let output = if killed {
            for pid in handle.pids() {
                let group = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
                if let Some(group) = group {
                    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                }
            }
            handle.wait_timeout(AFTER_KILL).map_err(io)?
        } else {
            in_time
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = output.map_or_else(Default::default, |o| (text(&o.stdout), text(&o.stderr)));
        if killed {
            let (command, timeout) = (spec.line(), spec.timeout);
            return Err(RunError::TimedOut { command, timeout, stdout, stderr });
        }
        Ok(CmdOut { code: output.and_then(|o| o.status.code()), stdout, stderr })
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, timeout: Duration) -> Result<CmdOut, RunError> {
        Real::default().run(&CmdSpec::new("sh", ["-c", script], timeout).env("MARK", "x y"))
    }

    #[test]
    fn output_and_exit_code_come_back() {
        let out = sh("echo \"$MARK $LC_ALL\"; echo bad >&2; exit 3", Duration::from_secs(60)).unwrap();
        assert_eq!(out, CmdOut { code: Some(3), stdout: "x y C\n".into(), stderr: "bad\n".into() });
        assert_eq!(out.complaint(), "bad (exit 3)");
        let out = sh("kill -9 $$", Duration::from_secs(60)).unwrap();
        assert_eq!(out.code, None);
    }

    #[test]
    fn a_silent_command_is_killed_with_its_children_and_what_it_said_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!("echo 4711; sleep 1000 & echo $! >{}; wait", pid_file.display());
        let Err(RunError::TimedOut { stdout, .. }) = sh(&script, Duration::from_secs(1)) else {
            panic!("no time-out")
        };
        assert_eq!(stdout, "4711\n");
        let pid = std::fs::read_to_string(pid_file).unwrap();
        // the kill is sent; the kernel delivers it when the child runs next
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while !(state().is_empty() || state().contains(") Z")) {
            assert!(std::time::Instant::now() < end, "the child survived: {}", state());
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_missing_program_has_its_own_error() {
        let spec = CmdSpec::new("bessemer-no-such-program", [""; 0], Duration::from_secs(1));
        assert!(matches!(Real::default().run(&spec), Err(RunError::Missing { .. })));
    }
}
