//! What every command knows about where and for whom it works.

use crate::cli::{Color, Global};
use crate::failure::{Failure, Result};
use crate::out::Out;
use record::{exit, layout};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub struct Context {
    pub runs_dir: PathBuf,
    pub state_dir: PathBuf,
    pub verbose: u8,
    pub color: bool,
    pub err_color: bool,
    /// Standard output is a terminal that can be drawn on.
    pub terminal: bool,
    /// Columns of the terminal; 100 where there is none.
    pub width: usize,
    pub out: Out,
}

impl Context {
    pub fn new(g: &Global) -> Self {
        let wanted = |terminal: bool| match g.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        };
        let terminal =
            std::io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|t| t != "dumb");
        Self {
            runs_dir: g.runs_dir.clone(),
            state_dir: g.state_dir.clone(),
            verbose: g.verbose,
            color: wanted(terminal),
            err_color: wanted(std::io::stderr().is_terminal()),
            terminal,
            width: width(),
            out: Out::new(),
        }
    }

    /// A remark on standard error, for people only.
    pub fn note(&self, text: impl std::fmt::Display) {
        eprintln!("{text}");
    }
}

/// Columns of the terminal now; `COLUMNS` counts where there is none.
pub fn width() -> usize {
    let columns = || std::env::var("COLUMNS").ok()?.parse().ok();
    terminal_size::terminal_size().map(|(w, _)| usize::from(w.0)).or_else(columns).unwrap_or(100)
}

/// Rows of the terminal.
pub fn height() -> usize {
    terminal_size::terminal_size().map_or(50, |(_, h)| usize::from(h.0))
}

/// A path as it has to go into files that others read from elsewhere.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Failure::new(exit::FAILED, format!("{}: {e}", path.display())))
}

/// Reads a text file of the user's.
pub fn read_text(path: &Path, what: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| {
        let hint = match e.kind() {
            std::io::ErrorKind::NotFound => beside(path),
            _ => String::new(),
        };
        Failure::input(format!("cannot read the {what} {}: {e}{hint}", path.display()))
    })
}

/// Files of the same kind in the same place, when one is not there.
fn beside(path: &Path) -> String {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok()?.path().to_str().map(str::to_owned))
        .filter(|p| p.ends_with(".yaml") || p.ends_with(".yml"))
        .collect();
    found.sort();
    found.truncate(8);
    if found.is_empty() { String::new() } else { format!("; there are: {}", found.join(", ")) }
}

/// Whether this is a sweep's run directory.
pub fn is_run_dir(dir: &Path) -> bool {
    dir.join(layout::PLAN).is_file()
}
