//! One module per kind of work.

pub mod doctor;

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
        Params::Command(_) => {
            Err(Failure::user("kind command is run by the supervisor, not by the worker").into())
        }
        other => {
            Err(Failure::user(format!("kind {} is not built into this worker", other.kind().name())).into())
        }
    }
}
