//! What a run costs, next to starting an interpreter without any isolation: all variants interleaved in one process on
//! the same program, CPU time and wall-clock time of each with everything that works for it (slots included).
//!
//! `cargo run --release -p bessemer-sandbox --example bench [ROUNDS]`; only the ratios mean something on a machine that
//! does other work.

use sandbox::{Config, Job, Sandbox, Value, Verdict};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

const PROGRAM: &str = "import sys\nprint(sum(map(int, sys.stdin.read().split())))\n";

struct Variant<'a> {
    name: &'static str,
    /// How many runs one call stands for.
    runs: f64,
    /// Returns the CPU time in microseconds that is to be added to what is seen from outside.
    call: Box<dyn FnMut() -> f64 + 'a>,
    cpu_us: f64,
    wall_us: Vec<f64>,
}

/// CPU time of ourselves, of children that have ended, and of the slots' own processes. What programs in slots used is
/// told by their results: the kernel shows it of reaped children in ticks of 10 ms only.
fn cpu_us() -> f64 {
    let own = |who| {
        // SAFETY: the struct lives on our stack, and all zeroes is valid for it.
        unsafe {
            let mut u: libc::rusage = std::mem::zeroed();
            libc::getrusage(who, &raw mut u);
            #[allow(clippy::cast_precision_loss, reason = "seconds of a benchmark")]
            let us = |t: libc::timeval| t.tv_sec as f64 * 1e6 + t.tv_usec as f64;
            us(u.ru_utime) + us(u.ru_stime)
        }
    };
    let mut sum = own(libc::RUSAGE_SELF) + own(libc::RUSAGE_CHILDREN);
    for pid in descendants() {
        let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
        let run_ns: f64 = schedstat.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
        sum += run_ns / 1000.0;
    }
    sum
}

fn descendants() -> Vec<u32> {
    let mut found = Vec::new();
    let mut todo = vec![std::process::id()];
    while let Some(pid) = todo.pop() {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|c| c.parse().ok()) {
                found.push(child);
                todo.push(child);
            }
        }
    }
    found
}

fn spawn(argv: &[&str], input: &str) -> f64 {
    let mut child = Command::new(argv[0])
        .args(&argv[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", argv[0]));
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), input.as_bytes())
        .expect("the child reads");
    let out = child.wait_with_output().expect("the child ends");
    assert_eq!(out.stdout, b"5050\n", "{argv:?}");
    // bubblewrap leaves a process behind, which comes to us (we are a subreaper); its time counts when it is reaped.
    // SAFETY: plain system calls; ECHILD ends the loop.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
    0.0
}

fn variant<'a>(name: &'static str, runs: f64, call: Box<dyn FnMut() -> f64 + 'a>) -> Variant<'a> {
    Variant { name, runs, call, cpu_us: 0.0, wall_us: Vec::new() }
}

fn main() {
    let rounds: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(30);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("main.py");
    fs::write(&file, PROGRAM).expect("a program");
    let file = file.to_string_lossy().into_owned();
    let input = (1..=100).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "/usr/bin/python3".into());
    let start = |warm_python| {
        let config = Config { slots: 1, python: python.clone().into(), warm_python, ..Config::default() };
        Sandbox::start(config).expect("a sandbox")
    };
    let (warm, cold) = (start(true), start(false));
    assert!(warm.warm_python().is_ok(), "no warm interpreter: {:?}", warm.warm_python());
    let one = |id: &str| Job::python(id, PROGRAM).test(input.as_str(), "5050");
    let ten = (0..10).fold(Job::python("ten", PROGRAM), |j, _| j.test(input.as_str(), "5050"));
    let add = |n: i128| {
        Job::function("f", "def f(a):\n    return a + 1\n", "f").call(vec![Value::Int(n)], Value::Int(n + 1))
    };
    let hundred = (1..100).fold(add(0), |j, n| j.call(vec![Value::Int(n)], Value::Int(n + 1)));
    let passes = |s: &Sandbox, j: &Job| {
        let r = s.run(j);
        assert_eq!(r.verdict, Verdict::Pass, "{r:?}");
        r.tests.iter().map(|t| t.cpu_ms * 1000.0).sum()
    };
    // SAFETY: prctl with plain numbers.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    let bwrap = [
        "bwrap",
        "--ro-bind",
        "/usr",
        "/usr",
        "--symlink",
        "usr/lib",
        "/lib",
        "--symlink",
        "usr/lib64",
        "/lib64",
    ];
    let bwrap: Vec<&str> = bwrap
        .into_iter()
        .chain([
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--tmpfs",
            "/tmp",
            "--unshare-all",
            "--ro-bind",
            &file,
            "/main.py",
        ])
        .chain(["--", "/usr/bin/python3", "-I", "-S", "/main.py"])
        .collect();
    let mut variants = vec![
        variant("bare python3 -I -S", 1.0, Box::new(|| spawn(&[&python, "-I", "-S", &file], &input))),
        variant("bare python3", 1.0, Box::new(|| spawn(&[&python, &file], &input))),
        variant("exec lane, per test", 1.0, Box::new(|| passes(&cold, &one("cold")))),
        variant("warm lane, per test (1 test a job)", 1.0, Box::new(|| passes(&warm, &one("warm")))),
        variant("warm lane, per test (10 tests a job)", 10.0, Box::new(|| passes(&warm, &ten))),
        variant("function mode, per call (100 a job)", 100.0, Box::new(|| passes(&warm, &hundred))),
    ];
    if Command::new("bwrap").arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success()) {
        variants.push(variant("bubblewrap + python3 -I -S", 1.0, Box::new(|| spawn(&bwrap, &input))));
    }
    for v in &mut variants {
        (v.call)(); // the first run starts slots and fills caches
    }
    for _ in 0..rounds {
        for v in &mut variants {
            // A batch of calls, because CPU time of reaped children comes in ticks of 10 ms.
            let before = cpu_us();
            let calls: u32 = 10;
            for _ in 0..calls {
                let at = Instant::now();
                v.cpu_us += (v.call)() / f64::from(calls) / v.runs;
                v.wall_us.push(at.elapsed().as_secs_f64() * 1e6 / v.runs);
            }
            v.cpu_us += (cpu_us() - before) / f64::from(calls) / v.runs;
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "a number of rounds")]
    let per_round = rounds.max(1) as f64;
    let base = variants[0].cpu_us;
    println!("load: {}", fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    println!("| variant | CPU us | p50 us | p99 us | x bare -I -S (CPU) |\n| --- | --- | --- | --- | --- |");
    for v in &mut variants {
        v.wall_us.sort_by(f64::total_cmp);
        let at = |q: usize| v.wall_us[(v.wall_us.len() * q / 100).min(v.wall_us.len() - 1)];
        let (p50, p99) = (at(50), at(99));
        println!(
            "| {} | {:.0} | {p50:.0} | {p99:.0} | {:.2} |",
            v.name,
            v.cpu_us / per_round,
            base / v.cpu_us
        );
    }
}
