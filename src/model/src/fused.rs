//! One-pass kernels of `shim/fused.cpp` and products of `shim/product.cpp`. `None` where they do not apply (not on the CPU, fp16, an odd layout): then the
//! caller makes do with libtorch's own operations, whose results are the same up to rounding.

use crate::error::{Error, Result};
use crate::lora::Lora;
use std::ffi::{CStr, c_char, c_double, c_int};
use tch::{Kind, TchError, Tensor};
use torch_sys::C_tensor;

type Ptr = *mut C_tensor;

unsafe extern "C" {
    fn bsm_fused_error() -> *const c_char;
    fn bsm_rms_norm(x: Ptr, w: Ptr, eps: c_double, out: *mut Ptr) -> c_int;
    fn bsm_swiglu(gate: Ptr, up: Ptr, out: *mut Ptr) -> c_int;
    fn bsm_softmax_loss(logits: Ptr, labels: Ptr, factor: c_double, loss: *mut c_double) -> c_int;
    fn bsm_product_error() -> *const c_char;
    fn bsm_linear(x: Ptr, w: Ptr, bias: Ptr, out: *mut Ptr) -> c_int;
    fn bsm_adapted(
        x: Ptr,
        dropped: Ptr,
        w: Ptr,
        bias: Ptr,
        a: Ptr,
        b: Ptr,
        scale: c_double,
        out: *mut Ptr,
    ) -> c_int;
    fn bsm_rotate(x: Ptr, cos: Ptr, sin: Ptr, out: *mut Ptr) -> c_int;
}

fn raw(t: &Tensor) -> Ptr {
    t.as_ptr().cast_mut().cast()
}

fn raw_or_null(t: Option<&Tensor>) -> Ptr {
    t.map_or(std::ptr::null_mut(), raw)
}

fn product(kernel: impl FnOnce(*mut Ptr) -> c_int) -> Result<Option<Tensor>> {
    let mut out = std::ptr::null_mut();
    if kernel(&mut out) != 0 {
        // SAFETY: as in `run`.
        let words = unsafe { CStr::from_ptr(bsm_product_error()) }.to_string_lossy().into_owned();
        return Err(Error::Torch(words));
    }
    // SAFETY: not null is a new tensor that we own.
    Ok((!out.is_null()).then(|| unsafe { Tensor::from_ptr(out) }))
}

/// `x w^T + bias` of `x` `[rows, in]` and `w` `[out, in]`.
///
/// # Errors
/// libtorch's words.
pub(crate) fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    // SAFETY: live tensors, or null for "no bias", and a place for one pointer.
    let fast = product(|out| unsafe { bsm_linear(raw(x), raw(w), raw_or_null(bias), out) })?;
    Ok(match fast {
        Some(y) => y,
        None => x.f_linear(w, bias)?,
    })
}

/// [`linear`] without a bias.
///
/// # Panics
/// With libtorch's words (out of memory), as tch's operations do.
pub(crate) fn times(x: &Tensor, w: &Tensor) -> Tensor {
    linear(x, w, None).unwrap_or_else(|e| std::panic::panic_any(e.to_string()))
}

/// The same over a frozen weight with what an adapter adds, as one node of the graph: it keeps `x` (or `x` under dropout)
/// and the inner product.
///
/// # Errors
/// libtorch's words.
pub(crate) fn adapted(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    lora: &Lora,
    train: bool,
) -> Result<Tensor> {
    let dropped = (train && lora.dropout > 0.0).then(|| x.f_dropout(lora.dropout, true)).transpose()?;
    over(x, dropped.as_ref(), w, bias, lora)
}

fn over(
    x: &Tensor,
    dropped: Option<&Tensor>,
    w: &Tensor,
    bias: Option<&Tensor>,
    lora: &Lora,
) -> Result<Tensor> {
    let (d, bias_or_null, a, b) = (raw_or_null(dropped), raw_or_null(bias), raw(&lora.a), raw(&lora.b));
    // SAFETY: as above.
    let fast = product(|out| unsafe { bsm_adapted(raw(x), d, raw(w), bias_or_null, a, b, lora.scale, out) })?;
    match fast {
        Some(y) => Ok(y),
        None => Ok(lora.add(&linear(x, w, bias)?, dropped.unwrap_or(x))),
    }
}

/// Sum of the cross-entropies of `labels` `[rows]`; `logits` `[rows, vocab]` become `factor` times its derivative where the
/// kernel applies, else `None` and nothing was done.
///
/// # Errors
/// libtorch's words; a label that there is not.
pub fn softmax_loss(logits: &Tensor, labels: &Tensor, factor: f64) -> Result<Option<f64>> {
    if logits.kind() != Kind::Float {
        return Ok(None);
    }
    let mut loss = 0.0;
    // SAFETY: live tensors and a place for one double.
    match unsafe { bsm_softmax_loss(raw(logits), raw(labels), factor, &mut loss) } {
        0 => Ok(Some(loss)),
        1 => Ok(None),
        _ => {
            // SAFETY: as in `run`.
            let words = unsafe { CStr::from_ptr(bsm_fused_error()) }.to_string_lossy().into_owned();
            Err(Error::Torch(words))
        }
    }
}

/// Runs a kernel that puts a new tensor, or null, into its last argument.
///
/// # Panics
/// With libtorch's words (out of memory), as tch's operations do.
fn run(kernel: impl FnOnce(*mut Ptr) -> c_int) -> Option<Tensor> {
    let mut out = std::ptr::null_mut();
    if kernel(&mut out) != 0 {
        // SAFETY: the shim keeps a NUL-terminated string per thread, valid until the next failing call on this thread.
        let words = unsafe { CStr::from_ptr(bsm_fused_error()) }.to_string_lossy().into_owned();
        std::panic::panic_any(TchError::Torch(words).to_string());
    }
    // SAFETY: not null is a new tensor that we own.
    (!out.is_null()).then(|| unsafe { Tensor::from_ptr(out) })
}

/// `x / rms(x) * weight` over the last dimension.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Option<Tensor> {
    // SAFETY: live tensors and a place for one pointer.
    run(|out| unsafe { bsm_rms_norm(raw(x), raw(weight), eps, out) })
}

/// `silu(gate) * up`
pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Option<Tensor> {
    // SAFETY: as above.
    run(|out| unsafe { bsm_swiglu(raw(gate), raw(up), out) })
}

/// Rotary embedding of `x` `[rows, heads, length, head_dim]`, stored as `[rows, length, heads, head_dim]`.
pub(crate) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Option<Tensor> {
    // SAFETY: as above.
    run(|out| unsafe { bsm_rotate(raw(x), raw(cos), raw(sin), out) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn noise(shape: &[i64], seed: f64, kind: Kind) -> Tensor {
        let n: i64 = shape.iter().product();
        let t = ((Tensor::arange(n, (Kind::Double, Device::Cpu)) + seed) * 12.9898).sin() * 43758.5453;
        ((&t - t.floor()) * 6.0 - 3.0).view(shape).to_kind(kind)
    }

    /// Largest difference of the result and of the gradients from those of libtorch's operations, as a share of the largest
    /// number.
    fn worst(
        inputs: &[Tensor],
        ours: impl Fn(&[Tensor]) -> Tensor,
        theirs: impl Fn(&[Tensor]) -> Tensor,
    ) -> f64 {
        let run = |f: &dyn Fn(&[Tensor]) -> Tensor| {
            let leaves: Vec<Tensor> =
                inputs.iter().map(|t| t.detach().copy().set_requires_grad(true)).collect();
            let y = f(&leaves);
            let g = noise(&y.size(), 77.0, y.kind());
            crate::shim::backward(&y, &g).unwrap();
            let grads = leaves.iter().map(Tensor::grad);
            std::iter::once(y.detach()).chain(grads).map(|t| t.to_kind(Kind::Double)).collect::<Vec<_>>()
        };
        let (a, b) = (run(&ours), run(&theirs));
        let difference = |(a, b): (&Tensor, &Tensor)| ((a - b).abs().max() / b.abs().max()).double_value(&[]);
        a.iter().zip(&b).map(difference).fold(0.0, f64::max)
    }

    #[test]
    fn results_and_gradients_are_those_of_libtorchs_operations() {
        for (kind, bound) in [(Kind::Float, 2e-6), (Kind::BFloat16, 1.6e-2)] {
            let (x, w) = (noise(&[37, 80], 1.0, kind), noise(&[80], 2.0, kind));
            let d = worst(
                &[x.shallow_clone(), w],
                |t| rms_norm(&t[0], &t[1], 1e-5).unwrap(),
                |t| {
                    let unit = t[0].to_kind(Kind::Float).rms_norm([80], None::<&Tensor>, 1e-5);
                    unit.to_kind(kind) * &t[1]
                },
            );
            assert!(d < bound, "norm {kind:?}: {d}");
            let big = noise(&[37, 80], 3.0, kind) * 20.0;
            let d = worst(&[big, x], |t| swiglu(&t[0], &t[1]).unwrap(), |t| t[0].silu() * &t[1]);
            assert!(d < bound, "swiglu {kind:?}: {d}");
            let q = noise(&[2, 7, 3, 16], 5.0, kind);
            let angle = noise(&[7, 8], 6.0, Kind::Float);
            let (cos, sin) = (angle.cos().to_kind(kind), angle.sin().to_kind(kind));
            let d = worst(
                &[q],
                |t| rotate(&t[0].transpose(1, 2), &cos, &sin).unwrap().contiguous(),
                |t| {
                    let x = t[0].transpose(1, 2);
                    let (a, b) = (x.narrow(-1, 0, 8), x.narrow(-1, 8, 8));
                    Tensor::cat(&[&a * &cos - &b * &sin, &b * &cos + &a * &sin], -1)
                },
            );
            assert!(d < bound, "rotate {kind:?}: {d}");
        }
        // large enough for the other kernel, where there is one
        for (kind, bound) in [(Kind::Float, 1e-5), (Kind::BFloat16, 3e-2)] {
            let x = noise(&[150, 96], 1.0, kind);
            let (w, bias) = (noise(&[128, 96], 2.0, kind), noise(&[128], 3.0, kind));
            let (a, b) = (noise(&[16, 96], 4.0, Kind::Float), noise(&[128, 16], 5.0, Kind::Float));
            let all = [x.shallow_clone(), w.shallow_clone(), bias.shallow_clone()];
            let ours = |t: &[Tensor]| linear(&t[0], &t[1], Some(&t[2])).unwrap();
            let d = worst(&all, ours, |t| t[0].linear(&t[1], Some(&t[2])));
            assert!(d < bound, "linear {kind:?}: {d}");
            for apart in [false, true] {
                let lora = |t: &[Tensor]| Lora {
                    a: t[1].shallow_clone(),
                    b: t[2].shallow_clone(),
                    scale: 0.7,
                    dropout: 0.0,
                };
                let ours = |t: &[Tensor]| {
                    let d = apart.then(|| t[0].sin());
                    over(&t[0], d.as_ref(), &w, Some(&bias), &lora(t)).unwrap()
                };
                let theirs = |t: &[Tensor]| {
                    let d = if apart { t[0].sin() } else { t[0].shallow_clone() };
                    lora(t).add(&t[0].linear(&w, Some(&bias)), &d)
                };
                let d = worst(&[x.shallow_clone(), a.shallow_clone(), b.shallow_clone()], ours, theirs);
                assert!(d < bound, "adapted {kind:?}, apart {apart}: {d}");
            }
        }
        let half = noise(&[4, 8], 1.0, Kind::Half);
        assert!(swiglu(&half, &half).is_none() && rms_norm(&half, &half.get(0), 1e-5).is_none());
    }
}
