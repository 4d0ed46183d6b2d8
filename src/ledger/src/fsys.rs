//! What kind of file system the state lies on decides how SQLite may be used there (specs: F30).

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A file system as far as SQLite cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    pub name: String,
    /// Shared between machines, or through a layer whose locks are doubtful: no WAL, exclusive locking.
    pub network: bool,
}

/// Magic numbers of statfs(2), from the Linux headers and coreutils' stat.
const KNOWN: &[(i64, &str, bool)] = &[
    (0x6969, "NFS", true),
    (0xFE53_4D42, "SMB2", true),
    (0xFF53_4D42, "CIFS", true),
    (0x517B, "SMB", true),
    (0x0BD0_0BD0, "Lustre", true),
    (0x4750_4653, "GPFS", true),
    (0x1983_0326, "BeeGFS", true),
    (0x00C3_6400, "Ceph", true),
    (0x6573_5546, "FUSE", true),
    (0x5346_414F, "AFS", true),
    (0x6B41_4653, "AFS", true),
    (0x7375_7245, "Coda", true),
    (0x0102_1997, "9p", true),
    (0xAAD7_AAEA, "Panasas", true),
    (0x013111A8, "IBRIX", true),
    (0x786F_4256, "VirtualBox shared folder", true),
    (0xEF53, "ext4", false),
    (0x5846_5342, "XFS", false),
    (0x9123_683E, "btrfs", false),
    (0x2FC1_2FC1, "ZFS", false),
    (0x0102_1994, "tmpfs", false),
    (0x794C_7630, "overlayfs", false),
    (0xF2F5_2010, "F2FS", false),
];

/// Looks at the file system below an existing `path`. What nobody knows counts as a network file system: slower, never wrong.
#[must_use]
pub fn of(path: &Path) -> FileSystem {
    let unknown = |name: &str| FileSystem { name: name.to_owned(), network: true };
    let Ok(c) = CString::new(path.as_os_str().as_bytes()) else { return unknown("an unknown file system") };
    // SAFETY: `c` is a NUL-terminated string and `buf` is a plain C struct that the call fills.
    let magic = unsafe {
        let mut buf: libc::statfs = std::mem::zeroed();
        if libc::statfs(c.as_ptr(), &raw mut buf) != 0 {
            return unknown("an unknown file system");
        }
        // The field is signed on some targets and sign-extended there: only 32 bits are the magic number.
        #[allow(clippy::cast_lossless, clippy::unnecessary_cast, clippy::cast_possible_wrap)]
        {
            (buf.f_type as i64) & 0xFFFF_FFFF
        }
    };
    KNOWN.iter().find(|(m, ..)| *m == magic).map_or_else(
        || unknown(&format!("a file system of unknown type {magic:#x}")),
        |(_, name, network)| FileSystem { name: (*name).to_owned(), network: *network },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_directory_is_local_and_proc_is_doubtful() {
        assert!(!of(Path::new("/dev/shm")).network, "{:?}", of(Path::new("/dev/shm")));
        let proc = of(Path::new("/proc"));
        assert!(proc.network && proc.name.contains("0x9fa0"), "{proc:?}");
    }
}
