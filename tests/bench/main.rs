//! `make bench`: the planner against its peers, in one run on one machine, repetitions interleaved. Writes the part of
//! docs/BENCHMARKS.md that lies between its markers.
//!
//! `cargo bench -p bessemer --bench planner -- submit chain status plan local` runs the named parts only and prints them.

mod chain;
mod lab;
mod local;
mod planning;
mod status;
mod submit;

use std::fmt::Write;
use std::path::Path;

/// Repetitions of every measurement; medians are reported.
const REPEAT: usize = 5;

type Part = (&'static str, fn() -> String);

const PARTS: [Part; 5] = [
    ("submit", submit::measure),
    ("chain", chain::measure),
    ("status", status::measure),
    ("plan", planning::measure),
    ("local", local::measure),
];

fn main() {
    // cargo passes `--bench`
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let all = wanted.is_empty();
    let mut text = header();
    for (name, measure) in PARTS {
        if all || wanted.iter().any(|w| w == name) {
            eprintln!("bench: {name}");
            let part = measure();
            println!("{part}");
            let _ = write!(text, "\n{part}");
        }
    }
    if all {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/BENCHMARKS.md");
        replace(&file, "planner", &text);
        println!("written: {}", file.display());
    }
}

fn header() -> String {
    let read = |p: &str| std::fs::read_to_string(p).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split(':').nth(1))
        .unwrap_or("?")
        .trim()
        .to_owned();
    let load = read("/proc/loadavg").split_whitespace().next().unwrap_or("?").to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let version = |program: &str, arg: &str| {
        let out = std::process::Command::new(program).arg(arg).output();
        out.ok()
            .and_then(|o| String::from_utf8_lossy(&o.stdout).lines().next().map(str::to_owned))
            .unwrap_or_else(|| "absent".into())
    };
    format!(
        "Machine: {cores} cores ({model}), load average at the start {load}; {}; {}. Medians of {REPEAT} interleaved repetitions \
         with the smallest and largest in brackets. Release build.\n",
        version("slurmctld", "-V"),
        version("parallel", "--version")
    )
}

/// Puts `text` between `<!-- name:begin -->` and `<!-- name:end -->`.
fn replace(file: &Path, name: &str, text: &str) {
    let (begin, end) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
    let old = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let (Some(from), Some(to)) = (old.find(&begin), old.find(&end)) else {
        panic!("{} lacks the markers {begin} and {end}", file.display())
    };
    let new = format!("{}{begin}\n{text}\n{}", &old[..from], &old[to..]);
    std::fs::write(file, new).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
}

/// `median [smallest, largest]` with two or three digits that mean something.
fn spread(values: &[f64], unit: &str) -> String {
    let mut v = values.to_vec();
    v.sort_unstable_by(f64::total_cmp);
    let show = |x: f64| {
        if x >= 100.0 {
            format!("{x:.0}")
        } else if x >= 10.0 {
            format!("{x:.1}")
        } else {
            format!("{x:.2}")
        }
    };
    format!("{} {unit} [{}, {}]", show(v[v.len() / 2]), show(v[0]), show(v[v.len() - 1]))
}

fn median(values: &[f64]) -> f64 {
    let mut v = values.to_vec();
    v.sort_unstable_by(f64::total_cmp);
    v[v.len() / 2]
}
