//! The modes that call a program by value.

use sandbox::{Config, Job, Limits, Mode, Sandbox, Value, Verdict};

fn start() -> Sandbox {
    Sandbox::start(Config { slots: 1, ..Config::default() }).expect("a sandbox can be built here")
}

fn int(n: i128) -> Value {
    Value::Int(n)
}

#[test]
fn a_function_is_called_and_its_values_are_compared_here() {
    let s = start();
    let job = Job::function("f", "def square(n):\n    return n * n", "square")
        .call(vec![int(3)], int(9))
        .call(vec![int(-4)], int(16))
        .call(vec![int(1 << 40)], int(1 << 80));
    let r = s.run(&job);
    assert_eq!((r.verdict, r.passed, r.total), (Verdict::Pass, 3, 3), "{r:?}");
    let r = s.run(&job.call(vec![int(2)], int(5)).call(vec![int(5)], int(25)));
    assert_eq!((r.verdict, r.passed, r.tests.len()), (Verdict::WrongAnswer, 4, 5), "{r:?}");
}

#[test]
fn a_method_of_class_solution_is_called_where_there_is_no_function_of_the_name() {
    let code = "class Solution:\n    def __init__(self):\n        self.n = 0\n    def f(self, x):\n        self.n += x\n        \
                return self.n\n";
    let job = Job::function("f", code, "f").call(vec![int(2)], int(2)).call(vec![int(3)], int(3));
    let r = start().run(&job);
    assert_eq!((r.verdict, r.passed), (Verdict::Pass, 2), "each call has a fresh object: {r:?}");
    let both = format!("{code}def f(x):\n    return -x\n");
    let r = start().run(&Job::function("f", both.as_str(), "f").call(vec![int(2)], int(-2)));
    assert_eq!(r.verdict, Verdict::Pass, "a function of the name comes first: {r:?}");
}

#[test]
fn the_standard_librarys_dictionaries_are_as_good_as_plain_ones() {
    let code = "import collections\ndef f(words):\n    return [collections.Counter(words), \
                collections.OrderedDict(a=collections.defaultdict(int, b=1))]\n";
    let tests = "assert f(['x', 'y', 'x']) == [{'x': 2, 'y': 1}, {'a': {'b': 1}}]\n";
    let r = start().run(&Job { mode: Mode::Script { test_code: tests.into() }, ..Job::python("s", code) });
    assert_eq!(r.verdict, Verdict::Pass, "{r:?}");
}

#[test]
fn a_syntax_error_is_the_tests_fault_only_where_the_tests_do_not_compile() {
    let s = start();
    let script = |code: &str, tests: &str| {
        s.run(&Job { mode: Mode::Script { test_code: tests.into() }, ..Job::python("s", code) }).verdict
    };
    assert_eq!(script("def f(x):\n    return eval(x)", "assert f('1 +') == 1"), Verdict::RuntimeError);
    assert_eq!(script("def f(x):\n    return 1", "assert f(1) = 1"), Verdict::Unscored);
    assert_eq!(
        script("def f(x):\n    return 1", "import nothing_like_this\nassert f(1) == 1"),
        Verdict::Unscored
    );
    assert_eq!(script("def f(x):\n    import nothing_like_this", "f(1)"), Verdict::RuntimeError);
    // more than values can carry: nobody knows whether the program is right
    assert_eq!(script("def f(x):\n    return 1", "f(object())"), Verdict::Unscored);
}

#[test]
fn every_way_to_fail_a_call_has_its_verdict() {
    let s = start();
    let limits = Limits { wall_s: 0.5, cpu_s: 0.5, ..Limits::default() };
    let verdict = |code: &str| {
        let job = Job::function("f", code, "f").call(vec![int(1)], int(1)).call(vec![int(2)], int(2));
        let r = s.run(&Job { limits, ..job });
        (r.verdict, r.passed)
    };
    assert_eq!(verdict("def f(x): return x"), (Verdict::Pass, 2));
    assert_eq!(verdict("def f(x): return 1 / 0"), (Verdict::RuntimeError, 0));
    assert_eq!(verdict("def g(x): return x"), (Verdict::RuntimeError, 0));
    assert_eq!(verdict("def f(x): return True"), (Verdict::WrongAnswer, 0));
    assert_eq!(verdict("def f(x) return x"), (Verdict::CompileError, 0));
    assert_eq!(verdict("raise SystemExit(0)"), (Verdict::RuntimeError, 0));
    // A new process goes on behind a crash or a time-out.
    assert_eq!(verdict("def f(x):\n  while x == 1: pass\n  return x"), (Verdict::TimeLimit, 1));
    assert_eq!(
        verdict("import os\ndef f(x):\n  if x == 1: os._exit(0)\n  return x"),
        (Verdict::RuntimeError, 1)
    );
    assert_eq!(verdict("import os\nos._exit(0)"), (Verdict::RuntimeError, 0));
}

#[test]
fn tricks_with_equality_and_the_channel_do_not_pass() {
    let s = start();
    let pass = |code: &str| {
        let job = Job::function("f", code, "f").call(vec![int(3)], int(9)).call(vec![int(4)], int(16));
        s.run(&job).verdict == Verdict::Pass
    };
    let equal = "class E(int):\n  def __eq__(s, o): return True\n  def __hash__(s): return 1\n";
    assert!(!pass(&format!("{equal}def f(x): return E(1)")));
    assert!(!pass(
        "import os, marshal\ndef f(x):\n  for i in range(5):\n    b = marshal.dumps([i, 'value', 9], 2)\n    os.write(3, len(b).to_bytes(4, 'little') + b)\n  return x * x"
    ));
    assert!(!pass("import os\ndef f(x):\n  os.write(3, b'\\xff' * 64)\n  return x * x"));
    assert!(!pass("import os\nos.close(3)\ndef f(x):\n  return x * x"));
    assert!(!pass("import marshal\nmarshal.dumps = lambda *a: b'N'\ndef f(x):\n  return x + 1"));
}

const TESTS: &str = "
import pytest
from solution import add
def test_small():
    assert add(1, 2) == 3
@pytest.mark.parametrize('a,b,c', [(0, 0, 0), (5, -5, 0)])
def test_many(a, b, c):
    assert add(a, b) == c
class TestMore:
    def test_text(self):
        with pytest.raises(TypeError):
            add(1, 'x')
";

#[test]
fn test_functions_reach_the_program_by_value() {
    let s = start();
    let r = s.run(&Job::pytest("p", "def add(a, b):\n    return a + b", TESTS));
    assert_eq!((r.verdict, r.passed, r.total), (Verdict::Pass, 4, 4), "{r:?}");
    let r = s.run(&Job::pytest("p", "def add(a, b):\n    return 3", TESTS));
    assert_eq!((r.verdict, r.passed, r.total), (Verdict::WrongAnswer, 1, 4), "{r:?}");
    let r = s.run(&Job::pytest("p", "def sub(a, b):\n    return 3", TESTS));
    assert_eq!(r.verdict, Verdict::RuntimeError, "{r:?}");
}

#[test]
fn objects_of_the_program_can_be_used_but_not_asked_whether_they_are_equal() {
    let s = start();
    let tests = "def test_stack():\n    st = Stack()\n    st.push(4)\n    st.push(5)\n    assert st.pop() == 5\n    assert len(st) == 1\n    assert list(st) == [4]\n    assert st.items == [4]\n";
    let stack = "class Stack:\n  def __init__(s): s.items = []\n  def push(s, x): s.items.append(x)\n  def pop(s): return s.items.pop()\n  def __len__(s): return len(s.items)\n  def __iter__(s): return iter(s.items)\n";
    let r = s.run(&Job::pytest("p", stack, tests));
    assert_eq!(r.verdict, Verdict::Pass, "{r:?}");
    let liar = "class E:\n  def __eq__(s, o): return True\ndef add(a, b): return E()\n";
    let r = s.run(&Job::pytest("p", liar, "def test_a():\n    assert add(1, 2) == 3\n"));
    assert_eq!(r.verdict, Verdict::WrongAnswer, "{r:?}");
}

#[test]
fn leaving_early_is_not_passing() {
    let s = start();
    for code in ["import os; os._exit(0)", "raise SystemExit(0)", "import sys; sys.exit(0)"] {
        let r = s.run(&Job::pytest("p", code, TESTS));
        assert_ne!(r.verdict, Verdict::Pass, "{r:?}");
    }
    let r = s.run(&Job::pytest("p", "import os\ndef add(a, b): os._exit(0)", TESTS));
    assert_eq!(r.verdict, Verdict::RuntimeError, "{r:?}");
    let r = s.run(&Job::pytest(
        "p",
        "def add(a, b):\n  while True: pass",
        "def test_a():\n  assert add(1, 1) == 2",
    ));
    assert_eq!(r.verdict, Verdict::TimeLimit, "{r:?}");
}

#[test]
fn no_tests_collected_is_no_success() {
    let s = start();
    let r = s.run(&Job::pytest("p", "def add(a, b): return 1", "x = 5"));
    assert_eq!(r.verdict, Verdict::Unscored, "{r:?}");
    let r = s.run(&Job::pytest("p", "def add(a, b): return 1", "def test_("));
    assert_eq!(r.verdict, Verdict::Unscored, "{r:?}");
}

#[test]
fn a_script_passes_when_its_end_is_reached() {
    let s = start();
    let run = |code: &str, test: &str| {
        let mode = Mode::Script { test_code: test.into() };
        s.run(&Job { mode, ..Job::python("s", code) }).verdict
    };
    let check = "def check(candidate):\n    assert candidate([3, 1, 2]) == [1, 2, 3]\ncheck(order)\n";
    assert_eq!(run("def order(x): return sorted(x)", check), Verdict::Pass);
    assert_eq!(run("def order(x): return x", check), Verdict::WrongAnswer);
    assert_eq!(run("def other(x): return x", check), Verdict::RuntimeError);
}

#[test]
fn a_value_that_is_too_large_is_told_as_that_and_the_next_test_goes_on() {
    let s = start();
    let job = Job::function("x", "def f(n): return 'x' * n", "f");
    let job = job.call(vec![int(20 << 20)], Value::None).call(vec![int(1)], Value::Str(b"x".to_vec()));
    let limits = Limits { memory_mb: 1024, wall_s: 60.0, cpu_s: 60.0, ..Limits::default() };
    let r = s.run(&Job { limits, ..job });
    assert_eq!(r.tests[0].verdict, Verdict::OutputLimit, "{r:?}");
    assert!(r.tests[0].reason.as_deref().is_some_and(|why| why.contains("larger than 16 MiB")), "{r:?}");
    assert_eq!((r.tests[1].verdict, r.passed), (Verdict::Pass, 1), "{r:?}");
}

#[test]
fn long_lists_cross_in_parts_and_are_compared_to_the_last_item() {
    let s = start();
    const N: i128 = 200_000;
    let verdict = |code: &str, expected: &Value| {
        let job = Job::function("f", code, "f").call(vec![int(N)], expected.clone()).call(vec![int(2)], {
            let Value::List(items) = expected else { panic!("a list") };
            Value::List(items[..2].to_vec())
        });
        let limits = Limits { wall_s: 60.0, cpu_s: 60.0, memory_mb: 1024, ..Limits::default() };
        let r = s.run(&Job { limits, ..job });
        (r.verdict, r.passed)
    };
    let numbers = Value::List((0..N).map(int).collect());
    assert_eq!(verdict("def f(n): return list(range(n))", &numbers), (Verdict::Pass, 2));
    assert_eq!(verdict("def f(n): return tuple(range(n))", &numbers), (Verdict::Pass, 2));
    assert_eq!(verdict("def f(n): return list(range(n - 1)) + [0]", &numbers), (Verdict::WrongAnswer, 0));
    assert_eq!(verdict("def f(n): return list(range(n + (n > 2)))", &numbers), (Verdict::WrongAnswer, 1));
    assert_eq!(verdict("def f(n): return list(range(n - (n > 2)))", &numbers), (Verdict::WrongAnswer, 1));
    assert_eq!(
        verdict("class I(int): pass\ndef f(n): return [I(i) for i in range(n)]", &numbers),
        (Verdict::WrongAnswer, 0)
    );
    // What occurs many times crosses once in a part: as one value each, all are more than may cross.
    let row = Value::Tuple((0..40).map(int).collect());
    let rows = Value::List(vec![row; 200_000]);
    assert_eq!(verdict("def f(n): return [tuple(range(40))] * n", &rows), (Verdict::Pass, 2));
    // A dictionary of the standard library behind many items: the parts before it are taken back.
    let mut with_counter = vec![int(7); 200_000];
    with_counter.push(Value::Dict(vec![(int(1), int(2))]));
    let code = "from collections import Counter\ndef f(n):\n    return [7] * n + [Counter([1, 1])] if n > 2 else [7, 7]";
    assert_eq!(verdict(code, &Value::List(with_counter)), (Verdict::Pass, 2));
}

#[test]
fn long_lists_reach_the_tests_in_parts() {
    let s = start();
    let limits = Limits { wall_s: 60.0, cpu_s: 60.0, memory_mb: 1024, ..Limits::default() };
    let run = |code: &str, tests: &str| {
        let job = Job { limits, ..Job::python("s", code) };
        s.run(&Job { mode: Mode::Script { test_code: tests.into() }, ..job })
    };
    let code = "from itertools import combinations_with_replacement as c\ndef f(l, n): return list(c(l, n))\n\
                def g(n): return tuple({frozenset({i}): [i]} for i in range(n))\n";
    // about 180 MB as one value of version 2
    let tests = "from itertools import combinations_with_replacement as c\nl = ['Red', 'Green', 'Blue', 'Dog', 'Cat']\n\
                 assert f(l, 45) == list(c(l, 45))\nassert f(l, 2)[-1] == ('Cat', 'Cat')\n\
                 got = g(60000)\nassert type(got) is tuple and got == tuple({frozenset({i}): [i]} for i in range(60000))\n";
    let r = run(code, tests);
    assert_eq!(r.verdict, Verdict::Pass, "{:?} {:?}", r.reason, r.tests);
    let r = run("def f(n): return [0] * (n - 1) + [1]", "assert f(100000) == [0] * 100000");
    assert_eq!(r.verdict, Verdict::WrongAnswer, "{r:?}");
    // The whole of it, and not just the part, is too large to be held twice.
    let r = run("def f(n): return ['x' * (20 << 20)] * n", "f(60000)");
    assert_eq!(r.verdict, Verdict::OutputLimit, "{r:?}");
}

#[test]
fn calls_that_are_asked_for_together_are_judged_one_by_one() {
    let s = start();
    let run = |code: &str, n: i128, stop: bool| {
        let job = (0..n).fold(Job::function("f", code, "f"), |j, i| j.call(vec![int(i)], int(2 * i)));
        let limits = Limits { wall_s: 0.5, cpu_s: 5.0, ..Limits::default() };
        s.run(&Job { limits, stop_on_first_failure: stop, ..job })
    };
    let r = run("def f(x): return 2 * x", 100, false);
    assert_eq!((r.verdict, r.passed, r.total), (Verdict::Pass, 100, 100));
    assert!(r.tests.iter().all(|t| t.wall_ms > 0.0), "{r:?}");
    // each kind of failure in the middle of those that are asked for together
    let verdicts = |code: &str| {
        let r = run(code, 40, false);
        r.tests.iter().map(|t| t.verdict).filter(|v| *v != Verdict::Pass).collect::<Vec<_>>()
    };
    let code = "import os, time\ndef f(x):\n    if x == 3: return 0\n    if x == 5: os._exit(0)\n    if x == 9: os.abort()\n    \
                if x == 20: time.sleep(9)\n    if x == 36: raise KeyError(x)\n    return 2 * x\n";
    use Verdict::{RuntimeError, TimeLimit, WrongAnswer};
    assert_eq!(verdicts(code), [WrongAnswer, RuntimeError, RuntimeError, TimeLimit, RuntimeError]);
    // the first failure ends it, whatever it is
    for (code, verdict) in [
        ("def f(x): return 2 * x if x < 5 else 0", WrongAnswer),
        ("import os\ndef f(x): return 2 * x if x < 5 else os._exit(0)", RuntimeError),
        ("import time\ndef f(x): return 2 * x if x < 5 else time.sleep(9)", TimeLimit),
    ] {
        let r = run(code, 40, true);
        assert_eq!((r.verdict, r.passed, r.tests.len(), r.total), (verdict, 5, 6, 40), "{code}: {r:?}");
    }
    // A slow function: each call has its own time.
    let r = run("import time\ndef f(x):\n    time.sleep(0.1)\n    return 2 * x", 12, false);
    assert_eq!((r.verdict, r.passed), (Verdict::Pass, 12), "{r:?}");
    assert!(r.tests.iter().all(|t| t.wall_ms > 90.0), "{r:?}");
}

#[test]
fn large_arguments_and_answers_do_not_block_each_other() {
    let s = start();
    let text = |n: usize| Value::Str(vec![b'x'; n]);
    let job = [2_000_000, 10, 3000, 10, 300_000, 3000, 10].into_iter();
    let job = job
        .fold(Job::function("f", "def f(s): return s * 4", "f"), |j, n| j.call(vec![text(n)], text(4 * n)));
    let r = s.run(&job);
    assert_eq!((r.verdict, r.passed), (Verdict::Pass, 7), "{:?}", r.reason);
}
