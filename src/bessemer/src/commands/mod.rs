//! One file per subcommand.

mod cancel;
mod completions;
mod doctor;
mod fetch;
mod gc;
mod help;
mod logs;
mod plan;
mod rebuild;
mod report;
mod resume;
mod run;
pub mod sandbox;
mod schema;
pub mod score;
mod site;
mod status;
mod submit;
mod verify;
mod watch;

use crate::cli::{Command, Task};
use crate::context::Context;
use crate::failure::Result;

/// Runs a command; the exit code.
pub fn run(context: &mut Context, command: Command) -> Result {
    match command {
        Command::Fetch(a) => fetch::run(context, &a),
        Command::Plan(a) => plan::run(context, &a),
        Command::Rehearse(a) => run::rehearse(context, &a),
        Command::Submit(a) => submit::run(context, &a),
        Command::Run(a) => run::run(context, &a),
        Command::Status(a) => status::run(context, &a),
        Command::Watch(a) => watch::run(context, &a),
        Command::Logs(a) => logs::run(context, &a),
        Command::Cancel(a) => cancel::run(context, &a),
        Command::Resume(a) => resume::run(context, &a),
        Command::Report(a) => report::run(context, &a),
        Command::Schema => schema::run(context),
        Command::Site(a) => site::run(context, &a),
        Command::Doctor(a) => doctor::run(context, &a),
        Command::Rebuild(a) => rebuild::run(context, &a),
        Command::Gc(a) => gc::run(context, &a),
        Command::Verify(a) => verify::run(context, &a),
        Command::Sandbox(a) => sandbox::run(context, &a),
        Command::Score(a) => score::run(context, &a),
        Command::Completions(a) => completions::run(context, &a),
        Command::Help(a) => help::run(context, &a),
        // `main` has taken this way already: the supervisor must not come through here
        Command::Task(Task::Run { task }) => Ok(crate::supervise::run(&task)),
    }
}
