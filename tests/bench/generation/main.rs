//! `make bench-generation`: the engine and the server against transformers' `generate` on the same libtorch build, with the
//! same threads and malloc settings, repetitions interleaved in one run. Writes part "generation" of docs/BENCHMARKS.md.
//!
//! `cargo bench -p bessemer-worker --bench generation -- decode rollouts server` runs the named parts only and prints them.

mod decode;
mod lab;
mod rollouts;
mod server;

use std::fmt::Write;
use std::path::Path;

type Part = (&'static str, fn(&lab::Lab) -> String);

const PARTS: [Part; 4] = [
    ("decode", decode::fp32),
    ("decode-bf16", decode::bf16),
    ("rollouts", rollouts::measure),
    ("server", server::measure),
];

fn main() {
    // cargo passes `--bench`
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let all = wanted.is_empty();
    let lab = lab::Lab::new();
    let mut text = lab.header();
    for (name, measure) in PARTS {
        if all || wanted.iter().any(|w| w == name) {
            eprintln!("bench: {name}");
            let part = measure(&lab);
            println!("{part}");
            let _ = write!(text, "\n{part}");
        }
    }
    if all {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/BENCHMARKS.md");
        lab::replace(&file, "generation", &text);
        println!("written: {}", file.display());
    }
}
