//! One evaluation: every problem, several answers, every program executed. Free of libtorch: any engine will do.

use crate::metrics::Sample;
use corpus::{Problem, Rng};
use generate::{Engine, EngineError, Finish, Message, Request, Sampling};
use oracle::{Graded, Grader, Item, Judgement, RewardError, Scored, Stage};
use serde::{Deserialize, Serialize};

/// One judged answer with its text: a line of `samples.jsonl`, of evaluation and of rejection sampling alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub problem: String,
    #[serde(default)]
    pub group: Option<String>,
    /// Which of the answers to this problem, from 0.
    pub sample: u32,
    pub answer: String,
    pub truncated: bool,
    /// The tests oracle's word.
    pub judged: Scored,
    pub stage: Option<Stage>,
    pub passed: u32,
    pub total: u32,
    /// SHA-256 of the extracted program.
    pub program: Option<String>,
    /// The program does nothing at all.
    pub stub: bool,
    /// The program prints the same whatever it reads.
    pub constant: bool,
    /// The declared reward's word, and that of each of its oracles, where the task declares one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<Scored>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub oracles: Vec<Scored>,
}

impl Row {
    /// The row of one judged answer.
    #[must_use]
    pub fn new(problem: &Problem, sample: u32, answer: String, truncated: bool, judged: &Judgement) -> Self {
        let run = judged.execution.as_ref();
        Self {
            problem: problem.id.clone(),
            group: problem.novelty.map(|n| n.name().to_owned()),
            sample,
            answer,
            truncated,
            judged: judged.scored.clone(),
            stage: judged.stage(),
            passed: run.map_or(0, |r| u32::try_from(r.passed()).unwrap_or(u32::MAX)),
            total: u32::try_from(problem.tests.len()).unwrap_or(u32::MAX),
            program: judged.program.clone(),
            stub: judged.stub,
            constant: run.is_some_and(|r| r.constant),
            reward: None,
            oracles: Vec::new(),
        }
    }

    /// The row with what the declaration says.
    #[must_use]
    pub fn graded(mut self, graded: &Graded) -> Self {
        if let Some(declared) = &graded.declared {
            self.reward = Some(declared.reward.clone());
            self.oracles.clone_from(&declared.oracles);
        }
        self
    }

    /// What the metrics need of it.
    #[must_use]
    pub fn sample(&self) -> Sample {
        Sample {
            problem: self.problem.clone(),
            group: self.group.clone(),
            stage: self.stage,
            passed: self.passed,
            total: self.total,
            credit: self.judged.score,
            truncated: self.truncated,
            hollow: self.stub || self.constant,
            reward: self.reward.as_ref().map(|r| r.score),
        }
    }
}

/// How answers are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawing {
    /// Answers per problem.
    pub samples: u32,
    /// The evaluation's seed; each problem has its own stream from it, whatever else is in the batch.
    pub seed: u64,
    /// Template of the parameters; its seed is not used.
    pub sampling: Sampling,
}

/// Why an evaluation stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("problem {problem}: {source}")]
    Engine { problem: String, source: EngineError },
    #[error("the engine gave {got} of {wanted} answers")]
    Missing { got: usize, wanted: usize },
    #[error(transparent)]
    Grading(#[from] RewardError),
}

/// The seed of a problem's answers: a function of the evaluation's seed and the problem alone, so that two models are
/// asked with the same streams and a resumed run draws what the uncut one would have drawn.
#[must_use]
pub fn seed_of(seed: u64, problem: &str) -> u64 {
    // engines add the answer's index to it
    Rng::named(seed, problem).next_u64() >> 1
}

/// A problem as the model is asked it.
///
/// # Errors
/// The chat template's or the tokenizer's words.
pub fn prompt(engine: &dyn Engine, problem: &Problem) -> Result<Vec<u32>, EngineError> {
    let message = Message { role: "user".into(), content: problem.prompt.clone() };
    engine.encode(&engine.chat(&[message])?)
}

/// Draws and judges answers to a chunk of problems; rows in the order of the problems.
///
/// # Errors
/// The engine's refusal or failure; the cache's files.
pub fn answer(
    engine: &mut dyn Engine,
    grader: &mut Grader,
    problems: &[Problem],
    drawing: &Drawing,
) -> Result<Vec<Row>, RunError> {
    let mut requests = Vec::with_capacity(problems.len());
    for p in problems {
        let failed = |source| RunError::Engine { problem: p.id.clone(), source };
        let prompt = prompt(engine, p).map_err(failed)?;
        let sampling = Sampling { seed: seed_of(drawing.seed, &p.id), ..drawing.sampling.clone() };
        requests.push(Request { prompt, n: drawing.samples, sampling, adapter: None });
    }
    let first = problems.first().map(|p| p.id.clone()).unwrap_or_default();
    let drawn = engine.generate(requests).map_err(|source| RunError::Engine { problem: first, source })?;
    let answers: Vec<_> =
        problems.iter().zip(drawn).flat_map(|(p, list)| list.into_iter().map(move |s| (p, s))).collect();
    let wanted = problems.len() * drawing.samples as usize;
    if answers.len() != wanted {
        return Err(RunError::Missing { got: answers.len(), wanted });
    }
    let items: Vec<Item<'_>> = answers.iter().map(|(problem, s)| Item { problem, answer: &s.text }).collect();
    let judged = grader.grade(&items)?;
    Ok(answers
        .iter()
        .zip(&judged)
        .map(|((p, s), g)| {
            Row::new(p, s.index, s.text.clone(), s.finish == Finish::Length, &g.tests).graded(g)
        })
        .collect())
}
