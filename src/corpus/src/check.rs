//! Whether the splits of a set are really apart.
//!
//! A measured score means nothing when the measured problems were trained on (specs: SecureCodeRL 21.1), and equality of
//! ids or texts is not enough: two stages may phrase the same problem differently. So statements are compared after
//! normalisation, and for the project's own set the families and the constants are compared as well.

use crate::{Novelty, Problem, split_name};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// One way in which two problems are not apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leak {
    /// Two problems with one id.
    Id { id: String },
    /// The same statement in two splits, after [`normalise`].
    Statement { a: String, b: String },
    /// The same constants in two splits.
    Value { value: i64, a: String, b: String },
    /// A held-out problem that says its family is new, but training has the family (or its wording).
    Family { id: String, known: String },
    /// A held-out problem whose novelty label is missing or untrue.
    Label { id: String, why: &'static str },
    /// The same reference program in two splits.
    Reference { a: String, b: String },
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leak::Id { id } => write!(f, "problem id {id} occurs more than once"),
            Leak::Statement { a, b } => write!(f, "{a} and {b} have the same statement in different splits"),
            Leak::Value { value, a, b } => write!(f, "{a} and {b} share the constant {value} across splits"),
            Leak::Family { id, known } => {
                write!(f, "{id} is labelled as a new family, but {known} is in training")
            }
            Leak::Label { id, why } => write!(f, "held-out problem {id}: {why}"),
            Leak::Reference { a, b } => {
                write!(f, "{a} and {b} have the same reference program in different splits")
            }
        }
    }
}

/// Lower case, words and numbers only, single blanks: what makes two statements the same problem.
#[must_use]
pub fn normalise(statement: &str) -> String {
    let mut out = String::with_capacity(statement.len());
    let mut gap = false;
    for c in statement.chars().flat_map(char::to_lowercase) {
        // a minus sign is part of a number
        if c.is_alphanumeric() || c == '-' {
            if gap && !out.is_empty() {
                out.push(' ');
            }
            gap = false;
            out.push(c);
        } else {
            gap = true;
        }
    }
    out
}

/// A statement's wording: [`normalise`] with every number replaced.
#[must_use]
pub fn wording(statement: &str) -> String {
    normalise(statement)
        .split(' ')
        .map(|w| if w.trim_start_matches('-').chars().all(|c| c.is_ascii_digit()) { "#" } else { w })
        .collect::<Vec<_>>()
        .join(" ")
}

/// All leaks between the splits of a set; an empty list means that they are apart.
#[must_use]
pub fn check_splits(problems: &[&Problem]) -> Vec<Leak> {
    let mut leaks = Vec::new();
    let mut ids = HashSet::new();
    let mut statements: HashMap<String, &Problem> = HashMap::new();
    let mut references: HashMap<&str, &Problem> = HashMap::new();
    let mut values: HashMap<i64, &Problem> = HashMap::new();
    for &p in problems {
        if !ids.insert(p.id.as_str()) {
            leaks.push(Leak::Id { id: p.id.clone() });
        }
        let first = *statements.entry(normalise(&p.prompt)).or_insert(p);
        if first.split != p.split {
            leaks.push(Leak::Statement { a: describe(first), b: describe(p) });
        }
        let first = *references.entry(p.reference.trim()).or_insert(p);
        if first.split != p.split {
            leaks.push(Leak::Reference { a: describe(first), b: describe(p) });
        }
        for &value in &p.values {
            let first = *values.entry(value).or_insert(p);
            if first.split != p.split {
                leaks.push(Leak::Value { value, a: describe(first), b: describe(p) });
            }
        }
    }
    families(problems, &mut leaks);
    leaks
}

fn families(problems: &[&Problem], leaks: &mut Vec<Leak>) {
    use record::params::Split;
    let trained = || problems.iter().filter(|p| p.split != Split::HeldOut);
    let known: HashMap<&str, &Problem> = trained().map(|p| (p.family.as_str(), *p)).collect();
    let worded: HashMap<String, &Problem> = trained().map(|p| (wording(&p.prompt), *p)).collect();
    for p in problems.iter().filter(|p| p.split == Split::HeldOut) {
        let label = |why| Leak::Label { id: p.id.clone(), why };
        let seen = known.get(p.family.as_str()).or_else(|| worded.get(&wording(&p.prompt)));
        match (p.novelty, seen) {
            (None, _) => leaks.push(label("it has no novelty label")),
            (Some(Novelty::NewFamily), Some(known)) => {
                leaks.push(Leak::Family { id: p.id.clone(), known: describe(known) });
            }
            (Some(Novelty::NewValues), None) => {
                leaks.push(label("it is labelled as a known family, but training has no such family"));
            }
            _ => {}
        }
    }
}

fn describe(p: &Problem) -> String {
    format!("{} ({})", p.id, split_name(p.split))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate;
    use record::params::{CorpusParams, Split};

    fn set() -> Vec<Problem> {
        let params = CorpusParams { train: 60, validation: 20, held_out: 30, ..CorpusParams::default() };
        let set = generate(&params).unwrap();
        [set.train, set.validation, set.held_out].concat()
    }

    fn leaks(problems: &[Problem]) -> Vec<Leak> {
        check_splits(&problems.iter().collect::<Vec<_>>())
    }

    #[test]
    fn the_generated_set_is_apart() {
        assert_eq!(leaks(&set()), []);
    }

    #[test]
    fn a_rephrased_copy_of_a_training_problem_is_found() {
        let mut all = set();
        let mut copy = all[0].clone();
        copy.id = "other/1".into();
        copy.split = Split::Validation;
        copy.values = vec![];
        copy.reference = "print(1)".into();
        copy.prompt = format!("  {}!!", copy.prompt.to_uppercase().replace(' ', "\n "));
        all.push(copy);
        assert!(matches!(leaks(&all)[..], [Leak::Statement { .. }]), "{:?}", leaks(&all));
    }

    #[test]
    fn shared_constants_ids_and_programs_are_found() {
        let mut all = set();
        let train = all.iter().find(|p| p.split == Split::Train).unwrap().clone();
        let i = all.iter().position(|p| p.split == Split::HeldOut).unwrap();
        all[i].values.clone_from(&train.values);
        all[i].id.clone_from(&train.id);
        all[i].reference.clone_from(&train.reference);
        let found = leaks(&all);
        assert!(found.iter().any(|l| matches!(l, Leak::Id { .. })));
        assert!(found.iter().any(|l| matches!(l, Leak::Value { .. })));
        assert!(found.iter().any(|l| matches!(l, Leak::Reference { .. })));
    }

    #[test]
    fn a_wrong_novelty_label_is_found() {
        let mut all = set();
        let find = |novelty, skip| {
            let mut of = all.iter().enumerate().filter(|(_, p)| p.novelty == Some(novelty));
            of.nth(skip).map(|(i, _)| i).unwrap()
        };
        let (known, new, unlabelled) =
            (find(Novelty::NewValues, 0), find(Novelty::NewFamily, 0), find(Novelty::NewFamily, 1));
        all[known].novelty = Some(Novelty::NewFamily);
        all[new].novelty = Some(Novelty::NewValues);
        all[unlabelled].novelty = None;
        assert_eq!(leaks(&all).len(), 3, "{:?}", leaks(&all));
    }
}
