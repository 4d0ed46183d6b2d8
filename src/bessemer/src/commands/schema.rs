//! `bessemer schema`.

use crate::cli::{Schema, SchemaOf};
use crate::context::Context;
use crate::failure::Result;

pub fn run(context: &mut Context, args: &Schema) -> Result {
    let schema = match args.of {
        SchemaOf::Job => plan::schema(),
        SchemaOf::Site => cluster::site::schema(),
    };
    context.out.line(serde_json::to_string_pretty(&schema).map_err(std::io::Error::other)?);
    Ok(record::exit::DONE)
}
