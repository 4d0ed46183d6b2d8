//! Custom checkers: who may judge, what counts as a judgement, and what the program can learn of it.

use sandbox::{Bytes, Checker, Comparator, Config, Job, JobResult, Limits, Sandbox, Verdict};

fn start() -> Sandbox {
    Sandbox::start(Config { slots: 1, compile_cache: None, ..Config::default() })
        .expect("a sandbox can be built here")
}

fn checker(language: &str, code: &str) -> Comparator {
    Comparator::Checker(Checker { language: language.into(), code: code.into(), limits: Limits::default() })
}

fn judged(s: &Sandbox, comparator: &Comparator, program: &str) -> JobResult {
    let job = Job::python("c", program).test("3\n", "0 1 2");
    s.run(&Job { comparator: comparator.clone(), ..job })
}

/// Any order of the expected numbers is right.
const ANY_ORDER: &str = "
import sys
name, given, output, answer = sys.argv
assert open(given).read() == '3\\n'
if sorted(open(output).read().split()) != sorted(open(answer).read().split()):
    print('not a permutation')
    sys.exit(1)
";

#[test]
fn a_checker_decides_and_its_words_are_the_reason() {
    let s = start();
    let c = checker("python", ANY_ORDER);
    let r = judged(&s, &c, "print(2, 0, 1)");
    assert_eq!((r.verdict, r.tests[0].matched), (Verdict::Pass, Some(true)), "{r:?}");
    let r = judged(&s, &c, "print(2, 2, 1)");
    assert_eq!((r.verdict, r.tests[0].matched), (Verdict::WrongAnswer, Some(false)), "{r:?}");
    assert_eq!(r.tests[0].reason.as_deref(), Some("the checker: not a permutation"));
    // The output is judged whatever the exit status, as with every comparator.
    let r = judged(&s, &c, "print(2, 0, 1)\nraise SystemExit(4)");
    assert_eq!((r.verdict, r.tests[0].matched), (Verdict::RuntimeError, Some(true)), "{r:?}");
}

#[test]
fn every_test_of_a_job_is_put_to_it() {
    let s = start();
    let code = "import sys\nsys.exit(open(sys.argv[1]).read() + '!' != open(sys.argv[2]).read())";
    let job = Job::python("c", "x = input()\nprint(x + ('!' if x != 'b' else '?'), end='')");
    let job = Job { comparator: checker("python", code), ..job.test("a", "").test("b", "").test("c", "") };
    let r = s.run(&job);
    assert_eq!((r.verdict, r.passed, r.total), (Verdict::WrongAnswer, 2, 3), "{r:?}");
    let r = s.run(&Job { stop_on_first_failure: true, ..job });
    assert_eq!((r.passed, r.tests.len()), (1, 2), "{r:?}");
}

#[test]
fn a_checker_that_does_not_judge_leaves_the_test_unscored() {
    let s = start();
    let limits = Limits { wall_s: 0.5, cpu_s: 0.5, memory_mb: 64, output_bytes: 1000, ..Limits::default() };
    for (code, why) in [
        ("raise ValueError('mine')", "ValueError: mine"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "status 3"),
        ("import os; os.kill(os.getpid(), 11)", "signal 11"),
        ("while True: pass", "time limit"),
        ("import time; time.sleep(60)", "time limit"),
        ("x = b'x' * (1 << 30)", "MemoryError"),
        ("print('x' * 100000)", "output limit"),
    ] {
        let comparator =
            Comparator::Checker(Checker { language: "python".into(), code: code.into(), limits });
        let r = judged(&s, &comparator, "print(0, 1, 2)");
        assert_eq!((r.verdict, r.passed), (Verdict::Unscored, 0), "{code}: {r:?}");
        assert!(r.reason.as_deref().is_some_and(|t| t.contains(why)), "{code}: {:?}", r.reason);
        // The program's own failure stays its own.
        let r = judged(&s, &comparator, "print(0, 1, 2)\nraise SystemExit(2)");
        assert_eq!(r.verdict, Verdict::RuntimeError, "{code}: {r:?}");
    }
    let r = judged(&s, &checker("klingon", "x"), "print(1)");
    assert_eq!(r.verdict, Verdict::Unscored);
    assert!(r.reason.expect("a reason").contains("checker"));
}

#[test]
fn checkers_come_in_every_language() {
    let s = start();
    let here = s.languages();
    for (language, code) in [
        (
            "c",
            "#include <stdio.h>\nint main(int n, char **v) { if (n != 4) return 7; int a; FILE *f = fopen(v[2], \"r\"); return fscanf(f, \"%d\", &a) != 1 || a != 5; }",
        ),
        (
            "cpp",
            "#include <fstream>\nint main(int n, char **v) { if (n != 4) return 7; int a = 0; std::ifstream(v[2]) >> a; return a != 5; }",
        ),
        ("bash", "test $# = 3 || exit 7; test \"$(cat \"$2\")\" = 5 || exit 1"),
        (
            "nodejs",
            "const fs = require('fs'); process.exit(fs.readFileSync(process.argv[3], 'utf8').trim() === '5' ? 0 : 1)",
        ),
    ] {
        if here.iter().any(|(n, v)| *n == language && v.is_err()) {
            eprintln!("{language} is not on this machine");
            continue;
        }
        let limits = Limits { wall_s: 20.0, cpu_s: 20.0, ..Limits::default() };
        let c = Comparator::Checker(Checker { language: language.into(), code: code.into(), limits });
        let r = judged(&s, &c, "print(5)");
        assert_eq!(r.verdict, Verdict::Pass, "{language}: {r:?}");
        let r = judged(&s, &c, "print(6)");
        assert_eq!(r.verdict, Verdict::WrongAnswer, "{language}: {r:?}");
    }
    let r = judged(&s, &checker("c", "int main( {"), "print(5)");
    assert_eq!(r.verdict, Verdict::Unscored, "{r:?}");
    assert!(r.reason.expect("a reason").contains("does not compile"));
    if here.iter().any(|(n, v)| *n == "nodejs" && v.is_ok()) {
        let c = Comparator::Checker(Checker {
            language: "nodejs".into(),
            code: "throw new Error('x')".into(),
            limits: Limits { wall_s: 20.0, cpu_s: 20.0, ..Limits::default() },
        });
        let r = judged(&s, &c, "print(5)");
        assert_eq!(r.verdict, Verdict::Unscored, "an exception is no judgement: {r:?}");
    }
}

#[test]
fn the_program_sees_nothing_of_its_checker() {
    let s = start();
    let secret = "canary-8675309";
    let hunt = format!(
        "import os, glob\nseen = []\nfor top in ('/work', '/prog', '/tmp', '/dev/shm'):\n  for d, _, names in os.walk(top):\n    for n in names:\n      p = os.path.join(d, n)\n      if p != '/prog/main.py' and {:?} in open(p, errors='replace').read(): seen.append(p)\nprint(seen)",
        "canary-"
    );
    let code = format!("import sys\n# {secret}\nsys.exit(open(sys.argv[3]).read() != {secret:?})");
    let job = Job::python("c", hunt).test("", secret).test("", secret);
    let r = s.run(&Job { comparator: checker("python", &code), ..job });
    assert_eq!(r.verdict, Verdict::Pass, "{r:?}");
    for t in &r.tests {
        assert_eq!(&*t.stdout, b"[]\n", "{t:?}");
    }
}

#[test]
fn an_output_that_attacks_its_checker_stays_in_the_checkers_slot() {
    let s = start();
    // The worst of checkers: it runs what it is given. Its verdict is worth nothing then, but the next one's is.
    let eval = checker("python", "import sys\nexec(open(sys.argv[2]).read())\nsys.exit(1)");
    let attack = "print('import os\\nfor d in (\"/work\", \"/tmp\", \"/dev/shm\"): open(d + \"/left\", \"w\").write(\"x\")\\nif os.fork() == 0:\\n  import time\\n  time.sleep(60)')";
    let r = judged(&s, &eval, attack);
    assert_eq!(r.verdict, Verdict::WrongAnswer, "{r:?}");
    let look = "import os, sys\nfound = [d for d in ('/tmp', '/dev/shm') if os.listdir(d)]\nsys.exit(bool(found) or sorted(os.listdir('/work')) != ['answer', 'input', 'output'])";
    let r = judged(&s, &checker("python", look), "print(1)");
    assert_eq!(r.verdict, Verdict::Pass, "{r:?}");
}

#[test]
fn bytes_that_are_no_text_reach_the_checker_as_they_are() {
    let s = start();
    let code = "import sys\na, b, c = (open(n, 'rb').read() for n in sys.argv[1:])\nsys.exit(not (a == b'\\xff\\x00' and b == b'\\xfe\\n' and c == b'\\xfd'))";
    let program = "import sys\nsys.stdout.buffer.write(b'\\xfe\\n')";
    let job = Job::python("c", program).test(Bytes(vec![0xff, 0]), Bytes(vec![0xfd]));
    let r = s.run(&Job { comparator: checker("python", code), ..job });
    assert_eq!(r.verdict, Verdict::Pass, "{r:?}");
}
