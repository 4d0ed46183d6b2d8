//! Does anything grow? `cargo run --release -p bessemer-sandbox --example soak [RUNS]` (default 10,000): a mixture of programs
//! that pass, fail, hang, crash, fork, fill memory and scratch, in several languages and every mode, with a look at processes,
//! mounts, descriptors, scratch and memory in between. Leaves with status 1 when a verdict is wrong or something grew.

mod mix;

fn main() {
    let runs = match std::env::args().nth(1).map(|a| a.parse()) {
        None => 10_000,
        Some(Ok(n)) => n,
        Some(Err(e)) => {
            eprintln!("soak [RUNS]: {e}");
            std::process::exit(2);
        }
    };
    let report = mix::soak(runs, |line| println!("{line}"));
    if !report.is_empty() {
        eprintln!("{}", report.join("\n"));
        std::process::exit(1);
    }
}
