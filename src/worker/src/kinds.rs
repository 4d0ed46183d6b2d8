//! One module per kind of work.

pub mod base;
pub mod corpus;
pub mod cursor;
pub mod doctor;
pub mod eval;
pub mod preflight;
pub mod rl;
pub mod sample;
pub mod serve;
pub mod sft;
pub mod training;
pub mod verify;

use crate::context::{Context, Ending, Failure};
use anyhow::Result;
use model::Model;
use record::Params;
use record::params::{Precision, Quantization};
use std::path::PathBuf;

/// Does the task's work.
///
/// # Errors
/// Whatever went wrong; a [`Failure`] in the chain names the class.
pub fn run(cx: &mut Context) -> Result<Ending> {
    let work = cx.spec.work.clone();
    let runtime = model::runtime::init(cx.spec.resources.cpus);
    preflight::gpus(cx.spec.resources.gpus, runtime.cuda_library, work.precision())?;
    match work {
        Params::Corpus(p) => corpus::run(cx, &p),
        Params::Base(p) => base::run(cx, &p),
        Params::Sft(p) => {
            limit_tensors(cx.spec.resources.memory_mb);
            sft::run(cx, &p)
        }
        Params::Rl(p) => rl::run(cx, &p),
        Params::Serve(p) => serve::run(cx, &p),
        Params::Sample(p) => sample::run(cx, &p),
        Params::Eval(p) => eval::run(cx, &p),
        Params::Command(_) => {
            Err(Failure::user("kind command is run by the supervisor, not by the worker").into())
        }
    }
}

/// Out of memory as an error that `sft` meets with smaller passes, where the scheduler would have killed the task: tensors
/// may take what the task asked for, less what the program itself takes.
fn limit_tensors(task_mb: u64) {
    const PROGRAM_MB: u64 = 215;
    if device() == tch::Device::Cpu && task_mb > 0 {
        model::shim::limit_memory(task_mb.saturating_sub(PROGRAM_MB).max(task_mb / 2) * 1_000_000);
    }
}

/// Loads the model of `role`, straight into `precision`, and says where it was; its layers' weights are packed to 4 bits where
/// `quantization` says so.
///
/// # Errors
/// A missing input, a model that cannot be read.
pub fn load(
    cx: &Context,
    role: &str,
    precision: Precision,
    quantization: Quantization,
) -> Result<(Model, PathBuf)> {
    let dir = cx.input(role)?;
    let packed = quantization == Quantization::Nf4;
    Ok((Model::load_quantized(&dir, precision, packed, device())?, dir))
}

/// Where models live: the first GPU if the scheduler gave us one, else the CPU. A task that asked for a GPU and cannot
/// use it never gets here ([`preflight`]): it would work a hundred times slower, and elsewhere than its siblings.
#[must_use]
pub fn device() -> tch::Device {
    tch::Device::cuda_if_available()
}
