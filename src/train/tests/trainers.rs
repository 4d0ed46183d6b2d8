//! Our training against TRL's `SFTTrainer`, and over a 4-bit base against bitsandbytes under PEFT: the same batches, the same
//! losses. The files come from tests/parity/make_trainers.py.

use model::nf4::Nf4;
use model::{Config, Decoder, Pass, weights};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use train::loss::cross_entropy_backward;
use train::optimizer::{AdamW, Scaler};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/golden")
}

fn trainers() -> BTreeMap<String, Tensor> {
    weights::read_all(&golden().join("trainers/golden.safetensors")).unwrap()
}

fn adapted(base: &str, quantize: bool) -> Decoder {
    model::runtime::init(1);
    let dir = golden().join(base);
    let config = Config::read(&dir).unwrap();
    let mut d = Decoder::load(&dir, config, Kind::Float, Device::Cpu, quantize).unwrap();
    d.load_adapter(&dir.join("adapter")).unwrap();
    d
}

fn optimizer(d: &Decoder) -> AdamW {
    AdamW::new(d.trainable(), 0.01, 1.0, Scaler::new(Kind::Float))
}

fn step(d: &Decoder, o: &mut AdamW, rows: &[(Vec<i64>, usize)], pass: Pass) -> f64 {
    step_at(d, o, rows, pass, 5e-3)
}

/// One step on rows of `(ids, prompt length)`, padded on the right.
fn step_at(d: &Decoder, o: &mut AdamW, rows: &[(Vec<i64>, usize)], pass: Pass, rate: f64) -> f64 {
    let length = rows.iter().map(|(ids, _)| ids.len()).max().unwrap();
    let (mut flat, mut at, mut labels) =
        (vec![0i64; rows.len() * length], Vec::<i64>::new(), Vec::<i64>::new());
    for (i, (ids, prompt)) in rows.iter().enumerate() {
        flat[i * length..i * length + ids.len()].copy_from_slice(ids);
        at.extend((*prompt..ids.len()).map(|t| (i * length + t - 1) as i64));
        labels.extend(&ids[*prompt..]);
    }
    let ids = Tensor::from_slice(&flat).view([rows.len() as i64, length as i64]);
    let h = d.trunk(&ids, None, pass).unwrap().index_select(0, &Tensor::from_slice(&at));
    let loss = cross_entropy_backward(d, &h, &Tensor::from_slice(&labels), 1.0 / labels.len() as f64, 1.0, 7)
        .unwrap();
    o.step(rate).unwrap();
    loss
}

fn curve_batch(g: &BTreeMap<String, Tensor>, i: i64) -> Vec<(Vec<i64>, usize)> {
    let rows = g["curve_rows"].get(i);
    (0..rows.size()[0]).map(|r| (Vec::<i64>::try_from(rows.get(r)).unwrap(), 8)).collect()
}

#[test]
fn fifty_steps_on_completions_follow_trls_loss_curve() {
    let g = trainers();
    let d = adapted("llama-gqa", false);
    let mut o = optimizer(&d);
    let numbers = |name: &str| Vec::<i64>::try_from(&g[name]).unwrap();
    let (lengths, prompts) = (numbers("trl.lengths"), numbers("trl.prompts"));
    let want = Vec::<f64>::try_from(&g["trl.curve"]).unwrap();
    assert_eq!(want.len(), 50);
    let mut losses = Vec::new();
    for (i, want) in want.iter().enumerate() {
        let rows: Vec<_> = [2 * i, 2 * i + 1]
            .iter()
            .map(|&r| {
                let ids = g["trl.ids"].get(r as i64).narrow(0, 0, lengths[r]);
                (Vec::<i64>::try_from(ids).unwrap(), prompts[r] as usize)
            })
            .collect();
        losses.push(step(&d, &mut o, &rows, Pass::TRAIN));
        assert!((losses[i] - want).abs() < 1e-3, "step {i}: {} {want}", losses[i]);
    }
    assert!(losses.windows(2).any(|w| w[0] != w[1]));
}

#[test]
fn four_bit_weights_are_those_of_bitsandbytes() {
    let g = trainers();
    let packed = Nf4::pack(&g["nf4.weight"]).unwrap();
    assert!(packed.unpack(Kind::Float).equal(&g["nf4.unpacked"]));
}

#[test]
fn fifty_steps_over_a_four_bit_base_follow_those_of_peft_and_bitsandbytes() {
    let g = trainers();
    let batches = weights::read_all(&golden().join("llama-gqa/golden.safetensors")).unwrap();
    let want = Vec::<f64>::try_from(&g["nf4.curve"]).unwrap();
    for recompute in [false, true] {
        let d = adapted("trainers/base", true);
        assert!(d.quantized());
        let ids = &batches["ids"];
        let h = tch::no_grad(|| d.trunk(ids, None, Pass::EVAL).unwrap());
        let logits = tch::no_grad(|| d.logits(&h)).view_as(&g["nf4.logits"]);
        let worst = f64::try_from((logits - &g["nf4.logits"]).abs().max()).unwrap();
        assert!(worst < 1e-4, "{worst}");
        let mut o = optimizer(&d);
        for (i, want) in want.iter().enumerate() {
            let loss = step(&d, &mut o, &curve_batch(&batches, i as i64), Pass { recompute, ..Pass::TRAIN });
            assert!((loss - want).abs() < 1e-3, "recompute {recompute} step {i}: {loss} {want}");
        }
    }
}

#[test]
fn a_four_bit_base_learns_what_a_whole_one_learns() {
    let batches = weights::read_all(&golden().join("llama-gqa/golden.safetensors")).unwrap();
    // one batch again and again: the loss must fall, over 4 bits nearly as far as over 32
    let run = |quantize: bool| {
        let d = adapted("trainers/base", quantize);
        let mut o = optimizer(&d);
        let losses: Vec<f64> =
            (0..40).map(|_| step(&d, &mut o, &curve_batch(&batches, 0), Pass::TRAIN)).collect();
        (losses[0], losses[39], d.weight_bytes())
    };
    let (first, whole, bytes) = run(false);
    let (first4, four, bytes4) = run(true);
    assert!((first - first4).abs() < 0.3 * first, "{first} {first4}");
    assert!(whole < 0.7 * first && four < 0.7 * first4, "{first} -> {whole}, {first4} -> {four}");
    assert!((four - whole).abs() < 0.15 * first, "{four} {whole}");
    assert!(bytes4 < bytes, "{bytes4} {bytes}");
}

#[test]
fn fifty_steps_of_every_weight_follow_transformers_loss_curve() {
    model::runtime::init(1);
    let want = weights::read_all(&golden().join("rl/golden.safetensors")).unwrap();
    let want = Vec::<f64>::try_from(&want["whole.curve"]).unwrap();
    assert_eq!(want.len(), 50);
    let batches = weights::read_all(&golden().join("llama-gqa/golden.safetensors")).unwrap();
    let dir = golden().join("llama-gqa");
    for recompute in [false, true] {
        let config = Config::read(&dir).unwrap();
        let mut d = Decoder::load(&dir, config, Kind::Float, Device::Cpu, false).unwrap();
        d.train_all();
        let mut o = optimizer(&d);
        for (i, want) in want.iter().enumerate() {
            let batch = curve_batch(&batches, i as i64);
            let loss = step_at(&d, &mut o, &batch, Pass { recompute, ..Pass::TRAIN }, 1e-3);
            assert!((loss - want).abs() < 1e-3, "recompute {recompute} step {i}: {loss} {want}");
        }
    }
}
