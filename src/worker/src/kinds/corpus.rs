//! Kind `corpus`: the project's own problem set, checked before anybody learns from it.

use crate::context::{Context, Ending, Failure, Report};
use crate::kinds::verify;
use anyhow::Result;
use corpus::{CorpusError, Problem, Set, split_name};
use oracle::{Item, Scoring, Stage};
use record::params::CorpusParams;
use serde_json::json;
use std::collections::BTreeSet;

pub fn run(cx: &mut Context, params: &CorpusParams) -> Result<Ending> {
    let set = corpus::generate(params).map_err(|e| match e {
        CorpusError::TooMany { .. } | CorpusError::BadParameter { .. } => {
            anyhow::Error::from(Failure::user(e.to_string()))
        }
        other => other.into(),
    })?;
    let checked = check_programs(cx, &set)?;
    let manifest = set.write(&cx.out())?;
    cx.step(1, Some(1), [("problems", manifest.problems.values().sum::<usize>() as f64)])?;
    let message = format!(
        "{} problems for training, {} for validation, {} held out; {} demonstrations, {} of them correct; {checked}",
        set.train.len(),
        set.validation.len(),
        set.held_out.len(),
        manifest.demonstrations,
        manifest.correct_demonstrations,
    );
    let facts = [
        ("problems".to_owned(), json!(manifest.problems)),
        ("demonstrations".to_owned(), json!(manifest.demonstrations)),
        ("correct_demonstrations".to_owned(), json!(manifest.correct_demonstrations)),
        ("families".to_owned(), json!(manifest.families)),
    ];
    Ok(Ending::Done(Report { message, metrics: Vec::new(), facts: facts.into() }))
}

/// Runs programs of every family of every split in the sandbox: references must pass, and each kind of wrong
/// demonstration must fail. A problem set that contradicts its own answers would teach nonsense.
fn check_programs(cx: &Context, set: &Set) -> Result<String> {
    let mut oracle = verify::tests_oracle(cx)?;
    let mut families = BTreeSet::new();
    let mut checked: Vec<(&Problem, &str, bool)> = Vec::new();
    for (split, problems) in set.splits() {
        for p in problems {
            if families.insert((split_name(split), p.family.as_str())) {
                checked.push((p, &p.reference, true));
            }
        }
    }
    let examples: BTreeSet<&str> = checked.iter().map(|c| c.0.id.as_str()).collect();
    for row in set.demonstrations.iter().filter(|r| examples.contains(r.problem_id.as_str())) {
        if let Some(p) = set.train.iter().find(|p| p.id == row.problem_id) {
            checked.push((p, &row.completion, row.correct == Some(true)));
        }
    }
    let items: Vec<Item<'_>> = checked.iter().map(|(problem, answer, _)| Item { problem, answer }).collect();
    let judged = oracle.judge(&items, Scoring::default())?;
    for ((problem, program, right), judgement) in checked.iter().zip(&judged) {
        let stage = judgement.stage().ok_or_else(|| {
            Failure::new(
                record::FailureClass::NodeUnfit,
                format!("the sandbox could not judge a program: {}", judgement.scored.reason),
            )
        })?;
        if (stage == Stage::PassesAll) != *right {
            anyhow::bail!(
                "problem {}: a program that {} ({}): {program:?}",
                problem.id,
                if *right { "must pass does not" } else { "must fail passes" },
                judgement.scored.reason
            );
        }
    }
    Ok(format!("{} programs of {} families run and found as labelled", checked.len(), families.len()))
}
