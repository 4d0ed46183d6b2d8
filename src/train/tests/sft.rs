//! Supervised training: the loss falls, its parts add up, and a cut run ends with the same bits.

mod common;

use common::{Listener, alone, model, rows, store};
use model::{Model, Pass, weights};
use record::checkpoint::Store;
use record::params::{LoraParams, Schedule};
use std::path::Path;
use tch::{Kind, Tensor};
use train::End;
use train::sft::{Plan, Summary, train};

/// Eight rows a step in passes of at most 100 tokens: three or four of them, packed.
fn plan(steps: u64) -> Plan {
    Plan {
        seed: 5,
        steps,
        batch: 4,
        accumulation: 2,
        pass_tokens: 100,
        learning_rate: 1e-2,
        warmup_steps: 2,
        schedule: Schedule::Cosine,
        checkpoint_every: 4,
        chunk: 16,
        ..Plan::default()
    }
}

fn dropout() -> Option<LoraParams> {
    Some(LoraParams { r: 4, alpha: 8.0, dropout: 0.2, ..LoraParams::default() })
}

/// Trains on 34 rows; the other 6 are held out where the plan measures.
fn run(model: &Model, plan: &Plan, store: &Store, host: &mut Listener) -> End<Summary> {
    let all = rows(model);
    let (train_rows, held_out) = all.split_at(34);
    let held_out = if plan.evaluate_every > 0 { held_out } else { &[] };
    train(model, train_rows, held_out, plan, store, host).unwrap()
}

fn snapshot(model: &Model) -> Vec<(String, Tensor)> {
    model.decoder.trainable().into_iter().map(|(n, t)| (n, t.detach().copy())).collect()
}

fn equal(a: &[(String, Tensor)], b: &[(String, Tensor)]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((n, x), (m, y))| n == m && x.equal(y))
}

#[test]
fn a_run_cut_at_any_step_and_resumed_equals_the_uncut_run_bit_for_bit() {
    let _alone = alone();
    let padded = Plan { packing: false, ..plan(12) };
    let measured = Plan { evaluate_every: 3, patience: 9, ..plan(12) };
    for (lora, plan) in [(dropout(), plan(12)), (None, plan(12)), (dropout(), padded), (dropout(), measured)]
    {
        let uncut = tempfile::tempdir().unwrap();
        let whole = model(lora.clone());
        let mut heard = Listener::default();
        let end = run(&whole, &plan, &store(uncut.path(), 1), &mut heard);
        let want = snapshot(&whole);
        for cuts in [vec![1], vec![5], vec![3, 4], vec![1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]] {
            let dir = tempfile::tempdir().unwrap();
            for (i, n) in cuts.iter().enumerate() {
                let m = model(lora.clone());
                // a new process has drawn other numbers before it comes to the checkpoint
                let _ = Tensor::randn([3], (Kind::Float, tch::Device::Cpu));
                let mut host = Listener { stop_after: Some(*n), ..Listener::default() };
                let end = run(&m, &plan, &store(dir.path(), i as u32 + 1), &mut host);
                let step = cuts[..=i].iter().sum::<u64>();
                assert_eq!(end, End::Stopped { step, reason: "told to".into() });
            }
            let m = model(lora.clone());
            let last = store(dir.path(), 99);
            let mut host = Listener::default();
            assert_eq!(run(&m, &plan, &last, &mut host), end);
            assert!(equal(&snapshot(&m), &want), "cuts {cuts:?}");
            let tail = host.series("loss");
            assert_eq!(tail, heard.series("loss")[12 - tail.len()..], "cuts {cuts:?}");
        }
        assert!(matches!(end, End::Finished(s) if s.steps == 12 && s.loss.is_finite()));
    }
}

#[test]
fn optimizer_states_of_a_resumed_run_equal_those_of_the_uncut_one() {
    let _alone = alone();
    let state = |dir: &Path, step: u64| {
        let found = store(dir, 1).newest().unwrap().unwrap();
        assert_eq!(found.step, step);
        weights::read_all(&found.dir.join("state.safetensors")).unwrap()
    };
    let stopped = |dir: &Path, attempt: u32, n: u64| {
        let m = model(dropout());
        let mut host = Listener { stop_after: Some(n), ..Listener::default() };
        run(&m, &plan(12), &store(dir, attempt), &mut host);
    };
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    stopped(a.path(), 1, 9);
    stopped(b.path(), 1, 2);
    stopped(b.path(), 2, 7);
    let (a, b) = (state(a.path(), 9), state(b.path(), 9));
    assert!(a.keys().any(|k| k.starts_with("m.")) && a.contains_key("rng"));
    assert!(a.keys().eq(b.keys()) && a.iter().all(|(k, t)| t.equal(&b[k])));
}

#[test]
fn the_loss_falls_and_packing_accumulation_recomputation_and_piece_size_do_not_change_it() {
    let _alone = alone();
    let lora = || Some(LoraParams { r: 4, alpha: 8.0, ..LoraParams::default() });
    let losses = |plan: &Plan| {
        let dir = tempfile::tempdir().unwrap();
        let m = model(lora());
        let mut host = Listener::default();
        run(&m, plan, &store(dir.path(), 1), &mut host);
        host.series("loss")
    };
    let want = losses(&plan(30));
    assert!(want[29] < want[0] - 0.5, "{want:?}");
    for other in [
        Plan { packing: false, ..plan(30) },
        Plan { packing: false, batch: 8, accumulation: 1, pass_tokens: usize::MAX, ..plan(30) },
        Plan { pass_tokens: usize::MAX, ..plan(30) },
        Plan { pass_tokens: 1, ..plan(30) },
        Plan { packing: false, batch: 1, accumulation: 8, ..plan(30) },
        Plan { recompute: true, ..plan(30) },
        Plan { chunk: 100_000, ..plan(30) },
    ] {
        for (a, b) in want.iter().zip(losses(&other)) {
            assert!((a - b).abs() < 1e-4, "{other:?}: {a} {b}");
        }
    }
}

#[test]
fn the_loss_is_the_mean_negative_logprob_of_completion_tokens() {
    let _alone = alone();
    let m = model(dropout());
    let all = rows(&m);
    let dir = tempfile::tempdir().unwrap();
    let mut host = Listener::default();
    // dropout acts on a fresh adapter's zero, so the first loss is that of the plain model
    let plan = Plan { batch: 40, accumulation: 1, ..plan(1) };
    train(&m, &all, &[], &plan, &store(dir.path(), 1), &mut host).unwrap();
    let fresh = model(dropout());
    let (mut sum, mut n) = (0.0, 0.0);
    let _guard = tch::no_grad_guard();
    for row in &all {
        let ids: Vec<i64> = row.ids.iter().map(|&t| i64::from(t)).collect();
        let h = fresh.decoder.trunk(&Tensor::from_slice(&ids).unsqueeze(0), None, Pass::EVAL).unwrap();
        let logp = fresh.decoder.logits(&h).log_softmax(-1, Kind::Float);
        for (t, &id) in ids.iter().enumerate().skip(row.trained[0].start) {
            sum -= logp.double_value(&[t as i64 - 1, id]);
            n += 1.0;
        }
    }
    assert!((host.series("loss")[0] - sum / n).abs() < 1e-5);
}

#[test]
fn a_run_ends_early_when_the_held_out_loss_stops_falling_and_keeps_the_best_weights() {
    let _alone = alone();
    let m = model(None);
    let dir = tempfile::tempdir().unwrap();
    let mut host = Listener::default();
    let schedule = Schedule::Constant;
    // memorises its 34 rows and forgets the rest
    let plan = Plan { evaluate_every: 5, patience: 2, learning_rate: 2e-2, schedule, ..plan(2000) };
    let End::Finished(s) = run(&m, &plan, &store(dir.path(), 1), &mut host) else {
        panic!("was not stopped")
    };
    let measured = host.series("validation_loss");
    assert!(s.early && s.steps < 2000 && s.steps as usize == 5 * measured.len(), "{s:?}");
    let (best, at) = s.best.unwrap();
    assert_eq!(best, measured.iter().copied().fold(f64::INFINITY, f64::min));
    assert_eq!(at as usize, 5 * (measured.len() - 2));
    assert!(host.notes.iter().any(|n| n.contains("ended early")), "{:?}", host.notes);
    let all = rows(&m);
    let again = tempfile::tempdir().unwrap();
    let still = Plan { learning_rate: 0.0, steps: 1, weight_decay: 0.0, ..plan };
    let mut host = Listener::default();
    train(&m, &all[..34], &all[34..], &still, &store(again.path(), 1), &mut host).unwrap();
    assert!((host.series("validation_loss")[0] - best).abs() < 1e-6, "the weights are not those of the best");
}
