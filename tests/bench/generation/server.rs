//! The server under 64 concurrent streams, beside the engine alone with the same work.

use crate::lab::{Lab, Stat, prompts};
use generate::{Engine, Request, Sampling};
use record::params::Precision;
use serde_json::json;
use serve::{Limits, Service};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const STREAMS: usize = 64;
const ROUNDS: usize = 3;
const NEW: u32 = 96;

fn sampling(seed: u64) -> Sampling {
    Sampling { seed, max_new_tokens: NEW, ..Sampling::default() }
}

pub fn measure(lab: &Lab) -> String {
    let asked = prompts(STREAMS * ROUNDS, 64, 32, 4);
    let tokens = (asked.len() * NEW as usize) as f64;
    let mut engine = lab.engine(Precision::Fp32, STREAMS);
    let requests: Vec<Request> = asked
        .iter()
        .enumerate()
        .map(|(i, p)| Request { prompt: p.clone(), n: 1, adapter: None, sampling: sampling(i as u64) })
        .collect();
    let start = Instant::now();
    engine.generate(requests).expect("generation");
    let alone = tokens / start.elapsed().as_secs_f64();
    engine.release();

    let dir = tempfile::tempdir().expect("a directory");
    let service = Service {
        task_dir: dir.path().to_owned(),
        attempt: 1,
        model: "bench".into(),
        adapters: Vec::new(),
        bind: std::net::Ipv4Addr::LOCALHOST.into(),
        limits: Limits::default(),
        consumers: vec![],
        idle_timeout: Duration::from_secs(600),
        drain_limit: Duration::from_secs(10),
        poll: Duration::from_millis(100),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let server = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            serve::run_service(&mut engine, &service, &|| stop.load(Ordering::Relaxed), &mut |_| {})
                .expect("the server")
        })
    };
    let at = serve::Client::of_service(dir.path(), serve::client::Patience::default())
        .wait_ready()
        .expect("the server is up");
    let start = Instant::now();
    let streams: Vec<_> = asked
        .chunks(ROUNDS)
        .enumerate()
        .map(|(i, mine)| {
            let (at, mine) = (at.clone(), mine.to_vec());
            std::thread::spawn(move || {
                mine.iter()
                    .enumerate()
                    .map(|(j, p)| stream(&at, p, (i * ROUNDS + j) as u64))
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let seen: Vec<(usize, f64)> = streams.into_iter().flat_map(|s| s.join().expect("a client")).collect();
    let served = tokens / start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    server.join().expect("the server leaves");
    let whole = seen.iter().filter(|s| s.0 == NEW as usize).count();
    let first: Vec<f64> = seen.iter().map(|s| s.1).collect();
    format!(
        "### Server, fp32: {STREAMS} concurrent streams, {} requests of 96 + {NEW} tokens\n\n| | tokens/s |\n|---|---|\n\
         | engine alone, {STREAMS} sequences together | {alone:.0} |\n| over HTTP, every token an event | {served:.0} |\n\n\
         {whole} of {} streams brought all their tokens; first token after {} s. The clients share the machine's cores.\n",
        asked.len(),
        seen.len(),
        Stat::of(&first)
    )
}

/// Events that brought a token, and seconds to the first.
fn stream(at: &serve::Endpoint, prompt: &[u32], seed: u64) -> (usize, f64) {
    let body = json!({"model": at.model, "prompt": prompt, "max_tokens": NEW, "seed": seed, "stream": true, "logprobs": 1})
        .to_string();
    let start = Instant::now();
    let mut socket = TcpStream::connect(at.url.trim_start_matches("http://")).expect("a connection");
    write!(
        socket,
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        at.token.as_deref().unwrap_or_default(),
        body.len()
    )
    .expect("a request");
    let (mut tokens, mut first) = (0, 0.0);
    for line in BufReader::new(socket).lines().map_while(Result::ok) {
        if line.contains("\"token_logprobs\":[-") || line.contains("\"token_logprobs\":[0") {
            if tokens == 0 {
                first = start.elapsed().as_secs_f64();
            }
            tokens += 1;
        }
    }
    (tokens, first)
}
