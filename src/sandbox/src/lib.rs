//! Run an untrusted program: limits, isolation, batches.
//!
//! [`Sandbox::start`] builds slots (sets of namespaces with a trusted process 1); [`Sandbox::run_batch`] runs jobs on
//! them in parallel. The library may be used from a threaded program: it never forks, it execs a small embedded
//! helper, and expected outputs never leave this process.
//!
//! ```no_run
//! use sandbox::{Config, Job, Sandbox};
//! let sandbox = Sandbox::start(Config::default())?;
//! let job = Job::python("p1", "print(int(input()) ** 2)").test("7\n", "49");
//! let result = &sandbox.run_batch(&[job])[0];
//! assert!(result.passed_all());
//! # Ok::<(), sandbox::SandboxError>(())
//! ```

mod affinity;
mod bigint;
mod bytes;
mod calls;
mod cgroup;
mod checker;
mod compare;
mod compile;
mod compile_cache;
mod config;
pub mod fusion;
mod helper;
mod job;
mod judge;
mod judge_calls;
mod judge_function;
mod judge_program;
pub mod lang;
mod outside;
mod pool;
mod probe;
mod slot_handle;
mod special;
mod validator;
mod value;
pub mod wire;

pub use bytes::Bytes;
pub use cgroup::CgroupPolicy;
pub use checker::Checker;
pub use compare::Comparator;
pub use config::{CacheConfig, Config, NetPolicy, SandboxError, Tier};
pub use job::{
    Call, Compile, FetchedFile, File, Grade, Job, JobResult, Limits, Mode, Profile, StdioTest, TestResult,
    Verdict,
};
pub use pool::{Cancel, Sandbox};
pub use probe::{Probe, probe};
pub use validator::Validator;
pub use value::{NotAValue, Value};
