//! The tests oracle of a task: one sandbox for the process, verdicts shared with the other tasks of the sweep.

use crate::context::{Context, Failure};
use anyhow::Result;
use oracle::{Reward, RewardLedger, Runner, Scoring, TestsOracle, VerdictCache};
use record::FailureClass;
use sandbox::{Config, Sandbox, SandboxError};

/// Name of the reward ledger below `out/`.
pub const LEDGER: &str = "rewards.jsonl";

/// The oracle of this attempt. Its sandbox has as many slots as the task has CPUs.
///
/// # Errors
/// [`Failure`] of class `NodeUnfit` when this node gives no sandbox that is good enough: another node may.
pub fn tests_oracle(cx: &Context) -> Result<TestsOracle> {
    let slots = usize::try_from(cx.spec.resources.cpus.max(1)).unwrap_or(1);
    let sandbox = Sandbox::start(Config { slots, ..Config::default() }).map_err(|e| {
        let class = match &e {
            SandboxError::Language(_) => FailureClass::Setup,
            _ => FailureClass::NodeUnfit,
        };
        Failure::new(class, format!("no sandbox, so nothing can be judged: {e}"))
    })?;
    let identity = sandbox.identity();
    let oracle = TestsOracle::new(Box::new(sandbox), shared_cache(cx)?);
    eprintln!("judging with {identity}");
    Ok(oracle)
}

/// `runs/<sweep>/cache/verdicts/`: the run directory is two levels above the task's.
fn shared_cache(cx: &Context) -> Result<VerdictCache> {
    let Some(run_dir) = cx.spec.task_dir.parent().and_then(std::path::Path::parent) else {
        return Ok(VerdictCache::in_memory());
    };
    let dir = run_dir.join("cache").join("verdicts");
    Ok(VerdictCache::shared(&dir, cx.spec.token.as_str())?)
}

/// The reward of reinforcement learning, with its ledger in `out/rewards.jsonl`.
///
/// # Errors
/// As [`tests_oracle`]; I/O errors of the ledger.
pub fn reward(cx: &Context, scoring: Scoring) -> Result<Reward> {
    let ledger = RewardLedger::append(&cx.out().join(LEDGER))?;
    Ok(Reward::new(tests_oracle(cx)?, scoring, Some(ledger)))
}
