//! Models and adapters through their files.

mod common;

use common::{alone, tiny};
use generate::{Engine, Request, Sampling};
use model::config::Arch;
use model::{Model, Options, Pass};
use record::params::{LoraParams, Precision};
use tch::{Device, Kind, Tensor};

fn logits(model: &Model, pass: Pass) -> Tensor {
    let ids = Tensor::from_slice(&(0..24).map(|i| (i * 7) % 290).collect::<Vec<i64>>()).view([2, 12]);
    let _guard = tch::no_grad_guard();
    model.decoder.logits(&model.decoder.trunk(&ids, None, pass).unwrap())
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    f64::try_from((a - b).abs().max()).unwrap()
}

fn with_adapter(arch: Arch, seed: i64, targets: &[&str]) -> Model {
    let mut model = tiny(arch, seed);
    let targets = targets.iter().map(|t| (*t).to_owned()).collect();
    model.decoder.add_adapter(&LoraParams { r: 4, alpha: 8.0, dropout: 0.0, targets }).unwrap();
    tch::no_grad(|| {
        for (_, mut t) in model.decoder.adapter_tensors() {
            let _ = t.normal_(0.0, 0.1);
        }
    });
    model
}

#[test]
fn a_model_survives_its_directory_bit_for_bit() {
    let _alone = alone();
    for arch in Arch::ALL {
        let model = tiny(arch, 1);
        let dir = tempfile::tempdir().unwrap();
        model.save(dir.path()).unwrap();
        let back = Model::load(dir.path(), Precision::Fp32, Device::Cpu).unwrap();
        assert!(logits(&model, Pass::EVAL).equal(&logits(&back, Pass::EVAL)));
        assert_eq!(back.decoder.config, model.decoder.config);
        assert_eq!((back.eos, back.pad), (model.eos, model.pad));
        let again = tempfile::tempdir().unwrap();
        Model::load(dir.path(), Precision::Fp32, Device::Cpu).unwrap().save(again.path()).unwrap();
        for name in ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"] {
            let read = |d: &tempfile::TempDir| std::fs::read(d.path().join(name)).unwrap();
            assert_eq!(read(&dir), read(&again), "{name}");
        }
    }
}

#[test]
fn a_fresh_adapter_changes_nothing_and_the_reference_pass_ignores_a_trained_one() {
    let _alone = alone();
    let plain = logits(&tiny(Arch::Llama, 2), Pass::EVAL);
    let mut fresh = tiny(Arch::Llama, 2);
    fresh.decoder.add_adapter(&LoraParams::default()).unwrap();
    assert!(plain.equal(&logits(&fresh, Pass::EVAL)));
    let trained = with_adapter(Arch::Llama, 2, &["q_proj", "down_proj"]);
    assert!(difference(&plain, &logits(&trained, Pass::EVAL)) > 1e-2);
    assert!(plain.equal(&logits(&trained, Pass::REFERENCE)));
}

#[test]
fn merging_an_adapter_and_passing_it_through_its_files_gives_the_same_logits() {
    let _alone = alone();
    for (arch, targets) in [
        (Arch::Llama, &["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"][..]),
        (Arch::Qwen2, &["v_proj", "up_proj"]),
        (Arch::Mistral, &["k_proj"]),
        (Arch::Gemma2, &["all-linear"]),
        (Arch::Starcoder2, &["q_proj", "c_fc", "c_proj"]),
    ] {
        let model = with_adapter(arch, 3, targets);
        let want = logits(&model, Pass::EVAL);
        let dir = tempfile::tempdir().unwrap();
        model.save(dir.path()).unwrap();
        let merged = Model::load(dir.path(), Precision::Fp32, Device::Cpu).unwrap();
        assert!(difference(&want, &logits(&merged, Pass::EVAL)) < 5e-5);
        let adapter = tempfile::tempdir().unwrap();
        model.save_adapter(adapter.path(), "base").unwrap();
        let mut other = tiny(arch, 3);
        other.decoder.load_adapter(adapter.path()).unwrap();
        assert!(want.equal(&logits(&other, Pass::EVAL)));
    }
}

#[test]
fn half_precision_stays_close_and_bf16_is_the_coarser_one() {
    let _alone = alone();
    let model = tiny(Arch::Llama, 4);
    let want = logits(&model, Pass::EVAL).log_softmax(-1, Kind::Float);
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    let mean = |p| {
        let m = Model::load(dir.path(), p, Device::Cpu).unwrap();
        let got = logits(&m, Pass::EVAL).log_softmax(-1, Kind::Float);
        f64::try_from((got - &want).abs().mean(Kind::Float)).unwrap()
    };
    let (half, bf16) = (mean(Precision::Fp16), mean(Precision::Bf16));
    assert!(half < 0.02 && bf16 < 0.2 && half < bf16, "fp16 {half}, bf16 {bf16}");
}

#[test]
fn recomputation_gives_the_same_loss_and_gradients_also_with_dropout() {
    let _alone = alone();
    let run = |recompute: bool| {
        let mut model = tiny(Arch::Llama, 5);
        let p = LoraParams { dropout: 0.3, ..LoraParams::default() };
        model.decoder.add_adapter(&p).unwrap();
        tch::no_grad(|| {
            for (_, mut t) in model.decoder.adapter_tensors() {
                let _ = t.normal_(0.0, 0.1);
            }
        });
        tch::manual_seed(9);
        let ids = Tensor::from_slice(&[3i64, 1, 4, 1, 5, 9, 2, 6]).view([2, 4]);
        let pass = Pass { adapter: true, train: true, recompute };
        let h = model.decoder.trunk(&ids, None, pass).unwrap();
        let loss = model.decoder.logits(&h).log_softmax(-1, Kind::Float).square().mean(Kind::Float);
        loss.backward();
        let grads: Vec<_> = model.decoder.trainable().into_iter().map(|(_, t)| t.grad()).collect();
        (f64::try_from(loss).unwrap(), grads)
    };
    let (a, ga) = run(false);
    let (b, gb) = run(true);
    assert_eq!(a, b);
    assert!(ga.iter().zip(&gb).all(|(x, y)| difference(x, y) < 1e-6));
    assert!(f64::try_from(ga[0].abs().max()).unwrap() > 0.0);
}

#[test]
fn a_four_bit_model_with_an_adapter_generates_with_its_training_passs_logprobs_and_saves_what_it_is() {
    let _alone = alone();
    for arch in Arch::ALL {
        let mut model = with_adapter(arch, 6, &["all-linear"]);
        let whole = model.decoder.weight_bytes();
        model.decoder.quantize().unwrap();
        assert!(model.decoder.quantized() && model.decoder.weight_bytes() < whole);
        let prompt = model.tokenizer.encode("print(sum(map(int, input().split())))").unwrap();
        let sampling = Sampling { seed: 3, max_new_tokens: 20, ..Sampling::default() };
        let request = Request { prompt: prompt.clone(), n: 2, sampling, adapter: None };
        for s in model.engine(Options::default()).generate(vec![request]).unwrap().remove(0) {
            let ids: Vec<i64> = prompt.iter().chain(&s.tokens).map(|&t| i64::from(t)).collect();
            let _guard = tch::no_grad_guard();
            let h = model.decoder.trunk(&Tensor::from_slice(&ids).unsqueeze(0), None, Pass::EVAL).unwrap();
            let logp = model.decoder.logits(&h).log_softmax(-1, Kind::Float);
            for (i, (&t, got)) in s.tokens.iter().zip(&s.logprobs).enumerate() {
                let want = logp.double_value(&[(prompt.len() + i) as i64 - 1, i64::from(t)]);
                assert!((f64::from(*got) - want).abs() < 5e-5, "{arch:?}: {got} {want}");
            }
        }
        // what is saved is the unpacked weights with the adapter merged in: any reader of plain models can take it
        let dir = tempfile::tempdir().unwrap();
        model.save(dir.path()).unwrap();
        let plain = Model::load(dir.path(), Precision::Fp32, Device::Cpu).unwrap();
        assert!(difference(&logits(&model, Pass::EVAL), &logits(&plain, Pass::EVAL)) < 5e-5, "{arch:?}");
    }
}
