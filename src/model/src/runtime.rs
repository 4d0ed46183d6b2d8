//! Process-wide set-up of libtorch: allocator, threads, the CUDA half.

use std::sync::OnceLock;

/// Version of libtorch that this program was built against.
pub const LIBTORCH: &str = env!("BESSEMER_LIBTORCH");

/// What [`init`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runtime {
    /// `libtorch_cuda.so` is installed and was opened; whether there is a GPU is another question.
    pub cuda_library: bool,
}

/// Prepares libtorch; later calls only change the number of threads.
///
/// `cpus` fixes the number of calculating threads (0 leaves libtorch's choice): sums are split by thread, so the same
/// number is part of "the same run bit for bit".
pub fn init(cpus: u32) -> Runtime {
    static ONCE: OnceLock<Runtime> = OnceLock::new();
    let runtime = *ONCE.get_or_init(|| {
        tune_allocator();
        tch::set_num_interop_threads(1);
        Runtime { cuda_library: open_cuda() }
    });
    if cpus > 0 {
        tch::set_num_threads(i32::try_from(cpus).unwrap_or(i32::MAX));
    }
    runtime
}

/// glibc gives big buffers back to the kernel after each step and faults them in again: 10 to 25 % of a training step.
/// Keeping them costs up to a fifth more resident memory.
fn tune_allocator() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only changes parameters of the allocator; called before any thread of ours runs.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

/// Gives what the allocator keeps and nobody uses back to the kernel: after a pass that was too large, the next one needs
/// it in other pieces.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no pointers; glibc locks its arenas itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The binary is linked against the CPU half alone, so that it runs where nothing else is installed. Opening the CUDA
/// half registers its kernels with the same dispatcher; it is found through the binary's run path.
fn open_cuda() -> bool {
    #[cfg(target_os = "linux")]
    // SAFETY: opening libtorch's own library; its initialisers register kernels and touch nothing of ours.
    unsafe {
        !libc::dlopen(c"libtorch_cuda.so".as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL).is_null()
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Compute capability (major, minor) of a GPU; `None` where the CUDA run-time library is not loaded or does not answer.
#[must_use]
pub fn compute_capability(gpu: usize) -> Option<(u32, u32)> {
    #[cfg(target_os = "linux")]
    {
        type Attribute = unsafe extern "C" fn(*mut libc::c_int, libc::c_int, libc::c_int) -> libc::c_int;
        let gpu = libc::c_int::try_from(gpu).ok()?;
        // SAFETY: looks a symbol up in the libraries that are loaded already.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"cudaDeviceGetAttribute".as_ptr()) };
        if found.is_null() {
            return None;
        }
        // SAFETY: the CUDA run-time's function has had this signature since CUDA 5.
        let attribute = unsafe { std::mem::transmute::<*mut libc::c_void, Attribute>(found) };
        let read = |which: libc::c_int| {
            let mut value = 0;
            // SAFETY: a place for one int; a wrong number gives an error code.
            let code = unsafe { attribute(&mut value, which, gpu) };
            (code == 0).then(|| u32::try_from(value).ok()).flatten()
        };
        // cudaDevAttrComputeCapabilityMajor and -Minor
        Some((read(75)?, read(76)?))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = gpu;
        None
    }
}

/// Compute capabilities that the wheel of this libtorch has code for; `None` for a version whose list is not known here.
#[must_use]
pub fn built_for() -> Option<&'static [(u32, u32)]> {
    match LIBTORCH.split('+').next() {
        Some("2.10.0") => Some(&[(7, 0), (7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)]),
        _ => None,
    }
}

/// Whether code for one of `built` runs on `gpu`: within a major version, on the same or a later minor one. What is newer
/// than all of them may still run from the intermediate code; only trying tells.
#[must_use]
pub fn has_code_for(gpu: (u32, u32), built: &[(u32, u32)]) -> bool {
    built.iter().any(|b| b.0 == gpu.0 && b.1 <= gpu.1) || built.iter().all(|b| *b < gpu)
}

/// Which vector instructions libtorch uses on this processor, e.g. `AVX512`.
#[must_use]
pub fn cpu_capability() -> String {
    crate::shim::cpu_capability()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_runs_within_a_major_version_upwards() {
        let built = [(7, 0), (7, 5), (8, 0), (8, 6), (9, 0)];
        for gpu in [(7, 0), (7, 2), (8, 0), (8, 9), (9, 0), (12, 1)] {
            assert!(has_code_for(gpu, &built), "{gpu:?}");
        }
        for gpu in [(3, 7), (6, 0), (6, 1)] {
            assert!(!has_code_for(gpu, &built), "{gpu:?}");
        }
        // CUDA 13's wheels begin at Turing
        assert!(!has_code_for((7, 0), &[(7, 5), (8, 0)]));
    }

    #[test]
    fn the_pinned_libtorch_says_what_it_was_built_for_and_a_v100_is_in_it() {
        init(1);
        assert!(has_code_for((7, 0), built_for().expect("the list of the pinned version")), "{LIBTORCH}");
        // no GPU of this number anywhere: the answer is none, not a crash
        assert_eq!(compute_capability(4096), None);
    }
}
