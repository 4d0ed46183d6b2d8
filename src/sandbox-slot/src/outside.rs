//! A slot without namespaces: its directory on the host, made and removed by the keeper.
//!
//! `work`, `tmp`, `shm` and `prog` in it stand for `/work`, `/tmp`, `/dev/shm` and `/prog`. The keeper holds a lock on the
//! directory while it lives; one that nobody holds belonged to a slot that was killed, and the next keeper removes it.

use crate::landlock::{self, Outside};
use crate::root::Built;
use crate::wire::{Isolation, Setup};
use crate::{Context, Result, SlotError, clean};
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::sys::stat::Mode;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What the names of such directories begin with.
const NAME: &str = "bessemer-slot-";
/// The directories in it that programs can write to.
const WRITABLE: [&str; 3] = ["tmp", "work", "shm"];
const PROG: &str = "prog";
/// Where the warm interpreter's own files lie, in either kind of root.
pub const ZYGOTE: &str = "/.zygote";

static WORK: OnceLock<CString> = OnceLock::new();

/// The working directory of programs.
#[must_use]
pub fn work() -> &'static CStr {
    WORK.get().map_or(c"/work", CString::as_c_str)
}

/// Says where the slot's directory is, to this process: once, before anything runs.
///
/// # Errors
/// A path with a NUL byte.
pub fn set_root(root: &str) -> Result<()> {
    let work = CString::new(format!("{root}/work")).context(|| "the slot's directory".into())?;
    let _ = WORK.set(work); // only ever the same
    Ok(())
}

/// A word of a command: `/prog`, `/work`, `/tmp`, and what is in them, lie in the slot's directory.
#[must_use]
pub fn rooted(word: &[u8], root: &str) -> Vec<u8> {
    let inside = ["/prog", "/work", "/tmp"].iter().any(|dir| {
        word.strip_prefix(dir.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    });
    if inside { [root.as_bytes(), word].concat() } else { word.to_vec() }
}

/// The same for the value of a variable of the environment.
#[must_use]
pub fn rooted_variable(variable: &[u8], root: &str) -> Vec<u8> {
    let value = variable.iter().position(|b| *b == b'=').map_or(0, |at| at + 1);
    [&variable[..value], &rooted(&variable[value..], root)].concat()
}

/// A slot's directory, as its keeper holds it. Dropping it removes it with all that is in it.
pub struct Place {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Place {
    /// Makes a new one in `base`, and removes those that killed slots have left there.
    ///
    /// # Errors
    /// `base` cannot be written to.
    pub fn make(base: &str) -> Result<Self> {
        let base = Path::new(base);
        sweep(base);
        // Between making and locking another keeper's sweep may take it for a dead one's.
        for _ in 0..16 {
            let path = nix::unistd::mkdtemp(&base.join(format!("{NAME}XXXXXX")))
                .context(|| format!("a directory for the slot in {}", base.display()))?;
            let Ok(dir) = File::open(&path) else { continue };
            if let Ok(lock) = Flock::lock(dir, FlockArg::LockExclusiveNonblock)
                && path.exists()
            {
                return Ok(Self { path, _lock: lock });
            }
        }
        Err(SlotError(format!("{}: directories that are made here disappear", base.display())))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a slot's directory, whatever modes and depth a program has given to what is in it.
fn remove(path: &Path) {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    for name in WRITABLE {
        let Ok(dir) = open(&path.join(name), flags, Mode::empty()) else { continue };
        // Each call takes a bounded number of files away.
        let _ = (0..1000).find(|_| clean::empty(&dir).is_ok());
    }
    let _ = fs::remove_dir_all(path); // what is left, for a reason of the file system's, is swept by the next one
}

/// Removes directories of slots whose keeper does not live any more.
fn sweep(base: &Path) {
    let me = nix::unistd::geteuid().as_raw();
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.as_bytes().starts_with(NAME.as_bytes()) {
            continue;
        }
        let Ok(meta) = fs::symlink_metadata(entry.path()) else { continue };
        let Ok(dir) = File::open(entry.path()) else { continue };
        if meta.is_dir() && meta.uid() == me && Flock::lock(dir, FlockArg::LockExclusiveNonblock).is_ok() {
            remove(&entry.path());
        }
    }
}

/// Makes what a slot has in its directory, and gives it to the user that programs run as; process 1 works there.
///
/// # Errors
/// A step that was refused, with its place.
pub fn build(setup: &Setup, root: &Path) -> Result<(Built, Option<Outside>)> {
    let as_root = nix::unistd::geteuid().is_root();
    if as_root {
        if setup.run_as == 0 {
            return Err(SlotError("programs may not run as root outside of namespaces".into()));
        }
        nix::unistd::setgroups(&[]).context(|| "setgroups".into())?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o711)).context(|| "mode of the slot".into())?;
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let make = |name: &str| -> Result<OwnedFd> {
        let at = root.join(name);
        fs::create_dir(&at).context(|| format!("making {}", at.display()))?;
        if as_root {
            nix::unistd::chown(&at, Some(setup.run_as.into()), Some(setup.run_as.into()))
                .context(|| format!("owner of {}", at.display()))?;
        }
        fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).context(|| format!("mode of {name}"))?;
        open(&at, flags, Mode::empty()).context(|| format!("opening {}", at.display()))
    };
    let [tmp, work, shm] = WRITABLE;
    let writable = [make(tmp)?, make(work)?, make(shm)?];
    let prog = make(PROG)?;
    // Of the files of a root only those that process 1 itself needs: for /etc/passwd and its like programs see the host's
    // paths, or nothing.
    for (path, data) in setup.files.iter().filter(|(path, _)| path.starts_with(ZYGOTE)) {
        let at = root.join(path.trim_start_matches('/'));
        at.parent().map_or(Ok(()), fs::create_dir_all).context(|| format!("making the place of {path}"))?;
        fs::write(&at, data).context(|| format!("writing {}", at.display()))?;
        let mode = fs::Permissions::from_mode(0o644);
        fs::set_permissions(&at, mode).context(|| format!("mode of {path}"))?;
    }
    std::env::set_current_dir(root.join(work)).context(|| "entering the working directory".into())?;
    let outside = match setup.isolation {
        Isolation::Landlock => {
            let visible: Vec<_> = setup.binds.iter().map(|b| b.source.as_str()).collect();
            Some(landlock::outside(&visible, &writable, &prog)?)
        }
        Isolation::Filter | Isolation::Namespaces => None,
    };
    let proc = open("/proc", flags, Mode::empty()).context(|| "opening /proc".into())?;
    Ok((Built { writable, prog, proc: Some(proc), proc_mounted: false }, outside))
}
