//! The pages' content as tensors.

use tch::{Device, Kind, Tensor};

/// Per layer one tensor `[2 kv_heads, pages, page, head_dim]`, keys before values. Heads come first, so that gathering a
/// batch's pages is one `index_select` whose result attention takes as it is, `[kv_heads, rows, length, head_dim]`, and
/// writing tokens is one `index_copy_`.
pub(crate) struct Pool {
    layers: Vec<Tensor>,
    pages: i64,
    kv_heads: i64,
    page: i64,
    dim: i64,
    options: (Kind, Device),
}

impl Pool {
    pub fn new(layers: usize, kv_heads: i64, page: i64, dim: i64, options: (Kind, Device)) -> Self {
        let layers = (0..layers).map(|_| Tensor::new()).collect();
        Self { layers, pages: 0, kv_heads, page, dim, options }
    }

    /// Of one page, all layers.
    pub fn page_bytes(&self) -> usize {
        let numbers = self.layers.len() as i64 * 2 * self.kv_heads * self.page * self.dim;
        usize::try_from(numbers).unwrap_or(0) * self.options.0.elt_size_in_bytes()
    }

    /// Makes room for pages `0..pages`, layer by layer, so that only one is there twice for a moment.
    pub fn hold(&mut self, pages: usize) {
        let pages = pages as i64;
        if pages <= self.pages {
            return;
        }
        for layer in &mut self.layers {
            // zeros: what nobody has written yet is masked, but must be a number
            let new = Tensor::zeros([2 * self.kv_heads, pages, self.page, self.dim], self.options);
            if self.pages > 0 {
                new.narrow(1, 0, self.pages).copy_(layer);
            }
            *layer = new;
        }
        self.pages = pages;
    }

    /// Writes keys and values `[tokens, kv_heads, head_dim]` to `places` `[tokens]`, which are page times page size plus
    /// the place in it.
    pub fn put(&self, layer: usize, places: &Tensor, k: &Tensor, v: &Tensor) {
        for (first, new) in [(0, k), (self.kv_heads, v)] {
            let half = self.layers[layer].narrow(0, first, self.kv_heads);
            let mut flat = half.view([self.kv_heads, self.pages * self.page, self.dim]);
            let _ = flat.index_copy_(1, places, &new.transpose(0, 1));
        }
    }

    /// Keys and values of the pages in `table` `[rows * n]`, each `[kv_heads, rows, n * page, head_dim]`.
    pub fn get(&self, layer: usize, table: &Tensor, rows: i64) -> (Tensor, Tensor) {
        let both = self.layers[layer].index_select(1, table).view([2 * self.kv_heads, rows, -1, self.dim]);
        (both.narrow(0, 0, self.kv_heads), both.narrow(0, self.kv_heads, self.kv_heads))
    }

    /// Page `to` becomes what page `from` is.
    pub fn copy(&self, from: u32, to: u32) {
        for layer in &self.layers {
            layer.select(1, i64::from(to)).copy_(&layer.select(1, i64::from(from)));
        }
    }

    /// Gives the memory back.
    pub fn clear(&mut self) {
        self.layers.iter_mut().for_each(|l| *l = Tensor::new());
        self.pages = 0;
    }
}
