//! Products of a few rows with a weight matrix: what generation does nearly all the time.
//!
//! libtorch's product rearranges the weights at every call, which at 1 to 64 rows costs more than the product. Here they
//! are arranged once, in panels of 16 outputs with the inputs in sequence, so that a call reads them once from memory,
//! front to back. Each output is one chain of multiply-adds over the inputs in order: the same bits for any number of rows.

#![allow(clippy::needless_range_loop, reason = "lanes of registers, by index in several arrays at a time")]

use super::pool::Pool;
use super::simd::{Isa, LANES, Simd, kernel};
use tch::{Kind, Tensor};

/// A cache line of fp32, so that panels start on one.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

/// Half a cache line of bfloat16.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct HalfLine([u16; LANES]);

enum Store {
    F32(Vec<Line>),
    Bf16(Vec<HalfLine>),
}

/// A weight `[outputs, inputs]` in panels, with its bias.
pub(crate) struct Packed {
    store: Store,
    bias: Option<Vec<f32>>,
    pub outputs: usize,
    pub inputs: usize,
}

/// What becomes of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Write,
    Add,
}

/// One product as the kernels see it. `x` is in row tiles: tile t holds `[inputs, rows of the tile]`.
pub(crate) struct Job<'a> {
    x: *const f32,
    tiles: &'a [(usize, usize)],
    w: &'a Packed,
    y: *mut f32,
    then: Then,
}

// SAFETY: threads read `x` and write disjoint columns of `y`.
unsafe impl Sync for Job<'_> {}

/// Row tiles of `rows` rows: `(first row, rows)`. Twelve rows of two panels fill 24 of the 32 registers of AVX-512.
fn tiles(rows: usize) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < rows {
        let n = [12, 8, 4, 2, 1].into_iter().find(|&n| n <= rows - at).expect("1 always fits");
        out.push((at, n));
        at += n;
    }
    out
}

impl Packed {
    /// Packs `weight` `[outputs, inputs]`; bfloat16 stays bfloat16, everything else becomes fp32.
    pub fn new(pool: &mut Pool, weight: &Tensor, bias: Option<&Tensor>) -> Self {
        let size = weight.size();
        let (outputs, inputs) = (size[0] as usize, size[1] as usize);
        let panels = outputs.div_ceil(LANES);
        let half = weight.kind() == Kind::BFloat16;
        let kind = if half { Kind::BFloat16 } else { Kind::Float };
        let plain = weight.detach().to_device(tch::Device::Cpu).to_kind(kind).contiguous();
        let source = Shared(plain.data_ptr().cast_const().cast::<u8>());
        let store = if half {
            let mut lines = vec![HalfLine([0; LANES]); panels * inputs];
            huge_pages(&mut lines);
            let to = SharedMut(lines.as_mut_ptr());
            pool.run(panels, &|p| {
                let (source, to) = (&source, &to);
                // SAFETY: a contiguous bf16 tensor of outputs * inputs elements; panel p is ours alone.
                unsafe {
                    let from = source.0.cast::<u16>();
                    for lane in 0..LANES.min(outputs - p * LANES) {
                        for k in 0..inputs {
                            (*to.0.add(p * inputs + k)).0[lane] = *from.add((p * LANES + lane) * inputs + k);
                        }
                    }
                }
            });
            Store::Bf16(lines)
        } else {
            let mut lines = vec![Line([0.0; LANES]); panels * inputs];
            huge_pages(&mut lines);
            let to = SharedMut(lines.as_mut_ptr());
            pool.run(panels, &|p| {
                let (source, to) = (&source, &to);
                // SAFETY: a contiguous fp32 tensor of outputs * inputs elements; panel p is ours alone.
                unsafe {
                    let from = source.0.cast::<f32>();
                    for lane in 0..LANES.min(outputs - p * LANES) {
                        for k in 0..inputs {
                            (*to.0.add(p * inputs + k)).0[lane] = *from.add((p * LANES + lane) * inputs + k);
                        }
                    }
                }
            });
            Store::F32(lines)
        };
        Self { store, bias: bias.map(floats), outputs, inputs }
    }

    /// Bytes that one call reads.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        match &self.store {
            Store::F32(lines) => size_of_val(lines.as_slice()),
            Store::Bf16(lines) => size_of_val(lines.as_slice()),
        }
    }

    /// `y = x W^T + bias`, or added to `y`. `x` is `[rows, inputs]`, `y` `[rows, outputs]`, both dense.
    ///
    /// # Panics
    /// When a slice is too short.
    pub fn apply(&self, cpu: &mut Cpu, x: &[f32], rows: usize, y: &mut [f32], then: Then) {
        assert!(x.len() >= rows * self.inputs && y.len() >= rows * self.outputs, "shape of a product");
        if rows == 0 {
            return;
        }
        let tiles = tiles(rows);
        let (isa, k) = (cpu.isa, self.inputs);
        // one row is its own tile
        let packed = if rows == 1 {
            x.as_ptr()
        } else {
            if cpu.tiled.len() < rows * k {
                cpu.tiled.resize(rows * k, 0.0);
            }
            let to = SharedMut(cpu.tiled.as_mut_ptr());
            cpu.pool.run(tiles.len(), &|t| {
                let to = &to;
                let (first, n) = tiles[t];
                for r in 0..n {
                    let row = &x[(first + r) * k..(first + r + 1) * k];
                    for (i, &v) in row.iter().enumerate() {
                        // SAFETY: element (i, r) of tile t, inside the rows * k elements, ours alone.
                        unsafe { *to.0.add(first * k + i * n + r) = v };
                    }
                }
            });
            cpu.tiled.as_ptr()
        };
        let panels = self.outputs.div_ceil(LANES);
        let job = Job { x: packed, tiles: &tiles, w: self, y: y.as_mut_ptr(), then };
        // pieces large enough to read memory in long runs, small enough for every thread to get some
        let group = (panels / (8 * cpu.pool.threads())).clamp(1, 8).next_multiple_of(4).min(panels);
        cpu.pool.run(panels.div_ceil(group), &|i| {
            let job = &job;
            // SAFETY: shapes were checked above; piece i writes the columns of its own panels only.
            unsafe { product(isa, job, i * group, ((i + 1) * group).min(panels)) };
        });
    }
}

/// What kernels run on: an instruction set, threads, and room for rearranged inputs.
pub(crate) struct Cpu {
    pub isa: Isa,
    pub pool: Pool,
    tiled: Vec<f32>,
}

impl Cpu {
    pub fn new(threads: usize) -> Self {
        Self { isa: super::simd::isa(), pool: Pool::new(threads), tiled: Vec::new() }
    }

    /// With as many threads as libtorch has.
    pub fn of_libtorch() -> Self {
        Self::new(super::pool::threads())
    }
}

/// A pointer that several threads may have.
pub(crate) struct Shared<T>(pub *const T);
// SAFETY: whoever dereferences it says why that is sound.
unsafe impl<T> Sync for Shared<T> {}

/// A pointer through which several threads write disjoint places.
pub(crate) struct SharedMut<T>(pub *mut T);
// SAFETY: whoever dereferences it says why that is sound.
unsafe impl<T> Sync for SharedMut<T> {}

/// A tensor's elements as fp32.
pub(crate) fn floats(t: &Tensor) -> Vec<f32> {
    let flat = t.detach().to_device(tch::Device::Cpu).to_kind(Kind::Float).contiguous().view([-1]);
    let mut out = vec![0f32; flat.numel()];
    flat.copy_data(&mut out, flat.numel());
    out
}

/// Asks for 2 MB pages: weights are read front to back for every token, and 4 kB pages cost address translations.
fn huge_pages<T>(lines: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let start = (lines.as_mut_ptr() as usize).next_multiple_of(PAGE);
        let end = (lines.as_ptr() as usize + size_of_val(lines)) / PAGE * PAGE;
        if end > start {
            // SAFETY: advice about whole pages inside our own allocation; a refusal changes nothing.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = lines;
}

kernel! {
    /// Columns of panels `from..to`. The job's pointers must hold what its shapes say.
    fn product(job: &Job<'_>, from: usize, to: usize) = product_body
}

#[inline(always)]
unsafe fn product_body<S: Simd>(job: &Job<'_>, from: usize, to: usize) {
    let mut panel = from;
    while panel < to {
        // the wider the group, the longer its panels must stay in the cache for the next row tile
        let wide = if job.tiles[0].1 <= 4 { 4 } else { 2 };
        let n = wide.min(to - panel);
        for &(first, rows) in job.tiles {
            let mut p = panel;
            while p < panel + n {
                let left = panel + n - p;
                // SAFETY: the caller's promise.
                p += unsafe {
                    match (rows, left) {
                        (12, 2..) => tile::<S, 12, 2>(job, first, p),
                        (12, _) => tile::<S, 12, 1>(job, first, p),
                        (8, 2..) => tile::<S, 8, 2>(job, first, p),
                        (8, _) => tile::<S, 8, 1>(job, first, p),
                        (4, 4..) => tile::<S, 4, 4>(job, first, p),
                        (4, 2..) => tile::<S, 4, 2>(job, first, p),
                        (4, _) => tile::<S, 4, 1>(job, first, p),
                        (2, 4..) => tile::<S, 2, 4>(job, first, p),
                        (2, _) => tile::<S, 2, 1>(job, first, p),
                        (_, 4..) => tile::<S, 1, 4>(job, first, p),
                        (_, _) => tile::<S, 1, 1>(job, first, p),
                    }
                };
            }
        }
        panel += n;
    }
}

/// `R` rows from `first` times `P` panels from `panel`; gives `P`.
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const P: usize>(job: &Job<'_>, first: usize, panel: usize) -> usize {
    let w = job.w;
    let k = w.inputs;
    // SAFETY: the caller's promise: panels `panel..panel + P` and rows `first..first + R` exist.
    unsafe {
        let x = job.x.add(first * k);
        let mut sum = [[S::splat(0.0); P]; R];
        match &w.store {
            Store::F32(lines) => {
                let base: [*const f32; P] =
                    std::array::from_fn(|j| lines.as_ptr().add((panel + j) * k).cast::<f32>());
                for i in 0..k {
                    let line: [S::V; P] = std::array::from_fn(|j| S::load(base[j].add(i * LANES)));
                    for r in 0..R {
                        let v = S::splat(*x.add(i * R + r));
                        for j in 0..P {
                            sum[r][j] = S::fma(v, line[j], sum[r][j]);
                        }
                    }
                }
            }
            Store::Bf16(lines) => {
                let base: [*const u16; P] =
                    std::array::from_fn(|j| lines.as_ptr().add((panel + j) * k).cast::<u16>());
                for i in 0..k {
                    let line: [S::V; P] = std::array::from_fn(|j| S::load_bf16(base[j].add(i * LANES)));
                    for r in 0..R {
                        let v = S::splat(*x.add(i * R + r));
                        for j in 0..P {
                            sum[r][j] = S::fma(v, line[j], sum[r][j]);
                        }
                    }
                }
            }
        }
        for r in 0..R {
            for j in 0..P {
                let column = (panel + j) * LANES;
                let y = job.y.add((first + r) * w.outputs + column);
                finish::<S>(w, sum[r][j], column, y, job.then);
            }
        }
    }
    P
}

/// Bias, addition, and the last panel, which may have fewer than 16 outputs.
#[inline(always)]
unsafe fn finish<S: Simd>(w: &Packed, mut v: S::V, column: usize, y: *mut f32, then: Then) {
    // SAFETY: the caller's promise; short panels go through a whole vector of our own.
    unsafe {
        let n = LANES.min(w.outputs - column);
        if n == LANES {
            if let Some(bias) = &w.bias {
                v = S::add(v, S::load(bias.as_ptr().add(column)));
            }
            if then == Then::Add {
                v = S::add(v, S::load(y));
            }
            S::store(y, v);
            return;
        }
        let mut lanes = [0f32; LANES];
        S::store(lanes.as_mut_ptr(), v);
        for (i, lane) in lanes.iter().take(n).enumerate() {
            let mut one = *lane;
            if let Some(bias) = &w.bias {
                one += bias[column + i];
            }
            if then == Then::Add {
                one += *y.add(i);
            }
            *y.add(i) = one;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::simd;
    use tch::Device;

    #[test]
    fn products_agree_with_libtorch_for_every_number_of_rows_and_instruction_set() {
        for (outputs, inputs) in [(16, 5), (40, 33), (96, 64), (3, 7)] {
            let w = Tensor::randn([outputs, inputs], (Kind::Float, Device::Cpu));
            let b = Tensor::randn([outputs], (Kind::Float, Device::Cpu));
            for isa in simd::all() {
                let mut cpu = Cpu { isa, ..Cpu::new(3) };
                let packed = Packed::new(&mut cpu.pool, &w, Some(&b));
                for rows in [1i64, 2, 3, 7, 12, 16, 29] {
                    let x = Tensor::randn([rows, inputs], (Kind::Float, Device::Cpu));
                    let want = floats(&x.linear(&w, Some(&b)));
                    let mut got = vec![1f32; want.len()];
                    packed.apply(&mut cpu, &floats(&x), rows as usize, &mut got, Then::Write);
                    for (g, w) in got.iter().zip(&want) {
                        assert!((g - w).abs() < 1e-4, "{isa:?} {rows} rows: {g} {w}");
                    }
                    packed.apply(&mut cpu, &floats(&x), rows as usize, &mut got, Then::Add);
                    for (g, w) in got.iter().zip(&want) {
                        assert!((g - 2.0 * w).abs() < 2e-4, "{isa:?} {rows} rows, added: {g} {w}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_company_and_on_any_number_of_threads() {
        let w = Tensor::randn([200, 77], (Kind::Float, Device::Cpu));
        let x = floats(&Tensor::randn([29, 77], (Kind::Float, Device::Cpu)));
        let run = |threads: usize, rows: usize| {
            let mut cpu = Cpu::new(threads);
            let packed = Packed::new(&mut cpu.pool, &w, None);
            let mut y = vec![0f32; rows * 200];
            packed.apply(&mut cpu, &x, rows, &mut y, Then::Write);
            y
        };
        let whole = run(1, 29);
        for rows in 1..29 {
            assert!(run(1 + rows % 3, rows) == whole[..rows * 200], "{rows} rows");
        }
    }

    #[test]
    fn bfloat16_weights_stay_half_as_large_and_give_their_own_product() {
        let w = Tensor::randn([48, 32], (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16);
        let x = Tensor::randn([5, 32], (Kind::Float, Device::Cpu));
        let want = floats(&x.linear(&w.to_kind(Kind::Float), None::<&Tensor>));
        for isa in simd::all() {
            let mut cpu = Cpu { isa, ..Cpu::new(2) };
            let packed = Packed::new(&mut cpu.pool, &w, None);
            assert_eq!(packed.bytes(), 48 * 32 * 2);
            let mut got = vec![0f32; want.len()];
            packed.apply(&mut cpu, &floats(&x), 5, &mut got, Then::Write);
            assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-4), "{isa:?}");
        }
    }
}
