//! Supervised training: the loss falls, its parts add up, and a cut run ends with the same bits.

mod common;

use common::{Listener, alone, model, rows, store};
use model::{Model, Pass, weights};
use record::params::{LoraParams, Schedule};
use std::path::Path;
use tch::{Kind, Tensor};
use train::End;
use train::sft::{Plan, train};

fn plan(steps: u64) -> Plan {
    Plan {
        seed: 5,
        steps,
        batch: 4,
        accumulation: 2,
        learning_rate: 1e-2,
        weight_decay: 0.01,
        warmup_steps: 2,
        schedule: Schedule::Cosine,
        max_grad_norm: 1.0,
        checkpoint_every: 4,
        recompute: false,
        chunk: 16,
    }
}

fn dropout() -> Option<LoraParams> {
    Some(LoraParams { r: 4, alpha: 8.0, dropout: 0.2, ..LoraParams::default() })
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
    for lora in [dropout(), None] {
        let uncut = tempfile::tempdir().unwrap();
        let whole = model(lora.clone());
        let mut heard = Listener::default();
        let end = train(&whole, &rows(&whole), &plan(12), &store(uncut.path(), 1), &mut heard).unwrap();
        let want = snapshot(&whole);
        for cuts in [vec![1], vec![5], vec![3, 4], vec![1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]] {
            let dir = tempfile::tempdir().unwrap();
            for (i, n) in cuts.iter().enumerate() {
                let m = model(lora.clone());
                // a new process has drawn other numbers before it comes to the checkpoint
                let _ = Tensor::randn([3], (Kind::Float, tch::Device::Cpu));
                let mut host = Listener { stop_after: Some(*n), ..Listener::default() };
                let end =
                    train(&m, &rows(&m), &plan(12), &store(dir.path(), i as u32 + 1), &mut host).unwrap();
                let step = cuts[..=i].iter().sum::<u64>();
                assert_eq!(end, End::Stopped { step, reason: "told to".into() });
            }
            let m = model(lora.clone());
            let last = store(dir.path(), 99);
            let mut host = Listener::default();
            assert_eq!(train(&m, &rows(&m), &plan(12), &last, &mut host).unwrap(), end);
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
        train(&m, &rows(&m), &plan(12), &store(dir, attempt), &mut host).unwrap();
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
fn the_loss_falls_and_accumulation_recomputation_and_piece_size_do_not_change_it() {
    let _alone = alone();
    let lora = || Some(LoraParams { r: 4, alpha: 8.0, ..LoraParams::default() });
    let run = |plan: &Plan| {
        let dir = tempfile::tempdir().unwrap();
        let m = model(lora());
        let mut host = Listener::default();
        train(&m, &rows(&m), plan, &store(dir.path(), 1), &mut host).unwrap();
        host.series("loss")
    };
    let want = run(&plan(30));
    assert!(want[29] < want[0] - 0.5, "{want:?}");
    for other in [
        Plan { batch: 8, accumulation: 1, ..plan(30) },
        Plan { batch: 1, accumulation: 8, ..plan(30) },
        Plan { recompute: true, ..plan(30) },
        Plan { chunk: 100_000, ..plan(30) },
    ] {
        for (a, b) in want.iter().zip(run(&other)) {
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
    train(&m, &all, &plan, &store(dir.path(), 1), &mut host).unwrap();
    let fresh = model(dropout());
    let (mut sum, mut n) = (0.0, 0.0);
    let _guard = tch::no_grad_guard();
    for row in &all {
        let ids: Vec<i64> = row.ids.iter().map(|&t| i64::from(t)).collect();
        let h = fresh.decoder.trunk(&Tensor::from_slice(&ids).unsqueeze(0), None, Pass::EVAL).unwrap();
        let logp = fresh.decoder.logits(&h).log_softmax(-1, Kind::Float);
        for (t, &id) in ids.iter().enumerate().skip(row.prompt) {
            sum -= logp.double_value(&[t as i64 - 1, id]);
            n += 1.0;
        }
    }
    assert!((host.series("loss")[0] - sum / n).abs() < 1e-5);
}
