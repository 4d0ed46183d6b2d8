//! How long planning takes: `cargo run --release -p bessemer-plan --example plan_bench [TASKS]`.
//!
//! Writes a job file of about TASKS tasks (default 100,000) in the quickstart's shape, plans it five times and prints one
//! JSON line: tasks, median and worst seconds. The job file's text is made before the clock starts.

use std::fmt::Write;
use std::time::Instant;

/// A sweep over variant x learning rate x seed: one rl and one eval task per point, everything upstream shared.
fn job_file(tasks: usize) -> String {
    const RATES: [&str; 10] =
        ["1e-5", "2e-5", "5e-5", "1e-4", "2e-4", "5e-4", "1e-3", "2e-3", "5e-3", "1e-2"];
    let seeds = (tasks / (2 * RATES.len() * 5)).max(1);
    let mut text = String::from(
        "bessemer: 1\nname: bench\nmatrix:\n  variant: [binary, fresh, continued, long, grpo]\n",
    );
    let _ = writeln!(text, "  lr: [{}]\n  seed: [", RATES.join(", "));
    for seed in 1..=seeds {
        let _ = writeln!(text, "    {seed},");
    }
    text.push_str(
        "  ]
phases:
  corpus: {kind: corpus}
  base: {kind: base, inputs: {corpus: corpus}}
  judge: {kind: serve, inputs: {model: base}}
  sample: {kind: sample, inputs: {corpus: corpus}, services: {generator: judge}}
  sft: {kind: sft, inputs: {model: base, data: sample}, params: {learning_rate: \"${lr}\"}}
  rl:
    kind: rl
    inputs: {model: sft, corpus: corpus}
    params: {seed: \"${seed}\", learning_rate: \"${lr}\", reward: partial-credit}
    resources: {cpus: 4, gpus: 1, memory: 16GB, walltime: 4h}
    variants:
      - when: {variant: binary}
        params: {reward: binary}
      - when: {variant: long}
        params: {episodes: 90}
      - when: {variant: grpo}
        params: {algorithm: grpo}
      - when: {variant: continued}
        inputs: {model: {phase: rl, at: {variant: binary}}}
  eval: {kind: eval, inputs: {model: rl, corpus: corpus}}
",
    );
    text
}

fn main() {
    let wanted = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(100_000);
    let text = job_file(wanted);
    let mut seconds = Vec::new();
    let mut tasks = 0;
    for _ in 0..5 {
        let start = Instant::now();
        match plan::load("bench.yaml", &text, &plan::Options::default()) {
            Ok(graph) => {
                seconds.push(start.elapsed().as_secs_f64());
                tasks = graph.tasks.len();
            }
            Err(mistakes) => {
                mistakes.iter().for_each(|m| eprintln!("{m}"));
                std::process::exit(1);
            }
        }
    }
    seconds.sort_by(f64::total_cmp);
    println!(
        "{{\"bench\":\"plan\",\"tasks\":{tasks},\"median_s\":{:.3},\"worst_s\":{:.3}}}",
        seconds[seconds.len() / 2],
        seconds[seconds.len() - 1]
    );
}
