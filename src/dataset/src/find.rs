//! Which files a data set is.

use crate::read::Format;
use crate::{DataError, Result};
use globset::GlobBuilder;
use std::path::{Path, PathBuf};

/// The data files below `root`, sorted; `root` may be a file. `pattern` is a path or a pattern relative to it (`*` also
/// passes over slashes). Without one, files of the training split (`train` in their path) are taken if there are any.
///
/// # Errors
/// Nothing found, several formats, I/O errors: with what is there.
pub fn files(root: &Path, pattern: Option<&str>) -> Result<Vec<PathBuf>> {
    let wrong = |why: String| DataError::File { path: root.to_owned(), why };
    if root.is_file() {
        return Ok(vec![root.to_owned()]);
    }
    let mut all = Vec::new();
    walk(root, root, &mut all, 0)?;
    all.sort();
    let data: Vec<&String> =
        all.iter().filter(|f| Format::of(Path::new(f)).is_some() && !is_description(f)).collect();
    let mut chosen: Vec<&String> = match pattern {
        Some(pattern) => {
            let glob = |p: &str| GlobBuilder::new(p).literal_separator(false).build();
            let bad = |e: globset::Error| wrong(format!("the pattern {pattern}: {e}"));
            let one = glob(pattern).map_err(bad)?.compile_matcher();
            let below = glob(&format!("{}/*", pattern.trim_end_matches('/'))).map_err(bad)?.compile_matcher();
            data.iter().copied().filter(|f| one.is_match(f) || below.is_match(f) || *f == pattern).collect()
        }
        None => {
            let train: Vec<&String> = data.iter().copied().filter(|f| names_train(f)).collect();
            if train.is_empty() { data.clone() } else { train }
        }
    };
    if chosen.is_empty() {
        let what = pattern.map_or_else(|| "data files".to_owned(), |p| format!("file that {p} names"));
        let there = if all.is_empty() { "nothing".to_owned() } else { first(&all) };
        return Err(wrong(format!("has no {what} (known: {}); there is: {there}", Format::KNOWN)));
    }
    let format = Format::of(Path::new(chosen[0]));
    if chosen.iter().any(|f| Format::of(Path::new(f)) != format) {
        let names: Vec<String> = chosen.iter().map(|f| (*f).clone()).collect();
        return Err(wrong(format!(
            "has files of several formats ({}): name which, e.g. .../data/*.parquet",
            first(&names)
        )));
    }
    chosen.sort();
    Ok(chosen.into_iter().map(|f| root.join(f)).collect())
}

fn first(names: &[String]) -> String {
    let more = if names.len() > 8 { ", ..." } else { "" };
    format!("{}{more}", names[..names.len().min(8)].join(", "))
}

/// Descriptions of a data set that are JSON themselves.
fn is_description(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    ["dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"].contains(&name)
        || name.starts_with('.')
}

/// Whether `train` stands in the path as a word.
fn names_train(file: &str) -> bool {
    file.to_ascii_lowercase().split(|c: char| !c.is_ascii_alphanumeric()).any(|w| w == "train")
}

fn walk(root: &Path, dir: &Path, out: &mut Vec<String>, depth: usize) -> Result<()> {
    let io = |source| DataError::Io { path: dir.to_owned(), source };
    if depth > 8 {
        return Ok(());
    }
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        // the Hub's cache has links to files: followed
        if path.is_dir() {
            walk(root, &path, out, depth + 1)?;
        } else if let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str) {
            out.push(name.to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for f in files {
            let path = dir.path().join(f);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        dir
    }

    fn names(dir: &tempfile::TempDir, pattern: Option<&str>) -> Vec<String> {
        let found = files(dir.path(), pattern).unwrap();
        found.iter().map(|p| p.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_training_split_is_taken_and_patterns_choose_otherwise() {
        let dir = place(&[
            "data/train-1.parquet",
            "data/train-0.parquet",
            "data/test-0.parquet",
            "README.md",
            "constrained.csv",
        ]);
        assert_eq!(names(&dir, None), ["data/train-0.parquet", "data/train-1.parquet"]);
        assert_eq!(names(&dir, Some("data/test*")), ["data/test-0.parquet"]);
        assert_eq!(names(&dir, Some("data")).len(), 3);
        assert_eq!(names(&dir, Some("constrained.csv")), ["constrained.csv"]);
    }

    #[test]
    fn nothing_and_several_formats_are_errors_that_name_what_is_there() {
        let dir = place(&["a.csv", "b.jsonl"]);
        let e = files(dir.path(), None).unwrap_err().to_string();
        assert!(e.contains("several formats") && e.contains("a.csv"), "{e}");
        let e = files(dir.path(), Some("x*")).unwrap_err().to_string();
        assert!(e.contains("b.jsonl") && e.contains("parquet"), "{e}");
    }
}
