//! Which roles a kind has, and what may fill them.

use record::Kind;

/// The kinds whose outputs make sense under a role; `None` is "any".
pub(crate) fn accepted(kind: Kind, role: &str) -> Option<&'static [Kind]> {
    if kind == Kind::Command {
        return None;
    }
    match role {
        "model" | "reference" => Some(&[Kind::Base, Kind::Sft, Kind::Rl, Kind::Command]),
        "corpus" => Some(&[Kind::Corpus, Kind::Command]),
        "data" => Some(&[Kind::Sample, Kind::Corpus, Kind::Command]),
        _ => None,
    }
}

/// Whether several tasks may fill a role.
pub(crate) fn many(kind: Kind, role: &str) -> bool {
    kind == Kind::Command || role == "data"
}

/// Every role under `inputs:` (or `services:`), required ones first; `None` is "any name".
pub(crate) fn names(kind: Kind, service: bool) -> Option<Vec<&'static str>> {
    if kind == Kind::Command {
        return None;
    }
    if service {
        return Some(kind.service_roles().to_vec());
    }
    let (required, optional) = kind.roles();
    Some([required, optional].concat())
}
