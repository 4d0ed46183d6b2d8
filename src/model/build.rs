//! Compiles the C++ shim against the libtorch headers and sets the run-time library paths.

include!("rpath.rs");

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=rpath.rs");
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    rpaths();
    let root = std::env::var("LIBTORCH").unwrap_or_else(|_| "../../.libtorch".into());
    let root = std::path::Path::new(&root);
    assert!(
        root.join("include/ATen/ATen.h").exists(),
        "libtorch is not at {}: run `make libtorch` (or scripts/libtorch.py) first",
        root.display()
    );
    let version = std::fs::read_to_string(root.join("build-version")).unwrap_or_default();
    println!("cargo:rustc-env=BESSEMER_LIBTORCH={}", version.trim());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include(root.join("include"))
        .include(root.join("include/torch/csrc/api/include"))
        .file("shim/shim.cpp")
        .file("shim/memory.cpp")
        .file("shim/product.cpp")
        .warnings(false) // libtorch's headers are not ours to mend
        .opt_level(1)
        .compile("bessemer_shim");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include(root.join("include"))
        .include(root.join("include/torch/csrc/api/include"))
        .file("shim/fused.cpp")
        .warnings(false)
        .opt_level(3) // loops of our own
        .flag_if_supported("-fopenmp-simd")
        .flag_if_supported("-fno-math-errno")
        .flag_if_supported("-fno-trapping-math")
        .compile("bessemer_fused");
}
