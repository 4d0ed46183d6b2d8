//! A pass that does not fit into memory: smaller passes, the same steps. What refuses the memory is libtorch's allocator
//! under `limit_memory`, which counts the bytes of tensors: where it strikes depends on nothing but the work.

mod common;

use common::{Listener, alone, model, store};
use model::{Model, shim};
use record::params::LoraParams;
use tch::Tensor;
use train::rows::Encoded;
use train::sft::{Plan, Summary, train};
use train::{End, Result};

const STEPS: u64 = 3;

/// All rows of a step in one pass of 2,304 tokens; with every position in one piece, the logits are most of it.
fn plan(recompute: bool) -> Plan {
    Plan {
        steps: STEPS,
        batch: 48,
        learning_rate: 1e-2,
        chunk: 1 << 20,
        recompute,
        evaluate_every: 1,
        ..Plan::default()
    }
}

fn rows(from: u32, n: u32) -> Vec<Encoded> {
    (from..from + n)
        .map(|i| Encoded::answer((0..32 + i % 17).map(|t| (i * 7 + t * 13) % 250).collect(), 1))
        .collect()
}

fn fresh(adapter: bool) -> Model {
    let model =
        model(adapter.then(|| LoraParams { r: 4, alpha: 8.0, dropout: 0.0, ..LoraParams::default() }));
    // the table grows once, before memory is counted
    let _ = shim::no_grad(|| {
        model.decoder.trunk(&Tensor::from_slice(&[1i64; 64]).view([1, 64]), None, model::Pass::EVAL)
    });
    model
}

struct Trained {
    losses: Vec<f64>,
    validation: Vec<f64>,
    weights: Vec<Tensor>,
    notes: Vec<String>,
    summary: Summary,
}

/// Trains from the same start; the limit is `limit` bytes beside the model. Gives also the most bytes that were in use.
fn run(adapter: bool, plan: &Plan, limit: Option<i64>, stop_after: Option<u64>) -> (Result<Trained>, i64) {
    shim::limit_memory(0);
    let model = fresh(adapter);
    let dir = tempfile::tempdir().unwrap();
    let mut host = Listener { stop_after, ..Listener::default() };
    let (before, _) = shim::counted_memory();
    let allow =
        |limit: Option<i64>| shim::limit_memory(limit.map_or(0, |n| (before + n).try_into().unwrap()));
    let (rows, held_out) = (rows(0, 96), rows(500, 40));
    allow(limit);
    let mut end = train(&model, &rows, &held_out, plan, &store(dir.path(), 1), &mut host);
    if let Ok(End::Stopped { .. }) = end {
        shim::limit_memory(0);
        let again = fresh(adapter);
        for ((_, mut to), (_, from)) in model.decoder.trainable().into_iter().zip(again.decoder.trainable()) {
            shim::no_grad(|| to.copy_(&from));
        }
        drop(again);
        allow(limit);
        host.stop_after = None;
        end = train(&model, &rows, &held_out, plan, &store(dir.path(), 2), &mut host);
    }
    shim::limit_memory(0);
    let peak = shim::counted_memory().1 - before;
    let trained = end.map(|end| {
        let End::Finished(summary) = end else { panic!("was not stopped") };
        Trained {
            losses: host.series("loss"),
            validation: host.series("validation_loss"),
            weights: model.decoder.trainable().into_iter().map(|(_, t)| t.detach()).collect(),
            notes: host.notes,
            summary,
        }
    });
    (trained, peak)
}

fn equal(got: &Trained, want: &Trained, what: &str) {
    for (got, want) in [(&got.losses, &want.losses), (&got.validation, &want.validation)] {
        assert_eq!(got.len(), STEPS as usize, "{what}");
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-4, "{what}: {got}, with enough memory {want}");
        }
    }
    for (got, want) in got.weights.iter().zip(&want.weights) {
        // the mean: Adam divides by a gradient's own size, and where that is next to nothing, rounding decides
        let apart = (got - want).abs().mean(tch::Kind::Double).double_value(&[]);
        assert!(apart < 1e-4, "{what}: {apart}");
    }
    assert_eq!(got.summary.tokens, want.summary.tokens, "{what}");
}

/// Wherever in a pass the memory ends, in the forward pass, in the loss, in the backward pass, in recomputation.
#[test]
fn out_of_memory_anywhere_in_a_pass_halves_the_pass_and_keeps_the_steps() {
    let _alone = alone();
    shim::limit_memory(0);
    for (adapter, recompute) in [(false, false), (true, false), (true, true)] {
        let plan = plan(recompute);
        let (want, peak) = run(adapter, &plan, None, None);
        let want = want.unwrap();
        assert!(want.notes.is_empty() && want.summary.pass_tokens.is_none(), "{:?}", want.notes);
        for share in [99, 93, 86, 78, 70, 62, 50, 35] {
            let what = format!("adapter {adapter}, recompute {recompute}, {share} % of {peak} bytes");
            let (got, most) = run(adapter, &plan, Some(peak * share / 100), None);
            let got = got.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(most <= peak * share / 100, "{what}: {most}");
            assert!(got.notes[0].contains("out of memory: passes of "), "{what}: {:?}", got.notes);
            assert!(got.summary.pass_tokens.is_some_and(|n| n < 2304), "{what}: {:?}", got.summary);
            equal(&got, &want, &what);
        }
    }
}

#[test]
fn a_run_that_ran_out_of_memory_and_was_cut_goes_on_in_small_passes_to_the_same_end() {
    let _alone = alone();
    shim::limit_memory(0);
    let plan = plan(false);
    let (want, peak) = run(true, &plan, None, None);
    let want = want.unwrap();
    let got = run(true, &plan, Some(peak * 2 / 3), Some(2)).0.unwrap();
    assert!(got.notes.iter().any(|n| n.contains("continuing from step 2 of attempt 1")), "{:?}", got.notes);
    // the checkpoint knows: it does not run out a second time
    assert_eq!(got.notes.iter().filter(|n| n.contains("out of memory")).count(), 1, "{:?}", got.notes);
    equal(&got, &want, "cut after step 2");
}

#[test]
fn a_row_that_does_not_fit_alone_is_an_error_that_says_what_to_change() {
    let _alone = alone();
    shim::limit_memory(0);
    let (_, peak) = run(true, &plan(false), None, None);
    let Err(e) = run(true, &plan(false), Some(peak / 200), None).0 else {
        panic!("one row cannot have fitted")
    };
    let words = e.to_string();
    assert!(train::sft::is_out_of_memory(&words) && words.contains("lower max_tokens"), "{words}");
}
