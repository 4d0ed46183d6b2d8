//! The slot program, embedded in this library, ready for exec.
//!
//! It lies in a sealed memfd: nothing to install, nothing to find, and nobody can overwrite it (CVE-2019-5736 came
//! from a runtime that could be). Where memfds may not be executed (`vm.memfd_noexec`), `BESSEMER_SANDBOX_SLOT` names
//! a copy of the program on disk.

use crate::config::SandboxError;
use nix::sys::memfd::MFdFlags;
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;

static PROGRAM: &[u8] = include_bytes!(env!("BESSEMER_SLOT_BINARY"));

/// Path to exec the slot program by.
pub(crate) fn path() -> Result<OsString, SandboxError> {
    if let Some(path) = std::env::var_os("BESSEMER_SANDBOX_SLOT") {
        return Ok(path);
    }
    static HELD: OnceLock<OwnedFd> = OnceLock::new();
    if HELD.get().is_none() {
        let fd = slot::net::memfd(c"bessemer-sandbox-slot", PROGRAM, MFdFlags::MFD_ALLOW_SEALING)
            .map_err(SandboxError::Helper)?;
        // SAFETY: fcntl with plain numbers on a descriptor that we own.
        let sealed = unsafe {
            libc::fcntl(
                fd.as_raw_fd(),
                libc::F_ADD_SEALS,
                libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL,
            )
        };
        if sealed != 0 {
            return Err(SandboxError::Helper(std::io::Error::last_os_error()));
        }
        let _ = HELD.set(fd); // another thread was first: its copy is as good
    }
    let fd = HELD.get().expect("it was set above, by us or by another thread");
    Ok(format!("/proc/self/fd/{}", fd.as_raw_fd()).into())
}

/// What makes an interpreter a warm process 1: the extension module and its Python side, as files of the slot's root.
pub(crate) fn zygote_files() -> Vec<(String, Vec<u8>)> {
    static MODULE: &[u8] = include_bytes!(env!("BESSEMER_ZYGOTE_MODULE"));
    let file = |name: &str, data: &[u8]| (format!("/.zygote/{name}"), data.to_vec());
    vec![
        file("bessemer_zygote.abi3.so", MODULE),
        file("bessemer_child.py", crate::calls::CHILD.as_bytes()),
        file("bessemer_shut.py", include_str!("shut.py").as_bytes()),
        file("zygote.py", include_str!("zygote.py").as_bytes()),
        file("bessemer_warm.py", include_str!("warm.py").as_bytes()),
    ]
}
