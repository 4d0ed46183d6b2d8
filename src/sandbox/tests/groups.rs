//! Tier A: what control groups add. Where this process may make none (an ordinary user, most containers) there is nothing to
//! test but that the tier says so.

use sandbox::{CgroupPolicy, Config, Job, Limits, Sandbox, SandboxError, Tier, Verdict};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One at a time: groups are counted by this process' id.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn config(cgroup: CgroupPolicy) -> Config {
    Config { slots: 1, compile_cache: None, cgroup, ..Config::default() }
}

fn with_groups() -> Option<Sandbox> {
    let sandbox = Sandbox::start(config(CgroupPolicy::IfPossible)).expect("a sandbox can be built here");
    match sandbox.control_groups() {
        Ok(_) => Some(sandbox),
        Err(why) => {
            eprintln!("not tested: {why}");
            assert!(sandbox.tier() < Tier::A);
            None
        }
    }
}

fn limits(memory_mb: u64, processes: u64) -> Limits {
    Limits { memory_mb, processes, wall_s: 60.0, cpu_s: 60.0, ..Limits::default() }
}

/// Children that hold 30 MiB each, until as many as asked for stand at once.
const CHILDREN: &str = "
import os, sys
n = int(input())
ready, go = os.pipe(), os.pipe()
for i in range(n):
    if os.fork() == 0:
        os.close(go[1])
        held = bytearray(30 << 20)
        os.write(ready[1], b'x')
        os.read(go[0], 1)
        os._exit(0)
seen = 0
while seen < n:
    seen += len(os.read(ready[0], n))
os.close(go[1])
for i in range(n):
    os.wait()
print('all stood')
";

#[test]
fn many_small_processes_are_held_to_the_limit_of_all_together() {
    let _one = alone();
    let Some(s) = with_groups() else { return };
    assert_eq!(s.tier(), Tier::A);
    let job = |n: &str| Job { limits: limits(160, 16), ..Job::python("x", CHILDREN).test(n, "all stood") };
    let r = s.run(&job("3"));
    assert_eq!((r.verdict, r.tier), (Verdict::Pass, Tier::A), "{r:?}");
    let peak = r.tests[0].memory_peak_mb;
    assert!((85.0..160.0).contains(&peak), "{peak} MiB for three times 30");
    // Whichever process the kernel picks, a child or even process 1 of the slot: the verdict is the same.
    for _ in 0..3 {
        let r = s.run(&job("10"));
        assert_eq!(r.verdict, Verdict::MemoryLimit, "{r:?}");
        let r = s.run(&job("1"));
        assert_eq!(r.verdict, Verdict::Pass, "after one that was killed: {r:?}");
    }
}

#[test]
fn what_is_below_a_limit_is_not_killed_and_small_programs_are_seen_as_small() {
    let _one = alone();
    let Some(s) = with_groups() else { return };
    let hold = "x = bytearray(int(input()) << 20)\nprint(len(x) >> 20)";
    for (mb, verdict) in [("48", Verdict::Pass), ("80", Verdict::MemoryLimit), ("1", Verdict::Pass)] {
        let r = s.run(&Job { limits: limits(64, 4), ..Job::python("x", hold).test(mb, mb) });
        assert_eq!(r.verdict, verdict, "{mb} MiB of 64: {r:?}");
    }
    let r = s.run(&Job::python("x", hold).test("1", "1"));
    // Where the kernel cannot start a peak anew (version 2 before 6.12) it is sampled, as in B, where pages that the program
    // shares with the warm interpreter count: 9 MiB on Linux 6.1.
    assert!(r.tests[0].memory_peak_mb < 12.0, "{} MiB", r.tests[0].memory_peak_mb);
}

#[test]
fn the_number_of_processes_is_exact() {
    let _one = alone();
    let Some(s) = with_groups() else { return };
    let code = "
import os
made = 0
try:
    for i in range(40):
        if os.fork() == 0:
            import time
            time.sleep(600)
        made += 1
except BlockingIOError:
    pass
print(made)
";
    let r = s.run(&Job { limits: limits(256, 5), ..Job::python("x", code).test("", "4") });
    assert_eq!(r.verdict, Verdict::Pass, "{r:?}");
}

#[test]
fn groups_are_removed_with_their_sandbox() {
    let _one = alone();
    let Some(s) = with_groups() else { return };
    let place = s.control_groups().expect("there are").rsplit(" in ").next().map(PathBuf::from);
    let place = place.expect("it names a directory");
    let mine = || {
        let prefix = format!("bessemer-{}-", std::process::id());
        let names = std::fs::read_dir(&place).expect("readable").flatten().map(|e| e.file_name());
        names.filter(|n| n.to_string_lossy().starts_with(&prefix)).count()
    };
    assert!(s.run(&Job::python("x", "print(1)").test("", "1")).passed_all());
    assert_eq!(mine(), 1);
    drop(s);
    assert_eq!(mine(), 0);
}

#[test]
fn every_sandbox_of_a_process_has_its_groups_in_the_same_place() {
    let _one = alone();
    let Some(first) = with_groups() else { return };
    let second = with_groups().expect("the first one has groups");
    assert_eq!(first.control_groups(), second.control_groups());
    for s in [first, second] {
        assert!(s.run(&Job::python("x", "print(1)").test("", "1")).passed_all());
    }
}

#[test]
fn without_groups_the_tier_is_lower_and_tier_a_is_refused_with_the_reason() {
    let _one = alone();
    let s = Sandbox::start(config(CgroupPolicy::Never)).expect("a sandbox can be built here");
    assert!(s.tier() < Tier::A);
    drop(s);
    let strict = Config { tier_min: Tier::A, ..config(CgroupPolicy::Never) };
    let Err(SandboxError::Tier { got, want: Tier::A, why }) = Sandbox::start(strict) else {
        panic!("tier A without groups");
    };
    assert!(got < Tier::A && why.contains("control groups") || got == Tier::BMinus, "{why}");
    let nowhere = config(CgroupPolicy::In("/nonexistent/group".into()));
    let s = Sandbox::start(nowhere).expect("a sandbox can be built here");
    assert!(s.control_groups().expect_err("there is no such directory").contains("/nonexistent/group"));
}
