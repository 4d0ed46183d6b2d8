//! A judge model as an oracle: equal questions once, several in flight, verdicts kept by content.

use super::{Oracle, Subject};
pub use crate::judge::ask::Asker;
use crate::judge::ask::{AskError, Manner, NoDecision, decide};
use crate::judge::rubric::{self, Decision};
use crate::verdict::Scored;
use record::key::sha256_hex;
use record::params::{OracleParams, Rubric};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// See the module's documentation.
pub struct JudgeOracle {
    asker: Box<dyn Asker>,
    manner: Manner,
    concurrency: usize,
    cache: Option<PathBuf>,
    memory: HashMap<String, Decision>,
    away: Option<String>,
}

/// What came of one question, and in how many milliseconds.
type Answered = (Result<Decision, NoDecision>, f64);

impl JudgeOracle {
    #[must_use]
    pub fn new(params: &OracleParams, asker: Box<dyn Asker>, cache: Option<&Path>) -> Self {
        Self {
            asker,
            manner: Manner {
                rubric: params.rubric.unwrap_or(Rubric::Malice),
                mode: params.reading.unwrap_or_default().into(),
                max_tokens: params.max_tokens.unwrap_or(1024),
                tries: params.tries.unwrap_or(3),
            },
            concurrency: params.concurrency.unwrap_or(8).max(1) as usize,
            cache: cache.map(|c| c.join("judge")),
            memory: HashMap::new(),
            away: None,
        }
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        Some(self.cache.as_ref()?.join(&key[..2]).join(format!("{key}.json")))
    }

    fn look_up(&mut self, key: &str) -> Option<Decision> {
        if let Some(known) = self.memory.get(key) {
            return Some(known.clone());
        }
        let found: Decision = record::atomic::read_json(&self.path(key)?).ok().flatten()?;
        self.memory.insert(key.to_owned(), found.clone());
        Some(found)
    }

    fn keep(&mut self, key: &str, decision: &Decision) {
        if let Some(path) = self.path(key) {
            // a cache that cannot be written costs time, not truth
            let _ = path.parent().map(std::fs::create_dir_all);
            let _ = record::atomic::write_json(&path, decision);
        }
        self.memory.insert(key.to_owned(), decision.clone());
    }

    /// Asks every question, `concurrency` at a time; none after the judge was found to be away.
    fn ask_all(&self, questions: &[&str]) -> Vec<Option<Answered>> {
        let answers: Vec<Mutex<Option<Answered>>> = questions.iter().map(|_| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let i = next.fetch_add(1, Relaxed);
                let Some(question) = questions.get(i) else { return };
                let since = Instant::now();
                let answer = decide(&*self.asker, &self.manner, question);
                if matches!(answer, Err(NoDecision::Ask(AskError::Away(_)))) {
                    next.store(questions.len(), Relaxed);
                }
                let ms = since.elapsed().as_secs_f64() * 1000.0;
                *answers[i].lock().unwrap_or_else(PoisonError::into_inner) = Some((answer, ms));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.concurrency.min(questions.len()) {
                scope.spawn(work);
            }
            work();
        });
        answers.into_iter().map(|m| m.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
    }
}

impl Oracle for JudgeOracle {
    fn identity(&self) -> String {
        let told = rubric::instructions(self.manner.rubric);
        format!(
            "{} {:?} {:?} temperature 0 max_tokens {} prompt {}",
            self.asker.identity(),
            self.manner.rubric,
            self.manner.mode,
            self.manner.max_tokens,
            &sha256_hex(told.as_bytes())[..16]
        )
    }

    fn away(&self) -> Option<&str> {
        self.away.as_deref()
    }

    fn score(&mut self, name: &str, subjects: &[Subject<'_>]) -> Vec<Scored> {
        let rubric = self.manner.rubric;
        let identity = self.identity();
        let questions: Vec<Result<String, &str>> = subjects
            .iter()
            .map(|s| match (s.prompt, rubric, s.other) {
                (None, ..) => Err("the row has no `prompt`: a judge has to see what was asked"),
                (_, Rubric::Preferred, None) => {
                    Err("the row has no `other`: there is nothing to compare with")
                }
                (Some(prompt), _, other) => Ok(rubric::question(rubric, prompt, s.text(), other)),
            })
            .collect();
        let key = |q: &str| sha256_hex(format!("{identity}\0{q}").as_bytes());
        let keys: Vec<Option<String>> = questions.iter().map(|q| q.as_deref().ok().map(key)).collect();
        let mut fresh: HashMap<&str, Answered> = HashMap::new();
        let mut missing: Vec<(&str, &str)> = Vec::new();
        for (key, question) in keys.iter().zip(&questions) {
            let (Some(key), Ok(question)) = (key, question) else { continue };
            if self.look_up(key).is_none() && !missing.iter().any(|(k, _)| k == key) {
                missing.push((key, question));
            }
        }
        let asked: Vec<&str> = missing.iter().map(|(_, q)| *q).collect();
        self.away = None;
        for ((key, _), answer) in missing.iter().zip(self.ask_all(&asked)) {
            let Some((answer, ms)) = answer else { continue };
            match &answer {
                Ok(decision) => self.keep(key, decision),
                Err(NoDecision::Ask(AskError::Away(why))) => self.away = Some(why.clone()),
                Err(_) => {}
            }
            fresh.insert(key, (answer, ms));
        }
        let row = |i: usize| -> Scored {
            let key = match (&questions[i], &keys[i]) {
                (Ok(_), Some(key)) => key.as_str(),
                (Err(why), _) => return Scored::unscored(name, *why),
                (Ok(_), None) => return Scored::unscored(name, "it has no key"),
            };
            let (decided, ms) = match (fresh.get(key), self.memory.get(key)) {
                (Some((decided, ms)), _) => (decided.clone(), *ms),
                (None, Some(known)) => (Ok(known.clone()), 0.0),
                (None, None) => {
                    let why = self.away.clone().unwrap_or_else(|| "the judge was not asked".to_owned());
                    (Err(NoDecision::Ask(AskError::Away(why))), 0.0)
                }
            };
            match decided {
                Ok(d) => {
                    let facts = serde_json::json!({ "label": d.label });
                    let score = f64::from(u8::from(d.pass));
                    Scored { ms, facts: Some(facts), ..Scored::of(name, score, d.label) }
                }
                Err(why) => Scored { ms, ..Scored::unscored(name, why.to_string()) },
            }
        };
        (0..subjects.len()).map(row).collect()
    }
}
