//! Our training against PEFT's: the same 50 batches, the same losses.

use model::{Config, Decoder, weights};
use record::params::Schedule;
use std::path::Path;
use tch::{Device, Kind, Tensor};
use train::loss::cross_entropy_backward;
use train::optimizer::{AdamW, Scaler};
use train::schedule::share;

#[test]
fn fifty_steps_of_lora_training_follow_pefts_loss_curve() {
    model::runtime::init(1);
    for name in [
        "llama-gqa",
        "llama-bias",
        "deepseek-coder",
        "llama3",
        "qwen2",
        "qwen2-windows",
        "mistral",
        "gemma2",
        "starcoder2",
    ] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/golden").join(name);
        let g = weights::read_all(&dir.join("golden.safetensors")).unwrap();
        let config = Config::read(&dir).unwrap();
        let mut d = Decoder::load(&dir, config, Kind::Float, Device::Cpu, false).unwrap();
        d.load_adapter(&dir.join("adapter")).unwrap();
        let mut o = AdamW::new(d.trainable(), 0.01, 1.0, Scaler::new(Kind::Float));
        let want = Vec::<f64>::try_from(&g["curve"]).unwrap();
        let (prompt, mut first_last) = (8, (0.0, 0.0));
        for (step, want) in want.iter().enumerate() {
            let ids: Tensor = g["curve_rows"].get(step as i64);
            let (rows, length) = ids.size2().unwrap();
            let h = d.trunk(&ids, None, model::Pass::TRAIN).unwrap().view([rows, length, -1]);
            let h = h.narrow(1, prompt - 1, length - prompt).reshape([-1, d.config.hidden]);
            let labels = ids.narrow(1, prompt, length - prompt).reshape([-1]);
            let n = labels.size()[0] as f64;
            let loss = cross_entropy_backward(&d, &h, &labels, 1.0 / n, 1.0, 7).unwrap();
            o.step(5e-3 * share(Schedule::Constant, step as u64, 0, 50)).unwrap();
            assert!((loss - want).abs() < 1e-3, "{name} step {step}: {loss} {want}");
            first_last = if step == 0 { (loss, loss) } else { (first_last.0, loss) };
        }
        assert!(first_last.0 != first_last.1);
    }
}
