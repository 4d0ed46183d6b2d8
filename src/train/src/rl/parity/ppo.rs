//! PPO against TRL 1.12's trainer, the last: tests/parity/make_ppo.py ran one of its updates and read its variables off.
//!
//! Where ours differs by design, the difference is undone here (docs/MODELS.md, "Parity"): TRL takes the KL penalty into the rewards,
//! gives an answer that ended early one step more (the reward and a value behind its last token), and divides by the sample's
//! spread.

use super::{Case, case, near, near_gradients, numbers};
use crate::rl::advantage::{gae, k3, whiten};
use crate::rl::batch::{Episode, Measured, ValueHead, improve, measure, surrogate, value_error};
use model::Pass;
use record::params::RlParams;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

const GAMMA: f64 = 0.98;
const LAMBDA: f64 = 0.9;
const CLIP: f64 = 0.2;
/// Weight of the KL penalty in TRL's rewards, and of its value loss.
const KL: f64 = 0.05;
const VALUE: f64 = 0.5;

/// Rows of a table `[answers, longest]`, each `length(answer, longest)` long.
fn cut(g: &BTreeMap<String, Tensor>, name: &str, length: impl Fn(usize, usize) -> usize) -> Vec<Vec<f64>> {
    let longest = g[name].size()[1] as usize;
    let answers = Vec::<i64>::try_from(&g["answers"]).unwrap();
    let of = |(row, n): (&[f64], i64)| row[..length(n as usize, longest)].to_vec();
    numbers(g, name).chunks(longest).zip(answers).map(of).collect()
}

/// Of the KL penalty, from the log-probabilities of policy and reference.
type Estimate = fn(f64, f64) -> f64;

/// The tokens of an answer.
fn own(n: usize, _: usize) -> usize {
    n
}

/// And TRL's step behind them, where there is room.
fn one_more(n: usize, longest: usize) -> usize {
    (n + 1).min(longest)
}

#[test]
fn advantages_and_returns_are_trls_under_either_estimate_of_the_kl_penalty() {
    let Case { g, .. } = case("ppo");
    let values = cut(&g, "values", one_more);
    let logprobs = cut(&g, "logprobs", own);
    let reference = cut(&g, "ref_logprobs", own);
    let k1: Estimate = |logprob, reference| logprob - reference;
    let estimates: [(&str, Estimate); 2] = [("", k1), ("k3.", k3)];
    for (estimate, kl) in estimates {
        let table =
            |name: &str, length: fn(usize, usize) -> usize| cut(&g, &format!("{estimate}{name}"), length);
        let (want_kl, want, want_returns) =
            (table("kl", own), table("raw_advantages", one_more), table("returns", one_more));
        for (i, score) in numbers(&g, "scores").into_iter().enumerate() {
            let penalties: Vec<f64> =
                logprobs[i].iter().zip(&reference[i]).map(|(&l, &r)| kl(l, r)).collect();
            near(&penalties, &want_kl[i], 1e-5, "KL");
            let (mut advantages, _) = gae(score, &values[i], GAMMA, LAMBDA);
            // ours has one reward, at the end; estimation is linear in rewards, so each penalty may be added by itself
            for (t, penalty) in penalties.iter().enumerate() {
                let (part, _) = gae(-KL * penalty, &vec![0.0; t + 1], GAMMA, LAMBDA);
                advantages.iter_mut().zip(part).for_each(|(a, p)| *a += p);
            }
            near(&advantages, &want[i], 1e-5, "advantages");
            let returns: Vec<f64> = advantages.iter().zip(&values[i]).map(|(a, v)| a + v).collect();
            near(&returns, &want_returns[i], 1e-5, "returns");
        }
    }
}

/// What ours makes of one reward at the end, without a penalty, is what `gae` gives alone: the returns too.
#[test]
fn whitening_is_trls_but_for_the_measure_of_spread() {
    let Case { g, .. } = case("ppo");
    for estimate in ["", "k3."] {
        let mut advantages = cut(&g, &format!("{estimate}raw_advantages"), own);
        whiten(&mut advantages);
        let n = advantages.iter().map(Vec::len).sum::<usize>() as f64;
        let got: Vec<f64> = advantages.concat().iter().map(|a| a * ((n - 1.0) / n).sqrt()).collect();
        near(&got, &cut(&g, &format!("{estimate}advantages"), own).concat(), 1e-5, "advantages");
    }
}

#[test]
fn the_clipped_losses_of_each_token_are_trls() {
    let Case { g, .. } = case("ppo");
    let column = |name: &str, length: fn(usize, usize) -> usize| {
        Tensor::from_slice(&cut(&g, name, length).concat()).to_kind(Kind::Float)
    };
    let list = |t: &Tensor| Vec::<f64>::try_from(t.to_kind(Kind::Double)).unwrap();
    let ratio = (column("new_logprobs", own) - column("logprobs", own)).exp();
    let clipped = ratio.clamp(1.0 - CLIP, 1.0 + CLIP);
    let policy = surrogate(&ratio, &clipped, &column("advantages", own));
    near(&list(&policy), &list(&column("pg_loss_max", own)), 1e-5, "policy loss");
    near(&[policy.mean(Kind::Double).double_value(&[])], &numbers(&g, "pg_loss"), 1e-5, "policy loss");

    let value = column("vpred", one_more).set_requires_grad(true);
    let error = value_error(&value, &column("values", one_more), &column("returns", one_more), CLIP);
    near(&list(&(error.detach() * 2.0)), &list(&column("vf_loss_max", one_more)), 1e-5, "value loss");
    let mean = error.mean(Kind::Float);
    near(&[mean.double_value(&[])], &numbers(&g, "vf_loss"), 1e-5, "value loss");
    (mean * VALUE).backward();
    near(&list(&value.grad()), &list(&column("grad_vpred", one_more)), 1e-6, "by the value");
}

#[test]
fn an_update_is_trls_over_the_answers_own_tokens() {
    let Case { g, decoder, rows } = case("ppo");
    let table = |name: &str| cut(&g, name, own);
    for (pass, name) in [(Pass::EVAL, "new_logprobs"), (Pass::REFERENCE, "ref_logprobs")] {
        let found = measure(&decoder, pass, None, &rows, 0, 0.7, 4).unwrap();
        let got: Vec<f64> = found.into_iter().flat_map(|m| m.logprobs).collect();
        near(&got, &table(name).concat(), 1e-5, name);
    }
    let head =
        ValueHead { weight: g["value_weight"].copy().set_requires_grad(true), ..ValueHead::new(&decoder) };
    let values: Vec<f64> = measure(&decoder, Pass::EVAL, Some(&head), &rows, 0, 0.7, 4)
        .unwrap()
        .into_iter()
        .flat_map(|m| m.values)
        .collect();
    near(&values, &table("vpred").concat(), 1e-5, "values");

    let (old, before) = (table("logprobs"), table("values"));
    let (advantages, returns) = (table("advantages"), table("returns"));
    let episodes: Vec<Episode> = rows
        .iter()
        .enumerate()
        .map(|(i, row)| Episode {
            row: row.clone(),
            measured: Measured {
                logprobs: old[i].clone(),
                reference: old[i].clone(),
                values: before[i].clone(),
                entropy: vec![],
            },
            advantages: advantages[i].clone(),
            returns: returns[i].clone(),
        })
        .collect();
    let p = RlParams {
        temperature: 0.7,
        clip: CLIP,
        kl_coef: 0.0, // TRL's is in the rewards
        entropy_coef: 0.0,
        value_coef: VALUE,
        ..RlParams::default()
    };
    let minibatch: Vec<&Episode> = episodes.iter().collect();
    let seen = improve(&decoder, Some(&head), &minibatch, 0, &p, 1.0).unwrap();
    let one = |name: &str| numbers(&g, name)[0];
    near(&[seen.policy], &[one("pg_loss")], 1e-5, "policy loss");
    // without TRL's step behind the last token
    let errors = table("vf_loss_max").concat();
    let value = errors.iter().sum::<f64>() / errors.len() as f64 / 2.0;
    near(&[seen.value, seen.loss], &[value, one("pg_loss") + VALUE * value], 1e-5, "value loss and loss");
    assert!(seen.clipped >= one("clipped") && one("clipped") > 0.1, "{seen:?}");
    near_gradients(&decoder, &g);
}
