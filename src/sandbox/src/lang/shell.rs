//! Shell scripts by bash.

use super::{Language, Toolchain, binds, first_line, on_path};
use crate::config::Config;
use std::path::Path;

pub(super) static LANGUAGE: Language = Language {
    name: "bash",
    aliases: &["sh", "shell"],
    source: "main.sh",
    find,
    reserve_mb: 256,
    stack_mb: 8,
};

fn find(_: &Config) -> Result<Toolchain, String> {
    let program = on_path(Path::new("bash")).ok_or("no bash on PATH")?;
    if !binds::in_base(&program) {
        return Err(format!("{} is not the system's bash", program.display()));
    }
    Ok(Toolchain {
        binds: Vec::new(),
        compile: None,
        version: first_line(&program, &["--version"])?,
        run: vec![program.to_string_lossy().into_owned(), "/prog/main.sh".to_owned()],
        env: Vec::new(),
    })
}
