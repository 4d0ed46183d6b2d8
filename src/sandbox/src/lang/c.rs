//! C and C++ by the machine's gcc (or what `cc`/`c++` is).

use super::{Language, PROGRAM, Toolchain, binds, first_line, on_path};
use crate::config::Config;
use std::path::Path;

pub(super) static C: Language =
    Language { name: "c", aliases: &[], source: "main.c", find: find_c, reserve_mb: 256, stack_mb: 64 };
pub(super) static CPP: Language = Language {
    name: "cpp",
    aliases: &["c++", "cxx"],
    source: "main.cpp",
    find: find_cpp,
    reserve_mb: 256,
    stack_mb: 64,
};

fn find_c(_: &Config) -> Result<Toolchain, String> {
    toolchain(&["gcc", "cc", "clang"], &["-O2", "-std=gnu11", "/prog/main.c"])
}

fn find_cpp(_: &Config) -> Result<Toolchain, String> {
    toolchain(&["g++", "c++", "clang++"], &["-O2", "-std=gnu++17", "/prog/main.cpp"])
}

fn toolchain(names: &[&str], args: &[&str]) -> Result<Toolchain, String> {
    let program = names
        .iter()
        .find_map(|n| on_path(Path::new(n)))
        .ok_or_else(|| format!("none of {} is on PATH; install a compiler", names.join(", ")))?;
    if !binds::in_base(&program) {
        return Err(format!("{} is not one of the system's compilers", program.display()));
    }
    let version = first_line(&program, &["--version"])?;
    let mut compile = vec![program.to_string_lossy().into_owned()];
    compile.extend(args.iter().map(|a| (*a).to_owned()));
    compile.extend(["-o", "/work/main", "-lm"].map(str::to_owned));
    Ok(Toolchain {
        binds: Vec::new(),
        compile: Some(compile),
        run: vec![format!("/prog/{PROGRAM}")],
        env: Vec::new(),
        version,
    })
}
