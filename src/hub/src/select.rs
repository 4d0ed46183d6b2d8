//! Which files of a repository are wanted.

use crate::client::FileInfo;
use crate::error::{HubError, Result};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use record::source::Repo;

/// `--include` and `--exclude`. As in Python's `fnmatch`, `*` also passes over slashes.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    include: Option<GlobSet>,
    exclude: Option<GlobSet>,
}

impl Patterns {
    /// # Errors
    /// A pattern that is none.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        Ok(Self { include: set(include)?, exclude: set(exclude)? })
    }

    /// Whether the caller chose files, so that ours are not chosen.
    #[must_use]
    pub fn chooses(&self) -> bool {
        self.include.is_some()
    }

    fn takes(&self, file: &str, otherwise: impl Fn(&str) -> bool) -> bool {
        let wanted = self.include.as_ref().map_or_else(|| otherwise(file), |set| set.is_match(file));
        wanted && !self.exclude.as_ref().is_some_and(|set| set.is_match(file))
    }
}

fn set(patterns: &[String]) -> Result<Option<GlobSet>> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let mut builder = GlobSetBuilder::new();
    for pattern in patterns {
        let bad = |e: globset::Error| HubError::Pattern { pattern: pattern.clone(), why: e.to_string() };
        // a directory means all that is in it
        let text = if pattern.ends_with('/') { format!("{pattern}*") } else { pattern.clone() };
        builder.add(GlobBuilder::new(&text).literal_separator(false).build().map_err(bad)?);
    }
    let bad = |e: globset::Error| HubError::Pattern { pattern: patterns.join(" "), why: e.to_string() };
    builder.build().map(Some).map_err(bad)
}

/// Endings of data files that the readers know, compressed or not.
const DATA: [&str; 8] = [".parquet", ".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".jsonl.gz", ".csv.gz"];

/// The wanted files, in the repository's order. `shards` are the weight files that `model.safetensors.index.json` names, if
/// there is one.
///
/// # Errors
/// Nothing is left.
pub(crate) fn select<'a>(
    what: &str,
    repo: Repo,
    files: &'a [FileInfo],
    shards: Option<&[String]>,
    patterns: &Patterns,
) -> Result<Vec<&'a FileInfo>> {
    let has = |name: &str| files.iter().any(|f| f.path == name);
    let one = has("model.safetensors");
    let usual = |file: &str| match repo {
        Repo::Model => model_file(file, shards, one),
        Repo::Dataset => DATA.iter().any(|e| file.ends_with(e)) || file == "README.md",
    };
    let chosen: Vec<&FileInfo> = files.iter().filter(|f| patterns.takes(&f.path, usual)).collect();
    let weights = repo == Repo::Model && !patterns.chooses();
    let enough = chosen.iter().any(|f| !weights || f.path.ends_with(".safetensors"))
        && (patterns.chooses() || chosen.iter().any(|f| f.path != "README.md"));
    if enough {
        return Ok(chosen);
    }
    let shown: Vec<&str> = files.iter().take(12).map(|f| f.path.as_str()).collect();
    let more = if files.len() > shown.len() { ", ..." } else { "" };
    Err(HubError::NothingToFetch {
        what: what.to_owned(),
        wanted: match (patterns.chooses(), repo) {
            (true, _) => "file that --include names",
            (_, Repo::Model) => "weights in safetensors, the only format that is read here",
            (_, Repo::Dataset) => "parquet, JSON or CSV files",
        },
        has: if files.is_empty() { "nothing".to_owned() } else { format!("{}{more}", shown.join(", ")) },
    })
}

/// What a model needs to be loaded: configuration, tokenizer, templates, weights in safetensors once. Not: the same
/// weights in other formats (`*.bin`, `consolidated*`, `original/`, ONNX, GGUF), pictures, training leftovers.
fn model_file(file: &str, shards: Option<&[String]>, one: bool) -> bool {
    if file.contains('/') {
        // templates of newer models may lie in a directory of their own
        return file.starts_with("additional_chat_templates/");
    }
    if file.ends_with(".safetensors") {
        return match (shards, one) {
            (Some(shards), _) => shards.iter().any(|s| s == file),
            (None, true) => file == "model.safetensors" || file == "adapter_model.safetensors",
            (None, false) => !file.starts_with("consolidated"),
        };
    }
    let name = file.strip_suffix(".json");
    let leftover =
        name.is_some_and(|n| ["trainer_state", "all_results", "train_results", "eval_results"].contains(&n));
    let other_weights = file.ends_with(".bin.index.json") || file.starts_with("pytorch_model");
    (name.is_some() && !leftover && !other_weights)
        || file.ends_with(".jinja")
        || file.ends_with(".model")
        || matches!(file, "merges.txt" | "vocab.txt" | "LICENSE" | "LICENSE.txt" | "LICENSE.md" | "NOTICE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(repo: Repo, files: &[&str], shards: Option<&[String]>, patterns: &Patterns) -> Vec<String> {
        let files: Vec<FileInfo> = files.iter().map(|f| FileInfo::named(f)).collect();
        let chosen = select("x", repo, &files, shards, patterns).unwrap();
        chosen.into_iter().map(|f| f.path.clone()).collect()
    }

    #[test]
    fn weights_are_taken_once_and_in_safetensors() {
        let files = [
            "README.md",
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "merges.txt",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "consolidated.safetensors",
            "model.safetensors.index.json",
            "pytorch_model-00001-of-00002.bin",
            "pytorch_model.bin.index.json",
            "original/x.pth",
            "trainer_state.json",
            "model.fp16.safetensors",
        ];
        let shards =
            ["model-00001-of-00002.safetensors".to_owned(), "model-00002-of-00002.safetensors".to_owned()];
        let got = names(Repo::Model, &files, Some(&shards), &Patterns::default());
        let want = [
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "merges.txt",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
        ];
        assert_eq!(got, want);
        let one = ["config.json", "model.safetensors", "model.fp16.safetensors"];
        assert_eq!(
            names(Repo::Model, &one, None, &Patterns::default()),
            ["config.json", "model.safetensors"]
        );
    }

    #[test]
    fn patterns_choose_and_a_star_passes_over_slashes() {
        let files = ["README.md", "data/train-0.parquet", "data/test-0.parquet", "script.py"];
        assert_eq!(names(Repo::Dataset, &files, None, &Patterns::default()).len(), 3);
        let p = Patterns::new(&["*.parquet".into()], &["*test*".into()]).unwrap();
        assert_eq!(names(Repo::Dataset, &files, None, &p), ["data/train-0.parquet"]);
        let p = Patterns::new(&["data/".into()], &[]).unwrap();
        assert_eq!(names(Repo::Dataset, &files, None, &p).len(), 2);
        assert!(Patterns::new(&["[".into()], &[]).is_err());
    }

    #[test]
    fn a_model_without_safetensors_is_refused_with_what_it_has() {
        let files = [FileInfo::named("config.json"), FileInfo::named("pytorch_model.bin")];
        let e = select("org/x", Repo::Model, &files, None, &Patterns::default()).unwrap_err().to_string();
        assert!(e.contains("pytorch_model.bin") && e.contains("--include"), "{e}");
    }
}
