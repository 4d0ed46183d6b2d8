use sandbox::{Config, Job, Sandbox, Value};
use std::time::Instant;
const PROGRAM: &str = "import sys\nprint(sum(map(int, sys.stdin.read().split())))\n";
fn main() {
    let n: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(100);
    let mode = std::env::args().nth(2).unwrap_or_default();
    let input = (1..=100).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    let s = Sandbox::start(Config { slots: 1, python: "/usr/bin/python3".into(), ..Config::default() })
        .expect("s");
    let add = |n: i128| {
        Job::function("f", "def f(a):\n    return a + 1\n", "f").call(vec![Value::Int(n)], Value::Int(n + 1))
    };
    let hundred = (1..100).fold(add(0), |j, n| j.call(vec![Value::Int(n)], Value::Int(n + 1)));
    let job = match mode.as_str() {
        "call" => hundred,
        "ten" => (0..10).fold(Job::python("ten", PROGRAM), |j, _| j.test(input.as_str(), "5050")),
        _ => Job::python("p", PROGRAM).test(input.as_str(), "5050"),
    };
    for _ in 0..5 {
        assert!(s.run(&job).passed_all());
    }
    let mut w = Vec::new();
    let mut cpu = 0.0;
    for _ in 0..n {
        let t = Instant::now();
        let r = s.run(&job);
        w.push(t.elapsed().as_secs_f64() * 1e6);
        assert!(r.passed_all());
        cpu += r.tests.iter().map(|t| t.cpu_ms).sum::<f64>() * 1e3;
    }
    w.sort_by(f64::total_cmp);
    println!("p50 {:.0} p99 {:.0} child cpu {:.0}", w[n / 2], w[n * 99 / 100], cpu / n as f64);
}
