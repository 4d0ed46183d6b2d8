// Included by the build scripts of the crates that link libtorch: where the loader finds it, without LD_LIBRARY_PATH.
fn rpaths() {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let macos = std::env::var("CARGO_CFG_TARGET_OS").expect("cargo sets it") == "macos";
    let origin = if macos { "@loader_path" } else { "$ORIGIN" };
    // next to an installed binary, target/<profile>/bin, target/<profile>/deps/test, then the checkout itself
    for path in [
        format!("{origin}/../../.libtorch/lib"),
        format!("{origin}/../../../.libtorch/lib"),
        format!("{manifest}/../../.libtorch/lib"),
    ] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{path}");
    }
}
