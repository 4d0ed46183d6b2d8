//! Builds the slot program and the interpreter's extension module and embeds both, so that whatever links this library (a test, a worker, the planner) can
//! start slots without a second file next to it.
//!
//! The nested cargo has its own target directory, or it would wait for the lock of the outer one.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let dir = |name: &str| PathBuf::from(env::var_os(name).expect("cargo sets it for build scripts"));
    let here = dir("CARGO_MANIFEST_DIR");
    let src = here.parent().expect("the crate lies in src/");
    for part in ["sandbox-slot", "sandbox-zygote"] {
        println!("cargo::rerun-if-changed={}", src.join(part).join("src").display());
        println!("cargo::rerun-if-changed={}", src.join(part).join("Cargo.toml").display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    let target_dir = dir("OUT_DIR").join("slot");
    let target = env::var("TARGET").expect("cargo sets it for build scripts");
    let mut cargo = Command::new(dir("CARGO"));
    cargo
        .args(["build", "--release", "--target", &target])
        .args([
            "--package",
            "bessemer-sandbox-slot",
            "--package",
            "bessemer-sandbox-zygote",
            "--manifest-path",
        ])
        .arg(src.join("sandbox-slot/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "none");
    // The slot is built alike whether the outer cargo runs clippy, a sanitizer, coverage, or nothing special.
    for name in
        ["RUSTC_WORKSPACE_WRAPPER", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "CLIPPY_ARGS", "CARGO_TARGET_DIR"]
    {
        cargo.env_remove(name);
    }
    let status = cargo.status().expect("cargo runs: it has started this build script");
    assert!(status.success(), "building the sandbox slot failed ({status}); its messages are above");
    let built = target_dir.join(target).join("release");
    println!("cargo::rustc-env=BESSEMER_SLOT_BINARY={}", built.join("bessemer-sandbox-slot").display());
    println!("cargo::rustc-env=BESSEMER_ZYGOTE_MODULE={}", built.join("libbessemer_zygote.so").display());
}
