//! A declared reward over the real sandbox: tests, an analyzer and a judge in one number, with a ledger row for each
//! answer. The real Bandit takes part where `scripts/bandit.sh` has made its environment.

mod common;

use corpus::Problem;
use oracle::analyzer::bandit::Bandit;
use oracle::execute::Scoring;
use oracle::judge::ask::{AskError, Said};
use oracle::panel::{Asker, PanelError, Toolbox};
use oracle::reward::{Answer, RewardError};
use oracle::{Grader, Panel, Reward, RewardLedger, TestsOracle, VerdictCache};
use record::params::{Declared, OracleParams};
use std::path::Path;

fn problem() -> Problem {
    common::double(&[3, 0])
}

/// A judge that knows one bad word, and is away when told so.
struct Word {
    away: bool,
}

impl Asker for Word {
    fn identity(&self) -> String {
        "word".into()
    }
    fn ask(&self, prompt: &str, _: u32) -> Result<Said, AskError> {
        if self.away {
            return Err(AskError::Away("nobody is there".into()));
        }
        let answer = prompt.split("assistant: ").nth(1).unwrap_or_default();
        let class = if answer.contains("sorry") { "REFUSAL" } else { "APPROPRIATE" };
        Ok(Said { text: format!("ANALYSIS: read.\nCLASSIFICATION: {class}"), truncated: false })
    }
}

fn declared(yaml: serde_json::Value) -> Declared {
    serde_json::from_value(yaml).unwrap()
}

fn panel(declared: &Declared, away: bool) -> Result<Panel, PanelError> {
    let mut asker =
        |_: &str, _: &OracleParams| -> Result<Box<dyn Asker>, String> { Ok(Box::new(Word { away })) };
    let mut tools = Toolbox {
        bandit_python: Bandit::default_python(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")),
        cache: None,
        asker: &mut asker,
    };
    Panel::new(declared, &mut tools)
}

fn reward(panel: Panel, ledger: &Path) -> Reward {
    let tests = TestsOracle::new(Box::new(common::sandbox()), VerdictCache::in_memory());
    let grader = Grader::new(tests, Scoring::default(), Some(panel));
    Reward::new(grader, Some(RewardLedger::append(ledger).unwrap()))
}

fn judge(reward: &mut Reward, texts: &[&str]) -> Result<Vec<Option<f64>>, RewardError> {
    let problem = problem();
    let answers: Vec<Answer<'_>> =
        (0..).zip(texts).map(|(sample, text)| Answer { problem: &problem, sample, text }).collect();
    Ok(reward.judge(1, &answers)?.iter().map(|g| g.reward().score).collect())
}

#[test]
fn tests_and_a_judge_make_the_declared_reward_and_every_oracle_stands_in_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("rewards.jsonl");
    let d = declared(serde_json::json!({
        "oracles": {"tests": {"oracle": "partial-credit"}, "kind": {"oracle": "judge", "rubric": "appropriate"}},
        "combine": "0.75*tests+0.25*kind",
    }));
    let mut reward = reward(panel(&d, false).unwrap(), &ledger);
    let right = "```python\nprint(int(input()) * 2)\n```";
    let sorry = "I am sorry.\n```python\nprint(int(input()) * 2)\n```";
    let wrong = "print(7)";
    let got = judge(&mut reward, &[right, sorry, wrong]).unwrap();
    assert_eq!(got, [Some(1.0), Some(0.75), Some(0.75 * 0.6 + 0.25)]);
    let rows = common::rows(&ledger);
    let names: Vec<&str> =
        rows[1]["oracles"].as_array().unwrap().iter().map(|o| o["oracle"].as_str().unwrap()).collect();
    assert_eq!((rows.len(), names), (3, vec!["kind", "tests"]));
    assert_eq!(rows[1]["oracles"][0]["reason"], "REFUSAL");
}

#[test]
fn an_execution_that_oracles_share_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("rewards.jsonl");
    let d = declared(serde_json::json!({
        "oracles": {"a": {"oracle": "partial-credit"}, "b": {"oracle": "binary"}}, "combine": "0.5*a+0.5*b",
    }));
    let mut reward = reward(panel(&d, false).unwrap(), &ledger);
    assert_eq!(judge(&mut reward, &["print(int(input()) * 2)"]).unwrap(), [Some(1.0)]);
    let row = &common::rows(&ledger)[0];
    let ms = |i: usize| row["oracles"][i]["ms"].as_f64().unwrap();
    assert!(ms(0) > 0.0 && ms(1) == 0.0, "{row}");
}

#[test]
fn a_judge_that_is_away_stops_the_batch_and_is_no_zero() {
    let dir = tempfile::tempdir().unwrap();
    let d = declared(serde_json::json!({
        "oracles": {"kind": {"oracle": "judge", "rubric": "appropriate"}}, "combine": "kind",
    }));
    let mut reward = reward(panel(&d, true).unwrap(), &dir.path().join("rewards.jsonl"));
    let error = judge(&mut reward, &["print(1)", "print(2)"]).unwrap_err();
    assert!(matches!(&error, RewardError::Away(why) if why.contains("oracle kind")), "{error}");
}

#[test]
fn the_security_term_enters_the_reward_with_the_real_bandit() {
    let d = declared(serde_json::json!({
        "oracles": {"tests": {"oracle": "partial-credit"}, "security": {"oracle": "analyzer"}},
        "combine": "0.6*tests+0.4*security",
    }));
    let panel = match panel(&d, false) {
        Err(e) if e.to_string().contains("scripts/bandit.sh") => {
            println!("SKIPPED: {e}");
            return;
        }
        other => other.unwrap(),
    };
    assert!(panel.identity().contains("bandit 1.9.4"), "{}", panel.identity());
    let dir = tempfile::tempdir().unwrap();
    let mut reward = reward(panel, &dir.path().join("rewards.jsonl"));
    let got = judge(
        &mut reward,
        &[
            "print(int(input()) * 2)",
            // MEDIUM: eval of the input costs half of the security term
            "print(eval(input()) * 2)",
            // what does not parse earns nothing, and no security either
            "print((",
            // no program at all
            "```java\nclass A {}\n```",
        ],
    )
    .unwrap();
    let want = [1.0, 0.6 + 0.4 * 0.5, 0.0, 0.0];
    for (got, want) in got.iter().zip(want) {
        assert!((got.unwrap() - want).abs() < 1e-9, "{got:?} is not {want}");
    }
}

#[test]
fn an_analyzer_of_another_version_than_declared_is_refused() {
    let d = declared(serde_json::json!({
        "oracles": {"security": {"oracle": "analyzer", "version": "0.0.1"}}, "combine": "security",
    }));
    let Err(error) = panel(&d, false) else { panic!("version 0.0.1 is there") };
    let text = error.to_string();
    assert!(text.contains("0.0.1 is declared") || text.contains("there is no Python with Bandit"), "{text}");
}
