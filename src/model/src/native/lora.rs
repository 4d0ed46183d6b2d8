//! Adapters beside the weights: a step may mix sequences of several, and of none.

use super::Item;
use super::gemm::{Cpu, Packed, Then};
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::layer::Group;
use crate::lora;
use crate::weights::Weights;
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// The products of a layer.
pub(crate) const QKV: usize = Group::Qkv as usize;
pub(crate) const O: usize = Group::O as usize;
pub(crate) const GATE_UP: usize = Group::In as usize;
pub(crate) const DOWN: usize = Group::Out as usize;

/// `y += (x A^T) B^T` for one product; the scale is in B.
struct Pair {
    a: Packed,
    b: Packed,
}

/// One adapter.
pub(crate) struct Adapter {
    /// By layer, then by product; `None`: untouched.
    layers: Vec<[Option<Pair>; 4]>,
}

impl Adapter {
    /// Reads an adapter in PEFT's layout for `base`.
    ///
    /// # Errors
    /// I/O errors, shapes that do not fit, a kind of adapter that is not built.
    pub fn read(name: &str, dir: &Path, base: &Decoder, cpu: &mut Cpu) -> Result<Self> {
        let (params, scale) = lora::read_config(dir)?;
        let weights = Weights::open_files(&[dir.join("adapter_model.safetensors")])?;
        let (c, r) = (&base.config, i64::from(params.r));
        let targets = lora::targets(&params, c)?;
        let mut layers = Vec::new();
        for layer in 0..base.layers.len() {
            let mut parts = [const { None }; 4];
            for (part, group) in parts.iter_mut().zip(Group::ALL) {
                let (mut a, mut b) = (Vec::new(), Vec::new());
                let out = group.shape(c).0;
                let mut row = 0;
                for &t in group.targets(c) {
                    let (rows, inputs) = t.shape(c);
                    if targets.contains(&t) {
                        let load = |half, shape: [i64; 2]| {
                            weights.load(&lora::key(t, layer, c.arch, half), &shape, Kind::Float, Device::Cpu)
                        };
                        a.push(load('A', [r, inputs])?);
                        // what the other outputs of the product get from this adapter: nothing
                        let whole = Tensor::zeros([out, r], (Kind::Float, Device::Cpu));
                        whole.narrow(0, row, rows).copy_(&(load('B', [rows, r])? * scale));
                        b.push(whole);
                    }
                    row += rows;
                }
                if !a.is_empty() {
                    let (a, b) = (Tensor::cat(&a, 0), Tensor::cat(&b, 1));
                    *part = Some(Pair {
                        a: Packed::new(&mut cpu.pool, &a, None),
                        b: Packed::new(&mut cpu.pool, &b, None),
                    });
                }
            }
            layers.push(parts);
        }
        if layers.iter().flatten().all(Option::is_none) {
            return Err(Error::Invalid(format!("adapter {name} in {} changes nothing", dir.display())));
        }
        Ok(Self { layers })
    }
}

/// Rows of a step by adapter.
pub(crate) fn groups(items: &[Item]) -> Vec<(usize, Vec<usize>)> {
    let mut out: Vec<(usize, Vec<usize>)> = Vec::new();
    for (row, item) in items.iter().enumerate().filter(|(_, item)| item.adapter > 0) {
        let adapter = item.adapter as usize - 1;
        match out.iter_mut().find(|g| g.0 == adapter) {
            Some(group) => group.1.push(row),
            None => out.push((adapter, vec![row])),
        }
    }
    out
}

/// Adds what the adapters of `groups` add to product `part` of `layer`.
pub(crate) fn apply(
    cpu: &mut Cpu,
    adapters: &[Arc<Adapter>],
    groups: &[(usize, Vec<usize>)],
    layer: usize,
    part: usize,
    x: &[f32],
    y: &mut [f32],
) {
    for (adapter, rows) in groups {
        let Some(pair) = &adapters[*adapter].layers[layer][part] else { continue };
        let (inputs, rank, outputs) = (pair.a.inputs, pair.a.outputs, pair.b.outputs);
        let mut from = Vec::with_capacity(rows.len() * inputs);
        rows.iter().for_each(|r| from.extend_from_slice(&x[r * inputs..(r + 1) * inputs]));
        let mut low = vec![0f32; rows.len() * rank];
        pair.a.apply(cpu, &from, rows.len(), &mut low, Then::Write);
        let mut delta = vec![0f32; rows.len() * outputs];
        pair.b.apply(cpu, &low, rows.len(), &mut delta, Then::Write);
        for (r, delta) in rows.iter().zip(delta.chunks_exact(outputs)) {
            y[r * outputs..(r + 1) * outputs].iter_mut().zip(delta).for_each(|(y, d)| *y += d);
        }
    }
}
