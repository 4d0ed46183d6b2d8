//! One file per subcommand.

mod completions;
mod doctor;
mod help;
mod logs;
mod plan;
mod schema;
mod verify;

use crate::cli::Command;
use crate::context::Context;
use crate::failure::Result;

/// Runs a command; the exit code.
pub fn run(context: &mut Context, command: Command) -> Result {
    match command {
        Command::Plan(a) => plan::run(context, &a),
        Command::Logs(a) => logs::run(context, &a),
        Command::Schema(a) => schema::run(context, &a),
        Command::Doctor(a) => doctor::run(context, &a),
        Command::Verify(a) => verify::run(context, &a),
        Command::Completions(a) => completions::run(context, &a),
        Command::Help(a) => help::run(context, &a),
        _ => Err(crate::failure::Failure::usage("not on this branch yet")),
    }
}
