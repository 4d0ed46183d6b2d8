//! `bessemer plan`.

use crate::cli::Plan;
use crate::context::Context;
use crate::failure::{Failure, Result};

pub fn run(context: &mut Context, args: &Plan) -> Result {
    let _ = (&context.out, &args.job);
    Err(Failure::usage("not on this branch yet"))
}
