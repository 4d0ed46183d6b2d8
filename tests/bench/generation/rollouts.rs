//! Rollouts as RL makes them: 32 prompts x 8 samples behind a common beginning, answers of 16 to 256 tokens.

use crate::lab::{Lab, ids, peak_mb, prompts, reset_peak};
use generate::{Engine, Request, Sampling};
use record::params::Precision;
use serde_json::json;
use std::time::Instant;

const PROMPTS: usize = 32;
const SAMPLES: usize = 8;
/// Sequences that run together, on both sides: keys and values of as many rows.
const TOGETHER: usize = 64;
const SHARED: usize = 128;
const OWN: usize = 64;

pub fn measure(lab: &Lab) -> String {
    let asked = prompts(PROMPTS, SHARED, OWN, 77);
    let length = |i: usize, k: usize| 16 + model::sampler::bits(5, (i * SAMPLES + k) as u64) % 241;
    let lengths: Vec<Vec<u64>> = (0..PROMPTS).map(|i| (0..SAMPLES).map(|k| length(i, k)).collect()).collect();
    let tokens: u64 = lengths.iter().flatten().sum();

    let mut engine = lab.engine(Precision::Fp32, TOGETHER);
    let mut rate = Vec::new();
    let mut peak = 0;
    for turn in 0..2u64 {
        reset_peak();
        // the lengths stand for end-of-sequence tokens, so every sample is a request of its own
        let requests: Vec<Request> = (0..PROMPTS * SAMPLES)
            .map(|j| Request {
                prompt: asked[j / SAMPLES].clone(),
                n: 1,
                adapter: None,
                sampling: Sampling {
                    seed: turn << 32 | j as u64,
                    max_new_tokens: lengths[j / SAMPLES][j % SAMPLES] as u32,
                    ..Sampling::default()
                },
            })
            .collect();
        let start = Instant::now();
        let out = engine.generate(requests).expect("generation");
        rate.push(tokens as f64 / start.elapsed().as_secs_f64());
        assert_eq!(out.iter().flatten().map(|s| s.tokens.len() as u64).sum::<u64>(), tokens);
        peak = peak_mb().max(peak);
        // as after an update of the weights: nothing is left of the pages
        engine.release();
    }
    drop(engine);

    let mut peer = lab.peer("float32");
    let per = TOGETHER / SAMPLES;
    let warm = json!({"ids": ids(&asked[..1]), "new": 8, "lengths": [[8, 8, 8, 8, 8, 8, 8, 8]]});
    peer.ask(&warm);
    let (mut seconds, mut theirs) = (0.0, 0);
    for (asked, lengths) in asked.chunks(per).zip(lengths.chunks(per)) {
        let answer = peer.ask(&json!({"ids": ids(asked), "new": 256, "lengths": lengths}));
        seconds += answer["seconds"].as_f64().expect("seconds");
        theirs = theirs.max(answer["peak_mb"].as_u64().unwrap_or(0));
    }
    let other = tokens as f64 / seconds;
    let ours = rate.iter().copied().fold(f64::INFINITY, f64::min);
    format!(
        "### Rollouts, fp32: {PROMPTS} prompts x {SAMPLES} samples, {SHARED} common + {OWN} own tokens, answers of 16 to 256 tokens \
         ({tokens} in all), temperature 1\n\n| | generated tokens/s | peak RSS |\n|---|---|---|\n\
         | engine, {TOGETHER} sequences together (slower of 2 runs, each from an empty cache) | {ours:.0} | {peak} MB |\n\
         | transformers generate, batches of {TOGETHER} rows, in the order asked | {other:.0} | {theirs} MB |\n\n\
         Ratio: {:.2}.\n",
        ours / other
    )
}
