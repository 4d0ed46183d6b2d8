//! The two ways a step is calculated, behind one face: [`native`](crate::native) kernels on processors, libtorch on GPUs
//! and for decoders that the kernels do not know.
//!
//! Sequences stand in slots `0..n`, densely: the engine's list of running sequences and the slots are always in the same order.

use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::frozen::{Cache, Frozen};
use crate::native::gemm::Cpu;
use crate::native::lora::Adapter;
use crate::native::pages::{PAGE, Pages};
use crate::native::{Item, Native};
use generate::EngineError;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Logits, row by row.
pub(crate) struct Logits {
    pub data: Vec<f32>,
    pub width: usize,
}

impl Logits {
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.width..(i + 1) * self.width]
    }
}

/// A prompt to start from.
pub(crate) struct Start<'a> {
    pub tokens: &'a [u32],
    /// 0 for none, else the number [`Backend::adapter`] gave.
    pub adapter: u32,
    /// Slots that get it.
    pub copies: usize,
}

/// How a step is calculated.
pub(crate) trait Backend: Send {
    /// Runs whole prompts; appends slots, `copies` for each, in order. Gives the logits after each prompt. `room`: length
    /// in tokens that the longest sequence may reach.
    fn prefill(&mut self, starts: &[Start<'_>], room: usize) -> std::result::Result<Logits, EngineError>;

    /// One token for every slot.
    fn decode(&mut self, tokens: &[u32]) -> std::result::Result<Logits, EngineError>;

    /// Appends a slot that begins with the first `length` tokens of slot `from`.
    fn fork(&mut self, from: usize, length: usize, room: usize);

    /// Slot `slot` is over; the last one takes its place.
    fn swap_remove(&mut self, slot: usize);

    /// Takes the decoder's weights anew; running sequences go on.
    fn refresh(&mut self, decoder: &Decoder);

    /// Drops all slots and gives the memory of keys and values back.
    fn clear(&mut self);

    /// Reads an adapter for single requests and gives its number.
    fn adapter(&mut self, name: &str, dir: &Path, decoder: &Decoder) -> Result<u32>;

    /// `native` or `libtorch`.
    fn name(&self) -> &'static str;

    /// Runs `work(0..n)` on the calculating threads.
    fn each(&mut self, n: usize, work: &(dyn Fn(usize) + Sync));

    /// Prompt tokens that were found in pages instead of being run.
    fn reused(&self) -> u64 {
        0
    }
}

fn threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1)
}

/// A sequence in pages.
struct Slot {
    pages: Vec<u32>,
    /// Those whose keys and values are in `pages`.
    tokens: Vec<u32>,
    adapter: u32,
}

/// Kernels of our own over shared pages.
pub(crate) struct Paged {
    cpu: Cpu,
    weights: Native,
    pages: Pages,
    slots: Vec<Slot>,
    adapters: Vec<Arc<Adapter>>,
    reused: u64,
}

impl Paged {
    pub fn new(decoder: &Decoder, keep_bytes: usize) -> Self {
        let mut cpu = Cpu::new(threads());
        let weights = Native::new(decoder, &mut cpu);
        let pages = Pages::new(weights.shape(), keep_bytes);
        Self { cpu, weights, pages, slots: Vec::new(), adapters: Vec::new(), reused: 0 }
    }

    fn width(&self, data: Vec<f32>, rows: usize) -> Logits {
        Logits { width: data.len() / rows.max(1), data }
    }
}

/// What identifies the page after the first `known` tokens: the whole text up to its end.
fn next_page(start: &Start<'_>, known: usize) -> Option<(u32, Vec<u32>)> {
    let end = known + PAGE;
    (end < start.tokens.len()).then(|| (start.adapter, start.tokens[..end].to_vec()))
}

impl Backend for Paged {
    fn prefill(&mut self, starts: &[Start<'_>], _room: usize) -> std::result::Result<Logits, EngineError> {
        let mut tables: Vec<Vec<u32>> = starts.iter().map(|_| Vec::new()).collect();
        let mut logits: Vec<Vec<f32>> = starts.iter().map(|_| Vec::new()).collect();
        let mut left: Vec<usize> = (0..starts.len()).collect();
        while !left.is_empty() {
            // prompts that begin alike wait until the first of them has computed the common pages
            let (mut now, mut later, mut coming) = (Vec::new(), Vec::new(), HashSet::new());
            for i in left {
                let start = &starts[i];
                let found = self.pages.find(start.tokens, start.adapter);
                let known = found.len() * PAGE;
                if next_page(start, known).is_some_and(|page| !coming.insert(page)) {
                    self.pages.release(&found);
                    later.push(i);
                    continue;
                }
                tables[i] = found;
                now.push((i, known));
            }
            let (mut items, mut wanted) = (Vec::new(), Vec::new());
            for (n, &(i, known)) in now.iter().enumerate() {
                let start = &starts[i];
                self.reused += known as u64;
                while tables[i].len() * PAGE < start.tokens.len() {
                    tables[i].push(self.pages.take());
                }
                items.extend(start.tokens.iter().enumerate().skip(known).map(|(position, &id)| Item {
                    id,
                    position,
                    table: n,
                    adapter: start.adapter,
                }));
                wanted.push(items.len() - 1);
            }
            let of: Vec<&[u32]> = now.iter().map(|&(i, _)| tables[i].as_slice()).collect();
            let rows = self.weights.run(&mut self.cpu, &mut self.pages, &self.adapters, &items, &of, &wanted);
            let width = rows.len() / now.len().max(1);
            for (&(i, _), row) in now.iter().zip(rows.chunks_exact(width.max(1))) {
                logits[i] = row.to_vec();
                self.pages.learn(starts[i].tokens, starts[i].adapter, &tables[i]);
            }
            left = later;
        }
        for (start, table) in starts.iter().zip(tables) {
            let slot = Slot { pages: table, tokens: start.tokens.to_vec(), adapter: start.adapter };
            let (first, length) = (self.slots.len(), start.tokens.len());
            self.slots.push(slot);
            for _ in 1..start.copies {
                self.fork(first, length, 0);
            }
        }
        Ok(self.width(logits.concat(), starts.len()))
    }

    fn decode(&mut self, tokens: &[u32]) -> std::result::Result<Logits, EngineError> {
        let mut items = Vec::with_capacity(tokens.len());
        for (table, (slot, &id)) in self.slots.iter_mut().zip(tokens).enumerate() {
            let position = slot.tokens.len();
            if position == slot.pages.len() * PAGE {
                slot.pages.push(self.pages.take());
            }
            slot.tokens.push(id);
            items.push(Item { id, position, table, adapter: slot.adapter });
        }
        let tables: Vec<&[u32]> = self.slots.iter().map(|s| s.pages.as_slice()).collect();
        let wanted: Vec<usize> = (0..items.len()).collect();
        let data = self.weights.run(&mut self.cpu, &mut self.pages, &self.adapters, &items, &tables, &wanted);
        Ok(self.width(data, tokens.len()))
    }

    fn fork(&mut self, from: usize, length: usize, _room: usize) {
        let source = &self.slots[from];
        let (tokens, adapter) = (source.tokens[..length].to_vec(), source.adapter);
        let mut pages = source.pages[..length.div_ceil(PAGE)].to_vec();
        // full pages are shared; the last one will be written on
        let last = if length.is_multiple_of(PAGE) { None } else { pages.pop() };
        pages.iter().for_each(|&page| self.pages.share(page));
        pages.extend(last.map(|page| self.pages.copy(page)));
        self.slots.push(Slot { pages, tokens, adapter });
    }

    fn swap_remove(&mut self, slot: usize) {
        let slot = self.slots.swap_remove(slot);
        // the next turn of a conversation begins with this one
        self.pages.learn(&slot.tokens, slot.adapter, &slot.pages);
        self.pages.release(&slot.pages);
    }

    fn refresh(&mut self, decoder: &Decoder) {
        self.weights = Native::new(decoder, &mut self.cpu);
        self.pages.forget_all();
    }

    fn clear(&mut self) {
        self.slots.clear();
        self.pages.clear();
    }

    fn adapter(&mut self, name: &str, dir: &Path, decoder: &Decoder) -> Result<u32> {
        self.adapters.push(Arc::new(Adapter::read(name, dir, decoder, &mut self.cpu)?));
        Ok(self.adapters.len() as u32)
    }

    fn name(&self) -> &'static str {
        "native"
    }

    fn each(&mut self, n: usize, work: &(dyn Fn(usize) + Sync)) {
        self.cpu.pool.run(n, work);
    }

    fn reused(&self) -> u64 {
        self.reused
    }
}

/// libtorch over one cache of equal slots.
pub(crate) struct Slotted {
    weights: Frozen,
    cache: Cache,
    /// Tokens in the cache, by slot.
    lengths: Vec<usize>,
    cpu: Cpu,
}

impl Slotted {
    pub fn new(decoder: &Decoder) -> Self {
        let weights = Frozen::new(decoder);
        let cache = weights.cache();
        Self { weights, cache, lengths: Vec::new(), cpu: Cpu::new(threads()) }
    }
}

fn failed(e: Error) -> EngineError {
    EngineError::Failed(e.to_string())
}

fn rows(logits: &tch::Tensor) -> std::result::Result<Logits, EngineError> {
    let failed = |e: tch::TchError| EngineError::Failed(e.to_string());
    let (n, width) = logits.size2().map_err(failed)?;
    let data = Vec::<f32>::try_from(logits.reshape([n * width])).map_err(failed)?;
    Ok(Logits { data, width: usize::try_from(width).unwrap_or(0) })
}

impl Backend for Slotted {
    fn prefill(&mut self, starts: &[Start<'_>], room: usize) -> std::result::Result<Logits, EngineError> {
        let first = self.lengths.len();
        let mut row_of_slot = Vec::new();
        for (row, start) in starts.iter().enumerate() {
            for _ in 0..start.copies {
                row_of_slot.push(row as i64);
                self.lengths.push(start.tokens.len());
            }
        }
        let longest = starts.iter().map(|s| s.tokens.len()).max().unwrap_or(0);
        self.weights.reserve(&mut self.cache, self.lengths.len(), room.max(longest));
        let prompts: Vec<&[u32]> = starts.iter().map(|s| s.tokens).collect();
        rows(&self.weights.prefill(&mut self.cache, &prompts, first, &row_of_slot).map_err(failed)?)
    }

    fn decode(&mut self, tokens: &[u32]) -> std::result::Result<Logits, EngineError> {
        let tokens: Vec<i64> = tokens.iter().map(|&t| i64::from(t)).collect();
        let positions: Vec<i64> = self.lengths.iter().map(|&n| n as i64).collect();
        let logits = self.weights.decode(&mut self.cache, &tokens, &positions).map_err(failed)?;
        self.lengths.iter_mut().for_each(|n| *n += 1);
        rows(&logits)
    }

    fn fork(&mut self, from: usize, length: usize, room: usize) {
        let to = self.lengths.len();
        self.lengths.push(length);
        self.weights.reserve(&mut self.cache, self.lengths.len(), room.max(length));
        self.cache.move_slot(from, to, length);
    }

    fn swap_remove(&mut self, slot: usize) {
        let last = self.lengths.len() - 1;
        if slot < last {
            self.cache.move_slot(last, slot, self.lengths[last]);
        }
        self.lengths.swap_remove(slot);
    }

    fn refresh(&mut self, decoder: &Decoder) {
        self.weights = Frozen::new(decoder);
    }

    fn clear(&mut self) {
        self.lengths.clear();
        self.cache.clear();
    }

    fn adapter(&mut self, name: &str, dir: &Path, _decoder: &Decoder) -> Result<u32> {
        Err(Error::Invalid(format!(
            "adapter {name} ({}): adapters chosen per request are built for Llama, Qwen2 and Mistral decoders on processors; here, \
             merge it into a model of its own and serve that",
            dir.display()
        )))
    }

    fn name(&self) -> &'static str {
        "libtorch"
    }

    fn each(&mut self, n: usize, work: &(dyn Fn(usize) + Sync)) {
        self.cpu.pool.run(n, work);
    }
}
