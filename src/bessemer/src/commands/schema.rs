//! `bessemer schema`.

use crate::context::Context;
use crate::failure::Result;

pub fn run(context: &mut Context) -> Result {
    context.out.line(serde_json::to_string_pretty(&plan::schema()).map_err(std::io::Error::other)?);
    Ok(record::exit::DONE)
}
