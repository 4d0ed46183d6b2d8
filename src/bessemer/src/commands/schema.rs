//! `bessemer schema`.

use crate::cli::{Schema, SchemaOf};
use crate::context::Context;
use crate::failure::{Failure, Result};

pub fn run(context: &mut Context, args: &Schema) -> Result {
    let _ = (&context.out, args.of == SchemaOf::Job);
    Err(Failure::usage("not on this branch yet"))
}
