//! Whether the GPUs that the task was given can calculate, before anything is loaded (specs: F27).
//!
//! A dead or wrong GPU is the node's fault: exit 78, another node, and no failure of the task's own. The product is small
//! enough to cost nothing and needs everything that matters: a driver that answers, a context, memory, a kernel built
//! for this compute capability, and the right result.

use crate::context::Failure;
use model::runtime;
use record::FailureClass;
use record::params::Precision;
use tch::{Cuda, Device, Kind, Tensor};

/// Side of the matrices; the sum of ones times ones is its third power, exact in single precision.
const SIDE: i64 = 128;
/// First compute capability with bf16 arithmetic (Ampere).
const BF16: (u32, u32) = (8, 0);

/// Checks `wanted` GPUs. `library`: libtorch's CUDA half is installed; `precision`: of the weights that will be loaded.
///
/// # Errors
/// [`Failure`]: `Setup` where libtorch cannot use any GPU on any node, `NodeUnfit` for this node's fault.
pub fn gpus(wanted: u32, library: bool, precision: Option<Precision>) -> Result<(), Failure> {
    if wanted == 0 {
        return Ok(());
    }
    if !library {
        return Err(Failure::new(
            FailureClass::Setup,
            format!(
                "{wanted} GPUs were asked for, but libtorch's CUDA half is not installed: \
                 python3 scripts/libtorch.py cuda"
            ),
        ));
    }
    let found = Cuda::device_count();
    if !Cuda::is_available() || found < i64::from(wanted) {
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_else(|_| "not set".into());
        return Err(unfit(format!(
            "{wanted} GPUs were asked for, libtorch can use {found} (CUDA_VISIBLE_DEVICES: {visible}); nvidia-smi on \
             that node says more"
        )));
    }
    (0..wanted as usize).try_for_each(|k| {
        if let Some(gpu) = runtime::compute_capability(k) {
            runtime::built_for().map_or(Ok(()), |built| capable(k, gpu, built))?;
            calculates(k, gpu, precision)?;
        }
        product(Device::Cuda(k))
    })
}

/// Whether libtorch has code for GPU `k`.
fn capable(k: usize, gpu: (u32, u32), built: &[(u32, u32)]) -> Result<(), Failure> {
    if runtime::has_code_for(gpu, built) {
        return Ok(());
    }
    let known: Vec<_> = built.iter().map(|(major, minor)| format!("{major}.{minor}")).collect();
    Err(unfit(format!(
        "GPU {k} has compute capability {}.{}, libtorch {} has code for {}: ask the scheduler for another GPU type (`extra` \
         options of the site), or install a libtorch that was built for it",
        gpu.0,
        gpu.1,
        runtime::LIBTORCH,
        known.join(", ")
    )))
}

/// Whether GPU `k` has arithmetic for the number format. libtorch would imitate bf16 on older ones, many times slower.
fn calculates(k: usize, gpu: (u32, u32), precision: Option<Precision>) -> Result<(), Failure> {
    if precision != Some(Precision::Bf16) || gpu >= BF16 {
        return Ok(());
    }
    Err(unfit(format!(
        "GPU {k} has compute capability {}.{} and no bf16 arithmetic, which begins with {}.{}: set `precision: fp16`, or ask \
         the scheduler for another GPU type (`extra` options of the site)",
        gpu.0, gpu.1, BF16.0, BF16.1
    )))
}

/// A small product with a known result.
fn product(device: Device) -> Result<(), Failure> {
    let sum = || -> Result<f64, tch::TchError> {
        let ones = Tensor::f_ones([SIDE, SIDE], (Kind::Float, device))?;
        let sum = ones.f_matmul(&ones)?.f_sum(Kind::Float)?;
        f64::try_from(sum.f_to_device(Device::Cpu)?)
    };
    #[allow(clippy::cast_precision_loss)]
    let want = (SIDE * SIDE * SIDE) as f64;
    match sum() {
        #[allow(clippy::float_cmp)]
        Ok(got) if got == want => Ok(()),
        Ok(got) => Err(unfit(format!("{device:?} calculates wrongly: {got} instead of {want}"))),
        Err(e) => {
            let text = e.to_string();
            Err(unfit(format!(
                "{device:?} cannot calculate: {}",
                text.lines().next().unwrap_or("no message")
            )))
        }
    }
}

fn unfit(message: String) -> Failure {
    Failure::new(FailureClass::NodeUnfit, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_without_gpus_needs_none() {
        assert!(gpus(0, false, None).is_ok());
    }

    #[test]
    fn a_missing_library_is_the_installations_fault_and_a_missing_gpu_the_nodes() {
        assert_eq!(gpus(1, false, None).unwrap_err().class, FailureClass::Setup);
        // more than any node has
        let e = gpus(1000, true, None).unwrap_err();
        assert_eq!(e.class, FailureClass::NodeUnfit);
        assert!(e.message.contains("1000 GPUs were asked for"), "{e}");
    }

    #[test]
    fn a_gpu_that_libtorch_has_no_code_for_is_named_with_what_there_is_code_for() {
        let e = capable(1, (6, 1), &[(7, 0), (8, 0)]).unwrap_err();
        assert_eq!(e.class, FailureClass::NodeUnfit);
        assert!(
            e.message.contains("GPU 1 has compute capability 6.1") && e.message.contains("7.0, 8.0"),
            "{e}"
        );
        assert!(capable(0, (8, 9), &[(7, 0), (8, 0)]).is_ok());
    }

    #[test]
    fn bf16_is_refused_where_a_gpu_has_none_and_the_other_formats_are_not() {
        let e = calculates(0, (7, 5), Some(Precision::Bf16)).unwrap_err();
        assert_eq!(e.class, FailureClass::NodeUnfit);
        assert!(e.message.contains("7.5") && e.message.contains("`precision: fp16`"), "{e}");
        assert!(calculates(0, (8, 0), Some(Precision::Bf16)).is_ok());
        for precision in [None, Some(Precision::Fp16), Some(Precision::Fp32)] {
            assert!(calculates(0, (7, 0), precision).is_ok());
        }
    }

    #[test]
    fn the_product_is_exact_where_the_device_is_sound() {
        assert!(product(Device::Cpu).is_ok());
    }
}
