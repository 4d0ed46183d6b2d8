//! The languages: a table, one file each.

mod binds;
mod c;
mod node;
mod python;
mod rust;
mod shell;

use crate::config::Config;
use slot::wire::Bind;
use std::path::Path;

pub(crate) use binds::base as base_binds;
pub(crate) use python::{PARSE_SCRIPT, is_syntax_error, python_with, zygote_command};

/// Whether this is a name of Python.
pub(crate) fn is_python(name: &str) -> bool {
    by_name(name) == by_name("python")
}

/// One language of the table.
pub(crate) struct Language {
    /// Its name in jobs.
    pub name: &'static str,
    /// Other names for it, those of SandboxFusion among them.
    pub aliases: &'static [&'static str],
    /// The name of the source file in `/prog`.
    pub source: &'static str,
    /// Finds what is needed on this machine.
    pub find: fn(&Config) -> Result<Toolchain, String>,
    /// Address space that its runtime reserves beyond what it uses, MiB.
    pub reserve_mb: u64,
    /// Stack of the main thread, MiB.
    pub stack_mb: u64,
}

/// A language as found on this machine; paths are those inside a slot.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    /// What of the host has to be visible beyond the base.
    pub binds: Vec<Bind>,
    /// Compiler command: reads the source in `/prog`, writes [`PROGRAM`] in `/work`. `None`: there is no compilation.
    pub compile: Option<Vec<String>>,
    /// Command that runs the program.
    pub run: Vec<String>,
    /// Environment beyond the base.
    pub env: Vec<String>,
    /// For people: what it is.
    pub version: String,
}

/// What a compilation leaves in `/work`, and what then lies in `/prog`.
pub(crate) const PROGRAM: &str = "main";

static TABLE: &[&Language] =
    &[&python::LANGUAGE, &c::C, &c::CPP, &rust::LANGUAGE, &node::LANGUAGE, &shell::LANGUAGE];

/// Every language by its name here.
#[must_use]
pub fn names() -> Vec<&'static str> {
    TABLE.iter().map(|l| l.name).collect()
}

pub(crate) fn table() -> &'static [&'static Language] {
    TABLE
}

/// The language of that name or alias.
pub(crate) fn by_name(name: &str) -> Option<usize> {
    TABLE.iter().position(|l| l.name == name || l.aliases.contains(&name))
}

/// The base environment of every program: nothing of the supervisor's.
pub(crate) const BASE_ENV: &[&str] = &[
    "PATH=/usr/local/bin:/usr/bin:/bin",
    "HOME=/tmp", // not the working directory, or what a program finds there would depend on its name
    "TMPDIR=/tmp",
    "LANG=C.UTF-8",
    "LC_ALL=C.UTF-8",
    "OMP_NUM_THREADS=1",
    "OPENBLAS_NUM_THREADS=1",
    "MKL_NUM_THREADS=1",
];

/// A program on PATH, as an absolute path with links resolved.
fn on_path(name: &Path) -> Option<std::path::PathBuf> {
    if name.components().count() > 1 {
        return std::fs::canonicalize(name).ok();
    }
    std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
        .and_then(|p| std::fs::canonicalize(p).ok())
}

/// First line that a command prints, without anything of ours in its environment but PATH and HOME (rustup needs it).
fn first_line(program: &Path, args: &[&str]) -> Result<String, String> {
    let mut command = std::process::Command::new(program);
    command.args(args).env_clear().stdin(std::process::Stdio::null());
    for name in ["PATH", "HOME", "LD_LIBRARY_PATH", "RUSTUP_HOME", "CARGO_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let out = command.output().map_err(|e| format!("{}: {e}", program.display()))?;
    if !out.status.success() {
        return Err(format!(
            "{} {} failed ({}): {}",
            program.display(),
            args.join(" "),
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        ));
    }
    Ok(String::from_utf8_lossy(&out.stdout).lines().next().unwrap_or_default().to_owned())
}
