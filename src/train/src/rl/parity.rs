//! The objective against TRL's: tests/parity/make_rl.py wrote down what its GRPO loss says of rollouts that are off policy,
//! make_ppo.py what its last PPO trainer does.

mod ppo;

use super::advantage::group;
use super::batch::{Episode, Measured, improve, measure};
use crate::rows::Encoded;
use model::{Config, Decoder, Pass, weights};
use record::params::RlParams;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/golden")
}

struct Case {
    g: BTreeMap<String, Tensor>,
    decoder: Decoder,
    rows: Vec<Encoded>,
}

/// The rows that the script of `name` (`rl`, `ppo`) drew, and the model that it ran.
fn case(name: &str) -> Case {
    let g = weights::read_all(&golden().join(name).join("golden.safetensors")).unwrap();
    let dir = golden().join("llama-gqa");
    let mut decoder =
        Decoder::load(&dir, Config::read(&dir).unwrap(), Kind::Float, Device::Cpu, false).unwrap();
    decoder.load_adapter(&dir.join("adapter")).unwrap();
    let of = |name: &str| Vec::<i64>::try_from(&g[name]).unwrap();
    let rows = of("prompts").into_iter().zip(of("answers")).enumerate().map(|(i, (prompt, answer))| {
        let ids = Vec::<i64>::try_from(g["ids"].get(i as i64).narrow(0, 0, prompt + answer)).unwrap();
        Encoded::answer(ids.into_iter().map(|id| id as u32).collect(), prompt as usize)
    });
    let rows = rows.collect();
    Case { g, decoder, rows }
}

fn numbers(g: &BTreeMap<String, Tensor>, name: &str) -> Vec<f64> {
    Vec::<f64>::try_from(g[name].to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

/// The gradients of everything that is trained, relative to the largest of each tensor.
fn near_gradients(decoder: &Decoder, g: &BTreeMap<String, Tensor>) {
    for (name, t) in decoder.trainable() {
        let want = &g[&format!("grad.{name}")];
        let apart = (t.grad() - want).abs().max().double_value(&[]);
        let scale = want.abs().max().double_value(&[]).max(1e-3);
        assert!(apart < 1e-4 * scale, "{name}: {apart} of {scale}");
    }
}

fn near(got: &[f64], want: &[f64], bound: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() < bound, "{what} {i}: {g} {w}");
    }
}

/// The rollouts as the trainer holds them.
fn episodes(g: &BTreeMap<String, Tensor>, rows: &[Encoded]) -> Vec<Episode> {
    let (old, reference) = (numbers(g, "old"), numbers(g, "reference"));
    let mut at = 0;
    rows.iter()
        .zip(numbers(g, "advantages"))
        .map(|(row, a)| {
            let n = row.trained_tokens();
            let part = at..at + n;
            at += n;
            let measured = Measured {
                logprobs: old[part.clone()].to_vec(),
                reference: reference[part].to_vec(),
                values: vec![0.0; n],
                entropy: vec![],
            };
            Episode { row: row.clone(), measured, advantages: vec![a; n], returns: vec![0.0; n] }
        })
        .collect()
}

#[test]
fn logprobs_and_entropies_at_a_temperature_are_trls() {
    let Case { g, decoder, rows } = case("rl");
    for (pass, name) in [(Pass::EVAL, "logprobs"), (Pass::REFERENCE, "reference")] {
        let m = measure(&decoder, pass, None, &rows, 0, 0.7, 4).unwrap();
        let flat =
            |f: fn(&Measured) -> &Vec<f64>| -> Vec<f64> { m.iter().flat_map(|m| f(m).clone()).collect() };
        near(&flat(|m| &m.logprobs), &numbers(&g, name), 1e-4, name);
        if name == "logprobs" {
            near(&flat(|m| &m.entropy), &numbers(&g, "entropies"), 1e-4, "entropies");
        }
    }
}

#[test]
fn the_clipped_objective_and_its_gradients_are_those_of_trls_grpo() {
    let Case { g, decoder, rows } = case("rl");
    let episodes = episodes(&g, &rows);
    let p =
        RlParams { temperature: 0.7, clip: 0.2, kl_coef: 0.05, entropy_coef: 0.01, ..RlParams::default() };
    let minibatch: Vec<&Episode> = episodes.iter().collect();
    for recompute in [false, true] {
        decoder.trainable().iter().for_each(|(_, t)| model::shim::set_grad(t, None).unwrap());
        let p = RlParams { recompute, ..p.clone() };
        let seen = improve(&decoder, None, &minibatch, 0, &p, 1.0).unwrap();
        let one = |name: &str| numbers(&g, name)[0];
        near(&[seen.loss, seen.kl], &[one("loss"), one("kl")], 1e-5, "loss and KL");
        // TRL counts the KL term to the policy's loss
        near(&[seen.policy + 0.05 * seen.kl], &[one("policy_loss")], 1e-5, "the policy's loss");
        assert!(seen.clipped >= one("clipped") && one("clipped") > 0.1, "{seen:?}");
        near_gradients(&decoder, &g);
    }
}

/// Ours is the mean over a minibatch's tokens: TRL's `bnpo`, and its `dapo` where the minibatch is the whole batch. The other two
/// are not built; they are ours with the choice undone.
#[test]
fn each_of_trls_reductions_follows_from_ours() {
    let Case { g, decoder, rows } = case("rl");
    let episodes = episodes(&g, &rows);
    let all: Vec<&Episode> = episodes.iter().collect();
    for beta in ["0.0", "0.05"] {
        let kl_coef = beta.parse().unwrap();
        let p = RlParams { temperature: 0.7, clip: 0.2, kl_coef, ..RlParams::default() };
        let loss = |part: &[&Episode]| improve(&decoder, None, part, 0, &p, 1.0).unwrap();
        let whole = loss(&all);
        let of_rows: f64 = all.iter().map(|e| loss(&[e]).loss).sum::<f64>() / all.len() as f64;
        let longest = numbers(&g, "longest")[0];
        let by_longest = whole.loss * whole.tokens / (all.len() as f64 * longest);
        let found = [("bnpo", whole.loss), ("dapo", whole.loss), ("grpo", of_rows), ("dr_grpo", by_longest)];
        for (name, got) in found {
            near(&[got], &numbers(&g, &format!("loss.{name}.{beta}")), 1e-5, name);
        }
        // the four are not one number
        assert!((of_rows - whole.loss).abs() > 1e-2 && (by_longest - whole.loss).abs() > 5e-3);
    }
}

/// The same up to two choices: TRL divides by the sample's spread (n - 1) plus 1e-4, we by the group's (n), at least 0.1.
#[test]
fn group_advantages_are_trls_but_for_the_measure_of_spread() {
    let Case { g, .. } = case("rl");
    let got: Vec<f64> =
        group(&[0, 0, 1, 1, 2, 2], &numbers(&g, "rewards")).into_iter().map(|a| a.unwrap()).collect();
    let want: Vec<f64> = numbers(&g, "advantages").iter().map(|a| a * 2f64.sqrt()).collect();
    near(&got, &want, 1e-3, "advantages");
}
