//! Verdicts of an analyzer, kept by content: the key is the analyzer's identity (program, version, rule set) and the
//! code, so that a new version never sees an old verdict (specs: PurpCode D17).

use super::{Analyzer, Outcome, Unit};
use record::key::sha256_hex;
use std::collections::HashMap;
use std::path::PathBuf;

/// An analyzer that looks up before it works. Unscored outcomes are never kept: the next try may succeed.
#[derive(Debug)]
pub struct Cached<A> {
    inner: A,
    /// One small file per verdict, `<dir>/<first two hex digits>/<sha256>.json`; safe for several processes.
    dir: Option<PathBuf>,
    memory: HashMap<String, Outcome>,
    /// Verdicts found, and blocks that had to be analysed.
    pub hits: u64,
    pub misses: u64,
}

impl<A: Analyzer> Cached<A> {
    /// `dir: None` keeps verdicts for this process only.
    pub fn new(inner: A, dir: Option<PathBuf>) -> Self {
        Self { inner, dir, memory: HashMap::new(), hits: 0, misses: 0 }
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.join(&key[..2]).join(format!("{key}.json")))
    }

    fn look_up(&mut self, key: &str) -> Option<Outcome> {
        if let Some(o) = self.memory.get(key) {
            return Some(o.clone());
        }
        // an unreadable file is a miss: it is written anew
        let found: Outcome = record::atomic::read_json(&self.path(key)?).ok().flatten()?;
        self.memory.insert(key.to_owned(), found.clone());
        Some(found)
    }

    fn keep(&mut self, key: String, outcome: &Outcome) {
        if matches!(outcome, Outcome::Unscored { .. }) {
            return;
        }
        if let Some(path) = self.path(&key) {
            // a cache that cannot be written costs time, not truth
            let _ = path.parent().map(std::fs::create_dir_all);
            let _ = record::atomic::write_json(&path, outcome);
        }
        self.memory.insert(key, outcome.clone());
    }
}

impl<A: Analyzer> Analyzer for Cached<A> {
    fn identity(&self) -> String {
        self.inner.identity()
    }

    fn analyse(&mut self, units: &[Unit]) -> Vec<Outcome> {
        let identity = self.inner.identity();
        let keys: Vec<String> =
            units.iter().map(|u| sha256_hex(format!("{identity}\0{}", u.code).as_bytes())).collect();
        let mut out: Vec<Option<Outcome>> = keys.iter().map(|k| self.look_up(k)).collect();
        // equal blocks within the batch are analysed once
        let mut first: HashMap<&str, usize> = HashMap::new();
        let missing: Vec<usize> =
            (0..units.len()).filter(|&i| out[i].is_none() && first.insert(&keys[i], i).is_none()).collect();
        self.misses += missing.len() as u64;
        self.hits += (units.len() - missing.len()) as u64;
        let fresh: Vec<Unit> = missing.iter().map(|&i| units[i].clone()).collect();
        let fresh = if fresh.is_empty() { Vec::new() } else { self.inner.analyse(&fresh) };
        let by_key: HashMap<&str, Outcome> =
            missing.iter().zip(fresh).map(|(&i, outcome)| (keys[i].as_str(), outcome)).collect();
        for (slot, key) in out.iter_mut().zip(&keys) {
            if slot.is_none() {
                *slot = by_key.get(key.as_str()).cloned();
            }
        }
        for (key, outcome) in by_key {
            self.keep(key.to_owned(), &outcome);
        }
        out.into_iter()
            .map(|o| o.unwrap_or_else(|| Outcome::Unscored { why: "the analyzer gave no answer".into() }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting {
        asked: Vec<String>,
        version: u32,
    }

    impl Analyzer for Counting {
        fn identity(&self) -> String {
            format!("counting {}", self.version)
        }
        fn analyse(&mut self, units: &[Unit]) -> Vec<Outcome> {
            self.asked.extend(units.iter().map(|u| u.code.clone()));
            units
                .iter()
                .map(|u| match u.code.as_str() {
                    "down" => Outcome::Unscored { why: "down".into() },
                    _ => Outcome::Analysed { findings: vec![] },
                })
                .collect()
        }
    }

    fn units(codes: &[&str]) -> Vec<Unit> {
        codes.iter().map(|c| Unit { id: (*c).into(), code: (*c).into() }).collect()
    }

    #[test]
    fn a_verdict_is_kept_across_processes_but_not_across_versions_and_failures_are_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let new = |version| Cached::new(Counting { asked: vec![], version }, Some(dir.path().into()));
        let mut a = new(1);
        assert_eq!(a.analyse(&units(&["x", "x", "down"])).len(), 3);
        assert_eq!(a.inner.asked, ["x", "down"]);
        let mut b = new(1);
        assert!(matches!(b.analyse(&units(&["x", "down"]))[1], Outcome::Unscored { .. }));
        assert_eq!(b.inner.asked, ["down"]);
        let mut c = new(2);
        c.analyse(&units(&["x"]));
        assert_eq!(c.inner.asked, ["x"]);
        assert_eq!((b.hits, b.misses), (1, 1));
    }
}
