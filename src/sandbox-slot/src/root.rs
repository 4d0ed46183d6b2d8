//! The slot's root file system: an empty tmpfs with read-only pieces of the host, and private scratch space.
//!
//! Runs as process 1 in the new namespaces, while it still has capabilities over them. The order matters: host paths
//! are opened before anything covers them, and `/proc` is mounted while the host's full one is still visible (the
//! kernel refuses it otherwise).

use crate::keeper::INSIDE_ID;
use crate::wire::{Bind, Setup};
use crate::{Context, Result, SlotError};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Where the root is put together. Any directory that every system has would do: nobody outside sees it.
const STAGE: &str = "/tmp";
/// The writable places inside, and the directory of the scratch tmpfs behind each.
const WRITABLE: [(&str, &str); 3] = [("/tmp", "tmp"), ("/work", "work"), ("/dev/shm", "shm")];
const NONE: Option<&str> = None;

/// What process 1 keeps of the root it built.
pub struct Built {
    /// `/tmp`, `/work`, `/dev/shm`: to empty them.
    pub writable: [OwnedFd; 3],
    /// `/prog`, writable through this descriptor only.
    pub prog: OwnedFd,
    /// A `/proc` that shows every process of the slot, if one could be had.
    pub proc: Option<OwnedFd>,
    /// Programs have a `/proc`.
    pub proc_mounted: bool,
}

/// Builds the root and moves into it.
///
/// # Errors
/// A step that the kernel refused, with its target.
pub fn build(setup: &Setup) -> Result<Built> {
    let privileged = nix::unistd::geteuid().is_root();
    if privileged {
        nix::unistd::setgroups(&[]).context(|| "setgroups".into())?;
    }
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .context(|| "making mounts private".into())?;
    let sources = open_sources(&setup.binds)?;
    let devices = ["null", "zero", "random", "urandom"];
    let nodes = devices.iter().map(|d| open_path(&format!("/dev/{d}"))).collect::<Result<Vec<_>>>()?;

    tmpfs(STAGE, "mode=0755,size=16m,nr_inodes=2048", MsFlags::empty())?;
    for dir in ["/dev", "/dev/shm", "/proc", "/tmp", "/work", "/prog", "/scratch", "/etc", "/var", "/private"]
    {
        make_dir(dir)?;
    }
    for (bind, source) in setup.binds.iter().zip(&sources) {
        bind_into(source, &bind.target, attr::RDONLY | attr::NOSUID | attr::NODEV)?;
    }
    for (name, node) in devices.iter().zip(&nodes) {
        bind_into(node, &format!("/dev/{name}"), attr::RDONLY | attr::NOSUID | attr::NOEXEC)?;
    }
    for (path, data) in &setup.files {
        let at = staged(path);
        if let Some(parent) = at.parent() {
            make_all(parent)?;
        }
        fs::write(&at, data).context(|| format!("writing {path}"))?;
        fs::set_permissions(&at, fs::Permissions::from_mode(0o644)).context(|| format!("mode of {path}"))?;
    }
    let fixed = [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/var/tmp", "/tmp"),
    ];
    let links = setup.links.iter().map(|(a, b)| (a.as_str(), b.as_str()));
    for (path, to) in fixed.into_iter().chain(links) {
        let at = staged(path);
        if let Some(parent) = at.parent() {
            make_all(parent)?;
        }
        symlink(to, at).context(|| format!("link {path} -> {to}"))?;
    }
    let (writable, prog) = scratch(setup)?;
    let (proc, proc_mounted) = proc_mounts();
    enter()?;
    Ok(Built { writable, prog, proc, proc_mounted })
}

fn staged(inside: &str) -> PathBuf {
    Path::new(STAGE).join(inside.trim_start_matches('/'))
}

fn make_dir(inside: &str) -> Result<()> {
    make_all(&staged(inside))
}

fn make_all(path: &Path) -> Result<()> {
    fs::create_dir_all(path).context(|| format!("making {}", path.display()))
}

fn open_path(path: &str) -> Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).context(|| format!("opening {path}"))
}

fn open_sources(binds: &[Bind]) -> Result<Vec<OwnedFd>> {
    binds.iter().map(|b| open_path(&b.source)).collect()
}

fn tmpfs(target: &str, options: &str, more: MsFlags) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | more;
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options))
        .context(|| format!("tmpfs at {target} with {options}"))
}

/// Attributes of `mount_setattr`.
mod attr {
    pub const RDONLY: u64 = 1;
    pub const NOSUID: u64 = 2;
    pub const NODEV: u64 = 4;
    pub const NOEXEC: u64 = 8;
}

fn bind_into(source: &OwnedFd, target: &str, attrs: u64) -> Result<()> {
    let from = format!("/proc/self/fd/{}", source.as_raw_fd());
    let at = staged(target);
    let is_dir = nix::sys::stat::fstat(source)
        .map(|s| s.st_mode & libc::S_IFMT == libc::S_IFDIR)
        .context(|| format!("looking at the source of {target}"))?;
    if is_dir {
        make_all(&at)?;
    } else {
        if let Some(parent) = at.parent() {
            make_all(parent)?;
        }
        fs::write(&at, b"").context(|| format!("making {target}"))?;
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from.as_str()), &at, NONE, flags, NONE).context(|| format!("binding {target}"))?;
    restrict(&at, attrs).context(|| format!("making {target} read-only"))
}

/// Adds restrictions to a mount and everything mounted below it.
fn restrict(at: &Path, attrs: u64) -> Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns: u64,
    }
    let path = std::ffi::CString::new(at.as_os_str().as_encoded_bytes()).context(|| "path".into())?;
    let attr = MountAttr { set: attrs, clear: 0, propagation: 0, userns: 0 };
    // SAFETY: path and attr live through the call, and the size is theirs.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            0x8000, // AT_RECURSIVE
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if done == 0 {
        return Ok(());
    }
    match Errno::last() {
        Errno::ENOSYS | Errno::EPERM => remount_each(at, attrs), // before 5.12, or hidden by an outer filter
        e => Err(SlotError(format!("mount_setattr: {e}"))),
    }
}

/// The same for old kernels: one remount for each mount point below.
fn remount_each(at: &Path, attrs: u64) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context(|| "mountinfo".into())?;
    for line in table.lines() {
        let mut fields = line.split(' ');
        let (Some(point), Some(options)) = (fields.nth(4), fields.next()) else { continue };
        let point = PathBuf::from(point.replace("\\040", " "));
        if !point.starts_with(at) {
            continue;
        }
        let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        let pairs = [
            (attr::RDONLY, "ro", MsFlags::MS_RDONLY),
            (attr::NOSUID, "nosuid", MsFlags::MS_NOSUID),
            (attr::NODEV, "nodev", MsFlags::MS_NODEV),
            (attr::NOEXEC, "noexec", MsFlags::MS_NOEXEC),
            (0, "noatime", MsFlags::MS_NOATIME),
            (0, "nodiratime", MsFlags::MS_NODIRATIME),
            (0, "relatime", MsFlags::MS_RELATIME),
        ];
        for (bit, word, flag) in pairs {
            if attrs & bit != 0 || options.split(',').any(|o| o == word) {
                flags |= flag;
            }
        }
        mount(NONE, &point, NONE, flags, NONE).context(|| format!("remounting {}", point.display()))?;
    }
    Ok(())
}

/// One tmpfs for everything a program can write, so that one size and one file count hold for all of it.
fn scratch(setup: &Setup) -> Result<([OwnedFd; 3], OwnedFd)> {
    let base = staged("/scratch");
    let base_text = base.to_string_lossy().into_owned();
    let options = format!(
        "mode=0755,uid={INSIDE_ID},gid={INSIDE_ID},size={},nr_inodes={}",
        setup.scratch_bytes, setup.scratch_files
    );
    tmpfs(&base_text, &options, MsFlags::empty())?;
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let make = |inside: &str, name: &str, attrs: u64| -> Result<OwnedFd> {
        let dir = base.join(name);
        make_all(&dir)?;
        nix::unistd::chown(&dir, Some(INSIDE_ID.into()), Some(INSIDE_ID.into()))
            .context(|| format!("owner of {inside}"))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))
            .context(|| format!("mode of {inside}"))?;
        let held = open(&dir, flags, Mode::empty()).context(|| format!("opening {inside}"))?;
        bind_into(&open_path(&dir.to_string_lossy())?, inside, attrs)?;
        Ok(held)
    };
    let common = attr::NOSUID | attr::NODEV;
    let [tmp, work, shm] = WRITABLE;
    let writable = [make(tmp.0, tmp.1, common)?, make(work.0, work.1, common)?, make(shm.0, shm.1, common)?];
    // Programs see /prog read-only; process 1 writes it through a descriptor of the mount that goes away here.
    let prog = make("/prog", "prog", common | attr::RDONLY)?;
    umount2(&base, MntFlags::MNT_DETACH).context(|| "detaching scratch".into())?;
    fs::remove_dir(&base).context(|| "removing the scratch directory".into())?;
    Ok((writable, prog))
}

/// Two views of this pid namespace: one that only process 1 can reach, one for programs. Both may be refused where a
/// container masks parts of `/proc`; runs then go on without, and limits of process trees are per process.
fn proc_mounts() -> (Option<OwnedFd>, bool) {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let private = staged("/private");
    let observer = mount(Some("proc"), &private, Some("proc"), flags, NONE).ok().and_then(|()| {
        let fd = open(&private, OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok();
        umount2(&private, MntFlags::MNT_DETACH).ok().and(fd)
    });
    let _ = fs::remove_dir(&private); // an empty directory in a read-only root does no harm if it stays
    let public = staged("/proc");
    let mounted = ["subset=pid,hidepid=2", "hidepid=2"]
        .iter()
        .any(|options| mount(Some("proc"), &public, Some("proc"), flags, Some(*options)).is_ok());
    (observer, mounted)
}

fn enter() -> Result<()> {
    std::env::set_current_dir(STAGE).context(|| "entering the root".into())?;
    nix::unistd::pivot_root(".", ".").context(|| "pivot_root".into())?;
    umount2(".", MntFlags::MNT_DETACH).context(|| "detaching the host's root".into())?;
    std::env::set_current_dir("/").context(|| "chdir /".into())?;
    let flags =
        MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(NONE, "/", NONE, flags, NONE).context(|| "making the root read-only".into())?;
    nix::unistd::sethostname("sandbox").context(|| "sethostname".into())
}
