//! Control groups: memory and processes of a slot counted and limited by the kernel (tier A).
//!
//! The supervisor owns the group and writes its limits; a slot is moved into it before it builds anything and knows
//! nothing of it. Version 2 (delegated, or as root) and the memory and pids controllers of version 1 are used alike.
//! What the slot itself needs is measured when it stands and added to each limit.

mod find;
mod group;

pub(crate) use find::Groups;
pub(crate) use group::Group;

use std::path::PathBuf;

/// Whether slots get control groups of their own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CgroupPolicy {
    /// If this process may make some in its own group.
    #[default]
    IfPossible,
    /// Never.
    Never,
    /// In this directory of the version 2 hierarchy, which is delegated to us and has no process of its own.
    In(PathBuf),
}

impl CgroupPolicy {
    /// `BESSEMER_CGROUP`: a directory, or `off`.
    #[must_use]
    pub fn of_environment() -> Self {
        match std::env::var_os("BESSEMER_CGROUP").filter(|v| !v.is_empty()) {
            None => Self::IfPossible,
            Some(off) if off.as_os_str() == "off" => Self::Never,
            Some(dir) => Self::In(dir.into()),
        }
    }
}
