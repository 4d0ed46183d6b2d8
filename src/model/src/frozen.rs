//! The decoder as the engine runs it: adapter merged, q/k/v and gate/up fused, keys and values cached in slots.

use crate::attention::{Masks, attend};
use crate::config::Config;
use crate::decoder::{Decoder, Pass, capped, embedded};
use crate::error::Result;
use crate::fused;
use crate::layer::Layer;
use crate::norm::Norm;
use crate::rope::{Rope, rotate};
use tch::{Device, Kind, Tensor};

/// Weights without a graph. Where there is no adapter they share storage with the decoder they came from.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub config: Config,
    embed: Tensor,
    layers: Vec<Layer>,
    norm: Norm,
    head: Tensor,
    rope: Rope,
    kind: Kind,
    device: Device,
}

/// Keys and values of the running sequences: per layer `[slots, kv_heads, length, head_dim]`. Grows with use, so that
/// memory follows the work and not the largest conceivable request.
#[derive(Debug)]
pub(crate) struct Cache {
    k: Vec<Tensor>,
    v: Vec<Tensor>,
    slots: i64,
    length: i64,
}

impl Frozen {
    pub fn new(d: &Decoder) -> Self {
        let _guard = tch::no_grad_guard();
        let layers = d.layers.iter().map(|l| l.frozen(&d.config, d.kind)).collect();
        Self {
            config: d.config.clone(),
            embed: d.embed.detach(),
            layers,
            norm: d.norm.detached(),
            head: d.head().detach(),
            // a table of its own: the decoder's must not be grown under inference mode
            rope: Rope::new(&d.config, d.kind, d.device),
            kind: d.kind,
            device: d.device,
        }
    }

    pub fn cache(&self) -> Cache {
        Cache { k: Vec::new(), v: Vec::new(), slots: 0, length: 0 }
    }

    fn ids(&self, ids: &[i64]) -> Tensor {
        Tensor::from_slice(ids).to_device(self.device)
    }

    fn logits(&self, x: &Tensor) -> Tensor {
        capped(fused::times(&self.norm.forward(x), &self.head).to_kind(Kind::Float), &self.config)
    }

    /// Runs whole prompts; fills slots `first..first + rows_of_slot.len()`, where slot `first + j` gets prompt
    /// `rows_of_slot[j]` (the samples of one prompt share the work). Gives the logits after each prompt, `[prompts, vocab]`.
    pub fn prefill(
        &self,
        cache: &mut Cache,
        prompts: &[&[u32]],
        first: usize,
        rows_of_slot: &[i64],
    ) -> Result<Tensor> {
        let c = &self.config;
        let length = prompts.iter().map(|p| p.len()).max().unwrap_or(0);
        let rows = prompts.len() as i64;
        let mut ids = vec![0i64; prompts.len() * length];
        for (row, prompt) in ids.chunks_mut(length).zip(prompts) {
            row.iter_mut().zip(prompt.iter()).for_each(|(to, &id)| *to = i64::from(id));
        }
        let last: Vec<i64> =
            prompts.iter().enumerate().map(|(i, p)| (i * length + p.len()) as i64 - 1).collect();
        let length = length as i64;
        let (cos, sin) = self.rope.first(length);
        let of_slot = self.ids(rows_of_slot);
        let masks = Masks::new(c, length, self.kind, self.device);
        let mut x = embedded(&self.embed, &self.ids(&ids), c);
        for (i, l) in self.layers.iter().enumerate() {
            let [q, k, v] = l.qkv(&x, rows, length, Pass::EVAL)?;
            let q = rotate(&q, &cos, &sin);
            let k = rotate(&k, &cos, &sin);
            cache.fill(i, first as i64, &k.index_select(0, &of_slot), &v.index_select(0, &of_slot));
            let a = attend(&q, &k, &v, masks.of(l.window, length).as_ref(), true, l.sizes.scores);
            let a = a.transpose(1, 2).reshape([rows * length, c.heads * c.head_dim]);
            x = l.after_attention(&x, &a, Pass::EVAL)?;
            x = l.mlp(&x, true, Pass::EVAL)?;
        }
        Ok(self.logits(&x.index_select(0, &self.ids(&last))))
    }

    /// What one new token per slot may see of its `length` columns: columns behind a sequence's own end hold old keys of
    /// others, columns before its window are out of sight. `None`: all.
    fn sight(
        &self,
        positions: &[i64],
        position: &Tensor,
        length: i64,
        window: Option<i64>,
    ) -> Option<Tensor> {
        let uneven = positions.iter().any(|&p| p + 1 != length);
        let narrow = window.filter(|w| *w < length);
        if !uneven && narrow.is_none() {
            return None;
        }
        let n = positions.len() as i64;
        let column = Tensor::arange(length, (Kind::Int64, self.device)).unsqueeze(0);
        let own = position.unsqueeze(1);
        let mut hidden = column.gt_tensor(&own);
        if let Some(w) = narrow {
            hidden = hidden.logical_or(&column.le_tensor(&(own - w)));
        }
        let zero = Tensor::zeros([n, length], (self.kind, self.device));
        Some(zero.masked_fill(&hidden, f64::NEG_INFINITY).view([n, 1, 1, length]))
    }

    /// One token for slots `0..tokens.len()`: `tokens[s]` stands at `positions[s]`. Gives logits `[slots, vocab]`.
    pub fn decode(&self, cache: &mut Cache, tokens: &[i64], positions: &[i64]) -> Result<Tensor> {
        let c = &self.config;
        let n = tokens.len() as i64;
        let length = positions.iter().max().copied().unwrap_or(0) + 1;
        let position = self.ids(positions);
        let (cos, sin) = self.rope.at(&position, length);
        let (cos, sin) = (cos.unsqueeze(1), sin.unsqueeze(1));
        let place = cache.rows(positions, c.kv_heads, self.device);
        let group = c.heads / c.kv_heads;
        let both = c.heads + c.kv_heads;
        let mut sights: Vec<(Option<i64>, Option<Tensor>)> = Vec::new();
        let mut x = embedded(&self.embed, &self.ids(tokens), c);
        for (i, l) in self.layers.iter().enumerate() {
            let known = sights.iter().position(|(w, _)| *w == l.window).unwrap_or_else(|| {
                sights.push((l.window, self.sight(positions, &position, length, l.window)));
                sights.len() - 1
            });
            let mask = sights[known].1.as_ref();
            let qkv = l.qkv_whole(&x)?;
            let qk = rotate(&qkv.narrow(1, 0, both), &cos, &sin);
            // the heads that share a key become rows of one query: no copy of keys and values
            let q = qk.narrow(1, 0, c.heads).reshape([n, c.kv_heads, group, c.head_dim]);
            let k = qk.narrow(1, c.heads, c.kv_heads).reshape([-1, c.head_dim]);
            let v = qkv.narrow(1, both, c.kv_heads).reshape([-1, c.head_dim]);
            let (k, v) = cache.push(i, &place, &k, &v, n, length);
            let a = attend(&q, &k, &v, mask, false, l.sizes.scores).reshape([n, c.heads * c.head_dim]);
            x = l.after_attention(&x, &a, Pass::EVAL)?;
            x = l.mlp(&x, true, Pass::EVAL)?;
        }
        Ok(self.logits(&x))
    }

    /// Makes room for `slots` sequences of `length` tokens, keeping what is there.
    pub fn reserve(&self, cache: &mut Cache, slots: usize, length: usize) {
        let (slots, length) = (slots as i64, length as i64);
        if slots <= cache.slots && length <= cache.length {
            return;
        }
        let c = &self.config;
        // in steps, so that a slowly growing batch does not copy at every turn
        let slots = if slots > cache.slots { slots.max(cache.slots + cache.slots / 2) } else { cache.slots };
        let length = if length > cache.length { (length + 63) / 64 * 64 } else { cache.length };
        let shape = [slots, c.kv_heads, length, c.head_dim];
        let grow = |old: Option<&Tensor>| {
            let new = Tensor::zeros(shape, (self.kind, self.device));
            if let Some(old) = old {
                new.narrow(0, 0, cache.slots).narrow(2, 0, cache.length).copy_(old);
            }
            new
        };
        let k = (0..self.layers.len()).map(|i| grow(cache.k.get(i))).collect();
        let v = (0..self.layers.len()).map(|i| grow(cache.v.get(i))).collect();
        *cache = Cache { k, v, slots, length };
    }
}

impl Cache {
    /// Puts `[n, kv_heads, length, head_dim]` into slots `first..`.
    fn fill(&mut self, layer: usize, first: i64, k: &Tensor, v: &Tensor) {
        let (n, length) = (k.size()[0], k.size()[2]);
        self.k[layer].narrow(0, first, n).narrow(2, 0, length).copy_(k);
        self.v[layer].narrow(0, first, n).narrow(2, 0, length).copy_(v);
    }

    /// Row of each slot's and head's next entry when the cache is seen as `[slots * kv_heads * length, head_dim]`.
    fn rows(&self, positions: &[i64], kv_heads: i64, device: Device) -> Tensor {
        let mut rows = Vec::with_capacity(positions.len() * kv_heads as usize);
        for (slot, p) in positions.iter().enumerate() {
            rows.extend((0..kv_heads).map(|h| (slot as i64 * kv_heads + h) * self.length + p));
        }
        Tensor::from_slice(&rows).to_device(device)
    }

    fn push(
        &mut self,
        layer: usize,
        rows: &Tensor,
        k: &Tensor,
        v: &Tensor,
        n: i64,
        length: i64,
    ) -> (Tensor, Tensor) {
        let put = |store: &Tensor, new: &Tensor| {
            let width = new.size()[1];
            let _ = store.view([-1, width]).index_copy_(0, rows, new);
            store.narrow(0, 0, n).narrow(2, 0, length)
        };
        (put(&self.k[layer], k), put(&self.v[layer], v))
    }

    /// Slot `to` becomes what slot `from` is, for its first `length` tokens.
    pub fn move_slot(&mut self, from: usize, to: usize, length: usize) {
        for t in self.k.iter().chain(&self.v) {
            let row = |slot: usize| t.narrow(0, slot as i64, 1).narrow(2, 0, length as i64);
            row(to).copy_(&row(from));
        }
    }

    /// Gives the memory back.
    pub fn clear(&mut self) {
        *self = Cache { k: Vec::new(), v: Vec::new(), slots: 0, length: 0 };
    }
}
