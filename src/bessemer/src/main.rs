//! The bessemer command: planner, watcher, and supervisor of attempts.

mod filesystem;
mod supervise;

fn main() -> std::process::ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    let code = match args.get(3) {
        Some(path) if args[1] == "task" && args[2] == "run" => supervise::run(std::path::Path::new(path)),
        _ => record::exit::USAGE,
    };
    std::process::ExitCode::from(u8::try_from(code).unwrap_or(1))
}
