//! A crash campaign against `bessemer run` on this machine: SIGKILL at random moments, then `run` or `resume` again.
//! `BESSEMER_DRIVER_KILLS` kills (12 here, hundreds in `make campaign`) from `BESSEMER_SEED` on.

mod util;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};
use util::{Place, until};

/// Three chains of four, each task a few milliseconds long; it notes its begin and, as its last act, its end.
const CHAINS: &str = r#"
bessemer: 1
name: chains
matrix: {seed: [1, 2, 3]}
defaults: {resources: {cpus: 1, memory: 50MB, walltime: 5m}}
phases:
  a: {kind: command, params: &work {argv: [sh, -c, "echo begin $NAME $BESSEMER_ATTEMPT >>$RAN; sleep 0.0${seed}; echo $NAME >o; echo end $NAME >>$RAN"], outputs: [o], env: {NAME: "a-${seed}"}}}
  b: {kind: command, inputs: {x: a}, params: {<<: *work, env: {NAME: "b-${seed}"}}}
  c: {kind: command, inputs: {x: b}, params: {<<: *work, env: {NAME: "c-${seed}"}}}
  d: {kind: command, inputs: {x: c}, params: {<<: *work, env: {NAME: "d-${seed}"}}}
"#;

const TASKS: usize = 12;
const KILLS_PER_SWEEP: u64 = 4;

/// xorshift: the campaign is repeatable by its seed, as far as kills at a time after the start can be.
struct Luck(u64);

impl Luck {
    fn draw(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn place() -> (Place, String) {
    let p = Place::new();
    p.write("job.yaml", CHAINS);
    let pool = p.local_site(3);
    (p, pool)
}

const RUN: [&str; 5] = ["run", "job.yaml", "--site", "here.yaml", "--plain"];

/// Processes of the sweep's pool.
fn processes(pool: &str) -> Vec<String> {
    let wanted = format!("BESSEMER_POOL={pool}");
    let carries = |pid: &String| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|b| *b == 0).any(|v| v == wanted.as_bytes()) && util::alive(pid)
    };
    let all =
        std::fs::read_dir("/proc").unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    all.filter(|n| n.bytes().all(|b| b.is_ascii_digit())).filter(carries).collect()
}

fn check(p: &Place, pool: &str, seed: u64) {
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for line in p.read("ran").lines() {
        if let Some(name) = line.strip_prefix("end ") {
            *ends.entry(name.to_owned()).or_default() += 1;
        }
    }
    assert!(ends.values().all(|n| *n == 1), "seed {seed}: ran to its end twice: {ends:?}");
    assert_eq!(ends.len(), TASKS, "seed {seed}: lost: {ends:?}");
    let status = p.run(&["status", "chains", "--json"]).code(0);
    let doc: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    assert_eq!(doc["counts"], serde_json::json!({"succeeded": TASKS}), "seed {seed}");
    p.run(&["verify"]).code(0).says("0 damaged");
    // what the last supervisor does after its record is not ours to wait for, but it must come to an end
    until("no process of the sweep is left", || processes(pool).is_empty());
}

#[test]
fn a_driver_that_is_killed_at_random_moments_doubles_nothing_orphans_nothing_and_loses_nothing() {
    let (p, pool) = place();
    let begun = Instant::now();
    p.run(&RUN).code(0);
    let length = begun.elapsed().as_secs_f64();
    check(&p, &pool, 0);
    let wanted = number("BESSEMER_DRIVER_KILLS", 12);
    let (mut killed, mut sweeps, mut seed) = (0, 0, number("BESSEMER_SEED", 1));
    while killed < wanted {
        let (p, pool) = place();
        let mut luck = Luck(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for k in 0..KILLS_PER_SWEEP {
            let again: &[&str] = if k > 0 && luck.draw() < 0.5 { &["resume", "chains"] } else { &RUN };
            let mut driver = p.command(again).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_secs_f64(luck.draw() * length * 0.7));
            if driver.try_wait().unwrap().is_none() {
                driver.kill().unwrap();
                killed += 1;
            }
            driver.wait().unwrap();
        }
        // a kill may have come before there was a sweep to resume
        p.run(&RUN).code(0);
        check(&p, &pool, seed);
        (sweeps, seed) = (sweeps + 1, seed + 1);
    }
    eprintln!("{killed} kills in {sweeps} sweeps of {TASKS} tasks: 0 duplicates, 0 orphans, 0 lost");
}
