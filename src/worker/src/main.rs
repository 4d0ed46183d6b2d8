//! `bessemer-worker`: runs one attempt's work. The only program of the project that links libtorch.

mod context;
mod data;
mod kinds;
mod tensorboard;

use clap::{Parser, Subcommand};
use context::Context;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "bessemer-worker", version, about = "Runs the work of one bessemer task")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the task of a task.json; exit codes are those of `bessemer help exit-codes`.
    Run {
        task: PathBuf,
        /// Checkpoint and leave with exit code 85 after so many steps (optimizer steps, episodes, problems).
        #[arg(long, value_name = "STEPS")]
        stop_after: Option<u64>,
    },
    /// Say what this machine's libtorch can do.
    Doctor {
        #[arg(long)]
        json: bool,
    },
}

/// Idle threads of libtorch's OpenMP spin: fine alone, ruinous when sandboxes, services or other tasks share the cores (5
/// times slower with two busy processes on two cores). The runtime reads its environment when the program is loaded, so
/// the program is loaded again, once, with a short spin; a user's own setting is left alone.
fn calm_openmp() {
    const SETTINGS: [&str; 3] = ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"];
    if SETTINGS.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        // only comes back when it fails, and then we run as we are
        let _ = std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(SETTINGS[0], "2000")
            .exec();
    }
}

fn main() -> ExitCode {
    calm_openmp();
    context::catch_stop_signals();
    let code = match Cli::parse().command {
        Command::Run { task, stop_after } => run(&task, stop_after),
        Command::Doctor { json } => kinds::doctor::run(json),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn run(task: &std::path::Path, stop_after: Option<u64>) -> i32 {
    let mut context = match Context::open(task, stop_after) {
        Ok(c) => c,
        Err(e) => {
            eprintln!("{e:#}");
            return match context::class_of(&e) {
                record::FailureClass::Setup => record::exit::SETUP_FAILED,
                _ => record::exit::USER_ERROR,
            };
        }
    };
    // libtorch reports its errors as panics through tch; an attempt must leave an outcome whatever happens
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| kinds::run(&mut context)))
        .unwrap_or_else(|panic| Err(anyhow::anyhow!("{}", panic_words(panic.as_ref()))));
    context.finish(result).unwrap_or_else(|e| {
        eprintln!("{e:#}");
        record::exit::FAILED
    })
}

fn panic_words(panic: &(dyn std::any::Any + Send)) -> String {
    let words = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    format!("the worker panicked: {words}")
}
