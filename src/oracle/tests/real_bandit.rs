//! The adapter against the real Bandit, where `scripts/bandit.sh` has made its environment (`make test` does).

use oracle::analyzer::bandit::Bandit;
use oracle::analyzer::{Analyzer, Outcome, Severity, Unit};
use std::path::Path;

fn bandit() -> Option<Bandit> {
    let python = Bandit::default_python(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    if !python.exists() {
        println!("SKIPPED: no Bandit; run scripts/bandit.sh");
        return None;
    }
    Some(Bandit::start(&python).expect("starts"))
}

fn analyse(bandit: &mut Bandit, codes: &[&str]) -> Vec<Outcome> {
    let units: Vec<Unit> =
        codes.iter().enumerate().map(|(i, c)| Unit { id: i.to_string(), code: (*c).to_owned() }).collect();
    bandit.analyse(&units)
}

#[test]
fn findings_clean_code_and_broken_code_are_told_apart_in_one_batch() {
    let Some(mut bandit) = bandit() else { return };
    let outcomes = analyse(
        &mut bandit,
        &[
            "import subprocess\nsubprocess.call(input(), shell=True)\n",
            "print(sum(map(int, input().split())))\n",
            "def f(:\n",
            "print('\u{e9}\\ud800')\n",
            "",
        ],
    );
    let Outcome::Analysed { findings } = &outcomes[0] else { panic!("{outcomes:?}") };
    let shell = findings.iter().find(|f| f.rule == "B602").expect("shell=True is found");
    assert_eq!(shell.severity, Some(Severity::High));
    assert!(shell.cwes.contains(&78));
    assert_eq!(shell.start_line, 2);
    assert_eq!(outcomes[1], Outcome::Analysed { findings: vec![] });
    assert!(matches!(outcomes[2], Outcome::Unparsable { .. }), "{outcomes:?}");
    assert!(matches!(outcomes[3], Outcome::Analysed { .. }), "{outcomes:?}");
    assert!(matches!(outcomes[4], Outcome::Analysed { .. }), "{outcomes:?}");
}

#[test]
fn a_comment_of_the_model_does_not_switch_bandit_off() {
    let Some(mut bandit) = bandit() else { return };
    let outcomes = analyse(&mut bandit, &["eval(input())  # nosec\n"]);
    let Outcome::Analysed { findings } = &outcomes[0] else { panic!("{outcomes:?}") };
    assert!(!findings.is_empty());
}

#[test]
fn code_that_no_parser_survives_is_not_clean_and_the_next_batch_works() {
    let Some(mut bandit) = bandit() else { return };
    let deep = format!("x = {}1{}\n", "(".repeat(5000), ")".repeat(5000));
    let outcomes = analyse(&mut bandit, &[&deep, "x = 1\n", "a\0b\n"]);
    assert!(!matches!(outcomes[0], Outcome::Analysed { .. }), "{:?}", outcomes[0]);
    assert_eq!(outcomes[1], Outcome::Analysed { findings: vec![] });
    assert!(!matches!(outcomes[2], Outcome::Analysed { .. }), "{:?}", outcomes[2]);
    assert_eq!(analyse(&mut bandit, &["y = 2\n"]), [Outcome::Analysed { findings: vec![] }]);
}
