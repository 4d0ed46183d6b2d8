//! Emptying the scratch directories, whatever a program left there.
//!
//! Programs choose names, modes, depth and number, so: every step is relative to a descriptor, no link is followed,
//! and a tree is taken apart from the top (each directory's subdirectories are moved up before it is removed), so
//! that depth costs nothing.

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// More entries than this are not worth removing one by one: a new slot is cheaper.
const WORTH_IT: usize = 20_000;

/// Files and bytes in use on the file system behind `dir`.
///
/// # Errors
/// The kernel's.
pub fn in_use(dir: &OwnedFd) -> nix::Result<(u64, u64)> {
    let s = nix::sys::statfs::fstatfs(dir)?;
    let files = s.files().saturating_sub(s.files_free());
    let blocks = s.blocks().saturating_sub(s.blocks_free());
    Ok((files, blocks * u64::try_from(s.block_size()).unwrap_or(4096)))
}

/// Where a program can write, and how it is measured.
#[derive(Clone, Copy)]
pub enum Scratch<'a> {
    /// A file system of the slot's own.
    FileSystem(&'a OwnedFd),
    /// Directories on one of the host's.
    Directories(&'a [OwnedFd]),
}

impl Scratch<'_> {
    /// Files and bytes in use. In directories more than [`WORTH_IT`] files, or a depth of more than 64, are as many bytes
    /// as can be.
    ///
    /// # Errors
    /// The kernel's.
    pub fn in_use(self) -> nix::Result<(u64, u64)> {
        match self {
            Self::FileSystem(dir) => in_use(dir),
            Self::Directories(dirs) => {
                let mut sum = (0, 0);
                for dir in dirs {
                    if !walk(dir.as_fd(), 64, &mut sum)? {
                        return Ok((u64::MAX, u64::MAX));
                    }
                }
                Ok(sum)
            }
        }
    }
}

/// Adds up what is below a directory, while a program may change it; false where it is too much to count.
fn walk(dir: BorrowedFd<'_>, depth: usize, sum: &mut (u64, u64)) -> nix::Result<bool> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(names) = entries(dir) else { return Ok(false) };
    for name in names {
        let Ok(stat) = fstatat(dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
        sum.0 += 1;
        sum.1 += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if sum.0 > WORTH_IT as u64 || depth == 0 {
            return Ok(false);
        }
        if stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
            continue;
        }
        match openat(dir, name.as_c_str(), flags, Mode::empty()) {
            Ok(inner) if !walk(inner.as_fd(), depth - 1, sum)? => return Ok(false),
            // Made so that we cannot look into it: its maker cannot either, or hides what it puts there. Changing the mode
            // would follow a link that the program puts in its place meanwhile.
            Err(Errno::EACCES) if stat.st_mode & 0o300 == 0o300 => return Ok(false),
            _ => {}
        }
    }
    Ok(true)
}

/// Removes everything in `dir`.
///
/// # Errors
/// Something could not be removed, or there is too much of it.
pub fn empty(dir: &OwnedFd) -> io::Result<()> {
    let top = dir.as_fd();
    let mut budget = WORTH_IT;
    let mut moved = 0_usize;
    loop {
        let names = entries(top)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            budget = budget.checked_sub(1).ok_or_else(|| io::Error::other("too much was left"))?;
            if unlink_any(top, &name)? {
                continue;
            }
            // A directory that is not empty: take its content out.
            fchmodat(top, name.as_c_str(), Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let sub = openat(top, name.as_c_str(), flags, Mode::empty())?;
            for inner in entries(sub.as_fd())? {
                budget = budget.checked_sub(1).ok_or_else(|| io::Error::other("too much was left"))?;
                if unlink_any(sub.as_fd(), &inner)? {
                    continue;
                }
                // Moving a directory rewrites its "..", which needs write permission on it.
                fchmodat(&sub, inner.as_c_str(), Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
                move_up(&sub, &inner, top, &mut moved)?;
            }
            unlinkat(top, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
        }
    }
}

fn move_up(sub: &OwnedFd, inner: &CStr, top: BorrowedFd<'_>, moved: &mut usize) -> io::Result<()> {
    loop {
        *moved += 1;
        let name = CString::new(format!(".moved-{moved}")).map_err(io::Error::other)?;
        match renameat(sub, inner, top, name.as_c_str()) {
            Ok(()) => return Ok(()),
            // The program has made that very name: the next number.
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) if *moved < 2 * WORTH_IT => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Removes a file or an empty directory; false when it is a directory with content.
fn unlink_any(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) => return Ok(true),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(e) => return Err(e.into()),
    }
    match unlinkat(dir, name, UnlinkatFlags::RemoveDir) {
        Ok(()) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn entries(dir: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let again = openat(dir, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(again)?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
        if names.len() > WORTH_IT {
            return Err(io::Error::other("too much was left"));
        }
    }
    Ok(names)
}

/// Splits a relative path of plain names; `None` for anything else.
#[must_use]
pub fn plain_parts(path: &str) -> Option<Vec<&str>> {
    let parts: Vec<_> = path.split('/').collect();
    let bad = |p: &&str| p.is_empty() || *p == "." || *p == ".." || p.contains('\0') || p.len() > 255;
    if parts.is_empty() || parts.len() > 32 || parts.iter().any(bad) { None } else { Some(parts) }
}

/// Writes a new file below `dir`, making directories on the way; hands it back open. Only for directories that are still empty of
/// anything a program made.
///
/// # Errors
/// A bad path, or the kernel's refusal (scratch is full).
pub fn place(dir: &OwnedFd, path: &str, data: &[u8], executable: bool) -> io::Result<File> {
    let parts =
        plain_parts(path).ok_or_else(|| io::Error::other(format!("{path:?} is no plain relative path")))?;
    let (last, dirs) = parts.split_last().expect("plain_parts gives at least one part");
    let mut at = dir.try_clone()?;
    for name in dirs {
        match mkdirat(&at, *name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        at = openat(&at, *name, flags, Mode::empty())?;
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = if executable { 0o755 } else { 0o644 };
    let fd = openat(&at, *last, flags, Mode::from_bits_truncate(mode))?;
    let mut file = File::from(fd);
    file.write_all(data)?;
    Ok(file)
}

/// Reads a plain file below `dir` that a program may have tampered with in any way, after all its processes are dead.
///
/// # Errors
/// It is not there, a link is on the way, it is no plain file, or it is larger than `max`.
pub fn fetch(dir: &OwnedFd, path: &str, max: u64) -> io::Result<Vec<u8>> {
    let parts =
        plain_parts(path).ok_or_else(|| io::Error::other(format!("{path:?} is no plain relative path")))?;
    let mut at = dir.try_clone()?;
    for (i, name) in parts.iter().enumerate() {
        let kind = if i + 1 == parts.len() { OFlag::O_NONBLOCK } else { OFlag::O_DIRECTORY };
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | kind;
        at = openat(&at, *name, flags, Mode::empty())?;
    }
    let file = File::from(at);
    let meta = file.metadata()?;
    if !meta.is_file() || meta.nlink() != 1 {
        return Err(io::Error::other("not a plain file with one name"));
    }
    if meta.len() > max {
        return Err(io::Error::other(format!("{} bytes; the most is {max}", meta.len())));
    }
    let mut data = Vec::new();
    file.take(max).read_to_end(&mut data)?;
    Ok(data)
}
