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

/// Which vector instructions libtorch uses on this processor, e.g. `AVX512`.
#[must_use]
pub fn cpu_capability() -> String {
    crate::shim::cpu_capability()
}
