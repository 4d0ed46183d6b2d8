//! The native kernels as a calculator of steps.

use super::gemm::Cpu;
use super::lora::Adapter;
use super::store::Store;
use super::{Item, Native};
use crate::decoder::Decoder;
use crate::error::Result;
use crate::paged::{Answers, Kernels, Piece};
use generate::EngineError;
use std::path::Path;

/// Weights, threads, pages' content and adapters.
pub(crate) struct NativeKernels {
    cpu: Cpu,
    weights: Native,
    store: Store,
    adapters: Vec<Adapter>,
}

impl NativeKernels {
    /// Packs the weights of `decoder`, which must be one that [`Native::knows`]. `half`: pages in bfloat16.
    pub fn new(decoder: &Decoder, half: bool) -> Self {
        let mut cpu = Cpu::of_libtorch();
        let weights = Native::new(decoder, &mut cpu);
        let store = Store::new(weights.shape(half));
        Self { cpu, weights, store, adapters: Vec::new() }
    }
}

impl Kernels for NativeKernels {
    fn run(&mut self, pieces: &[Piece<'_>]) -> std::result::Result<Answers, EngineError> {
        let (mut items, mut wanted) = (Vec::new(), Vec::new());
        for (table, piece) in pieces.iter().enumerate() {
            items.extend(piece.tokens.iter().enumerate().map(|(i, &id)| Item {
                id,
                position: piece.position + i,
                table,
                adapter: piece.adapter,
            }));
            wanted.extend(piece.wanted().then(|| items.len() - 1));
        }
        let tables: Vec<&[u32]> = pieces.iter().map(|p| p.table).collect();
        let data = self.weights.run(&mut self.cpu, &mut self.store, &self.adapters, &items, &tables, &wanted);
        Ok(Answers::rows(data, wanted.len()))
    }

    fn hold(&mut self, pages: usize) {
        self.store.hold(pages);
    }

    fn more(&self, _made: usize) -> usize {
        self.store.per_slab()
    }

    fn copy(&mut self, from: u32, to: u32) {
        self.store.copy(from, to);
    }

    fn clear(&mut self) {
        self.store.clear();
    }

    fn page_bytes(&self) -> usize {
        self.store.shape().bytes()
    }

    fn refresh(&mut self, decoder: &Decoder) {
        self.weights.forget();
        self.weights = Native::new(decoder, &mut self.cpu);
    }

    fn adapter(&mut self, name: &str, dir: &Path, decoder: &Decoder) -> Result<()> {
        self.adapters.push(Adapter::read(name, dir, decoder, &mut self.cpu)?);
        Ok(())
    }

    fn name(&self) -> &'static str {
        "native"
    }

    fn each(&mut self, n: usize, work: &(dyn Fn(usize) + Sync)) {
        self.cpu.pool.run(n, work);
    }
}
