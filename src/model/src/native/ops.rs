//! What stands between the products: norms, rotation, attention of one token over its cached past, gating, exponentials.

#![allow(clippy::needless_range_loop, reason = "lanes of registers, by index in several arrays at a time")]

use super::simd::{LANES, Simd, exp, kernel};

/// `y = x / rms(x) * weight`; all `width` long.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let mut sums = [0f32; LANES];
    for part in x.chunks(LANES) {
        part.iter().zip(&mut sums).for_each(|(x, s)| *s += x * x);
    }
    let mean = sums.iter().map(|&s| f64::from(s)).sum::<f64>() / x.len() as f64;
    let scale = (1.0 / (mean + f64::from(eps)).sqrt()) as f32;
    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
        *y = x * scale * w;
    }
}

/// Rotates one head in place; `cos` and `sin` are half a head long.
pub(crate) fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a, b) = head.split_at_mut(cos.len());
    for (((a, b), c), s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        let (x, y) = (*a, *b);
        *a = x * c - y * s;
        *b = y * c + x * s;
    }
}

kernel! {
    /// `y = silu(gate) * up` for `n` elements; `y` may be `gate`.
    fn silu_gate(gate: *const f32, up: *const f32, y: *mut f32, n: usize) = silu_gate_body
}

#[inline(always)]
unsafe fn silu_gate_body<S: Simd>(gate: *const f32, up: *const f32, y: *mut f32, n: usize) {
    // SAFETY: the caller's promise: n elements behind each pointer.
    unsafe {
        let one = S::splat(1.0);
        let vector = |g: S::V, u: S::V| {
            // exp overflows beyond 88, where the quotient is 0 anyway
            let e = exp::<S>(S::mul(S::max(g, S::splat(-87.0)), S::splat(-1.0)));
            S::mul(S::div(g, S::add(one, e)), u)
        };
        let mut i = 0;
        while i + LANES <= n {
            S::store(y.add(i), vector(S::load(gate.add(i)), S::load(up.add(i))));
            i += LANES;
        }
        if i < n {
            let (mut g, mut u) = ([0f32; LANES], [0f32; LANES]);
            for j in 0..n - i {
                (g[j], u[j]) = (*gate.add(i + j), *up.add(i + j));
            }
            let v = vector(S::load(g.as_ptr()), S::load(u.as_ptr()));
            S::store(g.as_mut_ptr(), v);
            for (j, g) in g.iter().take(n - i).enumerate() {
                *y.add(i + j) = *g;
            }
        }
    }
}

/// Elements of one partial sum of [`exponentials`].
pub(crate) const BLOCK: usize = 256;

kernel! {
    /// `y = exp((x - max) * scale)`, and the sums of each [`BLOCK`] elements into `sums`. `y` holds as many as `x`.
    fn exponentials(x: &[f32], max: f32, scale: f32, y: &mut [f32], sums: &mut Vec<f64>) = exponentials_body
}

#[inline(always)]
unsafe fn exponentials_body<S: Simd>(x: &[f32], max: f32, scale: f32, y: &mut [f32], sums: &mut Vec<f64>) {
    sums.clear();
    for (x, y) in x.chunks(BLOCK).zip(y.chunks_mut(BLOCK)) {
        // SAFETY: whole vectors inside both chunks, the rest through vectors of our own.
        unsafe {
            let (max, scale) = (S::splat(-max), S::splat(scale));
            let mut total = S::splat(0.0);
            let n = x.len().min(y.len());
            let mut i = 0;
            while i + LANES <= n {
                let v = exp::<S>(S::mul(S::add(S::load(x.as_ptr().add(i)), max), scale));
                S::store(y.as_mut_ptr().add(i), v);
                total = S::add(total, v);
                i += LANES;
            }
            let mut lanes = [0f32; LANES];
            S::store(lanes.as_mut_ptr(), total);
            let mut sum: f64 = lanes.iter().map(|&x| f64::from(x)).sum();
            if i < n {
                let mut rest = [f32::NEG_INFINITY; LANES];
                rest[..n - i].copy_from_slice(&x[i..n]);
                let v = exp::<S>(S::mul(S::add(S::load(rest.as_ptr()), max), scale));
                S::store(rest.as_mut_ptr(), v);
                y[i..n].copy_from_slice(&rest[..n - i]);
                sum += rest[..n - i].iter().map(|&x| f64::from(x)).sum::<f64>();
            }
            sums.push(sum);
        }
    }
}

kernel! {
    /// Largest element; minus infinity of nothing. Elements that are not numbers may be passed over.
    fn largest(x: &[f32]) -> f32 = largest_body
}

#[inline(always)]
unsafe fn largest_body<S: Simd>(x: &[f32]) -> f32 {
    let whole = x.len() / LANES * LANES;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    // SAFETY: whole vectors inside the slice.
    unsafe {
        let mut best = S::load(lanes.as_ptr());
        let mut i = 0;
        while i < whole {
            best = S::max(S::load(x.as_ptr().add(i)), best);
            i += LANES;
        }
        S::store(lanes.as_mut_ptr(), best);
    }
    lanes.iter().chain(&x[whole..]).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// One token's queries of the heads that share a key head, over the cached past.
pub(crate) struct Attend<'a> {
    /// `[group, dim]`
    pub q: *const f32,
    /// `[group, dim]`
    pub out: *mut f32,
    pub group: usize,
    pub dim: usize,
    /// `dim` rounded up to whole vectors: the width of a row of values.
    pub padded: usize,
    /// Start of each page's keys `[dim, 16]` for this layer and head.
    pub keys: &'a [*const u8],
    /// Numbers from a page's keys to its values `[16, padded]`.
    pub values: usize,
    /// Pages are bfloat16, else fp32.
    pub half: bool,
    /// First token in sight; more than 0 only with a sliding window.
    pub first: usize,
    /// Tokens up to and with the query's own.
    pub length: usize,
    pub scale: f32,
    /// Room for `group * pages * 16` scores.
    pub scores: *mut f32,
}

kernel! {
    /// Softmax attention. All pointers must hold what the shapes say.
    fn attend(a: &Attend<'_>) = attend_body
}

#[inline(always)]
unsafe fn attend_body<S: Simd>(a: &Attend<'_>) {
    let mut g = 0;
    while g < a.group {
        // SAFETY: the caller's promise.
        g += unsafe {
            match (a.group - g, a.half) {
                (4.., false) => attend_group::<S, 4, false>(a, g),
                (2.., false) => attend_group::<S, 2, false>(a, g),
                (_, false) => attend_group::<S, 1, false>(a, g),
                (4.., true) => attend_group::<S, 4, true>(a, g),
                (2.., true) => attend_group::<S, 2, true>(a, g),
                (_, true) => attend_group::<S, 1, true>(a, g),
            }
        };
    }
}

/// Sixteen numbers of a page from number `i` on.
#[inline(always)]
unsafe fn of_page<S: Simd, const HALF: bool>(page: *const u8, i: usize) -> S::V {
    // SAFETY: the caller's promise: the page holds them.
    unsafe { if HALF { S::load_bf16(page.cast::<u16>().add(i)) } else { S::load(page.cast::<f32>().add(i)) } }
}

/// `G` query heads from `g`; gives `G`.
#[inline(always)]
unsafe fn attend_group<S: Simd, const G: usize, const HALF: bool>(a: &Attend<'_>, g: usize) -> usize {
    let (from, pages) = (a.first / LANES, a.length.div_ceil(LANES));
    let width = (pages - from) * LANES;
    // SAFETY: pages `from..pages` exist, queries and scores hold `group` rows.
    unsafe {
        let q = a.q.add(g * a.dim);
        let scale = S::splat(a.scale);
        for page in from..pages {
            let mut sum = [S::splat(0.0); G];
            let k = a.keys[page];
            for i in 0..a.dim {
                let key = of_page::<S, HALF>(k, i * LANES);
                for h in 0..G {
                    sum[h] = S::fma(S::splat(*q.add(h * a.dim + i)), key, sum[h]);
                }
            }
            for h in 0..G {
                S::store(a.scores.add(h * width + (page - from) * LANES), S::mul(sum[h], scale));
            }
        }
        let mut norm = [0f32; G];
        for h in 0..G {
            let row = std::slice::from_raw_parts_mut(a.scores.add(h * width), width);
            row[..a.first - from * LANES].fill(f32::NEG_INFINITY);
            row[a.length - from * LANES..].fill(f32::NEG_INFINITY);
            let top = S::splat(-largest_body::<S>(row));
            let mut total = S::splat(0.0);
            let mut i = 0;
            while i < width {
                let v = exp::<S>(S::add(S::load(row.as_ptr().add(i)), top));
                S::store(row.as_mut_ptr().add(i), v);
                total = S::add(total, v);
                i += LANES;
            }
            let mut lanes = [0f32; LANES];
            S::store(lanes.as_mut_ptr(), total);
            norm[h] = lanes.iter().sum();
        }
        let mut column = 0;
        while column < a.padded {
            column += match (a.padded - column) / LANES {
                4.. => weigh::<S, G, 4, HALF>(a, g, column, from, width, &norm),
                2.. => weigh::<S, G, 2, HALF>(a, g, column, from, width, &norm),
                _ => weigh::<S, G, 1, HALF>(a, g, column, from, width, &norm),
            };
        }
    }
    G
}

/// Values weighted by scores, columns `column..column + 16 C`; gives their number.
#[inline(always)]
unsafe fn weigh<S: Simd, const G: usize, const C: usize, const HALF: bool>(
    a: &Attend<'_>,
    g: usize,
    column: usize,
    from: usize,
    width: usize,
    norm: &[f32; G],
) -> usize {
    // SAFETY: as in `attend_group`; the last columns of a head that is no whole vector go through one of our own.
    unsafe {
        let mut sum = [[S::splat(0.0); C]; G];
        let mut at = a.first;
        while at < a.length {
            let page = at / LANES;
            let end = a.length.min((page + 1) * LANES);
            for t in at..end {
                let row = a.values + column + (t % LANES) * a.padded;
                let v: [S::V; C] = std::array::from_fn(|c| of_page::<S, HALF>(a.keys[page], row + c * LANES));
                for h in 0..G {
                    let p = S::splat(*a.scores.add(h * width + t - from * LANES));
                    for c in 0..C {
                        sum[h][c] = S::fma(p, v[c], sum[h][c]);
                    }
                }
            }
            at = end;
        }
        for h in 0..G {
            let inverse = S::splat(1.0 / norm[h]);
            for c in 0..C {
                let from = column + c * LANES;
                let v = S::mul(sum[h][c], inverse);
                let out = a.out.add((g + h) * a.dim + from);
                if from + LANES <= a.dim {
                    S::store(out, v);
                } else {
                    let mut lanes = [0f32; LANES];
                    S::store(lanes.as_mut_ptr(), v);
                    for (i, lane) in lanes.iter().take(a.dim - from).enumerate() {
                        *out.add(i) = *lane;
                    }
                }
            }
        }
    }
    C * LANES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::simd;

    #[test]
    fn exponentials_and_their_sums_agree_with_the_library() {
        let x: Vec<f32> = (0..1000).map(|i| 3.0 - i as f32 * 0.095).collect();
        for isa in simd::all() {
            let (mut y, mut sums) = (vec![0f32; 1000], Vec::new());
            // SAFETY: `all` lists what the processor has.
            unsafe { exponentials(isa, &x, 3.0, 0.9, &mut y, &mut sums) };
            let mut total = 0.0;
            for (x, y) in x.iter().zip(&y) {
                let power = (f64::from(*x) - 3.0) * 0.9;
                let want = power.exp();
                total += want;
                // the power is rounded to fp32 before
                let bound = (4e-7 - 1.2e-7 * power) * want + 1e-37;
                assert!((f64::from(*y) - want).abs() <= bound, "{isa:?} {x}: {y} {want}");
            }
            assert_eq!(sums.len(), 4);
            assert!((sums.iter().sum::<f64>() - total).abs() < 1e-6 * total, "{isa:?}");
            // SAFETY: as above.
            assert_eq!(unsafe { largest(isa, &x) }, 3.0);
        }
    }

    #[test]
    fn gating_is_silu_at_every_size_and_at_the_ends_of_the_range() {
        let g: Vec<f32> = (0..37).map(|i| (i as f32 - 18.0) * 7.0).collect();
        let u: Vec<f32> = (0..37).map(|i| 1.0 + i as f32 * 0.1).collect();
        for isa in simd::all() {
            let mut y = vec![0f32; 37];
            // SAFETY: 37 elements each.
            unsafe { silu_gate(isa, g.as_ptr(), u.as_ptr(), y.as_mut_ptr(), 37) };
            for i in 0..37 {
                let x = f64::from(g[i]);
                let want = x / (1.0 + (-x).exp()) * f64::from(u[i]);
                assert!(
                    (f64::from(y[i]) - want).abs() <= 1e-5 * want.abs() + 1e-30,
                    "{isa:?} {x}: {} {want}",
                    y[i]
                );
            }
        }
    }
}
