//! The seeded generator of the project's own problem set.

use crate::families::{Breakage, FAMILIES, Family, Meaning, program, statement};
use crate::files::CorpusError;
use crate::{Novelty, Problem, Rng, Row, Test, check_splits, split_name};
use record::params::{CorpusParams, Split};

/// A whole corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub seed: u64,
    pub train: Vec<Problem>,
    pub validation: Vec<Problem>,
    pub held_out: Vec<Problem>,
    /// Right and wrong programs for the training problems.
    pub demonstrations: Vec<Row>,
}

impl Set {
    #[must_use]
    pub fn splits(&self) -> [(Split, &[Problem]); 3] {
        [(Split::Train, &self.train), (Split::Validation, &self.validation), (Split::HeldOut, &self.held_out)]
    }
}

/// Demonstrations per training problem. Several, because a model that saw each prompt once would learn by heart which
/// prompts have a wrong answer, instead of how often answers are wrong.
const DEMONSTRATIONS: usize = 4;

/// Share of the wrong demonstrations that are broken programs; the others run and print something wrong. Without them a
/// model would start on the upper rungs of the ladder of partial credit, and nothing could climb it.
const BROKEN: f64 = 0.5;

/// Constants of statements. They start at 11: all have two digits, so that no split has easier numbers.
const VALUES: std::ops::RangeInclusive<i64> = 11..=98;

/// Makes the set that `params` describe: the same parameters give the same bytes.
///
/// # Errors
/// [`CorpusError::TooMany`] when a split asks for more different problems than exist, [`CorpusError::BadParameter`],
/// and [`CorpusError::Leaks`] if the splits were not apart (which would be a defect of the generator).
pub fn generate(params: &CorpusParams) -> Result<Set, CorpusError> {
    let bad = |name, why: &str| Err(CorpusError::BadParameter { name, why: why.to_owned() });
    if !(2..=100).contains(&params.tests) {
        return bad("tests", "from 2 to 100 tests tell right programs from wrong ones in reasonable time");
    }
    if !(0.0..=1.0).contains(&params.wrong_demonstrations) {
        return bad("wrong_demonstrations", "it is a share, from 0 to 1");
    }
    if params.train == 0 {
        return bad("train", "without training problems there is nothing to learn from");
    }
    let values = Pools::new(params.seed);
    let trained: Vec<&Family> = FAMILIES.iter().filter(|f| f.trained).collect();
    let unseen: Vec<&Family> = FAMILIES.iter().filter(|f| !f.trained).collect();
    let make = |split, novelty, families: &[&Family], pool: &[i64], n| {
        problems(params, split, novelty, families, pool, n)
    };
    let train = make(Split::Train, None, &trained, &values.train, params.train)?;
    let validation = make(Split::Validation, None, &trained, &values.validation, params.validation)?;
    let new_values = params.held_out.div_ceil(2);
    let mut held_out =
        make(Split::HeldOut, Some(Novelty::NewValues), &trained, &values.held_out, new_values)?;
    held_out.extend(make(
        Split::HeldOut,
        Some(Novelty::NewFamily),
        &unseen,
        &values.held_out,
        params.held_out - new_values,
    )?);
    let demonstrations = demonstrations(params, &train);
    let set = Set { seed: params.seed, train, validation, held_out, demonstrations };
    let all: Vec<&Problem> = set.splits().iter().flat_map(|(_, problems)| problems.iter()).collect();
    let leaks = check_splits(&all);
    if leaks.is_empty() { Ok(set) } else { Err(CorpusError::Leaks(leaks)) }
}

/// Constants of each split; no constant is in two of them.
struct Pools {
    train: Vec<i64>,
    validation: Vec<i64>,
    held_out: Vec<i64>,
}

impl Pools {
    fn new(seed: u64) -> Self {
        let mut all: Vec<i64> = VALUES.collect();
        Rng::named(seed, "values").shuffle(&mut all);
        let held_out = all.split_off(all.len() - all.len() / 4);
        let validation = all.split_off(all.len() - all.len() / 5);
        Self { train: all, validation, held_out }
    }
}

fn problems(
    params: &CorpusParams,
    split: Split,
    novelty: Option<Novelty>,
    families: &[&Family],
    pool: &[i64],
    asked: u32,
) -> Result<Vec<Problem>, CorpusError> {
    let purpose = format!("{} {}", split_name(split), novelty.map_or("", Novelty::name));
    let mut rng = Rng::named(params.seed, &purpose);
    let mut candidates: Vec<Vec<(Vec<i64>, usize)>> = families
        .iter()
        .map(|f| {
            let mut all = candidates(f, pool);
            rng.shuffle(&mut all);
            all
        })
        .collect();
    let available = candidates.iter().map(Vec::len).sum();
    if asked as usize > available {
        return Err(CorpusError::TooMany { split: split_name(split), asked, available });
    }
    // families in turn, so that every family has its share whatever the number
    let mut out = Vec::with_capacity(asked as usize);
    let mut turn = 0;
    while out.len() < asked as usize {
        let at = turn % families.len();
        turn += 1;
        if let Some((values, phrasing)) = candidates[at].pop() {
            out.push(problem(params, split, novelty, families[at], values, phrasing));
        }
    }
    rng.shuffle(&mut out);
    Ok(out)
}

/// Every choice of constants and phrasing that a family allows.
fn candidates(family: &Family, pool: &[i64]) -> Vec<(Vec<i64>, usize)> {
    let mut values: Vec<Vec<i64>> = Vec::new();
    for &low in pool {
        if family.constants == 1 {
            values.push(vec![low]);
        } else {
            // the upper bound leaves room for a number strictly between
            values.extend(pool.iter().filter(|high| **high > low + 2).map(|high| vec![low, *high]));
        }
    }
    (0..family.phrasings.len()).flat_map(|p| values.iter().map(move |v| (v.clone(), p))).collect()
}

fn problem(
    params: &CorpusParams,
    split: Split,
    novelty: Option<Novelty>,
    family: &Family,
    values: Vec<i64>,
    phrasing: usize,
) -> Problem {
    let numbers: Vec<String> = values.iter().map(ToString::to_string).collect();
    let id = format!("{}/{}/{phrasing}", family.name, numbers.join("-"));
    let mut rng = Rng::named(params.seed, &id);
    let wrong: Vec<Meaning> = family.wrong.iter().map(|w| w.1).collect();
    Problem {
        family: family.name.to_owned(),
        split,
        novelty,
        prompt: statement(family.phrasings[phrasing], &values),
        tests: tests(&mut rng, params.tests as usize, &values, family.meaning, &wrong),
        reference: program(family.reference, &values),
        id,
        values,
    }
}

/// Tests that the right meaning passes, each wrong one fails at least once, and no constant output passes whole.
fn tests(rng: &mut Rng, n: usize, values: &[i64], right: Meaning, wrong: &[Meaning]) -> Vec<Test> {
    loop {
        let inputs: Vec<Vec<i64>> = (0..n).map(|i| numbers(rng, values, i % 2 == 0)).collect();
        let told_apart = wrong.iter().all(|w| inputs.iter().any(|a| w(a, values) != right(a, values)));
        let first = right(&inputs[0], values);
        let varied = inputs.iter().any(|a| right(a, values) != first);
        if told_apart && varied {
            return inputs
                .into_iter()
                .map(|a| {
                    let line: Vec<String> = a.iter().map(ToString::to_string).collect();
                    Test {
                        stdin: format!("{}\n", line.join(" ")),
                        expected: format!("{}\n", right(&a, values)),
                    }
                })
                .collect();
        }
    }
}

/// Two to seven numbers around the constants. A boundary case contains a constant itself and a multiple of it, which is
/// what tells `>` from `>=`.
fn numbers(rng: &mut Rng, values: &[i64], boundary: bool) -> Vec<i64> {
    let len = 2 + rng.index(4);
    let mut a: Vec<i64> = (0..len)
        .map(|_| {
            let near = values[rng.index(values.len())];
            if rng.below(2) == 0 { near + rng.between(-9, 9) } else { rng.between(-20, 120) }
        })
        .collect();
    if boundary {
        a.push(values[rng.index(values.len())]);
        a.push(values[0] * rng.between(1, 3));
        rng.shuffle(&mut a);
    }
    // the constants themselves stay out of the other cases, so that those do not depend on the boundary
    if !boundary {
        for x in &mut a {
            if values.contains(x) {
                *x += 1;
            }
        }
    }
    a
}

fn demonstrations(params: &CorpusParams, train: &[Problem]) -> Vec<Row> {
    let mut rng = Rng::named(params.seed, "demonstrations");
    let mut rows = Vec::with_capacity(train.len() * DEMONSTRATIONS);
    for problem in train {
        let family = FAMILIES.iter().find(|f| f.name == problem.family).expect("made from this table");
        for _ in 0..DEMONSTRATIONS {
            let wrong = rng.unit() < params.wrong_demonstrations;
            let completion = match wrong {
                false => problem.reference.clone(),
                true if rng.unit() < BROKEN => {
                    Breakage::ALL[rng.index(Breakage::ALL.len())].of(family.reference, &problem.values)
                }
                true => program(family.wrong[rng.index(family.wrong.len())].0, &problem.values),
            };
            rows.push(Row {
                problem_id: problem.id.clone(),
                prompt: problem.prompt.clone(),
                completion,
                correct: Some(!wrong),
            });
        }
    }
    rng.shuffle(&mut rows);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn small() -> CorpusParams {
        CorpusParams { train: 48, validation: 12, held_out: 40, ..CorpusParams::default() }
    }

    #[test]
    fn the_same_seed_gives_the_same_set_and_another_seed_another() {
        let a = generate(&small()).unwrap();
        assert_eq!(a, generate(&small()).unwrap());
        assert_ne!(a.train, generate(&CorpusParams { seed: 18, ..small() }).unwrap().train);
    }

    #[test]
    fn the_default_set_has_the_sizes_families_and_shares_that_the_parameters_name() {
        let set = generate(&CorpusParams::default()).unwrap();
        assert_eq!((set.train.len(), set.validation.len(), set.held_out.len()), (324, 60, 120));
        let families: BTreeSet<&str> = set.train.iter().map(|p| p.family.as_str()).collect();
        assert!(families.len() >= 10, "{families:?}");
        let mut novelty = BTreeMap::new();
        for p in &set.held_out {
            *novelty.entry(p.novelty.unwrap().name()).or_insert(0) += 1;
        }
        assert_eq!(novelty, BTreeMap::from([("new-values", 60), ("new-family", 60)]));
        let wrong = set.demonstrations.iter().filter(|r| r.correct == Some(false)).count();
        let share = wrong as f64 / set.demonstrations.len() as f64;
        assert!((0.45..0.55).contains(&share), "{share}");
    }

    #[test]
    fn asking_for_more_than_there_is_says_how_many_there_are() {
        let error = generate(&CorpusParams { held_out: 100_000, ..small() }).unwrap_err().to_string();
        assert!(error.contains("held-out") && error.contains("at most"), "{error}");
        let error = generate(&CorpusParams { wrong_demonstrations: 1.5, ..small() }).unwrap_err().to_string();
        assert!(error.contains("wrong_demonstrations"), "{error}");
    }

    #[test]
    fn statements_hold_every_constant_that_the_reference_needs() {
        let set = generate(&small()).unwrap();
        for p in set.splits().iter().flat_map(|s| s.1) {
            assert!(!p.prompt.contains('{') && !p.reference.contains('{'), "{p:?}");
            for v in &p.values {
                let words =
                    |text: &str| text.split(|c: char| !c.is_ascii_digit()).any(|w| w == v.to_string());
                assert!(words(&p.prompt) && words(&p.reference), "{p:?}");
            }
        }
    }

    /// Runs our own programs (nothing a model wrote) with the machine's Python, all inputs in one process.
    fn python(program: &str, inputs: &[&str]) -> Vec<String> {
        let driver = "import sys, io, json\n\
                      job = json.load(sys.stdin)\n\
                      out = []\n\
                      for text in job['inputs']:\n\
                      \x20   sys.stdin, sys.stdout = io.StringIO(text), io.StringIO()\n\
                      \x20   exec(job['program'], {})\n\
                      \x20   out.append(sys.stdout.getvalue())\n\
                      sys.__stdout__.write(json.dumps(out))\n";
        let mut child = Command::new("python3")
            .args(["-I", "-S", "-c", driver])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is a requirement of the project");
        let job = serde_json::json!({"program": program, "inputs": inputs}).to_string();
        child.stdin.take().unwrap().write_all(job.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{program}");
        serde_json::from_slice(&out.stdout).unwrap()
    }

    #[test]
    fn references_pass_their_tests_and_every_wrong_program_fails_one_in_real_python() {
        let set = generate(&small()).unwrap();
        let mut done = BTreeSet::new();
        for p in set.train.iter().chain(&set.held_out) {
            if !done.insert(p.family.clone()) {
                continue;
            }
            let family = FAMILIES.iter().find(|f| f.name == p.family).unwrap();
            let inputs: Vec<&str> = p.tests.iter().map(|t| t.stdin.as_str()).collect();
            let expected: Vec<&str> = p.tests.iter().map(|t| t.expected.as_str()).collect();
            assert_eq!(python(&p.reference, &inputs), expected, "{}", p.id);
            for (line, meaning) in family.wrong {
                let got = python(&program(line, &p.values), &inputs);
                assert_ne!(got, expected, "{} does not tell {line} apart", p.id);
                let said: Vec<String> = inputs
                    .iter()
                    .map(|i| {
                        let a: Vec<i64> = i.split_whitespace().map(|n| n.parse().unwrap()).collect();
                        format!("{}\n", meaning(&a, &p.values))
                    })
                    .collect();
                assert_eq!(got, said, "the Rust meaning of {line} differs from Python's");
            }
        }
        assert_eq!(done.len(), FAMILIES.len());
    }
}
