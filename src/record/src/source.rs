//! What a task reads that no phase of its sweep made: models and data sets of the Hugging Face Hub, and files of the
//! user's. A job file names them where it names phases (`inputs: {model: hf://ORG/NAME@REVISION}`).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The scheme of a reference to the Hub, as `huggingface_hub` writes it.
pub const HUB: &str = "hf://";

/// What a Hub repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Repo {
    Model,
    Dataset,
}

impl Repo {
    /// For sentences.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Repo::Model => "model",
            Repo::Dataset => "data set",
        }
    }
}

/// `hf://[datasets/]ORG/NAME[@REVISION][/PATH]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HubRef {
    pub repo: Repo,
    /// `ORG/NAME`; very old repositories have a `NAME` alone.
    pub id: String,
    /// Branch, tag, `refs/pr/N` or commit.
    pub revision: String,
    /// File, directory or pattern inside of the repository.
    pub path: Option<String>,
}

impl HubRef {
    /// The revision where none is named.
    pub const MAIN: &'static str = "main";

    /// Whether the revision is a commit, which never changes.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        is_commit(&self.revision)
    }

    /// The same at another revision.
    #[must_use]
    pub fn at(&self, revision: &str) -> Self {
        Self { revision: revision.to_owned(), ..self.clone() }
    }
}

/// 40 lower-case hexadecimal digits.
#[must_use]
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl fmt::Display for HubRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.repo == Repo::Dataset { "datasets/" } else { "" };
        write!(f, "{HUB}{kind}{}@{}", self.id, self.revision)?;
        match &self.path {
            Some(path) => write!(f, "/{path}"),
            None => Ok(()),
        }
    }
}

impl FromStr for HubRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| {
            format!("`{text}`: {why}; write hf://ORG/NAME@REVISION, or hf://datasets/ORG/NAME@REVISION/PATH")
        };
        let rest = text.strip_prefix(HUB).ok_or_else(|| bad("does not begin with hf://"))?;
        let (repo, rest) = match rest.strip_prefix("datasets/") {
            Some(rest) => (Repo::Dataset, rest),
            None => (Repo::Model, rest.strip_prefix("models/").unwrap_or(rest)),
        };
        if rest.starts_with("spaces/") {
            return Err(bad("a Space is neither a model nor a data set"));
        }
        let mut parts = rest.split('/');
        let first = parts.next().unwrap_or_default();
        // `NAME@REVISION` has no organisation; everything else has two parts
        let head = match parts.next() {
            Some(second) if !first.contains('@') => format!("{first}/{second}"),
            _ => first.to_owned(),
        };
        let mut tail = rest[head.len()..].trim_start_matches('/').to_owned();
        let (id, mut revision) = match head.split_once('@') {
            Some((id, revision)) => (id.to_owned(), revision.to_owned()),
            None => (head, Self::MAIN.to_owned()),
        };
        // refs/pr/1 and refs/convert/parquet are the revisions with slashes in them
        if revision == "refs" {
            let mut more = tail.splitn(3, '/').map(str::to_owned);
            match (more.next(), more.next()) {
                (Some(kind), Some(name)) if !name.is_empty() => revision = format!("refs/{kind}/{name}"),
                _ => return Err(bad("a reference is refs/pr/NUMBER or refs/convert/NAME")),
            }
            tail = more.next().unwrap_or_default();
        }
        let name = |s: &str| {
            !s.is_empty()
                && s.len() <= 96
                && !s.starts_with(['-', '.'])
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
                && !s.contains("--")
                && !s.contains("..")
        };
        if !id.split('/').all(name) {
            return Err(bad(&format!("`{id}` cannot be the name of a repository")));
        }
        if revision.is_empty() || revision.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(bad("there is no revision after the @"));
        }
        if tail.split('/').any(|p| p == ".." || p == ".") {
            return Err(bad("a path inside of a repository has no `.` and no `..`"));
        }
        Ok(HubRef { repo, id, revision, path: (!tail.is_empty()).then_some(tail) })
    }
}

/// Whether a text under `inputs:` names something outside of the sweep: phases have no slashes in their names.
#[must_use]
pub fn is_external(text: &str) -> bool {
    text.starts_with(HUB) || is_path(text)
}

/// Whether it names a file of the user's.
#[must_use]
pub fn is_path(text: &str) -> bool {
    ["./", "../", "/", "~/"].iter().any(|p| text.starts_with(p))
}

/// One such input of a task, found and pinned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// As the job file writes it.
    pub reference: String,
    /// What decides the content, and so the content key: a [`HubRef`] at a commit, or `sha256:...` of a file.
    pub identity: String,
    /// Absolute: the snapshot in the Hub's cache, or the file, where it was when this was planned.
    pub path: PathBuf,
}

impl Source {
    /// The repository at its commit, if this is one.
    #[must_use]
    pub fn hub(&self) -> Option<HubRef> {
        self.identity.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read_as_the_hub_writes_it() {
        let read = |s: &str| s.parse::<HubRef>().unwrap();
        let m = read("hf://deepseek-ai/deepseek-coder-1.3b-instruct");
        assert_eq!((m.repo, m.revision.as_str(), &m.path), (Repo::Model, "main", &None));
        let d = read("hf://datasets/purpcode/rows@v1.0/data/train-*.parquet");
        assert_eq!((d.repo, d.id.as_str(), d.revision.as_str()), (Repo::Dataset, "purpcode/rows", "v1.0"));
        assert_eq!(d.path.as_deref(), Some("data/train-*.parquet"));
        let p = read("hf://datasets/org/x@refs/convert/parquet/default/train/0.parquet");
        assert_eq!(
            (p.revision.as_str(), p.path.as_deref()),
            ("refs/convert/parquet", Some("default/train/0.parquet"))
        );
        assert_eq!(read("hf://gpt2@main/config.json").id, "gpt2");
        assert_eq!(read("hf://gpt2").id, "gpt2");
        for text in ["hf://a/b@main", "hf://datasets/a/b@refs/pr/3/x.jsonl"] {
            assert_eq!(read(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_repository_is_refused() {
        for bad in [
            "hf://",
            "hf://a/b@",
            "hf://a b/c",
            "hf://a/../b",
            "hf://a/b@main/../x",
            "hf://spaces/a/b",
            "a/b",
            "hf://a/b@refs/pr",
        ] {
            assert!(bad.parse::<HubRef>().is_err(), "{bad}");
        }
        assert!(is_commit("0123456789abcdef0123456789abcdef01234567") && !is_commit("main"));
        assert!(is_external("./x.jsonl") && is_external("hf://a/b") && !is_external("sft"));
    }
}
