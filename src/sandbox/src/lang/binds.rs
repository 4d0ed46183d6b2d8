//! What of the host every slot sees: the system's programs and libraries, nothing else.

use slot::wire::Bind;
use std::fs;
use std::path::Path;

/// Directories with programs and libraries. No `/usr/local`, `/opt`, `/etc`, `/var`: a toolchain that lives there
/// brings its own bind.
const SYSTEM: &[&str] = &[
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/include",
    "/usr/share",
];
/// Links on merged systems, directories on older ones.
const MERGED: &[&str] = &["/bin", "/sbin", "/lib", "/lib32", "/lib64"];
/// Single files and directories of /etc that loaders and compilers follow.
const ETC: &[&str] = &["/etc/ld.so.cache", "/etc/alternatives"];

/// Binds and links of the base root.
pub(crate) fn base() -> (Vec<Bind>, Vec<(String, String)>) {
    let mut binds = Vec::new();
    let mut links = Vec::new();
    for dir in SYSTEM.iter().chain(MERGED).chain(ETC) {
        let Ok(meta) = fs::symlink_metadata(dir) else { continue };
        if meta.is_symlink() {
            if let Ok(to) = fs::read_link(dir) {
                links.push(((*dir).to_owned(), to.to_string_lossy().into_owned()));
            }
        } else {
            binds.push(same(Path::new(dir)));
        }
    }
    (binds, links)
}

/// A bind to the same path inside.
pub(crate) fn same(path: &Path) -> Bind {
    let text = path.to_string_lossy().into_owned();
    Bind { source: text.clone(), target: text }
}

/// Whether the base root shows this path already.
pub(crate) fn in_base(path: &Path) -> bool {
    SYSTEM.iter().chain(MERGED).any(|dir| path.starts_with(dir))
}
