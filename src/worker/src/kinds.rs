//! One module per kind of work.

pub mod corpus;
pub mod cursor;
pub mod doctor;
pub mod eval;
pub mod sample;
pub mod serve;
pub mod verify;

use crate::context::{Context, Ending, Failure};
use anyhow::Result;
use record::Params;

/// Does the task's work.
///
/// # Errors
/// Whatever went wrong; a [`Failure`] in the chain names the class.
pub fn run(cx: &mut Context) -> Result<Ending> {
    let work = cx.spec.work.clone();
    model::runtime::init(cx.spec.resources.cpus);
    match work {
        Params::Corpus(p) => corpus::run(cx, &p),
        Params::Serve(p) => serve::run(cx, &p),
        Params::Sample(p) => sample::run(cx, &p),
        Params::Eval(p) => eval::run(cx, &p),
        Params::Command(_) => {
            Err(Failure::user("kind command is run by the supervisor, not by the worker").into())
        }
        other => {
            Err(Failure::user(format!("kind {} is not built into this worker", other.kind().name())).into())
        }
    }
}

/// Where models live: the first GPU if the scheduler gave us one and libtorch can use it, else the CPU.
#[must_use]
pub fn device() -> tch::Device {
    tch::Device::cuda_if_available()
}
