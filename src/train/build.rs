//! Sets the run-time library paths of this crate's binaries and tests.

include!("../model/rpath.rs");

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../model/rpath.rs");
    rpaths();
}
