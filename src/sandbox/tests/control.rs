//! Stopping a batch, and where slots run.

use sandbox::{Cancel, Config, Job, Limits, Sandbox, Value, Verdict};
use std::sync::atomic::{AtomicUsize, Ordering};

fn start(slots: usize) -> Sandbox {
    Sandbox::start(Config { slots, compile_cache: None, ..Config::default() })
        .expect("a sandbox can be built here")
}

fn long() -> Limits {
    Limits { wall_s: 3600.0, cpu_s: 3600.0, ..Limits::default() }
}

/// Without an end of what runs these would take an hour.
#[test]
fn cancelling_ends_what_runs_in_every_mode() {
    let s = start(1);
    let forever = "while True: pass";
    let call = format!("def f(x):\n  {forever}");
    let jobs = [
        Job::python("stdio", forever).test("", "").test("", ""),
        Job::function("function", call.as_str(), "f")
            .call(vec![Value::Int(1)], Value::Int(1))
            .call(vec![Value::Int(2)], Value::Int(2)),
        Job::pytest("pytest", call.as_str(), "def test_a():\n  assert f(1) == 1"),
        Job::python("loading", format!("import time\ntime.sleep(3600)\n{call}")),
        Job::stdio("shell", "bash", "sleep 3600").input(""),
    ];
    for job in jobs {
        let job = Job { limits: long(), ..job };
        let cancel = Cancel::default();
        let result = std::thread::scope(|scope| {
            let running = scope.spawn(|| s.run_until(&job, &cancel));
            // Whenever it comes, before the start or in the middle, the job ends.
            std::thread::sleep(std::time::Duration::from_millis(300));
            cancel.cancel();
            running.join().expect("no panic")
        });
        assert_eq!(result.verdict, Verdict::Unscored, "{}: {result:?}", job.id);
        assert!(result.tests.is_empty(), "what was cut short is no verdict: {result:?}");
        // The next job finds a slot that works.
        assert!(s.run(&Job::python("after", "print(1)").test("", "1")).passed_all(), "{}", job.id);
    }
}

#[test]
fn who_waits_for_a_slot_can_be_cancelled_too() {
    let s = start(1);
    let (first, second) = (Cancel::default(), Cancel::default());
    let job = Job { limits: long(), ..Job::python("a", "while True: pass").input("") };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| s.run_until(&job, &first));
        let waiting = scope.spawn(|| s.run_until(&job, &second));
        second.cancel();
        // One of the two holds the slot; the cancelled one comes back either way.
        assert_eq!(waiting.join().expect("no panic").verdict, Verdict::Unscored);
        first.cancel();
        assert_eq!(running.join().expect("no panic").verdict, Verdict::Unscored);
    });
}

#[test]
fn no_more_jobs_are_taken_than_there_are_slots_for() {
    let s = start(2);
    let (asked, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let jobs = (0..40).map(|i| {
        let ahead = asked.fetch_add(1, Ordering::SeqCst) - done.load(Ordering::SeqCst);
        assert!(ahead <= 2, "{ahead} jobs are held at a time");
        Job::python(format!("{i}"), "print(1)").test("", "1")
    });
    s.run_each(jobs, &Cancel::default(), |_, r| {
        assert!(r.passed_all());
        done.fetch_add(1, Ordering::SeqCst);
    });
    assert_eq!(done.into_inner(), 40);
}

fn cpus_of(s: &Sandbox, jobs: usize) -> Vec<String> {
    let code = "import os\nprint(sorted(os.sched_getaffinity(0)))";
    let jobs: Vec<_> = (0..jobs).map(|i| Job::python(format!("{i}"), code).input("")).collect();
    let mut seen: Vec<_> =
        s.run_batch(&jobs).iter().map(|r| r.tests[0].stdout.lossy().trim().to_owned()).collect();
    seen.sort();
    seen.dedup();
    seen
}

#[test]
fn slots_keep_to_one_cpu_each_when_there_are_enough_of_them() {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let s = start(all);
    for set in cpus_of(&s, 8 * all) {
        assert!(!set.contains(','), "a program may use {set}");
    }
    if all > 1 {
        // One slot among many CPUs is left to the scheduler.
        assert!(cpus_of(&start(1), 4).iter().any(|set| set.contains(',')));
    }
    let s = Sandbox::start(Config { slots: all, pin: false, ..Config::default() }).expect("a sandbox");
    assert!(cpus_of(&s, 4).iter().all(|set| all == 1 || set.contains(',')));
}

#[test]
fn the_limit_of_processes_counts_threads_and_children() {
    let s = start(1);
    let count = |processes: u64, code: &str| {
        let limits = Limits { processes, ..Limits::default() };
        let r = s.run(&Job { limits, ..Job::python("p", code).input("") });
        r.tests[0].stdout.lossy().trim().to_owned()
    };
    let threads = "import threading, time\nn = 0\ntry:\n  for i in range(20):\n    threading.Thread(target=time.sleep, args=(0.3,)).start(); n += 1\nexcept RuntimeError: pass\nprint(n)";
    assert_eq!(count(6, threads), "5", "the main thread is the sixth");
    let children = "import os, time\nn = 0\ntry:\n  for i in range(20):\n    if os.fork() == 0:\n      time.sleep(1); os._exit(0)\n    n += 1\nexcept OSError: pass\nprint(n)";
    assert_eq!(count(6, children), "5");
    assert_eq!(count(1, children), "0");
}
