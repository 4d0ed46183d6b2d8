//! A runner that answers from a list: for tests of everything above the commands.

use super::{CmdOut, CmdSpec, RunError, Runner};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// One expected command and its answer.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub program: &'static str,
    pub answer: Result<CmdOut, RunError>,
}

impl Exchange {
    #[must_use]
    pub fn new(program: &'static str, code: i32, stdout: &str, stderr: &str) -> Self {
        Self {
            program,
            answer: Ok(CmdOut { code: Some(code), stdout: stdout.into(), stderr: stderr.into() }),
        }
    }
}

/// Plays exchanges in order and keeps the commands that were asked for.
#[derive(Debug, Default)]
pub struct Replay {
    state: Mutex<(VecDeque<Exchange>, Vec<CmdSpec>)>,
}

impl Replay {
    #[must_use]
    pub fn new(exchanges: impl IntoIterator<Item = Exchange>) -> Self {
        Self { state: Mutex::new((exchanges.into_iter().collect(), Vec::new())) }
    }

    /// The commands so far.
    #[must_use]
    pub fn seen(&self) -> Vec<CmdSpec> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Exchanges that nobody has asked for yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0.len()
    }
}

impl Runner for Replay {
    fn run(&self, spec: &CmdSpec) -> Result<CmdOut, RunError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1.push(spec.clone());
        match state.0.pop_front() {
            Some(e) if e.program == spec.program => e.answer,
            Some(e) => Err(RunError::Io {
                command: spec.line(),
                reason: format!("the replay expected `{}` here", e.program),
            }),
            None => {
                Err(RunError::Io { command: spec.line(), reason: "the replay has no more answers".into() })
            }
        }
    }

    fn calls(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1.len() as u64
    }
}
