//! The keeper of one sandbox slot. Not meant for people: the `sandbox` library starts it with a socket as stdin.

fn main() -> std::process::ExitCode {
    match slot::keeper::main() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bessemer-sandbox-slot: {e}");
            std::process::ExitCode::from(70)
        }
    }
}
