//! The loop: rollouts, rewards, advantages, passes over them; validation, best-so-far, checkpoints.

use super::advantage::{gae, group, k3, whiten};
use super::batch::{Episode, Seen, ValueHead, improve, measure, row};
use super::{Reward, Rollout};
use crate::optimizer::{AdamW, Scaler};
use crate::{End, Error, Host, Result, state};
use generate::{Engine, Request, Sampling};
use model::sampler::{bits, permutation};
use model::{Decoder, Model, Options, Pass, TorchEngine, shim};
use record::checkpoint::Store;
use record::params::{Algorithm, Profile, RlParams};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;
use tch::Tensor;

/// Answers per validation prompt.
const VALIDATION_ANSWERS: u32 = 4;

/// Prompts (as ids, `rows::prompt_ids`) and who judges answers to them.
pub struct Prompts<'a> {
    pub ids: Vec<Vec<u32>>,
    pub reward: &'a mut dyn Reward,
}

/// A run of reinforcement learning.
pub struct Job<'a> {
    pub params: &'a RlParams,
    pub train: Prompts<'a>,
    /// Measured every `validate_every` episodes; the best is kept by it.
    pub validation: Option<Prompts<'a>>,
    /// Model that the KL term pulls towards; `None` is the starting model (adapter off).
    pub reference: Option<&'a Decoder>,
}

/// What a finished run says of itself. The model holds the weights of `best_episode`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub episodes: u64,
    /// Mean reward of the first and the last episode's rollouts.
    pub first_reward: f64,
    pub last_reward: f64,
    pub best_episode: u64,
    /// Mean validation reward at `best_episode`; `None` without validation.
    pub best_validation: Option<f64>,
    /// Rollouts that no oracle could judge, over the run.
    pub unscored: u64,
    pub rollouts: u64,
}

/// Counters that a checkpoint carries.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Own {
    first_reward: Option<f64>,
    last_reward: f64,
    best_episode: u64,
    best_validation: Option<f64>,
    unscored: u64,
    rollouts: u64,
}

/// Runs `job` on `model`, whose adapter (or every weight, if it has none) is trained; continues from the task's newest
/// checkpoint. With validation the model ends with the best weights, otherwise with the last.
///
/// # Errors
/// Parameters that make no sense; an engine failure; a run that diverged; an episode in which nothing could be judged.
pub fn run<'a>(
    model: &'a mut Model,
    job: Job<'a>,
    store: &'a Store,
    host: &mut dyn Host,
) -> Result<End<Summary>> {
    check(&job, model)?;
    Runner::new(model, job, store)?.run(host)
}

fn check(job: &Job<'_>, model: &Model) -> Result<()> {
    let p = job.params;
    let wrong = |what: &str| Err(Error::Invalid(format!("rl: {what}")));
    if p.profile != Profile::Corrected {
        return wrong("profile as-published is not built; use corrected");
    }
    if job.train.ids.is_empty() {
        return wrong("there are no training prompts");
    }
    if [p.episodes, p.prompts, p.rollouts, p.max_batch, p.minibatch, p.epochs, p.max_new_tokens].contains(&0)
    {
        return wrong(
            "episodes, prompts, rollouts, max_batch, minibatch, epochs and max_new_tokens must be at least 1",
        );
    }
    if p.algorithm == Algorithm::Grpo && p.rollouts < 2 {
        return wrong("grpo compares the answers to one prompt: rollouts must be at least 2");
    }
    if p.temperature <= 0.0 {
        return wrong("temperature must be more than 0: a greedy policy has no gradient to follow");
    }
    if job.reference.is_none() && model.decoder.trainable().iter().all(|(n, _)| !n.contains("lora")) {
        return wrong("training every weight needs a reference model of its own");
    }
    Ok(())
}

struct Runner<'a> {
    model: &'a mut Model,
    job: Job<'a>,
    store: &'a Store,
    head: Option<ValueHead>,
    optimizer: AdamW,
    engine: TorchEngine,
    own: Own,
    /// Trained weights of the best validation so far.
    best: Vec<(String, Tensor)>,
}

/// What the rollouts of an episode brought.
struct Gathered {
    episodes: Vec<Episode>,
    rewards: Vec<f64>,
    unscored: usize,
    /// Mean |sampler's logprob - trainer's logprob|: the two must be the same model.
    mismatch: f64,
    length: f64,
    entropy: f64,
}

impl<'a> Runner<'a> {
    fn new(model: &'a mut Model, job: Job<'a>, store: &'a Store) -> Result<Self> {
        let decoder = &model.decoder;
        let head = (job.params.algorithm == Algorithm::Ppo).then(|| ValueHead::new(decoder));
        let mut trained = decoder.trainable();
        trained.extend(head.iter().flat_map(ValueHead::tensors));
        let optimizer = AdamW::new(trained, 0.0, job.params.max_grad_norm, Scaler::new(decoder.kind));
        let p = job.params;
        let all = p.prompts.saturating_mul(p.rollouts);
        let engine = model.engine(Options::new(all.min(p.max_batch), p.kv_bytes).offline());
        let prompts = job.train.ids.iter().chain(job.validation.iter().flat_map(|v| &v.ids));
        engine.check_limit(prompts.map(Vec::len).max().unwrap_or(1), p.max_new_tokens as usize)?;
        Ok(Self { model, job, store, head, optimizer, engine, own: Own::default(), best: Vec::new() })
    }

    fn run(mut self, host: &mut dyn Host) -> Result<End<Summary>> {
        let of = u64::from(self.job.params.episodes);
        let mut done = self.resume(host)?;
        if done == 0 && self.job.validation.is_some() && self.every() > 0 {
            let value = self.validate(0)?;
            host.step(0, of, &[("validation_reward", value)])?;
            self.consider(0, value);
        }
        while done < of {
            let began = Instant::now();
            let mut values = self.episode(done)?;
            done += 1;
            if self.every() > 0 && (done % self.every() == 0 || done == of) && self.job.validation.is_some() {
                let value = self.validate(done)?;
                values.push(("validation_reward", value));
                self.consider(done, value);
            }
            values.push(("seconds", began.elapsed().as_secs_f64()));
            host.step(done, of, &values)?;
            let stop = if done < of { host.stop() } else { None };
            let every = u64::from(self.job.params.checkpoint_every);
            if stop.is_some() || (every > 0 && done % every == 0 && done < of) {
                let best: Vec<_> = self.best.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect();
                state::save(self.store, done, &self.optimizer, &best, &self.own)?;
            }
            if let Some(reason) = stop {
                return Ok(End::Stopped { step: done, reason });
            }
        }
        self.take_best(of);
        Ok(End::Finished(Summary {
            episodes: of,
            first_reward: self.own.first_reward.unwrap_or(f64::NAN),
            last_reward: self.own.last_reward,
            best_episode: self.own.best_episode,
            best_validation: self.own.best_validation,
            unscored: self.own.unscored,
            rollouts: self.own.rollouts,
        }))
    }

    fn every(&self) -> u64 {
        u64::from(self.job.params.validate_every)
    }

    fn resume(&mut self, host: &mut dyn Host) -> Result<u64> {
        let Some(resumed) = state::load::<Own>(self.store, &mut self.optimizer)? else { return Ok(0) };
        self.own = resumed.own;
        self.best = resumed.extra.into_iter().collect();
        host.note(&format!("continuing from episode {} of attempt {}", resumed.step, resumed.attempt))?;
        Ok(resumed.step)
    }

    fn consider(&mut self, episode: u64, value: f64) {
        // only better counts: among equals the earlier one is nearer to the reference
        if self.own.best_validation.is_none_or(|best| value > best) {
            self.own.best_validation = Some(value);
            self.own.best_episode = episode;
            self.best = shim::no_grad(|| {
                self.model.decoder.trainable().into_iter().map(|(n, t)| (n, t.detach().copy())).collect()
            });
        }
    }

    fn take_best(&mut self, last: u64) {
        if self.own.best_validation.is_none() {
            self.own.best_episode = last;
            return;
        }
        let best: BTreeMap<_, _> = self.best.iter().map(|(n, t)| (n.as_str(), t)).collect();
        shim::no_grad(|| {
            for (name, mut t) in self.model.decoder.trainable() {
                if let Some(from) = best.get(name.as_str()) {
                    t.copy_(from);
                }
            }
        });
    }

    fn sampling(&self, seed: u64) -> Sampling {
        let p = self.job.params;
        Sampling {
            temperature: p.temperature,
            top_p: p.top_p,
            top_k: p.top_k,
            seed,
            max_new_tokens: p.max_new_tokens,
            ..Sampling::default()
        }
    }

    /// Mean reward of a few answers per validation prompt (one alone is too noisy to choose weights by); the same seeds at
    /// every measurement.
    fn validate(&mut self, done: u64) -> Result<f64> {
        self.engine.refresh(self.model);
        let sampling = self.sampling(bits(self.job.params.seed, u64::MAX));
        let Some(set) = &mut self.job.validation else { return Ok(f64::NAN) };
        let requests = set
            .ids
            .iter()
            .enumerate()
            .map(|(i, ids)| {
                let seed = bits(sampling.seed, i as u64);
                Request {
                    prompt: ids.clone(),
                    n: VALIDATION_ANSWERS,
                    sampling: Sampling { seed, ..sampling.clone() },
                    adapter: None,
                }
            })
            .collect();
        let rollouts: Vec<Rollout> = self
            .engine
            .generate(requests)?
            .into_iter()
            .enumerate()
            .flat_map(|(prompt, row)| row.into_iter().map(move |s| rollout(prompt, s)))
            .collect();
        let scored: Vec<f64> = score(set.reward, done, &rollouts)?.into_iter().flatten().collect();
        if scored.is_empty() {
            return Err(Error::Invalid("no validation answer could be judged: see the oracle's log".into()));
        }
        Ok(scored.iter().sum::<f64>() / scored.len() as f64)
    }

    /// Prompts of an episode: a walk through permutations of all prompts, a pure function of seed and episode.
    fn prompts_of(&self, episode: u64) -> Vec<usize> {
        let (n, per) = (self.job.train.ids.len() as u64, u64::from(self.job.params.prompts));
        (episode * per..(episode + 1) * per)
            .map(|at| permutation(n as usize, bits(self.job.params.seed, at / n))[(at % n) as usize])
            .collect()
    }

    fn episode(&mut self, episode: u64) -> Result<Vec<(&'static str, f64)>> {
        let p = self.job.params;
        let mut g = self.gather(episode)?;
        let kl = mean_of(&g.episodes, |e| {
            e.measured.logprobs.iter().zip(&e.measured.reference).map(|(l, r)| k3(*l, *r)).sum()
        });
        // up over the warm-up, down to nothing at the end: late steps are noise around what was found
        let rise = ((episode + 1) as f64 / f64::from(p.warmup_episodes.max(1))).min(1.0);
        let rate = p.learning_rate * rise * (1.0 - episode as f64 / f64::from(p.episodes));
        let mut steps: Vec<(Seen, f64)> = Vec::new();
        // the order in which rewards came must not leave a trace; lengths differ, shuffling is by seed alone
        'passes: for epoch in 0..u64::from(p.epochs) {
            let seed = bits(bits(p.seed ^ 0x5eed, episode), epoch);
            let order = permutation(g.episodes.len(), seed);
            for part in order.chunks(p.minibatch as usize) {
                let minibatch: Vec<&Episode> = part.iter().map(|&i| &g.episodes[i]).collect();
                let scale = self.optimizer.scaler.scale;
                let decoder = &self.model.decoder;
                let seen = improve(decoder, self.head.as_ref(), &minibatch, self.model.pad, p, scale)?;
                if p.target_kl > 0.0 && seen.drift > p.target_kl {
                    self.optimizer.zero_grad()?;
                    break 'passes;
                }
                if let Some(norm) = self.optimizer.step(rate)? {
                    steps.push((seen, norm));
                }
            }
        }
        g.rewards.sort_by(f64::total_cmp);
        let reward = g.rewards.iter().sum::<f64>() / g.rewards.len() as f64;
        self.own.first_reward.get_or_insert(reward);
        self.own.last_reward = reward;
        self.own.unscored += g.unscored as u64;
        self.own.rollouts += (g.rewards.len() + g.unscored) as u64;
        let mean = |f: fn(&(Seen, f64)) -> f64| steps.iter().map(f).sum::<f64>() / steps.len().max(1) as f64;
        Ok(vec![
            ("reward", reward),
            ("reward_min", g.rewards[0]),
            ("reward_max", g.rewards[g.rewards.len() - 1]),
            ("unscored", g.unscored as f64),
            ("kl", kl),
            ("entropy", g.entropy),
            ("answer_tokens", g.length),
            ("logprob_mismatch", g.mismatch),
            ("loss", mean(|s| s.0.loss)),
            ("policy_loss", mean(|s| s.0.policy)),
            ("value_loss", mean(|s| s.0.value)),
            ("drift", mean(|s| s.0.drift)),
            ("clipped", mean(|s| s.0.clipped)),
            ("grad_norm", mean(|s| s.1)),
            ("updates", steps.len() as f64),
            ("learning_rate", rate),
        ])
    }

    fn gather(&mut self, episode: u64) -> Result<Gathered> {
        let p = self.job.params;
        self.engine.refresh(self.model);
        let chosen = self.prompts_of(episode);
        let requests = chosen
            .iter()
            .enumerate()
            .map(|(j, &i)| Request {
                prompt: self.job.train.ids[i].clone(),
                n: p.rollouts,
                sampling: self.sampling(bits(p.seed, (1 << 40) + episode * u64::from(p.prompts) + j as u64)),
                adapter: None,
            })
            .collect();
        let answers = self.engine.generate(requests)?;
        let mut sampled = Vec::new();
        let mut rollouts = Vec::new();
        for (&prompt, row) in chosen.iter().zip(answers) {
            for s in row {
                sampled.push(s.logprobs.clone());
                rollouts.push(rollout(prompt, s));
            }
        }
        let scores = score(self.job.train.reward, episode + 1, &rollouts)?;
        let unscored = scores.iter().filter(|s| s.is_none()).count();
        if unscored == scores.len() {
            return Err(Error::Invalid(format!(
                "none of the {unscored} answers of episode {} could be judged: see the oracle's log",
                episode + 1
            )));
        }
        let kept: Vec<(usize, f64)> =
            scores.iter().enumerate().filter_map(|(i, s)| s.map(|s| (i, s))).collect();
        let rows: Vec<_> =
            kept.iter().map(|&(i, _)| row(&self.job.train.ids[rollouts[i].prompt], &rollouts[i])).collect();
        let (decoder, pad) = (&self.model.decoder, self.model.pad);
        let at_once = p.minibatch as usize;
        let mut measured =
            measure(decoder, Pass::EVAL, self.head.as_ref(), &rows, pad, p.temperature, at_once)?;
        let reference = match self.job.reference {
            Some(r) => measure(r, Pass::EVAL, None, &rows, pad, p.temperature, at_once)?,
            None => measure(decoder, Pass::REFERENCE, None, &rows, pad, p.temperature, at_once)?,
        };
        for (m, r) in measured.iter_mut().zip(reference) {
            m.reference = r.logprobs;
        }
        // the sampler's numbers are of temperature 1: comparable only there
        let mismatch = if p.temperature == 1.0 {
            let pairs =
                kept.iter().zip(&measured).flat_map(|(&(i, _), m)| sampled[i].iter().zip(&m.logprobs));
            let (n, sum) = pairs.fold((0.0, 0.0), |(n, s), (a, b)| (n + 1.0, s + (f64::from(*a) - b).abs()));
            sum / f64::max(n, 1.0)
        } else {
            0.0
        };
        let rewards: Vec<f64> = kept.iter().map(|k| k.1).collect();
        let (advantages, returns) = match p.algorithm {
            Algorithm::Ppo => {
                let (mut a, r): (Vec<_>, Vec<_>) = measured
                    .iter()
                    .zip(&rewards)
                    .map(|(m, &r)| gae(r, &m.values, p.gamma, p.gae_lambda))
                    .unzip();
                whiten(&mut a);
                (a.into_iter().map(Some).collect::<Vec<_>>(), r)
            }
            Algorithm::Grpo => {
                let prompts: Vec<usize> = kept.iter().map(|&(i, _)| rollouts[i].prompt).collect();
                let spread =
                    |(a, m): (Option<f64>, &super::batch::Measured)| a.map(|a| vec![a; m.logprobs.len()]);
                let a = group(&prompts, &rewards).into_iter().zip(&measured).map(spread).collect();
                (a, measured.iter().map(|m| m.values.clone()).collect())
            }
        };
        let tokens: f64 = measured.iter().map(|m| m.logprobs.len() as f64).sum();
        let entropy = measured.iter().flat_map(|m| &m.entropy).sum::<f64>() / tokens.max(1.0);
        let episodes: Vec<Episode> = rows
            .into_iter()
            .zip(measured)
            .zip(advantages)
            .zip(returns)
            .filter_map(|(((row, measured), advantages), returns)| {
                Some(Episode { row, measured, advantages: advantages?, returns })
            })
            .collect();
        let length = tokens / kept.len() as f64;
        Ok(Gathered { episodes, rewards, unscored, mismatch, length, entropy })
    }
}

fn rollout(prompt: usize, s: generate::Sequence) -> Rollout {
    Rollout { prompt, text: s.text, tokens: s.tokens, finish: s.finish }
}

/// Asks for scores and checks that there is one for each answer and that each is a number.
fn score(reward: &mut dyn Reward, episode: u64, rollouts: &[Rollout]) -> Result<Vec<Option<f64>>> {
    let scores = reward.score(episode, rollouts).map_err(Error::Reward)?;
    if scores.len() != rollouts.len() || scores.iter().flatten().any(|s| !s.is_finite()) {
        return Err(Error::Invalid(format!(
            "the reward gave {} values for {} answers, or one that is not finite",
            scores.len(),
            rollouts.len()
        )));
    }
    Ok(scores)
}

/// Mean over tokens.
fn mean_of(episodes: &[Episode], f: impl Fn(&Episode) -> f64) -> f64 {
    let tokens: usize = episodes.iter().map(|e| e.measured.logprobs.len()).sum();
    episodes.iter().map(f).sum::<f64>() / tokens.max(1) as f64
}
