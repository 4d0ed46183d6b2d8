//! Which roles a kind has, and what may fill them.

use record::Kind;
use record::source::{HubRef, Repo, is_path};

/// The kinds whose outputs make sense under a role; `None` is "any".
pub(crate) fn accepted(kind: Kind, role: &str) -> Option<&'static [Kind]> {
    if kind == Kind::Command {
        return None;
    }
    match role {
        "model" | "reference" => Some(&[Kind::Base, Kind::Sft, Kind::Rl, Kind::Command]),
        "adapters" => Some(&[Kind::Sft, Kind::Rl]),
        "corpus" => Some(&[Kind::Corpus, Kind::Command]),
        "data" => Some(&[Kind::Sample, Kind::Corpus, Kind::Command]),
        _ => None,
    }
}

/// Whether several tasks may fill a role.
pub(crate) fn many(kind: Kind, role: &str) -> bool {
    kind == Kind::Command || matches!(role, "data" | "adapters")
}

/// Every role under `inputs:` (or `services:`), required ones first; `None` is "any name".
pub(crate) fn names(kind: Kind, service: bool) -> Option<Vec<&'static str>> {
    if kind == Kind::Command {
        return None;
    }
    if service {
        return Some([kind.service_roles(), kind.optional_service_roles()].concat());
    }
    let (required, optional) = kind.roles();
    Some([required, optional].concat())
}

/// Whether a role takes a model from outside.
pub(crate) fn model(role: &str) -> bool {
    matches!(role, "model" | "reference")
}

/// Whether something that no phase makes may fill a role.
///
/// # Errors
/// What is wrong, and what to write.
pub(crate) fn external(kind: Kind, role: &str, text: &str, service: bool) -> Result<(), (String, String)> {
    if service {
        return Err((format!("`{text}` is no service"), "name a phase of kind serve".into()));
    }
    let repo = if is_path(text) {
        None
    } else {
        let of: HubRef = text.parse().map_err(|why: String| {
            (why, "e.g. hf://deepseek-ai/deepseek-coder-1.3b-instruct@main".to_owned())
        })?;
        Some(of.repo)
    };
    if kind == Kind::Command {
        return Ok(());
    }
    let no = |message: String, help: &str| Err((message, help.to_owned()));
    match (role, repo) {
        ("model" | "reference", Some(Repo::Model) | None) | ("data", Some(Repo::Dataset) | None) => Ok(()),
        ("model" | "reference", Some(Repo::Dataset)) => no(
            format!("`{text}` is a data set, `{role}` takes a model"),
            "write hf://ORG/NAME, without `datasets/`",
        ),
        ("data", Some(Repo::Model)) => {
            no(format!("`{text}` is a model, `data` takes rows"), "a data set is hf://datasets/ORG/NAME")
        }
        _ => no(
            format!("`{text}` cannot fill the role `{role}`"),
            "it takes a phase: one of kind corpus, or of kind command that writes the same files",
        ),
    }
}
