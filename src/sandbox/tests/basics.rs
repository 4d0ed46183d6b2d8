//! Ordinary programs, ordinary failures, and what a batch does with them.

use sandbox::{
    Cancel, CgroupPolicy, Comparator, Config, Job, Limits, Mode, Sandbox, SandboxError, StdioTest, Tier,
    Verdict,
};
use std::sync::Mutex;

fn start(slots: usize) -> Sandbox {
    Sandbox::start(Config { slots, compile_cache: None, ..Config::default() })
        .expect("a sandbox can be built here")
}

fn verdict(sandbox: &Sandbox, job: Job) -> Verdict {
    let r = sandbox.run(&job);
    assert_eq!(r.id, job.id);
    if r.verdict == Verdict::Unscored {
        panic!("unscored: {:?}", r.reason);
    }
    r.verdict
}

fn quick(wall_s: f64) -> Limits {
    Limits { wall_s, cpu_s: wall_s, ..Limits::default() }
}

#[test]
fn a_right_program_passes_and_a_wrong_one_does_not() {
    let s = start(1);
    let square = "n = int(input())\nprint(n * n)\n";
    let r = s.run(&Job::python("a", square).test("7\n", "49\n").test("-3", "9"));
    assert_eq!((r.verdict, r.passed, r.total), (Verdict::Pass, 2, 2), "{r:?}");
    assert!(r.tier >= Tier::BMinus);
    assert_eq!(r.tests[0].exit_code, Some(0));
    assert_eq!(&*r.tests[0].stdout, b"49\n");
    let r = s.run(&Job::python("b", square).test("7\n", "49").test("2", "5").test("3", "9"));
    assert_eq!((r.verdict, r.passed, r.total), (Verdict::WrongAnswer, 2, 3), "{r:?}");
    assert_eq!(r.tests[1].matched, Some(false));
}

#[test]
fn every_kind_of_failure_has_its_verdict() {
    let s = start(1);
    let run = |code: &str, limits: Limits| verdict(&s, Job { limits, ..Job::python("x", code).test("", "") });
    let default = Limits::default();
    assert_eq!(run("raise ValueError('x')", default), Verdict::RuntimeError);
    assert_eq!(run("import os; os.kill(os.getpid(), 11)", default), Verdict::RuntimeError);
    assert_eq!(run("def f(:\n", default), Verdict::CompileError);
    assert_eq!(run("while True: pass", quick(0.3)), Verdict::TimeLimit);
    assert_eq!(run("import time; time.sleep(60)", quick(0.3)), Verdict::TimeLimit);
    assert_eq!(run("x = bytearray(1 << 30)", default), Verdict::MemoryLimit);
    let flood = "import sys\nwhile True: sys.stdout.write('x' * 65536)";
    assert_eq!(run(flood, Limits { output_bytes: 1 << 16, ..default }), Verdict::OutputLimit);
}

/// What the warm interpreter did before it served, and what process 1 does to its memory after a hundred runs, shows in none.
#[test]
fn no_run_sees_what_the_interpreter_did_before() {
    let s = start(1);
    let code = "import sys, gc\nours = [m for m in sys.modules if m.startswith(('bessemer', 'zygote', 'solution', 'tests'))]\n\
                kinds = [c.__name__ for c in object.__subclasses__() if c.__module__ in ('__main__', 'builtins') and c.__name__ in ('Node', 'Solution', 'C')]\n\
                names = [n for n in globals() if not n.startswith('__')]\n\
                print(ours, kinds, sorted(names), input(), sys.stdin.read() == '', sys.argv)\n";
    let seen = "[] [] ['gc', 'kinds', 'ours', 'sys'] x True ['/prog/main.py']";
    let job = (0..110).fold(Job::python("x", code), |j, _| j.test("x\n", seen));
    let r = s.run(&job);
    assert_eq!((r.verdict, r.passed), (Verdict::Pass, 110), "{:?}", r.reason);
}

#[test]
fn output_is_cut_at_the_limit_and_says_so() {
    let s = start(1);
    let limits = Limits { output_bytes: 1000, ..Limits::default() };
    let r = s.run(&Job { limits, ..Job::python("x", "print('y' * 5000, end='')").test("", "") });
    assert_eq!(r.verdict, Verdict::OutputLimit);
    assert_eq!(&*r.tests[0].stdout, "y".repeat(1000).as_bytes());
    assert!(r.tests[0].truncated);
    let r = s.run(&Job { limits, ..Job::python("x", "print('y' * 1000, end='')").input("") });
    assert_eq!((r.verdict, r.tests[0].truncated), (Verdict::Pass, false), "{r:?}");
}

#[test]
fn the_exit_status_and_the_match_are_told_apart() {
    let s = start(1);
    let r = s.run(&Job::python("x", "print(5)\nraise SystemExit(3)").test("", "5"));
    assert_eq!(r.verdict, Verdict::RuntimeError);
    assert_eq!((r.tests[0].matched, r.tests[0].exit_code), (Some(true), Some(3)));
}

#[test]
fn nothing_to_judge_by_is_not_a_success() {
    let s = start(1);
    let r = s.run(&Job::python("x", "print(5)"));
    assert_eq!(r.verdict, Verdict::Unscored);
    assert!(!r.passed_all());
    let r = s.run(&Job::stdio("x", "klingon", "nuqneH").input(""));
    assert_eq!(r.verdict, Verdict::Unscored);
    assert!(r.reason.expect("a reason").contains("python"));
}

#[test]
fn the_syntax_check_parses_and_does_not_run() {
    let s = start(1);
    let check = |code: &str| verdict(&s, Job::parses("x", code));
    assert_eq!(check("while True: pass"), Verdict::Pass);
    assert_eq!(check("raise SystemExit(1)"), Verdict::Pass);
    assert_eq!(check(""), Verdict::Pass);
    assert_eq!(check("def f(:"), Verdict::CompileError);
    assert_eq!(check("return 5"), Verdict::CompileError);
    assert_eq!(check("x = 1\0"), Verdict::CompileError);
    assert_eq!(check(&"(".repeat(5000)), Verdict::CompileError);
    assert_eq!(check("```python\nx = 1\n```"), Verdict::CompileError);
}

#[test]
fn stopping_at_the_first_failure_leaves_the_rest_unrun() {
    let s = start(1);
    let job = Job::python("x", "print(input())").test("1", "1").test("2", "3").test("4", "4");
    let r = s.run(&Job { stop_on_first_failure: true, ..job });
    assert_eq!((r.tests.len(), r.passed, r.total), (2, 1, 3));
    assert_eq!(r.verdict, Verdict::WrongAnswer);
}

#[test]
fn a_batch_keeps_its_order_over_several_slots() {
    let s = start(3);
    let jobs: Vec<_> = (0..40)
        .map(|i| {
            Job::python(format!("j{i}"), "print(int(input()) + 1)").test(format!("{i}"), format!("{}", i + 1))
        })
        .collect();
    let results = s.run_batch(&jobs);
    for (i, r) in results.iter().enumerate() {
        assert_eq!((r.id.as_str(), r.verdict), (format!("j{i}").as_str(), Verdict::Pass), "{r:?}");
    }
}

#[test]
fn a_cancelled_batch_judges_nothing_more() {
    let s = start(1);
    let cancel = Cancel::default();
    let done = Mutex::new(Vec::new());
    let jobs = (0..20).map(|i| Job::python(format!("{i}"), "print(1)").test("", "1"));
    s.run_each(jobs, &cancel, |i, r| {
        done.lock().expect("no panic").push((i, r.verdict));
        if i == 2 {
            cancel.cancel();
        }
    });
    let done = done.into_inner().expect("no panic");
    assert_eq!(done.len(), 20);
    assert!(done[..3].iter().all(|(_, v)| *v == Verdict::Pass));
    assert!(done[3..].iter().all(|(_, v)| *v == Verdict::Unscored));
}

#[test]
fn files_of_one_run_are_gone_in_the_next() {
    let s = start(1);
    let leave = "import os\nfor d in ('.', '/tmp', '/dev/shm'):\n    os.makedirs(d + '/a/b/c'); open(d + '/a/b/c/x', 'w').write('1')\n    os.chmod(d + '/a/b', 0)\nprint('left')";
    let look = "import os\nprint([os.listdir(d) for d in ('.', '/tmp', '/dev/shm')])";
    let jobs = [Job::python("l", leave).test("", "left"), Job::python("m", look).test("", "[[], [], []]")];
    for r in s.run_batch(&jobs) {
        assert_eq!(r.verdict, Verdict::Pass, "{:?}", r.tests[0]);
    }
}

#[test]
fn a_program_cannot_interrupt_those_after_it() {
    let s = start(1);
    let attack =
        "import os\nfor n in range(1, 65):\n  if n not in (32, 33):\n    os.kill(1, n)\nprint('sent')";
    let look = "import signal\nprint(all(signal.getsignal(s) in (signal.SIG_DFL, signal.default_int_handler) for s in signal.valid_signals()\n    if s not in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGKILL, signal.SIGSTOP)), len(signal.pthread_sigmask(0, [])))";
    let jobs = [Job::python("a", attack).test("", "sent"), Job::python("b", look).test("", "True 0")];
    for r in s.run_batch(&jobs).iter().chain(&s.run_batch(&jobs)) {
        assert_eq!(r.verdict, Verdict::Pass, "{:?}", r.tests);
    }
}

#[test]
fn a_large_input_and_a_large_source_go_through() {
    let s = start(1);
    let code = format!("# {}\nimport sys\nprint(len(sys.stdin.read()))", "x".repeat(300_000));
    let r = s.run(&Job::python("x", code).test("y".repeat(3_000_000), "3000000"));
    assert_eq!(r.verdict, Verdict::Pass, "{r:?}");
}

#[test]
fn compiled_languages_compile_in_the_slot_and_run() {
    let s = start(1);
    let programs = [
        ("c", "#include <stdio.h>\nint main(){int n;scanf(\"%d\",&n);printf(\"%d\\n\",n*2);}", "int main({"),
        ("cpp", "#include <iostream>\nint main(){int n;std::cin>>n;std::cout<<n*2;}", "int main({"),
        (
            "rust",
            "fn main(){let mut s=String::new();std::io::stdin().read_line(&mut s).unwrap();println!(\"{}\",s.trim().parse::<i32>().unwrap()*2);}",
            "fn main( {",
        ),
        ("nodejs", "console.log(parseInt(require('fs').readFileSync(0,'utf8'))*2)", ""),
        ("bash", "read n; echo $((n * 2))", ""),
    ];
    let here = s.languages();
    for (language, good, bad) in programs {
        let found = here.iter().find(|(n, _)| *n == language).expect("in the table");
        if let Err(e) = &found.1 {
            eprintln!("{language} is not on this machine: {e}");
            continue;
        }
        let limits = Limits { wall_s: 20.0, cpu_s: 20.0, ..Limits::default() };
        let job = Job { limits, ..Job::stdio("x", language, good).test("21\n", "42") };
        let r = s.run(&job);
        assert_eq!(r.verdict, Verdict::Pass, "{language}: {r:?}");
        if !bad.is_empty() {
            let r = s.run(&Job::stdio("x", language, bad).test("", ""));
            assert_eq!(r.verdict, Verdict::CompileError, "{language}: {r:?}");
        }
    }
}

#[test]
fn the_comparator_of_the_job_is_used() {
    let s = start(1);
    let mode = Mode::Stdio { tests: vec![StdioTest { stdin: "".into(), expected: Some("0.3334".into()) }] };
    let job =
        Job { mode, comparator: Comparator::Float { tolerance: 1e-3 }, ..Job::python("x", "print(1/3)") };
    assert_eq!(verdict(&s, job.clone()), Verdict::Pass);
    assert_eq!(verdict(&s, Job { comparator: Comparator::Tokens, ..job }), Verdict::WrongAnswer);
}

#[test]
fn a_policy_above_what_is_possible_is_an_error() {
    let refused =
        Sandbox::start(Config { tier_min: Tier::A, cgroup: CgroupPolicy::Never, ..Config::default() });
    assert!(matches!(refused, Err(SandboxError::Tier { want: Tier::A, .. })));
}

#[test]
fn the_probe_says_what_holds() {
    let probe = sandbox::probe(&Config::default());
    assert!(probe.tier.is_some_and(|t| t >= Tier::BMinus), "{probe:?}");
    assert!(probe.languages.iter().any(|(n, v)| n == "python" && v.is_ok()));
}

#[test]
fn what_a_slot_execs_has_an_ordinary_address_space_and_warm_python_the_same_in_each_slot() {
    let run = |job: Job| {
        let r =
            Sandbox::start(Config { slots: 1, ..Config::default() }).expect("a sandbox").run(&job.input(""));
        r.tests[0].stdout.lossy().trim().to_owned()
    };
    let shell = "read p < /proc/self/personality; echo $p";
    assert_eq!(run(Job::stdio("sh", "bash", shell)), "00000000");
    let python = "print(open('/proc/self/personality').read().strip(), id(print))";
    let (one, other) = (run(Job::python("a", python)), run(Job::python("b", python)));
    // A container's own filter may refuse the wish; then nothing is promised.
    if one.starts_with("00040000") {
        assert_eq!(one, other);
    } else {
        assert!(one.starts_with("00000000"), "{one}");
    }
}
