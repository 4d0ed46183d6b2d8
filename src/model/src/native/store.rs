//! Keys and values of the native kernels, fp32, by page: for each layer and head the keys `[dim, 16]`, so that 16 scores
//! are one multiply-add per dimension, then the values `[16, padded]`.

use super::simd::LANES;
use crate::pages::PAGE;

// a page's keys are read a vector at a time
const _: () = assert!(PAGE == LANES);

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

/// Shape of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub layers: usize,
    pub kv_heads: usize,
    pub dim: usize,
}

impl Shape {
    /// Width of a row of values.
    pub fn padded(self) -> usize {
        self.dim.next_multiple_of(LANES)
    }

    /// Numbers of one layer's and head's keys and values.
    fn unit(self) -> usize {
        PAGE * (self.dim + self.padded())
    }

    fn floats(self) -> usize {
        self.layers * self.kv_heads * self.unit()
    }

    pub fn bytes(self) -> usize {
        self.floats() * size_of::<f32>()
    }
}

/// The pages' content.
pub(crate) struct Store {
    shape: Shape,
    /// Pages are made in slabs of about 8 MB: growth copies nothing.
    slabs: Vec<Vec<Line>>,
    per_slab: usize,
}

impl Store {
    pub fn new(shape: Shape) -> Self {
        Self { shape, slabs: Vec::new(), per_slab: ((8 << 20) / shape.bytes()).max(1) }
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Pages of a slab.
    pub fn per_slab(&self) -> usize {
        self.per_slab
    }

    /// Makes room for pages `0..pages`.
    pub fn hold(&mut self, pages: usize) {
        while self.slabs.len() * self.per_slab < pages {
            self.slabs.push(vec![Line([0.0; LANES]); self.per_slab * self.shape.floats() / LANES]);
        }
    }

    /// Distance from a page's keys to its values, for one layer and head.
    pub fn values(&self) -> usize {
        PAGE * self.shape.dim
    }

    /// Start of the keys of a layer and head.
    pub fn keys(&self, page: u32, layer: usize, head: usize) -> *const f32 {
        let (page, s) = (page as usize, self.shape);
        let lines = self.slabs[page / self.per_slab].as_ptr();
        let at = (page % self.per_slab) * s.floats() + (layer * s.kv_heads + head) * s.unit();
        debug_assert!(at + s.unit() <= self.slabs[page / self.per_slab].len() * LANES);
        // SAFETY: inside the slab, by the arithmetic above.
        unsafe { lines.cast::<f32>().add(at) }
    }

    /// Puts one token's key and value `[kv_heads * dim]` at `place` of `page`.
    pub fn put(&mut self, page: u32, place: usize, layer: usize, k: &[f32], v: &[f32]) {
        let s = self.shape;
        let slab = &mut self.slabs[page as usize / self.per_slab];
        let from = (page as usize % self.per_slab) * s.floats() + layer * s.kv_heads * s.unit();
        let units = flat(&mut slab[from / LANES..(from + s.kv_heads * s.unit()) / LANES]);
        for (h, unit) in units.chunks_exact_mut(s.unit()).enumerate() {
            let (keys, values) = unit.split_at_mut(PAGE * s.dim);
            for (i, &x) in k[h * s.dim..(h + 1) * s.dim].iter().enumerate() {
                keys[i * LANES + place] = x;
            }
            values[place * s.padded()..place * s.padded() + s.dim]
                .copy_from_slice(&v[h * s.dim..(h + 1) * s.dim]);
        }
    }

    /// Page `to` becomes what page `from` is.
    pub fn copy(&mut self, from: u32, to: u32) {
        let n = self.shape.floats() / LANES;
        let (a, b) = (from as usize, to as usize);
        let source = self.slabs[a / self.per_slab][a % self.per_slab * n..][..n].to_vec();
        self.slabs[b / self.per_slab][b % self.per_slab * n..][..n].copy_from_slice(&source);
    }

    /// Gives the memory back.
    pub fn clear(&mut self) {
        self.slabs = Vec::new();
    }
}

fn flat(lines: &mut [Line]) -> &mut [f32] {
    // SAFETY: a line is 16 fp32 numbers and nothing else.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * LANES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_what_is_read() {
        let mut s = Store::new(Shape { layers: 1, kv_heads: 1, dim: 4 });
        s.hold(2);
        s.put(0, 3, 0, &[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]);
        s.copy(0, 1);
        for page in [0, 1] {
            let k = s.keys(page, 0, 0);
            // SAFETY: keys are [4, 16], values follow as [16, 16].
            unsafe {
                assert_eq!((*k.add(3), *k.add(2 * LANES + 3)), (1.0, 3.0));
                assert_eq!(*k.add(s.values() + 3 * 16 + 1), 6.0);
            }
        }
    }
}
