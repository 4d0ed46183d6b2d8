//! The tests oracle over the real sandbox, and over one that fails.

mod common;

use corpus::Problem;
use oracle::execute::Scoring;
use oracle::reward::{Answer, RewardError};
use oracle::{
    Grader, Item, Judgement, Reward, RewardLedger, Runner, Stage, TestsOracle, Verdict, VerdictCache,
};
use record::params::{Profile, RewardMode};
use sandbox::{Job, JobResult, Sandbox};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn problem() -> Problem {
    common::double(&[3, 0, -4])
}

/// Counts what reaches the sandbox.
struct Counting(Sandbox, Arc<AtomicUsize>);

impl Runner for Counting {
    fn identity(&self) -> String {
        self.0.identity()
    }
    fn run(&self, jobs: &[Job]) -> Vec<JobResult> {
        self.1.fetch_add(jobs.len(), Ordering::Relaxed);
        self.0.run_batch(jobs)
    }
}

fn real() -> (Box<Counting>, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    (Box::new(Counting(common::sandbox(), Arc::clone(&count))), count)
}

fn judge(oracle: &mut TestsOracle, answers: &[&str]) -> Vec<Judgement> {
    let problem = problem();
    let items: Vec<Item<'_>> = answers.iter().map(|answer| Item { problem: &problem, answer }).collect();
    oracle.judge(&items, Scoring::default()).unwrap()
}

#[test]
fn real_programs_land_on_the_right_rung_of_the_ladder() {
    let (runner, _) = real();
    let mut oracle = TestsOracle::new(runner, VerdictCache::in_memory());
    let cases = [
        ("print(int(input()) * 2)", Stage::PassesAll, 1.0),
        ("Here:\n```python\nprint(int(input()) * 2)\n```\n", Stage::PassesAll, 1.0),
        ("print(abs(int(input())) * 2)", Stage::PassesSome, (1.0 + 1.0 + 0.6) / 3.0),
        ("print(int(input()) + 1)", Stage::Prints, 0.6),
        ("x = int(input())", Stage::Runs, 0.4),
        ("print(int(input()) * 2)\nraise SystemExit(3)", Stage::Parses, 0.2),
        ("import nothing_like_this", Stage::Parses, 0.2),
        ("print(int(input()) * 2", Stage::Invalid, 0.0),
        ("   \n", Stage::Invalid, 0.0),
    ];
    let answers: Vec<&str> = cases.iter().map(|c| c.0).collect();
    for (case, judged) in cases.iter().zip(judge(&mut oracle, &answers)) {
        assert_eq!(judged.stage(), Some(case.1), "{:?}: {}", case.0, judged.scored.reason);
        let score = judged.scored.score.unwrap();
        assert!((score - case.2).abs() < 1e-9, "{:?}: {score}", case.0);
        let verdict = if case.1 == Stage::PassesAll { Verdict::Pass } else { Verdict::Fail };
        assert_eq!(judged.scored.verdict, verdict);
    }
}

#[test]
fn stubs_and_constant_printers_are_noticed() {
    let (runner, _) = real();
    let mut oracle = TestsOracle::new(runner, VerdictCache::in_memory());
    let judged = judge(&mut oracle, &["pass", "print(6)", "print(int(input()) * 2)"]);
    assert_eq!(judged.iter().map(|j| j.stub).collect::<Vec<_>>(), [true, false, false]);
    let constant: Vec<bool> = judged.iter().map(|j| j.execution.as_ref().unwrap().constant).collect();
    assert_eq!(constant, [false, true, false]);
}

#[test]
fn a_program_that_never_ends_is_stopped_and_earns_what_it_showed() {
    let (runner, _) = real();
    let mut oracle = TestsOracle::new(runner, VerdictCache::in_memory());
    let judged =
        judge(&mut oracle, &["n = int(input())\nif n > 0:\n    print(n * 2)\nelse:\n    while True: pass"]);
    assert_eq!(judged[0].stage(), Some(Stage::PassesSome));
    assert!((judged[0].scored.score.unwrap() - 1.4 / 3.0).abs() < 1e-9);
}

#[test]
fn equal_programs_run_once_also_across_tasks_and_modes() {
    let dir = tempfile::tempdir().unwrap();
    let (runner, count) = real();
    let mut first = TestsOracle::new(runner, VerdictCache::shared(dir.path(), "first").unwrap());
    judge(&mut first, &["print(1)", "print(1)", "```\nprint(1)\n```", "print(2)"]);
    // the fenced one ends with a line break: another text
    assert_eq!(count.load(Ordering::Relaxed), 3);
    judge(&mut first, &["print(2)", "print(1)"]);
    assert_eq!(count.load(Ordering::Relaxed), 3);
    let (runner, count) = real();
    let mut second = TestsOracle::new(runner, VerdictCache::shared(dir.path(), "second").unwrap());
    let problem = problem();
    let item = Item { problem: &problem, answer: "print(1)" };
    let binary = Scoring { profile: Profile::Corrected, mode: RewardMode::Binary };
    let judged = second.judge(&[item], binary).unwrap();
    assert_eq!((count.load(Ordering::Relaxed), judged[0].scored.score), (0, Some(0.0)));
}

/// A sandbox that fails on the programs that say so.
struct Broken;

impl Runner for Broken {
    fn identity(&self) -> String {
        "broken".into()
    }
    fn run(&self, jobs: &[Job]) -> Vec<JobResult> {
        let json = serde_json::json!({
            "id": "x", "verdict": "unscored", "reason": "the slot died", "passed": 0, "total": 3, "tier": "B",
            "grade": "test", "tests": [],
        });
        jobs.iter().map(|_| serde_json::from_value(json.clone()).unwrap()).collect()
    }
}

#[test]
fn a_failing_sandbox_gives_no_score_and_is_not_remembered() {
    let mut oracle = TestsOracle::new(Box::new(Broken), VerdictCache::in_memory());
    let judged = judge(&mut oracle, &["print(1)", ""]);
    assert_eq!((judged[0].scored.verdict, judged[0].scored.score), (Verdict::Unscored, None));
    assert!(judged[0].scored.reason.contains("the slot died") && judged[0].stage().is_none());
    // an empty answer needs no sandbox
    assert_eq!(judged[1].scored.score, Some(0.0));
    assert_eq!(judge(&mut oracle, &["print(1)"])[0].scored.verdict, Verdict::Unscored);
}

#[test]
fn a_batch_that_is_mostly_unscored_is_an_error_and_stands_in_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rewards.jsonl");
    let problem = problem();
    let tests = TestsOracle::new(Box::new(Broken), VerdictCache::in_memory());
    let grader = Grader::new(tests, Scoring::default(), None);
    let mut reward = Reward::new(grader, Some(RewardLedger::append(&path).unwrap()));
    let answer = |sample, text| Answer { problem: &problem, sample, text };
    let error = reward.judge(4, &[answer(0, "print(1)"), answer(1, "")]).unwrap_err();
    assert!(matches!(error, RewardError::TooManyUnscored { unscored: 1, answers: 2, .. }), "{error}");
    let rows = common::rows(&path);
    assert_eq!(
        (rows.len(), &rows[0]["reward"], rows[1]["reward"].as_f64()),
        (2, &serde_json::Value::Null, Some(0.0))
    );
    assert_eq!(rows[0]["step"], 4);
    // a few unscored ones among many are left out, no more
    let many: Vec<Answer<'_>> = (0..8).map(|i| answer(i, if i == 0 { "print(1)" } else { "" })).collect();
    assert_eq!(reward.judge(5, &many).unwrap().iter().filter(|g| g.reward().score.is_none()).count(), 1);
}

#[test]
fn every_reference_of_the_own_problem_set_passes() {
    let params =
        record::params::CorpusParams { train: 24, validation: 0, held_out: 20, ..Default::default() };
    let set = corpus::generate(&params).unwrap();
    let (runner, _) = real();
    let mut oracle = TestsOracle::new(runner, VerdictCache::in_memory());
    let problems: Vec<&Problem> = set.train.iter().chain(&set.held_out).collect();
    let items: Vec<Item<'_>> = problems.iter().map(|p| Item { problem: p, answer: &p.reference }).collect();
    for (judged, problem) in oracle.judge(&items, Scoring::default()).unwrap().iter().zip(&problems) {
        assert!(judged.passed_all(), "{}: {}", problem.id, judged.scored.reason);
    }
}

#[test]
fn demonstrations_are_as_right_as_they_say_and_stand_on_every_rung() {
    let params = record::params::CorpusParams { train: 24, validation: 0, held_out: 0, ..Default::default() };
    let set = corpus::generate(&params).unwrap();
    let (runner, _) = real();
    let mut oracle = TestsOracle::new(runner, VerdictCache::in_memory());
    let of = |id: &str| set.train.iter().find(|p| p.id == id).unwrap();
    let items: Vec<Item<'_>> = set
        .demonstrations
        .iter()
        .map(|r| Item { problem: of(&r.problem_id), answer: &r.completion })
        .collect();
    let mut stages = std::collections::BTreeSet::new();
    for (judged, row) in oracle.judge(&items, Scoring::default()).unwrap().iter().zip(&set.demonstrations) {
        assert_eq!(Some(judged.passed_all()), row.correct, "{row:?}: {}", judged.scored.reason);
        stages.extend(judged.stage());
    }
    for rung in [Stage::Invalid, Stage::Parses, Stage::Runs, Stage::PassesSome, Stage::PassesAll] {
        assert!(stages.contains(&rung), "{rung:?} is not in {stages:?}");
    }
}

/// Both lanes on programs that end in every way there is: the quick one must say what the slow one says.
#[test]
fn the_quick_lane_and_the_test_by_test_lane_agree() {
    let programs = [
        "print(int(input()) * 2)",
        "import sys\nsys.stdout.write(str(int(sys.stdin.readline()) * 2))",
        "import sys\nn = int(sys.stdin.buffer.read())\nsys.stdout.buffer.write(b'%d' % (n * 2))",
        "import os\nos.write(1, str(int(os.read(0, 99)) * 2).encode())",
        "if __name__ == '__main__':\n    print(int(input()) * 2)",
        "import sys\nprint(int(input()) * 2)\nsys.exit()",
        "import sys\nprint(int(input()) * 2)\nsys.exit('bye')",
        "import sys\nprint(int(input()) * 2)\nsys.exit(256)",
        "import os\nprint(int(input()) * 2, flush=True)\nos._exit(0)",
        "import os\nprint(int(input()) * 2)\nos._exit(0)",
        "import os\nprint(int(input()) * 2, flush=True)\nos.kill(os.getpid(), 9)",
        "print(int(input()) * 2)\nprint(1 / 0)",
        "import atexit\natexit.register(lambda: print(int(input()) * 2))",
        "import threading\nthreading.Thread(target=lambda: print(int(input()) * 2)).start()",
        "import os\npid = os.fork()\nif pid == 0:\n    print(int(input()) * 2)\nelse:\n    os.waitpid(pid, 0)",
        "def f(n):\n    return f(n - 1) if n else 0\nprint(int(input()) * 2 + f(5000))",
        "x = [0] * (1 << 34)",
        "print('y' * 400_000)",
        "while True: print('y' * 1000)",
        "n = int(input())\nwhile n > 0: pass\nprint(n * 2)",
        "n = input()\nprint(n, file=open('left', 'a'))\nprint(int(n) * 2)",
        "import os\nos.kill(os.getppid(), 9)\nprint(int(input()) * 2)",
        "print(int(input()) * 2\n",
        "return 3",
        "print('\u{0}')",
        "\u{0}",
        "raise SyntaxError('mine')",
        "import nothing_like_this",
        "print('\\ud800')",
        "pass",
    ];
    let problem = problem();
    let sandbox = common::sandbox();
    let jobs: Vec<Job> = programs
        .iter()
        .enumerate()
        .map(|(i, p)| {
            let limits = sandbox::Limits { wall_s: 20.0, cpu_s: 4.0, ..Default::default() };
            let job = Job { limits, ..Job::python(i.to_string(), *p) };
            problem.tests.iter().fold(job, |job, t| job.test(t.stdin.as_str(), t.expected.as_str()))
        })
        .collect();
    let slow = sandbox.run_batch(&jobs);
    let mut oracle = TestsOracle::new(Box::new(sandbox), VerdictCache::in_memory());
    for ((program, slow), quick) in programs.iter().zip(&slow).zip(judge(&mut oracle, &programs)) {
        let slow = oracle::execute::execution(slow, &problem).unwrap();
        let quick = quick.execution.unwrap();
        assert_eq!((quick.parses, &quick.tests), (slow.parses, &slow.tests), "{program:?}");
    }
}
