//! Reinforcement learning: the reward rises, the trainer's and the sampler's numbers agree, a cut run ends with the same
//! bits.

mod common;

use common::{Digits, Listener, alone, model, store};
use model::Model;
use record::params::{Algorithm, LoraParams, RlParams};
use std::path::Path;
use tch::{Kind, Tensor};
use train::rl::{Job, Prompts, RewardError, Rollout, Summary, run};
use train::{End, Result};

fn params(algorithm: Algorithm) -> RlParams {
    RlParams {
        seed: 3,
        algorithm,
        lora: Some(LoraParams { r: 4, alpha: 8.0, ..LoraParams::default() }),
        episodes: 6,
        prompts: 4,
        rollouts: 4,
        minibatch: 5,
        epochs: 2,
        learning_rate: 1e-2,
        max_new_tokens: 12,
        validate_every: 2,
        checkpoint_every: 2,
        ..RlParams::default()
    }
}

fn go(
    m: &mut Model,
    p: &RlParams,
    blind: bool,
    dir: &Path,
    attempt: u32,
    host: &mut Listener,
) -> Result<End<Summary>> {
    let ids = |texts: &[&str]| texts.iter().map(|t| m.tokenizer.encode(t).unwrap()).collect::<Vec<_>>();
    let (train, validation) =
        (ids(&["add 1 and 2: ", "add 3 and 6: ", "x", "add 10 and 20: ", "y"]), ids(&["add 4 and 8: ", "z"]));
    let (mut reward, mut judge) = (Digits { blind }, Digits { blind: false });
    let job = Job {
        params: p,
        train: Prompts { ids: train, reward: &mut reward },
        validation: Some(Prompts { ids: validation, reward: &mut judge }),
        reference: None,
    };
    run(m, job, &store(dir, attempt), host)
}

fn fresh(p: &RlParams) -> Model {
    model(p.lora.clone())
}

fn snapshot(model: &Model) -> Vec<(String, Tensor)> {
    model.decoder.trainable().into_iter().map(|(n, t)| (n, t.detach().copy())).collect()
}

#[test]
fn a_run_cut_anywhere_and_resumed_equals_the_uncut_run_bit_for_bit() {
    let _alone = alone();
    for algorithm in [Algorithm::Ppo, Algorithm::Grpo] {
        let p = params(algorithm);
        let uncut = tempfile::tempdir().unwrap();
        let mut whole = fresh(&p);
        let mut heard = Listener::default();
        let end = go(&mut whole, &p, true, uncut.path(), 1, &mut heard).unwrap();
        let want = snapshot(&whole);
        for cuts in [vec![1], vec![4], vec![2, 1], vec![1, 1, 1, 1, 1]] {
            let dir = tempfile::tempdir().unwrap();
            for (i, n) in cuts.iter().enumerate() {
                let mut m = fresh(&p);
                let mut host = Listener { stop_after: Some(*n), ..Listener::default() };
                let end = go(&mut m, &p, true, dir.path(), i as u32 + 1, &mut host).unwrap();
                assert!(matches!(end, End::Stopped { step, .. } if step == cuts[..=i].iter().sum::<u64>()));
            }
            let mut m = fresh(&p);
            let _ = Tensor::randn([3], (Kind::Float, tch::Device::Cpu));
            let mut host = Listener::default();
            assert_eq!(
                go(&mut m, &p, true, dir.path(), 99, &mut host).unwrap(),
                end,
                "{algorithm:?} {cuts:?}"
            );
            assert!(snapshot(&m).iter().zip(&want).all(|(a, b)| a.1.equal(&b.1)), "{algorithm:?} {cuts:?}");
            for name in ["reward", "kl", "grad_norm", "entropy"] {
                let (tail, all) = (host.series(name), heard.series(name));
                assert_eq!(tail, all[all.len() - tail.len()..], "{algorithm:?} {cuts:?} {name}");
            }
        }
    }
}

#[test]
fn the_reward_rises_the_best_is_kept_and_the_sampler_agrees_with_the_trainer() {
    let _alone = alone();
    for algorithm in [Algorithm::Ppo, Algorithm::Grpo] {
        let p = RlParams { episodes: 25, prompts: 5, rollouts: 8, minibatch: 20, ..params(algorithm) };
        let dir = tempfile::tempdir().unwrap();
        let mut m = fresh(&p);
        let mut host = Listener::default();
        let End::Finished(summary) = go(&mut m, &p, false, dir.path(), 1, &mut host).unwrap() else {
            panic!("not stopped")
        };
        assert!(summary.last_reward > 2.0 * summary.first_reward + 0.05, "{algorithm:?}: {summary:?}");
        let best = host.series("validation_reward").into_iter().fold(f64::MIN, f64::max);
        assert_eq!(summary.best_validation, Some(best));
        assert!(host.series("logprob_mismatch").iter().all(|m| *m < 1e-5), "{algorithm:?}");
        let kl = host.series("kl");
        assert!(kl[0].abs() < 1e-9 && *kl.last().unwrap() > 1e-4, "the first policy is the reference");
    }
}

#[test]
fn answers_that_cannot_be_judged_take_no_part_and_are_counted() {
    let _alone = alone();
    let p = RlParams { episodes: 2, ..params(Algorithm::Ppo) };
    let dir = tempfile::tempdir().unwrap();
    let mut host = Listener::default();
    let End::Finished(s) = go(&mut fresh(&p), &p, true, dir.path(), 1, &mut host).unwrap() else {
        panic!("not stopped")
    };
    assert_eq!((s.rollouts, s.unscored), (32, 4));

    struct Blind;
    impl train::rl::Reward for Blind {
        fn score(&mut self, _: u64, batch: &[Rollout]) -> std::result::Result<Vec<Option<f64>>, RewardError> {
            Ok(vec![None; batch.len()])
        }
    }
    let mut m = fresh(&p);
    let ids = vec![m.tokenizer.encode("x").unwrap()];
    let dir = tempfile::tempdir().unwrap();
    let job =
        Job { params: &p, train: Prompts { ids, reward: &mut Blind }, validation: None, reference: None };
    let words = run(&mut m, job, &store(dir.path(), 1), &mut host).unwrap_err().to_string();
    assert!(words.contains("could be judged"), "{words}");
}

#[test]
fn parameters_that_make_no_sense_are_refused() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    for (p, word) in [
        (RlParams { rollouts: 1, ..params(Algorithm::Grpo) }, "rollouts"),
        (RlParams { temperature: 0.0, ..params(Algorithm::Ppo) }, "temperature"),
        (RlParams { episodes: 0, ..params(Algorithm::Ppo) }, "episodes"),
    ] {
        let words =
            go(&mut fresh(&p), &p, false, dir.path(), 1, &mut Listener::default()).unwrap_err().to_string();
        assert!(words.contains(word), "{words}");
    }
}

#[test]
fn recomputation_changes_nothing_and_a_four_bit_base_learns_too() {
    let _alone = alone();
    let end = |recompute: bool, quantize: bool| {
        let p = RlParams { episodes: 2, recompute, ..params(Algorithm::Ppo) };
        let mut m = fresh(&p);
        if quantize {
            m.decoder.quantize().unwrap();
        }
        let before = snapshot(&m);
        let dir = tempfile::tempdir().unwrap();
        go(&mut m, &p, false, dir.path(), 1, &mut Listener::default()).unwrap();
        (before, snapshot(&m))
    };
    let worst = |a: &[(String, Tensor)], b: &[(String, Tensor)]| {
        a.iter().zip(b).map(|(x, y)| f64::try_from((&x.1 - &y.1).abs().max()).unwrap()).fold(0.0, f64::max)
    };
    let (_, plain) = end(false, false);
    let (_, again) = end(true, false);
    assert!(worst(&plain, &again) < 1e-4, "{}", worst(&plain, &again));
    let (before, after) = end(true, true);
    let moved = worst(&before, &after);
    assert!(moved.is_finite() && moved > 1e-3, "{moved}");
}
