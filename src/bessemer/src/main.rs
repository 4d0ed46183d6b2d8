//! The bessemer command: planner, watcher, and supervisor of attempts.

mod cli;
mod commands;
mod context;
mod engine;
mod failure;
mod filesystem;
mod interrupts;
mod job;
mod live;
mod notes;
mod out;
mod outside;
mod select;
mod supervise;
mod sweeps;

use clap::Parser;
use context::Context;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    // before anything opens a file or starts a thread: the supervisor has rules of its own about signals
    if let cli::Command::Task(cli::Task::Run { task }) = &cli.command {
        return code(supervise::run(task));
    }
    let mut context = Context::new(&cli.global);
    let result = commands::run(&mut context, cli.command);
    let exit = match result {
        Ok(code) => code,
        Err(failure) => {
            eprint!("{}", failure.render(context.err_color));
            failure.code
        }
    };
    // a reader that has seen enough (`| head`) is no failure; output that is cut by a full disk is one
    match context.out.flush() {
        Ok(()) => code(exit),
        Err(e) => {
            eprintln!("error: cannot write to standard output: {e}");
            code(record::exit::FAILED)
        }
    }
}

fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
