//! Keys and values of the native kernels, fp32 or bfloat16, by page: for each layer and head the keys `[dim, 16]`, so that 16 scores
//! are one multiply-add per dimension, then the values `[16, padded]`.

use super::simd::LANES;
use crate::pages::PAGE;

// a page's keys are read a vector at a time
const _: () = assert!(PAGE == LANES);

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Shape of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub layers: usize,
    pub kv_heads: usize,
    pub dim: usize,
    /// bfloat16: half of the memory, numbers rounded to 8 bits.
    pub half: bool,
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

    fn each(self) -> usize {
        if self.half { size_of::<u16>() } else { size_of::<f32>() }
    }

    pub fn bytes(self) -> usize {
        self.layers * self.kv_heads * self.unit() * self.each()
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
            self.slabs.push(vec![Line([0; 64]); (self.per_slab * self.shape.bytes()).div_ceil(64)]);
        }
    }

    /// Numbers from a page's keys to its values, for one layer and head.
    pub fn values(&self) -> usize {
        PAGE * self.shape.dim
    }

    /// Where a layer and head begin in the slab of a page, in bytes.
    fn at(&self, page: u32, layer: usize, head: usize) -> usize {
        let s = self.shape;
        (page as usize % self.per_slab) * s.bytes() + (layer * s.kv_heads + head) * s.unit() * s.each()
    }

    /// Start of the keys of a layer and head.
    pub fn keys(&self, page: u32, layer: usize, head: usize) -> *const u8 {
        let slab = &self.slabs[page as usize / self.per_slab];
        let at = self.at(page, layer, head);
        debug_assert!(at + self.shape.unit() * self.shape.each() <= size_of_val(slab.as_slice()));
        // SAFETY: inside the slab, by the arithmetic of `at`.
        unsafe { slab.as_ptr().cast::<u8>().add(at) }
    }

    /// Puts one token's key and value `[kv_heads * dim]` at `place` of `page`.
    pub fn put(&mut self, page: u32, place: usize, layer: usize, k: &[f32], v: &[f32]) {
        let (s, from) = (self.shape, self.at(page, layer, 0));
        let slab = &mut self.slabs[page as usize / self.per_slab];
        if s.half {
            spread(s, place, &mut numbers::<u16>(slab)[from / 2..], k, v, round);
        } else {
            spread(s, place, &mut numbers::<f32>(slab)[from / 4..], k, v, |x| x);
        }
    }

    /// Page `to` becomes what page `from` is.
    pub fn copy(&mut self, from: u32, to: u32) {
        let n = self.shape.bytes();
        let (a, b) = (self.at(from, 0, 0), self.at(to, 0, 0));
        let source = numbers::<u8>(&mut self.slabs[from as usize / self.per_slab])[a..a + n].to_vec();
        numbers::<u8>(&mut self.slabs[to as usize / self.per_slab])[b..b + n].copy_from_slice(&source);
    }

    /// Gives the memory back.
    pub fn clear(&mut self) {
        self.slabs = Vec::new();
    }
}

/// Puts a token's key and value into the units of a layer, which begin with `units`.
fn spread<T: Copy>(s: Shape, place: usize, units: &mut [T], k: &[f32], v: &[f32], number: impl Fn(f32) -> T) {
    for (h, unit) in units.chunks_exact_mut(s.unit()).take(s.kv_heads).enumerate() {
        let (keys, values) = unit.split_at_mut(PAGE * s.dim);
        for (i, &x) in k[h * s.dim..(h + 1) * s.dim].iter().enumerate() {
            keys[i * LANES + place] = number(x);
        }
        let row = &mut values[place * s.padded()..][..s.dim];
        row.iter_mut().zip(&v[h * s.dim..]).for_each(|(to, &x)| *to = number(x));
    }
}

/// bfloat16: to nearest, ties to even. What is not a number stays so.
fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() { 0x7fc0 } else { ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16 }
}

/// A number that any bits are.
trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for f32 {}

fn numbers<T: Plain>(lines: &mut [Line]) -> &mut [T] {
    // SAFETY: a line is 64 bytes and nothing else, aligned for any number, and any bits are a `T`.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), size_of_val(lines) / size_of::<T>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_what_is_read() {
        for half in [false, true] {
            let mut s = Store::new(Shape { layers: 2, kv_heads: 2, dim: 4, half });
            s.hold(2);
            let (k, v) =
                ([9.0, 9.0, 9.0, 9.0, 1.0, 2.0, 3.0, 4.0], [8.0, 8.0, 8.0, 8.0, 5.0, 6.0, 7.0, 1.001]);
            s.put(0, 3, 1, &k, &v);
            s.copy(0, 1);
            for page in [0, 1] {
                let start = s.keys(page, 1, 1);
                let read = |i: usize| {
                    // SAFETY: keys are [4, 16], values follow as [16, 16].
                    unsafe {
                        if half {
                            f32::from_bits(u32::from(*start.cast::<u16>().add(i)) << 16)
                        } else {
                            *start.cast::<f32>().add(i)
                        }
                    }
                };
                assert_eq!((read(3), read(2 * LANES + 3)), (1.0, 3.0));
                assert_eq!(read(s.values() + 3 * 16 + 1), 6.0);
                assert_eq!(read(s.values() + 3 * 16 + 3), if half { 1.0 } else { 1.001 });
                assert_eq!(read(4), 0.0, "other tokens are untouched");
            }
        }
    }

    #[test]
    fn halves_are_rounded_to_nearest() {
        let f = |h: u16| f32::from_bits(u32::from(h) << 16);
        assert_eq!((f(round(1.0)), f(round(-3.5))), (1.0, -3.5));
        // 1 + 3/256 lies between 1 + 1/128 and 1 + 2/128, and the even one is the latter
        assert_eq!(f(round(1.0 + 3.0 / 256.0)), 1.0 + 2.0 / 128.0);
        assert_eq!(f(round(1.0 + 1.0 / 256.0)), 1.0);
        assert!(f(round(f32::NAN)).is_nan() && f(round(f32::MAX)).is_infinite());
    }
}
