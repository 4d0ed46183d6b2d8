//! Adapters beside the weights: a step may mix sequences of several, and of none.

use super::Item;
use super::gemm::{Cpu, Packed, Then};
use crate::decoder::Decoder;
use crate::error::Result;
use crate::layer::Group;
use crate::lora::{self, Stacked};
use std::path::Path;

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
        let mut pack = |s: Stacked| Pair {
            a: Packed::new(&mut cpu.pool, &s.a, None),
            b: Packed::new(&mut cpu.pool, &s.b, None),
        };
        let layers = lora::read_stacked(name, dir, &base.config)?;
        Ok(Self { layers: layers.into_iter().map(|l| l.map(|s| s.map(&mut pack))).collect() })
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
    adapters: &[Adapter],
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
