//! Grade `program` gives the verdicts of grade `test`, whatever a program does to the process that its tests share.

use sandbox::{Config, Grade, Job, JobResult, Limits, Sandbox, Verdict};

fn start() -> Sandbox {
    Sandbox::start(Config { slots: 1, ..Config::default() }).expect("a sandbox can be built here")
}

fn job(code: &str) -> Job {
    let limits = Limits { wall_s: 1.0, ..Limits::default() };
    let job = (1..=40).fold(Job::python("j", code), |j, n| j.test(format!("{n}\n"), (n * n).to_string()));
    Job { limits, ..job }
}

fn verdicts(r: &JobResult) -> Vec<Verdict> {
    r.tests.iter().map(|t| t.verdict).collect()
}

#[test]
fn what_passes_is_told_of_each_test() {
    let s = start();
    let r = s.run(&Job { grade: Grade::Program, ..job("n = int(input())\nprint(n * n)\n") });
    assert_eq!((r.verdict, r.grade, r.passed, r.total), (Verdict::Pass, Grade::Program, 40, 40), "{r:?}");
    assert_eq!(&*r.tests[39].stdout, b"1600\n");
}

#[test]
fn both_grades_agree() {
    let s = start();
    let programs = [
        "import sys\nn = int(sys.stdin.readline())\nprint(n * n)\nsys.exit(0)\n",
        "n = int(input())\nprint(n * n)\nexit()\n",
        "n = int(input())\nprint(n * n if n != 7 else 0)\n",
        "n = int(input())\nif n == 3: raise ValueError\nprint(n * n)\n",
        "import os\nn = int(os.read(0, 100))\nos.write(1, b'%d' % (n * n))\n",
        "import sys\nn = int(sys.stdin.buffer.read())\nsys.stdout.buffer.write(b'%d' % (n * n))\n",
        "import sys\nn = int(open(0).read())\nsys.stdout.close() if n == 2 else print(n * n)\n",
        "import os\nn = int(input())\nprint(n * n, flush=True)\nos._exit(3 if n == 5 else 0)\n",
        "import threading\nn = int(input())\nt = threading.Thread(target=lambda: print(n * n))\nt.start()\n",
        "import atexit\nn = int(input())\natexit.register(print, n * n)\n",
        "import os\nn = int(input())\nprint(n * n if not os.path.exists('/work/x') else 'seen')\nopen('/work/x', 'w').write('x')\n",
        "import builtins\nn = int(input())\nprint(n * n)\nbuiltins.print = lambda *a: None\n",
        "import sys\nn = int(input())\nprint(n * n)\nsys.stdin.close()\nsys.setrecursionlimit(60)\n",
        "try:\n    seen\nexcept NameError:\n    seen = 1\n    n = int(input())\n    print(n * n)\n",
        "n = int(input())\nwhile n == 4: pass\nprint(n * n)\n",
        "n = int(input())\nprint('x' * 3000000 if n == 4 else n * n)\n",
        "print(\n",
    ];
    for code in programs {
        let (alone, shared) = (s.run(&job(code)), s.run(&Job { grade: Grade::Program, ..job(code) }));
        assert_eq!(verdicts(&alone), verdicts(&shared), "{code}");
        assert_eq!((alone.verdict, alone.passed), (shared.verdict, shared.passed), "{code}");
    }
}

#[test]
fn saying_that_a_test_ended_well_is_not_passing_it() {
    let s = start();
    // Says of every test that it ended plainly, and writes a wrong answer to every stdout.
    let code = "import os\nfor i in range(70):\n    try:\n        os.pwrite(i, b'\\x01' * 12 * 40, 0)\n    except OSError: pass\nos._exit(0)\n";
    let r = s.run(&Job { grade: Grade::Program, ..job(code) });
    assert_eq!(r.passed, 0, "{r:?}");
}
