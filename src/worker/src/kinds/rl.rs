//! Kind `rl`: reinforcement learning against executed tests.

use crate::context::{Context, Ending};
use crate::kinds::{cursor, load, training, verify};
use anyhow::Result;
use corpus::Problem;
use oracle::{Answer, Reward, Scoring};
use record::params::{RewardMode, RewardSpec, RlParams, Split};
use serde_json::json;
use std::cell::RefCell;
use std::collections::HashMap;
use train::rl::{Job, Prompts, RewardError, Rollout, run as learn};
use train::rows::prompt_ids;

/// The oracle of one split; both splits share the sandbox, the verdict cache and the ledger.
struct Judge<'a> {
    reward: &'a RefCell<Reward>,
    problems: &'a [Problem],
}

impl train::rl::Reward for Judge<'_> {
    fn score(&mut self, episode: u64, batch: &[Rollout]) -> Result<Vec<Option<f64>>, RewardError> {
        let mut seen: HashMap<usize, u32> = HashMap::new();
        let answers: Vec<Answer<'_>> = batch
            .iter()
            .map(|r| {
                let count = seen.entry(r.prompt).or_default();
                *count += 1;
                Answer { problem: &self.problems[r.prompt], sample: *count - 1, text: &r.text }
            })
            .collect();
        let mut reward = self.reward.borrow_mut();
        let graded = reward.judge(episode, &answers);
        // also of a batch that brought nothing: they say why
        for alarm in reward.alarms() {
            eprintln!("{alarm}");
        }
        let graded = graded.map_err(verify::failure)?;
        Ok(graded.iter().map(|g| g.reward().score).collect())
    }
}

pub fn run(cx: &mut Context, p: &RlParams) -> Result<Ending> {
    let problems = cursor::problems(cx, Split::Train, 0)?;
    let checks = if p.validate_every > 0 { cursor::problems(cx, Split::Validation, 0)? } else { Vec::new() };
    let (mut model, base) = load(cx, "model", p.precision, p.quantization)?;
    // the KL term pulls towards `reference`; without one towards the starting model: adapter off, or a frozen copy
    let reference = match (cx.optional_input("reference")?, &p.lora) {
        (Some(_), _) => Some(load(cx, "reference", p.precision, p.quantization)?.0),
        (None, None) => Some(load(cx, "model", p.precision, p.quantization)?.0),
        (None, Some(_)) => None,
    };
    tch::manual_seed((p.seed >> 1) as i64);
    match &p.lora {
        Some(lora) => model.decoder.add_adapter(lora)?,
        None => model.decoder.train_all(),
    }
    let (mode, declared) = match &p.reward {
        RewardSpec::Mode(mode) => (*mode, None),
        RewardSpec::Declared(declared) => (RewardMode::default(), Some(declared)),
    };
    let scoring = Scoring { profile: p.profile, mode };
    let reward = RefCell::new(verify::reward(cx, scoring, declared)?);
    let ids =
        |set: &[Problem]| set.iter().map(|x| prompt_ids(&model, &x.prompt)).collect::<Result<Vec<_>, _>>();
    let (train_ids, check_ids) = (ids(&problems)?, ids(&checks)?);
    let mut judge = Judge { reward: &reward, problems: &problems };
    let mut check = Judge { reward: &reward, problems: &checks };
    let validation = (!checks.is_empty()).then_some(Prompts { ids: check_ids, reward: &mut check });
    let job = Job {
        params: p,
        train: Prompts { ids: train_ids, reward: &mut judge },
        validation,
        reference: reference.as_ref().map(|m| &m.decoder),
    };
    let store = cx.checkpoints();
    let end = learn(&mut model, job, &store, &mut training::Attempt(cx))?;
    training::ending(end, |s| {
        training::save(cx, &model, p.lora.as_ref().map(|_| base.as_path()))?;
        let best = s.best_validation.map_or(String::new(), |v| {
            format!(", kept episode {} (validation reward {v:.3})", s.best_episode)
        });
        let message = format!(
            "{} episodes, training reward {:.3} -> {:.3}{best}, unscored {} of {}",
            s.episodes, s.first_reward, s.last_reward, s.unscored, s.rollouts
        );
        Ok((message, json!(s)))
    })
}
