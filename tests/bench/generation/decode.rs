//! Greedy decoding, 64 tokens after a prompt of 64; and how near one sequence comes to what the memory can deliver.

use crate::lab::{Lab, Stat, ids, prompts};
use generate::{Engine, Request, Sampling};
use model::TorchEngine;
use record::params::Precision;
use serde_json::json;
use std::fmt::Write;
use std::time::Instant;

const NEW: u32 = 64;
const REPEAT: usize = 5;

pub fn fp32(lab: &Lab) -> String {
    measure(lab, Precision::Fp32, "float32", "fp32")
}

pub fn bf16(lab: &Lab) -> String {
    measure(lab, Precision::Bf16, "bfloat16", "bf16")
}

fn requests(prompts: &[Vec<u32>], new: u32) -> Vec<Request> {
    prompts
        .iter()
        .map(|prompt| Request {
            prompt: prompt.clone(),
            n: 1,
            adapter: None,
            sampling: Sampling { temperature: 0.0, max_new_tokens: new, ..Sampling::default() },
        })
        .collect()
}

/// One peer's repetitions beside ours.
#[derive(Default)]
struct Beside {
    theirs: Vec<f64>,
    ratio: Vec<f64>,
    equal: usize,
    tokens: usize,
}

fn measure(lab: &Lab, precision: Precision, dtype: &str, name: &str) -> String {
    let mut peers = vec![("transformers generate", lab.peer(dtype))];
    // candle multiplies no bf16 on a CPU
    peers.extend((precision == Precision::Fp32).then(|| lab.candle()).flatten().map(|p| ("candle", p)));
    let mut engine = lab.engine(precision, 16);
    let mut text = format!(
        "### Greedy decoding, {name}, prompt 64 + 64 tokens\n\n| batch | tokens/s | peer | its tokens/s | ratio | equal tokens |\n\
         |---|---|---|---|---|---|\n"
    );
    for batch in [1, 16] {
        let mut ours = Vec::new();
        let mut beside: Vec<Beside> = peers.iter().map(|_| Beside::default()).collect();
        for turn in 0..=REPEAT {
            let prompts = prompts(batch, 0, 64, 1000 * turn as u64);
            let ask = json!({"ids": ids(&prompts), "new": NEW});
            let answers: Vec<_> = peers.iter_mut().map(|(_, peer)| peer.ask(&ask)).collect();
            let start = Instant::now();
            let out = engine.generate(requests(&prompts, NEW)).expect("generation");
            let seconds = start.elapsed().as_secs_f64();
            // the first turn warms everybody up
            if turn == 0 {
                continue;
            }
            let tokens = (batch * NEW as usize) as f64;
            ours.push(tokens / seconds);
            for (answer, b) in answers.iter().zip(&mut beside) {
                b.theirs.push(tokens / answer["seconds"].as_f64().expect("seconds"));
                b.ratio.push(ours[ours.len() - 1] / b.theirs[b.theirs.len() - 1]);
                for (mine, other) in out.iter().zip(answer["out"].as_array().expect("rows")) {
                    let other = other.as_array().expect("ids").iter().map(|t| t.as_u64().unwrap_or(u64::MAX));
                    b.tokens += mine[0].tokens.len();
                    b.equal += mine[0].tokens.iter().zip(other).filter(|(a, b)| u64::from(**a) == *b).count();
                }
            }
        }
        for ((peer, _), b) in peers.iter().zip(&beside) {
            let _ = writeln!(
                text,
                "| {batch} | {} | {peer} | {} | {} | {:.1} % |",
                Stat::of(&ours),
                Stat::of(&b.theirs),
                Stat::of(&b.ratio),
                100.0 * b.equal as f64 / b.tokens as f64
            );
        }
    }
    drop(peers);
    text + &limit(lab, &mut engine, precision, name)
}

/// Steps of one sequence against reading as many bytes as the weights have, in turn.
fn limit(lab: &Lab, engine: &mut TorchEngine, precision: Precision, name: &str) -> String {
    let model = lab.load(precision);
    let config = &model.decoder.config;
    let each = if precision == Precision::Fp32 { 4 } else { 2 };
    // the embedding is not read but for one row
    let bytes = (config.parameters() as usize - (config.vocab * config.hidden) as usize) * each;
    drop(model);
    let buffer = buffer(bytes);
    let (mut reads, mut steps, mut share) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..8 {
        let best = (0..10).map(|_| read(&buffer, lab.threads)).fold(f64::INFINITY, f64::min);
        for r in requests(&prompts(1, 0, 64, 7 + turn), 128) {
            engine.add(r).expect("a request");
        }
        engine.step().expect("prefill");
        let mut took = Vec::new();
        while engine.pending() > 0 {
            let start = Instant::now();
            engine.step().expect("a step");
            took.push(start.elapsed().as_secs_f64());
        }
        took.sort_by(f64::total_cmp);
        let median = took[took.len() / 2];
        reads.push(bytes as f64 / best / 1e9);
        steps.push(1.0 / median);
        share.push(100.0 * best / median);
    }
    format!(
        "\nBatch 1, {name}, against the memory: a step reads {:.0} MB of weights; a bare read of as many bytes by {} threads, in turn with \
         it, runs at {} GB/s (best of 10); steps at {} tokens/s: {} % of what that read allows.\n",
        bytes as f64 / 1e6,
        lab.threads,
        Stat::of(&reads),
        Stat::of(&steps),
        Stat::of(&share)
    )
}

/// On large pages where the system gives them, as the engine's weights are.
fn buffer(bytes: usize) -> Vec<u64> {
    let mut buffer = vec![0u64; bytes / 8];
    let page = 4096;
    let start = (buffer.as_mut_ptr() as usize).next_multiple_of(page);
    let end = (buffer.as_ptr() as usize + bytes) / page * page;
    // SAFETY: advice about whole pages inside our own allocation.
    unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    buffer.iter_mut().enumerate().for_each(|(i, x)| *x = i as u64);
    buffer
}

fn read(buffer: &[u64], threads: usize) -> f64 {
    let part = buffer.len().div_ceil(threads);
    let barrier = std::sync::Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = buffer
            .chunks(part)
            .map(|part| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let mut sums = [0u64; 32];
                    for line in part.chunks_exact(32) {
                        line.iter().zip(&mut sums).for_each(|(x, s)| *s = s.wrapping_add(*x));
                    }
                    std::hint::black_box(sums);
                })
            })
            .collect();
        // before the barrier: behind it the readers may have a start on us
        let start = Instant::now();
        barrier.wait();
        for worker in workers {
            worker.join().expect("a reader");
        }
        start.elapsed().as_secs_f64()
    })
}
