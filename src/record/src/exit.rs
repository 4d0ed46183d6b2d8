//! Exit codes: documented, tested API between worker, supervisor, job script, planner and user.

/// Done; the record and the outputs are there.
pub const DONE: i32 = 0;
/// Something failed that no other code names.
pub const FAILED: i32 = 1;
/// The command line could not be understood.
pub const USAGE: i32 = 2;
/// The user's input is wrong (job file, parameters, data): trying again cannot help.
pub const USER_ERROR: i32 = 65;
/// Out of memory: try again with more (bounded).
pub const OUT_OF_MEMORY: i32 = 74;
/// Not now: a submit limit, a service that is not up yet, a lease that somebody else holds. Try again later.
pub const TRY_AGAIN: i32 = 75;
/// An input's record is missing, failed or does not match the plan.
pub const UPSTREAM_MISSING: i32 = 76;
/// The attempt could not be set up (directory, environment lines of the site, missing program).
pub const SETUP_FAILED: i32 = 77;
/// This node cannot do the work (no GPU, wrong compute capability, failed preflight): not the task's fault.
pub const NODE_UNFIT: i32 = 78;
/// Stopped on request or before the deadline with a checkpoint written: continue me.
pub const CHECKPOINTED: i32 = 85;

/// One line about a code, for `logs` and error messages.
#[must_use]
pub fn meaning(code: i32) -> &'static str {
    match code {
        DONE => "done",
        FAILED => "failed",
        USAGE => "usage error",
        USER_ERROR => "input error: change the job file or the data",
        OUT_OF_MEMORY => "out of memory",
        TRY_AGAIN => "try again later",
        UPSTREAM_MISSING => "an input is missing or does not match the plan",
        SETUP_FAILED => "could not be set up",
        NODE_UNFIT => "node unfit",
        CHECKPOINTED => "checkpointed, to be continued",
        124 => "killed: time limit of the command",
        126 => "program not executable",
        127 => "program not found",
        128..=192 => "killed by a signal (code - 128)",
        _ => "unknown code",
    }
}
