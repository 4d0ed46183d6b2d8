//! What tests of executed oracles share.

use corpus::{Problem, Test};
use record::params::Split;
use sandbox::Sandbox;
use std::path::Path;

/// "Print it times two", with tests for these numbers.
pub fn double(numbers: &[i32]) -> Problem {
    let test = |n: &i32| Test { stdin: format!("{n}\n"), expected: format!("{}\n", n * 2) };
    Problem {
        id: "double".into(),
        family: "double".into(),
        values: vec![2],
        split: Split::Train,
        novelty: None,
        prompt: "Read a number. Print it times 2.".into(),
        tests: numbers.iter().map(test).collect(),
        reference: "print(int(input()) * 2)\n".into(),
    }
}

pub fn sandbox() -> Sandbox {
    Sandbox::start(sandbox::Config::default()).expect("bessemer doctor says what is missing")
}

/// The rows of a ledger.
pub fn rows(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).expect("a ledger");
    text.lines().map(|l| serde_json::from_str(l).expect("JSON lines")).collect()
}
