//! What a sandbox is asked to be, and what it turned out to be.

use crate::cgroup::CgroupPolicy;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How well programs are isolated. Ordered: more is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tier {
    /// The system-call filter alone: programs open no file and start no process. Python only.
    D,
    /// Landlock and the system-call filter, no namespaces: programs start no process, and see the host's paths, closed.
    C,
    /// As B, but the network is closed by the system-call filter only.
    #[serde(rename = "B-")]
    BMinus,
    /// User, process, mount, network, IPC and host name namespaces, own root, filter.
    B,
    /// As B, with memory and processes counted and limited by a control group.
    A,
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
            Self::BMinus => "B-",
            Self::C => "C",
            Self::D => "D",
        })
    }
}

impl std::str::FromStr for Tier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::A, Self::B, Self::BMinus, Self::C, Self::D]
            .into_iter()
            .find(|t| t.to_string() == text)
            .ok_or_else(|| format!("a tier is A, B, B-, C or D, not {text:?}"))
    }
}

impl Tier {
    /// What a variable of the environment says. What is no tier is taken for the strictest; [`Tier::mistyped`] tells.
    fn named(variable: &str) -> Option<Self> {
        let text = std::env::var(variable).ok().filter(|t| !t.is_empty())?;
        Some(text.parse().unwrap_or(Self::A))
    }

    /// What is wrong with the variables that name tiers, if anything is. [`crate::Sandbox::start`] refuses then.
    #[must_use]
    pub fn mistyped() -> Option<String> {
        TIER_VARIABLES.iter().find_map(|variable| {
            let text = std::env::var(variable).ok().filter(|t| !t.is_empty())?;
            text.parse::<Self>().err().map(|e| format!("{variable}: {e}"))
        })
    }
}

/// The environment's word on `tier_min` and `tier_max`.
const TIER_VARIABLES: [&str; 2] = ["BESSEMER_TIER_MIN", "BESSEMER_TIER_MAX"];

/// Whether slots have a network namespace of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetPolicy {
    /// If the kernel gives one (sites may set `user.max_net_namespaces = 0`).
    #[default]
    IfPossible,
    /// Never: sockets are refused by the filter either way.
    Never,
}

/// What a sandbox is asked to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// Programs that run at the same time. Default: the CPUs this process may use.
    pub slots: usize,
    /// The least isolation that is accepted; less is an error. C and D are tried only where this says so. Default:
    /// `BESSEMER_TIER_MIN`, else B-.
    pub tier_min: Tier,
    /// The most that is made use of: to see here what a machine that allows less would do. Default: `BESSEMER_TIER_MAX`,
    /// else A.
    pub tier_max: Tier,
    /// Outside of namespaces (tiers C and D): where slots make their directories. `None`: `BESSEMER_SANDBOX_DIR`, else the
    /// first of `/dev/shm`, `TMPDIR`, `/tmp` that can be written to and run programs from.
    pub directory: Option<PathBuf>,
    /// Python interpreter, a name on PATH or a path. Default `python3`.
    pub python: PathBuf,
    /// MiB of scratch space of a slot; a job cannot have more.
    pub scratch_mb: u64,
    /// Files in the scratch space of a slot.
    pub scratch_files: u64,
    /// Network namespaces.
    pub net: NetPolicy,
    /// Control groups. Default: `BESSEMER_CGROUP`, else if possible.
    pub cgroup: CgroupPolicy,
    /// Keep a warm interpreter in each slot, whose forks run Python programs. Without it each run starts its own.
    pub warm_python: bool,
    /// Runs after which a slot is replaced.
    pub runs_per_slot: u64,
    /// A Python interpreter that has numpy, for the profile `numpy`. Default: `BESSEMER_NUMPY_PYTHON`.
    pub numpy: Option<PathBuf>,
    /// A Python interpreter that has pytest, for the profile `pytest`. Default: `BESSEMER_PYTEST_PYTHON`.
    pub pytest: Option<PathBuf>,
    /// Where compiled programs are kept; `None`: each job compiles.
    pub compile_cache: Option<CacheConfig>,
    /// Give each slot one CPU of those that this process may use. Done only where there are slots for all of them: fewer
    /// would crowd onto the first ones beside whoever else is there.
    pub pin: bool,
}

/// Where compiled programs are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// A directory that only this user can write to; processes share it.
    pub dir: PathBuf,
    /// MiB of all programs in it, roughly.
    pub max_mb: u64,
}

impl CacheConfig {
    /// `BESSEMER_COMPILE_CACHE` (a directory, or `off`), else `bessemer/compiled` in the user's cache directory
    /// (`XDG_CACHE_HOME`, or `.cache` in the home). `None` where there is no such place.
    #[must_use]
    pub fn of_user() -> Option<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let dir = match set("BESSEMER_COMPILE_CACHE") {
            Some(off) if off.as_os_str() == "off" => return None,
            Some(dir) => dir,
            None => {
                let base = set("XDG_CACHE_HOME").filter(|d| d.is_absolute());
                base.or_else(|| Some(set("HOME")?.join(".cache")))?.join("bessemer/compiled")
            }
        };
        Some(Self { dir, max_mb: 512 })
    }
}

/// A path from the environment.
fn named(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|v| !v.is_empty()).map(PathBuf::from)
}

impl Default for Config {
    fn default() -> Self {
        Self {
            slots: std::thread::available_parallelism().map_or(1, usize::from),
            tier_min: Tier::named(TIER_VARIABLES[0]).unwrap_or(Tier::BMinus),
            tier_max: Tier::named(TIER_VARIABLES[1]).unwrap_or(Tier::A),
            directory: named("BESSEMER_SANDBOX_DIR"),
            python: PathBuf::from("python3"),
            scratch_mb: 64,
            scratch_files: 8192,
            net: NetPolicy::default(),
            cgroup: CgroupPolicy::of_environment(),
            warm_python: true,
            runs_per_slot: 10_000,
            numpy: named("BESSEMER_NUMPY_PYTHON"),
            pytest: named("BESSEMER_PYTEST_PYTHON"),
            compile_cache: CacheConfig::of_user(),
            pin: true,
        }
    }
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The helper could not be started at all.
    #[error("starting the sandbox's helper: {0}")]
    Helper(std::io::Error),
    /// The kernel, or the container around us, refused a step.
    #[error("a sandbox slot could not be built: {0}. `bessemer doctor` says what this machine allows")]
    Slot(String),
    /// The slot stands, but isolates less than asked for.
    #[error(
        "the sandbox reaches tier {got} here, and the policy wants at least {want} ({why}); lower it by tier_min if you accept that"
    )]
    Tier {
        /// What is possible.
        got: Tier,
        /// What was asked for.
        want: Tier,
        /// What is missing.
        why: String,
    },
    /// A variable of the environment says nothing that is known.
    #[error("{0}; correct it, or unset it")]
    Setting(String),
    /// An interpreter or compiler is missing.
    #[error("{0}")]
    Language(String),
}
