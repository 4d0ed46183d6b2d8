//! Which file system a path lies on: decides how patient to be with records (specs: F29), and what `doctor` says.

use std::io;
use std::path::Path;

/// Kind and room of a file system.
#[derive(Debug, Clone, serde::Serialize)]
pub struct FileSystem {
    pub name: String,
    /// Shared by several machines: other nodes' writes may be seen late, locks may be broken.
    pub network: bool,
    /// Bytes that an ordinary user may still write.
    pub free_bytes: u64,
    /// Files that may still be created; `None` where the file system does not count them.
    pub free_inodes: Option<u64>,
}

/// `f_type` of statfs(2), as in linux/magic.h and the file systems' own sources.
const KNOWN: [(i64, &str, bool); 21] = [
    (0x6969, "nfs", true),
    (0xFE53_4D42, "smb2", true),
    (0xFF53_4D42, "cifs", true),
    (0x517B, "smb", true),
    (0x0BD0_0BD0, "lustre", true),
    (0x4750_4653, "gpfs", true),
    (0x1983_0326, "beegfs", true),
    (0xAAD7_AAEA, "panfs", true),
    (0x00C3_6400, "ceph", true),
    (0x013D_1013, "orangefs", true),
    (0x5346_414F, "afs", true),
    (0x0102_1997, "9p", true),
    (0x6573_5546, "fuse", true),
    (0xEF53, "ext4", false),
    (0x5846_5342, "xfs", false),
    (0x9123_683E, "btrfs", false),
    (0x2FC1_2FC1, "zfs", false),
    (0x0102_1994, "tmpfs", false),
    (0x794C_7630, "overlay", false),
    (0x8584_58F6, "ramfs", false),
    (0xF2F5_2010, "f2fs", false),
];

/// Looks at the nearest existing ancestor of `path`.
///
/// # Errors
/// Of statfs.
pub fn of(path: &Path) -> io::Result<FileSystem> {
    let there = path.ancestors().find(|p| !p.as_os_str().is_empty() && p.exists()).unwrap_or(Path::new("."));
    let s = nix::sys::statfs::statfs(there)?;
    // the type is a C long; 32-bit magic numbers come sign-extended on some systems
    let magic = s.filesystem_type().0 & 0xFFFF_FFFF;
    let known = KNOWN.iter().find(|k| k.0 == magic);
    let unit = u64::try_from(s.block_size()).unwrap_or(4096);
    Ok(FileSystem {
        name: known.map_or_else(|| format!("type 0x{magic:x}"), |k| k.1.to_owned()),
        // what nobody knows may be shared: being patient costs little, being wrong costs a task
        network: known.is_none_or(|k| k.2),
        free_bytes: s.blocks_available() * unit,
        free_inodes: (s.files() > 0).then(|| s.files_free()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_there_yet_lies_where_its_parent_lies() {
        let here = of(Path::new(".")).unwrap();
        let there = of(Path::new("./no/such/path")).unwrap();
        assert_eq!(here.name, there.name);
        assert!(here.free_bytes > 0);
    }
}
