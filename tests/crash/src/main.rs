//! `sbatch`, `squeue`, ... by the name it is called under.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args();
    let name = args.next().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default().to_owned();
    let args: Vec<String> = args.collect();
    let Some(dir) = std::env::var_os(crash::DIR) else {
        eprintln!("{name}: {} is not set", crash::DIR);
        return ExitCode::from(1);
    };
    ExitCode::from(crash::commands::run(std::path::Path::new(&dir), &name, &args))
}
