//! `bessemer completions`.

use crate::cli::{Cli, Completions};
use crate::context::Context;
use crate::failure::Result;
use clap::CommandFactory;

pub fn run(context: &mut Context, args: &Completions) -> Result {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "bessemer", &mut text);
    context.out.bytes(&text);
    Ok(record::exit::DONE)
}
