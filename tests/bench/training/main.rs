//! `make bench-train`: a LoRA training step against transformers + PEFT and against TRL, on the same libtorch build with
//! the same threads and allocator settings. Every measurement is a process of its own; repetitions are interleaved.
//!
//! `cargo bench -p bessemer-train --bench training -- [run [fp32|bf16] [padded|mixed] [ours|hf|trl]...]` measures (all of
//! it without words) and keeps what it measured; `-- table` writes the part of docs/BENCHMARKS.md. Python is
//! `.venv-parity/bin/python` (`make parity` makes it).

mod ours;
mod table;

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;

pub const PRECISIONS: [&str; 2] = ["fp32", "bf16"];
pub const SETS: [&str; 2] = ["padded", "mixed"];
pub const ENGINES: [&str; 3] = ["ours", "hf", "trl"];
/// Repetitions; `BESSEMER_BENCH_REPEAT` sets another number.
const REPEAT: usize = 3;
/// Calculating threads of every engine.
pub const THREADS: u32 = 2;

/// What one process measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    pub engine: String,
    pub precision: String,
    pub set: String,
    /// Real tokens (padding does not count) per second, steps after the first.
    pub tokens_per_s: f64,
    pub seconds_per_step: f64,
    pub peak_rss_mb: f64,
    /// Of every step, the first included.
    pub losses: Vec<f64>,
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn work() -> PathBuf {
    std::env::temp_dir().join("bessemer-bench-training")
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--bench")).collect();
    let dir = work();
    let results = dir.join("results.json");
    match words.first().map(String::as_str) {
        Some("child") => {
            let measured = ours::measure(&dir, &words[1], &words[2], words.get(3));
            println!("{}", serde_json::to_string(&measured).expect("numbers and texts"));
        }
        Some("table") => table::write(&read(&results)),
        Some("run") | None => {
            ours::prepare(&dir);
            let named = |all: &[&'static str]| -> Vec<&'static str> {
                let some: Vec<_> = all.iter().copied().filter(|x| words.iter().any(|w| w == x)).collect();
                if some.is_empty() { all.to_vec() } else { some }
            };
            let repeat =
                std::env::var("BESSEMER_BENCH_REPEAT").ok().and_then(|n| n.parse().ok()).unwrap_or(REPEAT);
            let mut all = read(&results);
            for precision in named(&PRECISIONS) {
                for set in named(&SETS) {
                    let engines = named(&ENGINES);
                    all.retain(|m| {
                        m.precision != precision || m.set != set || !engines.contains(&m.engine.as_str())
                    });
                    for _ in 0..repeat {
                        for engine in &engines {
                            let m = run(&dir, engine, precision, set);
                            eprintln!(
                                "{engine} {precision} {set}: {:.0} tokens/s, {:.0} MB",
                                m.tokens_per_s, m.peak_rss_mb
                            );
                            all.push(m);
                            // kept at once: a measurement in pieces is one table
                            let text = serde_json::to_vec(&all).expect("numbers and texts");
                            std::fs::write(&results, text).expect("the work directory can be written");
                        }
                    }
                }
            }
            if words.is_empty() {
                table::write(&all);
            }
        }
        Some(other) => panic!("unknown word {other:?}: run, table"),
    }
}

fn read(path: &Path) -> Vec<Measured> {
    std::fs::read(path).ok().map(|b| serde_json::from_slice(&b).expect("results.json")).unwrap_or_default()
}

fn run(dir: &Path, engine: &str, precision: &str, set: &str) -> Measured {
    let mut command = if engine == "ours" {
        let mut c = Command::new(std::env::current_exe().expect("a running program has a path"));
        c.arg("child");
        c
    } else {
        let mut c = Command::new(root().join(".venv-parity/bin/python"));
        c.arg(root().join(format!("tests/bench/training/sft_{engine}.py"))).arg(dir);
        c
    };
    command.args([precision, set]);
    // what `model::runtime::init` sets for us
    command.envs([
        ("OMP_NUM_THREADS", THREADS.to_string()),
        ("MALLOC_MMAP_MAX_", "0".into()),
        ("MALLOC_TRIM_THRESHOLD_", i32::MAX.to_string()),
        ("MALLOC_TOP_PAD_", (64 << 20).to_string()),
        ("HF_HUB_OFFLINE", "1".into()),
        ("TOKENIZERS_PARALLELISM", "false".into()),
    ]);
    let out = command.output().expect("the engine starts");
    let text = String::from_utf8_lossy(&out.stdout);
    text.lines()
        .find_map(|l| serde_json::from_str(l).ok())
        .unwrap_or_else(|| panic!("{engine}: {text}\n{}", String::from_utf8_lossy(&out.stderr)))
}
