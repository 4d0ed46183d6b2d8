//! The profiles `numpy` and `pytest`, with the interpreters that `BESSEMER_NUMPY_PYTHON` and `BESSEMER_PYTEST_PYTHON` name
//! (`scripts/profiles.sh` makes one that has both). Without them the tests only see that there is a clear refusal.

use sandbox::{Config, Job, Profile, Sandbox, Verdict};

fn start() -> Sandbox {
    Sandbox::start(Config { slots: 1, ..Config::default() }).expect("a sandbox can be built here")
}

fn with(profile: Profile, job: Job) -> Job {
    Job { profile, ..job }
}

fn there_is(variable: &str) -> bool {
    let is = std::env::var_os(variable).is_some();
    if !is {
        eprintln!("skipped: {variable} is not set; scripts/profiles.sh makes an interpreter for it");
    }
    is
}

#[test]
fn a_profile_that_is_not_there_says_how_to_get_it() {
    let config = Config { slots: 1, numpy: None, pytest: None, ..Config::default() };
    let s = Sandbox::start(config).expect("a sandbox can be built here");
    let r = s.run(&with(Profile::Numpy, Job::python("n", "print(1)").test("", "1")));
    assert_eq!(r.verdict, Verdict::Unscored);
    assert!(r.reason.is_some_and(|why| why.contains("BESSEMER_NUMPY_PYTHON")));
    assert!(s.profiles().iter().all(|(_, has)| has.is_err()));
}

#[test]
fn a_profile_has_its_language_and_its_mode() {
    let s = start();
    let r = s.run(&with(Profile::Pytest, Job::python("p", "print(1)").test("", "1")));
    assert_eq!(r.verdict, Verdict::Unscored, "{r:?}");
}

#[test]
fn numpy_is_there_and_computes_in_one_thread() {
    if !there_is("BESSEMER_NUMPY_PYTHON") {
        return;
    }
    let s = start();
    let code = "import numpy as np, sys, threading\na = np.array(list(map(int, input().split())), dtype=float)\n\
                m = np.outer(a, a) @ np.eye(len(a))\nprint(int(m.sum()), threading.active_count())\n";
    let job = with(Profile::Numpy, Job::python("n", code).test("1 2 3", "36 1").test("4", "16 1"));
    let r = s.run(&job);
    assert_eq!(r.verdict, Verdict::Pass, "{r:?}");
    assert_eq!(s.run(&with(Profile::Multi, job)).verdict, Verdict::RuntimeError, "only in its profile");
}

const TESTS: &str = "
import pytest
@pytest.fixture
def three(tmp_path):
    (tmp_path / 'x').write_text('3')
    return int((tmp_path / 'x').read_text())
def test_fixture(three):
    assert add(three, 1) == 4
@pytest.mark.parametrize('a,b,c', [(0, 0, 0), (5, -5, 0), (1, 1, 3)])
def test_many(a, b, c):
    assert add(a, b) == c
@pytest.mark.xfail
def test_known():
    assert add(1, 1) == 3
class TestMore:
    def test_raises(self):
        with pytest.raises(TypeError):
            add(1, 'x')
";

#[test]
fn the_real_pytest_runs_the_tests() {
    if !there_is("BESSEMER_PYTEST_PYTHON") {
        return;
    }
    let s = start();
    let add = "def add(a, b):\n    return a + b\n";
    let r = s.run(&with(Profile::Pytest, Job::pytest("p", add, TESTS)));
    assert_eq!((r.verdict, r.passed, r.total), (Verdict::WrongAnswer, 5, 6), "{r:?}");
    let failed: Vec<_> = r.tests.iter().filter(|t| t.verdict != Verdict::Pass).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].name.as_deref(), Some("test_many[1-1-3]"));
    assert!(failed[0].reason.as_ref().is_some_and(|why| why.contains("assert 2 == 3")), "{failed:?}");
    for leave in ["import os\nos._exit(0)\n", "import sys\nsys.exit(0)\n"] {
        let r = s.run(&with(Profile::Pytest, Job::pytest("p", format!("{leave}{add}"), TESTS)));
        assert_ne!(r.verdict, Verdict::Pass, "leaving is not passing");
    }
}
