//! How a command fails: a sentence, an exit code (docs/CLI.md), and what to type next.

use record::exit;
use std::fmt::Display;

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    pub code: i32,
    /// Whole sentences, one mistake a line.
    pub lines: Vec<String>,
}

pub type Result<T = i32> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(code: i32, text: impl Display) -> Self {
        Self { code, lines: vec![text.to_string()] }
    }

    /// The command line asks for something that is not there.
    pub fn usage(text: impl Display) -> Self {
        Self::new(exit::USAGE, text)
    }

    /// A file of the user's is wrong.
    pub fn input(text: impl Display) -> Self {
        Self::new(exit::USER_ERROR, text)
    }

    pub fn many(code: i32, lines: impl IntoIterator<Item = String>) -> Self {
        Self { code, lines: lines.into_iter().collect() }
    }

    pub fn render(&self, color: bool) -> String {
        let (on, off) = if color { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        self.lines.iter().map(|l| format!("{on}error:{off} {l}\n")).collect()
    }
}

/// Anything unexpected: exit code 1, the whole chain of causes.
impl From<anyhow::Error> for Failure {
    fn from(e: anyhow::Error) -> Self {
        Self::new(exit::FAILED, format!("{e:#}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self::new(exit::FAILED, e)
    }
}
