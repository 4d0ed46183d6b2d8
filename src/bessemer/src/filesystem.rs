//! Which file system a path lies on, and how much room it has. Kinds are the ledger's: one table.

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

/// Looks at the nearest existing ancestor of `path`.
///
/// # Errors
/// Of statvfs.
pub fn of(path: &Path) -> io::Result<FileSystem> {
    let there = path.ancestors().find(|p| !p.as_os_str().is_empty() && p.exists()).unwrap_or(Path::new("."));
    let kind = ledger::fsys::of(there);
    let room = nix::sys::statvfs::statvfs(there)?;
    Ok(FileSystem {
        name: kind.name,
        network: kind.network,
        free_bytes: room.blocks_available() * room.fragment_size(),
        free_inodes: (room.files() > 0).then(|| room.files_available()),
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
