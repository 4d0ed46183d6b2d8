//! Greedy decoding with candle's own Llama, asked as `peer.py serve` is: one JSON request per line, one JSON line back.
//!
//! `candle-peer DIR`; fp32, since candle multiplies no bf16 on a CPU; threads by `RAYON_NUM_THREADS`.

use anyhow::{Context, Result};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig};
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

struct Peer {
    model: Llama,
    config: Config,
}

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).context("candle-peer DIR")?;
    let peer = Peer::load(Path::new(&dir))?;
    say(&json!({"candle": true, "threads": candle_core::utils::get_num_threads()}))?;
    for line in std::io::stdin().lock().lines() {
        say(&peer.answer(&serde_json::from_str(&line?)?)?)?;
    }
    Ok(())
}

fn say(what: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what}")?;
    Ok(out.flush()?)
}

impl Peer {
    fn load(dir: &Path) -> Result<Self> {
        let config: LlamaConfig = serde_json::from_slice(&std::fs::read(dir.join("config.json"))?)?;
        let config = config.into_config(false);
        // SAFETY: the file is the benchmark's own, and nobody changes it while we run.
        let weights = unsafe {
            VarBuilder::from_mmaped_safetensors(&[dir.join("model.safetensors")], DType::F32, &Device::Cpu)?
        };
        Ok(Self { model: Llama::load(weights, &config)?, config })
    }

    /// `ids`: rows of one length, `new`: tokens to write behind each.
    fn answer(&self, ask: &Value) -> Result<Value> {
        let rows: Vec<Vec<u32>> = serde_json::from_value(ask["ids"].clone())?;
        let new = usize::try_from(ask["new"].as_u64().context("new")?)?;
        let (count, length) = (rows.len(), rows.first().map_or(0, Vec::len));
        let start = Instant::now();
        let mut cache = Cache::new(true, DType::F32, &self.config, &Device::Cpu)?;
        let mut ids = Tensor::from_vec(rows.concat(), (count, length), &Device::Cpu)?;
        let mut out = vec![Vec::with_capacity(new); count];
        let mut at = 0;
        for _ in 0..new {
            let width = ids.dim(1)?;
            let next = self.model.forward(&ids, at, &mut cache)?.argmax(D::Minus1)?;
            at += width;
            for (row, token) in out.iter_mut().zip(next.to_vec1::<u32>()?) {
                row.push(token);
            }
            ids = next.reshape((count, 1))?;
        }
        Ok(json!({"seconds": start.elapsed().as_secs_f64(), "tokens": count * new, "out": out}))
    }
}
