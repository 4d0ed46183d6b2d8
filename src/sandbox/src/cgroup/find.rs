//! Where this process may make control groups.

use super::{CgroupPolicy, Group};
use crate::helper;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// Controllers that a slot needs.
const NEEDED: [&str; 2] = ["memory", "pids"];
/// In front of the name of every group that we make; the supervisor's process id and a number follow.
const PREFIX: &str = "bessemer-";
/// The group that a supervisor goes into when its own has to have groups below it.
const ASIDE: &str = "bessemer-supervisor";

/// Directories in which groups can be made: one for both controllers (version 2), or one for each (version 1).
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    V1 { memory: PathBuf, pids: PathBuf },
    V2 { parent: PathBuf },
}

/// A place to make groups in, known to work.
#[derive(Debug)]
pub(crate) struct Groups {
    layout: Layout,
}

impl Groups {
    /// Looks for the place, makes a group there for a trial, and moves a process in, which takes more rights than making it.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub fn find(policy: &CgroupPolicy) -> Result<Self, String> {
        let layout = match policy {
            CgroupPolicy::Never => return Err("control groups are switched off by the caller".into()),
            CgroupPolicy::In(dir) => {
                delegate(dir, std::process::id()).map_err(|e| format!("{}: {e}", dir.display()))?;
                Layout::V2 { parent: dir.clone() }
            }
            CgroupPolicy::IfPossible => {
                let read = |p: &str| fs::read_to_string(p).map_err(|e| format!("{p}: {e}"));
                let layout = locate(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)?;
                if let Layout::V2 { parent } = &layout {
                    delegate(parent, std::process::id()).map_err(|e| format!("{}: {e}", parent.display()))?;
                }
                layout
            }
        };
        let groups = Self { layout };
        groups.sweep();
        let group = groups.make().map_err(|e| format!("making a control group: {e}"))?;
        try_moving(&group).map_err(|e| format!("moving a process into a control group: {e}"))?;
        Ok(groups)
    }

    /// A new, empty group.
    ///
    /// # Errors
    /// The kernel refused, with the path.
    pub fn make(&self) -> io::Result<Group> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            match self.make_named(&format!("{PREFIX}{}-{number}", std::process::id())) {
                // A process of another process namespace may have our id, and the same place for its groups.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made,
            }
        }
    }

    fn make_named(&self, name: &str) -> io::Result<Group> {
        let make = |parent: &Path| {
            let dir = parent.join(name);
            fs::create_dir(&dir)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", dir.display())))
                .map(|()| dir)
        };
        match &self.layout {
            Layout::V2 { parent } => Group::open_v2(make(parent)?),
            Layout::V1 { memory, pids } => {
                let memory = make(memory)?;
                match make(pids) {
                    Ok(pids) => Group::open_v1(memory, pids),
                    Err(e) => {
                        let _ = fs::remove_dir(memory); // empty, and ours
                        Err(e)
                    }
                }
            }
        }
    }

    /// For people: which version, and where.
    pub fn describe(&self) -> String {
        match &self.layout {
            Layout::V1 { memory, .. } => format!("version 1, in {}", memory.display()),
            Layout::V2 { parent } => format!("version 2, in {}", parent.display()),
        }
    }

    /// Removes groups of supervisors that were killed. The kernel removes none that holds a process.
    fn sweep(&self) {
        let parents: Vec<&PathBuf> = match &self.layout {
            Layout::V1 { memory, pids } => vec![memory, pids],
            Layout::V2 { parent } => vec![parent],
        };
        for entry in parents.into_iter().filter_map(|p| fs::read_dir(p).ok()).flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|n| n.strip_prefix(PREFIX)?.split_once('-'));
            let Some(Ok(owner)) = owner.map(|(pid, _)| pid.parse::<u32>()) else { continue };
            // Its owner may live in another process namespace, and be about to move a slot in: leave new ones alone.
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            let old = age.is_some_and(|a| a.as_secs() > 60);
            if old && !Path::new(&format!("/proc/{owner}")).exists() {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

/// Moves a process in that does nothing. On version 2 the group that both the old and the new one lie in must be ours too.
fn try_moving(group: &Group) -> io::Result<()> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let mut process = Command::new(helper::path().map_err(io::Error::other)?)
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let moved = group.add(process.id());
    drop(ours); // a slot's keeper that is told nothing leaves
    process.wait()?;
    moved
}

/// Makes the needed controllers available in groups below `dir`.
fn delegate(dir: &Path, me: u32) -> Result<(), String> {
    let read = |name: &str| fs::read_to_string(dir.join(name)).map_err(|e| format!("{name}: {e}"));
    let missing = |text: &str| -> Vec<&str> {
        NEEDED.into_iter().filter(|n| !text.split_whitespace().any(|have| have == *n)).collect()
    };
    let not_here = missing(&read("cgroup.controllers")?).join(" and ");
    if !not_here.is_empty() {
        return Err(format!("this control group was not given the controller {not_here}"));
    }
    if missing(&read("cgroup.subtree_control")?).is_empty() {
        return Ok(());
    }
    let enable = || fs::write(dir.join("cgroup.subtree_control"), "+memory +pids");
    let busy = |e: &io::Error| e.raw_os_error() == Some(libc::EBUSY);
    match enable() {
        Ok(()) => Ok(()),
        // A group with processes cannot have groups with controllers below it. Alone in it, we may step aside.
        Err(e) if busy(&e) && read("cgroup.procs")?.split_whitespace().eq([me.to_string()]) => {
            let aside = dir.join(ASIDE);
            let moved = fs::create_dir_all(&aside)
                .and_then(|()| fs::write(aside.join("cgroup.procs"), me.to_string()))
                .and_then(|()| enable());
            moved.map_err(|e| format!("moving this process to {}: {e}", aside.display()))
        }
        Err(e) if busy(&e) => Err("other processes live in this control group; start with `systemd-run --user \
                                   --scope -p Delegate=yes COMMAND`, or name an empty delegated one by BESSEMER_CGROUP"
            .into()),
        Err(e) => Err(format!("cgroup.subtree_control: {e}")),
    }
}

/// The place of this process in the hierarchies, from the texts of `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn locate(own: &str, mounts: &str) -> Result<Layout, String> {
    let v1 = |controller: &str| -> Option<PathBuf> {
        let path = own.lines().find_map(|l| {
            let mut parts = l.splitn(3, ':');
            let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
            names.split(',').any(|n| n == controller).then_some(path)
        })?;
        mounted(mounts, "cgroup", Some(controller), path)
    };
    if let (Some(memory), Some(pids)) = (v1("memory"), v1("pids")) {
        return Ok(Layout::V1 { memory, pids });
    }
    let path = own.lines().find_map(|l| l.strip_prefix("0::"));
    match path.and_then(|p| mounted(mounts, "cgroup2", None, p)) {
        // We, or whoever started us, stepped aside before: groups are made where that was.
        Some(own) if own.ends_with(ASIDE) => {
            Ok(Layout::V2 { parent: own.parent().map(Path::to_owned).unwrap_or(own) })
        }
        Some(parent) => Ok(Layout::V2 { parent }),
        None => Err("no control group file system shows the group of this process".into()),
    }
}

/// Where a group's path lies in the file system: its mount's own root is cut off, as containers have one.
fn mounted(mounts: &str, kind: &str, option: Option<&str>, path: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (fstype, options) = (right.next()?, right.nth(1)?);
        if fstype != kind || option.is_some_and(|o| !options.split(',').any(|have| have == o)) {
            return None;
        }
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        let point = PathBuf::from(point.replace("\\040", " "));
        Some(if below.as_os_str().is_empty() { point } else { point.join(below) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
39 31 0:36 /docker/x /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn version_1_is_taken_where_it_has_both_controllers_and_mount_roots_are_cut_off() {
        let own = "8:pids:/docker/x/y\n4:memory:/a\n0::/\n";
        let memory = PathBuf::from("/sys/fs/cgroup/memory/a");
        let pids = PathBuf::from("/sys/fs/cgroup/pids/y");
        assert_eq!(locate(own, MOUNTS), Ok(Layout::V1 { memory, pids }));
    }

    #[test]
    fn version_2_is_taken_otherwise_and_a_group_outside_of_every_mount_is_none() {
        let parent = PathBuf::from("/sys/fs/cgroup/uni fied/user.slice");
        assert_eq!(locate("8:pids:/other\n0::/user.slice\n", MOUNTS), Ok(Layout::V2 { parent }));
        let root = PathBuf::from("/sys/fs/cgroup/uni fied");
        let found = locate("0::/\n", MOUNTS).expect("it is mounted");
        let Layout::V2 { parent } = &found else { panic!("version 2: {found:?}") };
        assert_eq!(parent.as_os_str(), root.as_os_str(), "to the letter: people read it");
        assert!(locate("8:pids:/other\n", MOUNTS).is_err());
        assert!(locate("0::/\n", "").is_err());
    }

    #[test]
    fn who_has_stepped_aside_makes_groups_where_it_was() {
        let parent = PathBuf::from("/sys/fs/cgroup/uni fied/run.scope");
        let aside = format!("0::/run.scope/{ASIDE}\n");
        assert_eq!(locate(&aside, MOUNTS), Ok(Layout::V2 { parent }));
    }

    fn group(controllers: &str, subtree: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("cgroup.controllers"), controllers).expect("written");
        fs::write(dir.path().join("cgroup.subtree_control"), subtree).expect("written");
        dir
    }

    #[test]
    fn a_name_that_another_namespace_has_taken_is_passed_over() {
        let parent = tempfile::tempdir().expect("a directory");
        for number in 0..20 {
            let taken = format!("{PREFIX}{}-{number}", std::process::id());
            fs::create_dir(parent.path().join(taken)).expect("made");
        }
        let groups = Groups { layout: Layout::V2 { parent: parent.path().to_owned() } };
        // A plain directory gets no control files, so it fails, but later than at its name.
        let e = groups.make().expect_err("no control group");
        assert_eq!(e.kind(), io::ErrorKind::NotFound, "{e}");
    }

    #[test]
    fn controllers_are_enabled_below_a_delegated_group_and_a_missing_one_is_named() {
        let dir = group("cpu memory pids\n", "");
        delegate(dir.path(), 1).expect("they can be enabled");
        let written = fs::read_to_string(dir.path().join("cgroup.subtree_control")).expect("there");
        assert_eq!(written, "+memory +pids");
        delegate(group("memory pids", "pids memory").path(), 1).expect("they are enabled already");
        let why = delegate(group("cpu pids\n", "").path(), 1).expect_err("no memory controller");
        assert!(why.contains("controller memory"), "{why}");
    }
}
