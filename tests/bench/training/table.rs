//! The part of docs/BENCHMARKS.md.

use crate::{ENGINES, Measured, PRECISIONS, SETS, root};
use std::fmt::Write;

pub fn write(all: &[Measured]) {
    let read = |p: &str| std::fs::read_to_string(p).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split(':').nth(1))
        .unwrap_or("?")
        .trim()
        .to_owned();
    let mut text = format!(
        "Machine: {} cores ({cpu}, {}), libtorch {} for all, {} threads, glibc's allocator told to keep its memory (the same three \
         settings for all). Every measurement is a process; repetitions are interleaved; medians with smallest and largest in \
         brackets; steps after the first; only real tokens count, not padding. Model: 56 M random weights (hidden 512, 8 layers, \
         8 / 4 heads, vocabulary 32,000), LoRA r 16 on all linear layers, fused AdamW, clipping. `padded`: 4 rows of 512 tokens, every \
         token with loss. `mixed`: 16 rows a step (4 x 4), log-normal lengths of median 220 (24 to 1,024), loss on the last three \
         fifths; the peers pad each micro-batch to its longest row, we pack.\n\n\
         | | engine | tokens/s | peak RSS, MB | first loss | speed to peer | RSS to peer |\n|---|---|---|---|---|---|---|\n",
        std::thread::available_parallelism().map_or(0, usize::from),
        model::runtime::cpu_capability(),
        model::runtime::LIBTORCH,
        crate::THREADS,
    );
    for precision in PRECISIONS {
        for set in SETS {
            let of = |engine: &str, f: fn(&Measured) -> f64| {
                let mut v: Vec<f64> = all
                    .iter()
                    .filter(|m| m.engine == engine && m.precision == precision && m.set == set)
                    .map(f)
                    .collect();
                v.sort_by(f64::total_cmp);
                v
            };
            let middle = |v: &[f64]| v.get(v.len() / 2).copied().unwrap_or(f64::NAN);
            for engine in ENGINES {
                let (speed, rss) = (of(engine, |m| m.tokens_per_s), of(engine, |m| m.peak_rss_mb));
                let Some((low, high)) = speed.first().zip(speed.last()) else { continue };
                let name = match engine {
                    "ours" => "bessemer",
                    "hf" => "transformers + PEFT",
                    _ => "TRL SFTTrainer",
                };
                let ratio = if engine == "ours" {
                    "| |".to_owned()
                } else {
                    let (s, r) = (of("ours", |m| m.tokens_per_s), of("ours", |m| m.peak_rss_mb));
                    format!("| {:.2} x | {:.2} |", middle(&s) / middle(&speed), middle(&r) / middle(&rss))
                };
                let loss = middle(&of(engine, |m| m.losses.first().copied().unwrap_or(f64::NAN)));
                let _ = writeln!(
                    text,
                    "| {precision} {set} | {name} | {:.0} [{low:.0}, {high:.0}] | {:.0} | {loss:.4} {ratio}",
                    middle(&speed),
                    middle(&rss),
                );
            }
        }
    }
    print!("{text}");
    let file = root().join("docs/BENCHMARKS.md");
    let (begin, end) = ("<!-- training:begin -->", "<!-- training:end -->");
    let old = std::fs::read_to_string(&file).expect("docs/BENCHMARKS.md");
    let (Some(from), Some(to)) = (old.find(begin), old.find(end)) else {
        panic!("{} lacks the markers {begin} and {end}", file.display())
    };
    let new = format!("{}{begin}\n{text}\n{}", &old[..from], &old[to..]);
    std::fs::write(&file, new).expect("docs/BENCHMARKS.md can be written");
    println!("written: {}", file.display());
}
