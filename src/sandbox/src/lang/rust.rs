//! Rust by the machine's rustc.

use super::{Language, PROGRAM, Toolchain, binds, first_line, on_path};
use crate::config::Config;
use slot::wire::Bind;
use std::path::Path;

pub(super) static LANGUAGE: Language =
    Language { name: "rust", aliases: &["rs"], source: "main.rs", find, reserve_mb: 256, stack_mb: 64 };

const INSIDE: &str = "/opt/rust";

fn find(_: &Config) -> Result<Toolchain, String> {
    let program = on_path(Path::new("rustc")).ok_or("no rustc on PATH; install Rust")?;
    // On PATH there may be rustup's proxy (which looks at its own name); the compiler lies in its sysroot.
    let sysroot = first_line(Path::new("rustc"), &["--print", "sysroot"])?;
    let version = first_line(Path::new("rustc"), &["--version"])?;
    let real = Path::new(&sysroot).join("bin/rustc");
    let (compiler, binds) = if binds::in_base(&real) {
        (program.to_string_lossy().into_owned(), Vec::new())
    } else {
        (format!("{INSIDE}/bin/rustc"), vec![Bind { source: sysroot, target: INSIDE.to_owned() }])
    };
    let args = ["--edition", "2021", "-O", "/prog/main.rs", "-o", "/work/main"];
    Ok(Toolchain {
        binds,
        compile: Some([compiler.as_str()].iter().chain(&args).map(|a| (*a).to_owned()).collect()),
        run: vec![format!("/prog/{PROGRAM}")],
        env: Vec::new(),
        version,
    })
}
