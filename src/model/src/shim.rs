//! Safe wrappers over `shim/shim.cpp`: what libtorch can do and `tch` does not expose.

use crate::error::{Error, Result};
use std::ffi::{CStr, c_char, c_double, c_int, c_void};
use std::rc::Rc;
use tch::Tensor;
use torch_sys::C_tensor;

type Ptr = *mut C_tensor;

unsafe extern "C" {
    fn bsm_error() -> *const c_char;
    fn bsm_cpu_capability() -> *const c_char;
    fn bsm_fused_adamw(
        p: *const Ptr,
        g: *const Ptr,
        m: *const Ptr,
        v: *const Ptr,
        step: *const Ptr,
        n: c_int,
        lr: c_double,
        beta1: c_double,
        beta2: c_double,
        weight_decay: c_double,
        eps: c_double,
    ) -> c_int;
    fn bsm_clip_grad_norm(g: *const Ptr, n: c_int, max: c_double, norm: *mut c_double) -> c_int;
    fn bsm_backward(t: *const Ptr, g: *const Ptr, n: c_int, keep: c_int) -> c_int;
    fn bsm_set_grad(t: Ptr, g: Ptr) -> c_int;
    fn bsm_rng_get(out: *mut Ptr) -> c_int;
    fn bsm_rng_set(state: Ptr) -> c_int;
    fn bsm_recording(on: c_int) -> c_int;
    fn bsm_host_failed(words: *const c_char, n: usize);
    fn bsm_deterministic(on: c_int) -> c_int;
    fn bsm_empty_cache() -> c_int;
    fn bsm_memory(current: *mut i64, peak: *mut i64, reserved: *mut i64) -> c_int;
    fn bsm_nf4_unpack(packed: Ptr, scale: Ptr, code: *const f32, out: Ptr) -> c_int;
    fn bsm_inference_on() -> *mut c_void;
    fn bsm_inference_off(guard: *mut c_void);
    fn bsm_host_node(
        input: Ptr,
        output: Ptr,
        call: extern "C" fn(*mut c_void, Ptr, *mut Ptr) -> c_int,
        drop: extern "C" fn(*mut c_void),
        ctx: *mut c_void,
        out: *mut Ptr,
    ) -> c_int;
}

fn check(code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the shim keeps a NUL-terminated string per thread, valid until the next failing call on this thread.
    let words = unsafe { CStr::from_ptr(bsm_error()) }.to_string_lossy().into_owned();
    Err(Error::Torch(words))
}

fn raw(t: &Tensor) -> Ptr {
    t.as_ptr().cast_mut().cast()
}

fn raws(ts: &[Tensor]) -> Vec<Ptr> {
    ts.iter().map(raw).collect()
}

/// One fused AdamW step over all `params`, in place. `step` holds one fp32 scalar tensor per parameter.
///
/// # Errors
/// libtorch's words (shape or type mismatch).
#[expect(clippy::too_many_arguments, reason = "the five lists and five numbers of the algorithm")]
pub fn fused_adamw(
    params: &[Tensor],
    grads: &[Tensor],
    m: &[Tensor],
    v: &[Tensor],
    step: &[Tensor],
    lr: f64,
    betas: (f64, f64),
    weight_decay: f64,
    eps: f64,
) -> Result<()> {
    assert!([grads.len(), m.len(), v.len(), step.len()].iter().all(|&n| n == params.len()));
    let n = count(params);
    let (p, g, m, v, s) = (raws(params), raws(grads), raws(m), raws(v), raws(step));
    // SAFETY: five arrays of `n` live tensor pointers; the shim only reads the arrays.
    check(unsafe {
        bsm_fused_adamw(
            p.as_ptr(),
            g.as_ptr(),
            m.as_ptr(),
            v.as_ptr(),
            s.as_ptr(),
            n,
            lr,
            betas.0,
            betas.1,
            weight_decay,
            eps,
        )
    })
}

/// Scales the gradients in place so that their global L2 norm is at most `max` (0 = measure only); returns the norm
/// before scaling.
///
/// # Errors
/// libtorch's words.
pub fn clip_grad_norm(grads: &[Tensor], max: f64) -> Result<f64> {
    if grads.is_empty() {
        return Ok(0.0);
    }
    let mut norm = 0.0;
    // SAFETY: an array of live tensor pointers and a place for one double.
    check(unsafe { bsm_clip_grad_norm(raws(grads).as_ptr(), count(grads), max, &mut norm) })?;
    Ok(norm)
}

fn count(ts: &[Tensor]) -> c_int {
    c_int::try_from(ts.len()).expect("a model has fewer than 2^31 parameter tensors")
}

/// Back-propagates `grad` from `t`.
///
/// # Errors
/// libtorch's words.
pub fn backward(t: &Tensor, grad: &Tensor) -> Result<()> {
    let (t, g) = ([raw(t)], [raw(grad)]);
    // SAFETY: two arrays of one live tensor pointer each.
    check(unsafe { bsm_backward(t.as_ptr(), g.as_ptr(), 1, 0) })
}

/// Sets or clears `.grad`.
///
/// # Errors
/// libtorch's words.
pub fn set_grad(t: &Tensor, grad: Option<&Tensor>) -> Result<()> {
    // SAFETY: live tensors, or null, which the shim takes as "no gradient".
    check(unsafe { bsm_set_grad(raw(t), grad.map_or(std::ptr::null_mut(), raw)) })
}

/// State of libtorch's default CPU generator (dropout draws from it).
///
/// # Errors
/// libtorch's words.
pub fn rng_state() -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: the shim puts a new tensor there on success; we own it.
    check(unsafe { bsm_rng_get(&mut out) })?;
    // SAFETY: as above.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// Puts a state from [`rng_state`] back.
///
/// # Errors
/// libtorch's words (wrong size).
pub fn set_rng_state(state: &Tensor) -> Result<()> {
    // SAFETY: a live tensor.
    check(unsafe { bsm_rng_set(raw(state)) })
}

/// Whether this thread records operations for a backward pass, until it is dropped: then it is as it was before, also
/// when a panic comes by (tch reports libtorch's errors as panics, and `tch::no_grad` stays off after one).
#[derive(Debug)]
pub struct Recording {
    before: bool,
    /// The mode is the thread's.
    _here: std::marker::PhantomData<*const ()>,
}

impl Recording {
    #[must_use]
    pub fn set(on: bool) -> Self {
        // SAFETY: no pointers.
        let before = unsafe { bsm_recording(c_int::from(on)) } != 0;
        Self { before, _here: std::marker::PhantomData }
    }

    /// As it is now.
    #[must_use]
    pub fn keep() -> Self {
        let off = Self::set(false);
        // SAFETY: no pointers.
        unsafe { bsm_recording(c_int::from(off.before)) };
        off
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // SAFETY: no pointers.
        unsafe { bsm_recording(c_int::from(self.before)) };
    }
}

/// `f()` without a graph.
pub fn no_grad<T>(f: impl FnOnce() -> T) -> T {
    let _off = Recording::set(false);
    f()
}

/// Deterministic kernels only; an operation without one fails instead.
///
/// # Errors
/// libtorch's words.
pub fn deterministic(on: bool) -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { bsm_deterministic(c_int::from(on)) })
}

/// Vector instructions in use.
pub(crate) fn cpu_capability() -> String {
    // SAFETY: a NUL-terminated string that lives as long as the process.
    unsafe { CStr::from_ptr(bsm_cpu_capability()) }.to_string_lossy().into_owned()
}

/// Gives cached accelerator memory back to the driver. Fails without an accelerator.
///
/// # Errors
/// libtorch's words.
pub fn empty_cache() -> Result<()> {
    // SAFETY: no pointers.
    check(unsafe { bsm_empty_cache() })
}

/// Accelerator memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub current: i64,
    pub peak: i64,
    pub reserved: i64,
}

/// Memory of the current accelerator.
///
/// # Errors
/// libtorch's words (no accelerator).
pub fn memory() -> Result<Memory> {
    let mut m = Memory { current: 0, peak: 0, reserved: 0 };
    // SAFETY: three places for an i64 each.
    check(unsafe { bsm_memory(&mut m.current, &mut m.peak, &mut m.reserved) })?;
    Ok(m)
}

/// While it lives, this thread's operations make no graph and keep no version counters. Tensors made under it cannot
/// take part in training.
#[derive(Debug)]
pub struct InferenceMode(*mut c_void);

impl InferenceMode {
    #[must_use]
    pub fn enter() -> Self {
        // SAFETY: returns an owned guard, freed in `drop` on the same thread (raw pointers are not Send).
        Self(unsafe { bsm_inference_on() })
    }
}

impl Drop for InferenceMode {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `bsm_inference_on` and is dropped once.
        unsafe { bsm_inference_off(self.0) }
    }
}

/// A function that can be run again.
pub type Forward = Rc<dyn Fn(&Tensor) -> Result<Tensor>>;

/// Gradient of the input, given the gradient of the output.
pub type Backward = Box<dyn Fn(&Tensor) -> Result<Tensor>>;

extern "C" fn call(ctx: *mut c_void, grad_out: Ptr, grad_in: *mut Ptr) -> c_int {
    // SAFETY: `ctx` is the box that `node` leaked into the node, alive until `release`.
    let f = unsafe { &*ctx.cast::<Backward>() };
    // SAFETY: the shim passes a live tensor; clone_from_ptr makes our own handle.
    let grad = unsafe { Tensor::clone_from_ptr(grad_out) };
    let _recording = Recording::keep();
    // a panic must not cross the C++ frames
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(&grad)));
    let failed = |words: &str| {
        // SAFETY: the shim copies that many bytes.
        unsafe { bsm_host_failed(words.as_ptr().cast(), words.len()) };
        -1
    };
    match result {
        Ok(Ok(grad)) => {
            // SAFETY: the shim takes the new tensor over, so our handle must not free it.
            unsafe { *grad_in = grad.as_ptr().cast_mut().cast() };
            std::mem::forget(grad);
            0
        }
        Ok(Err(e)) => failed(&e.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            failed(text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words"))
        }
    }
}

extern "C" fn release(ctx: *mut c_void) {
    // SAFETY: called once, by the node's destructor or by the shim when it makes no node, with the box that `node` leaked.
    drop(unsafe { Box::from_raw(ctx.cast::<Backward>()) });
}

/// `y`, computed from `x` without a graph, as a member of the graph: its gradient goes through `backward` to `x`. Where
/// gradients are off, `y` as it is.
///
/// # Errors
/// libtorch's words.
pub fn node(x: &Tensor, y: &Tensor, backward: Backward) -> Result<Tensor> {
    let ctx = Box::into_raw(Box::new(backward));
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors; the node owns `ctx` from here on and frees it through `release`.
    check(unsafe { bsm_host_node(raw(x), raw(y), call, release, ctx.cast(), &mut out) })?;
    // SAFETY: a new tensor that we own.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// Activation recomputation: `f(x)` keeping only `x`; the backward pass runs `f` again. With `random` the generator is
/// put back to where the first pass found it, so that dropout masks agree.
///
/// # Errors
/// What `f` says; libtorch's words.
pub fn checkpoint(f: Forward, x: &Tensor, random: bool) -> Result<Tensor> {
    let rng = if random { Some(rng_state()?) } else { None };
    let y = no_grad(|| f(x))?;
    let kept = x.detach();
    let again = move |grad: &Tensor| -> Result<Tensor> {
        let x = kept.detach().set_requires_grad(true);
        let now = rng.as_ref().map(|_| rng_state()).transpose()?;
        if let Some(state) = &rng {
            set_rng_state(state)?;
        }
        let y = {
            let _on = Recording::set(true);
            f(&x)
        };
        if let Some(state) = &now {
            set_rng_state(state)?;
        }
        let y = y?;
        backward(&y, grad)?;
        Ok(x.grad())
    };
    node(x, &y, Box::new(again))
}

/// Unpacks 4-bit numbers on the CPU: `packed` `[blocks, 32]` uint8, `scale` `[blocks]` fp32, `out` `[blocks, 64]`.
///
/// # Errors
/// libtorch's words (a number format or size that does not fit).
pub fn nf4_unpack(packed: &Tensor, scale: &Tensor, code: &[f32; 16], out: &Tensor) -> Result<()> {
    // SAFETY: three live contiguous tensors and 16 floats; the shim checks sizes and formats.
    check(unsafe { bsm_nf4_unpack(raw(packed), raw(scale), code.as_ptr(), raw(out)) })
}

unsafe extern "C" {
    fn bsm_memory_limit(bytes: i64);
    fn bsm_memory_counted(used: *mut i64, peak: *mut i64);
}

/// Limits what CPU tensors that are made from here on may take together, in bytes; 0 lifts the limit. One more is refused
/// with libtorch's words for running out of memory, where the kernel would have killed the process. For the whole process.
pub fn limit_memory(bytes: u64) {
    // SAFETY: no pointers.
    unsafe { bsm_memory_limit(i64::try_from(bytes).unwrap_or(i64::MAX)) }
}

/// Bytes of the CPU tensors made since [`limit_memory`] was first called: now, and the most since this was last asked.
#[must_use]
pub fn counted_memory() -> (i64, i64) {
    let (mut used, mut peak) = (0, 0);
    // SAFETY: two places for an i64 each.
    unsafe { bsm_memory_counted(&mut used, &mut peak) };
    (used, peak)
}
