//! The tests oracle of a task: one sandbox for the process, verdicts shared with the other tasks of the sweep.

use crate::context::{Context, Failure};
use anyhow::Result;
use oracle::analyzer::bandit::Bandit;
use oracle::judge::remote::Remote;
use oracle::panel::{Asker, PanelError, Toolbox};
use oracle::{Grader, Panel, Reward, RewardError, RewardLedger, Runner, Scoring, TestsOracle, VerdictCache};
use record::FailureClass;
use record::params::{Declared, OracleParams};
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
            SandboxError::Language(_) | SandboxError::Setting(_) => FailureClass::Setup,
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

/// Executed tests, and the panel of a declaration.
///
/// # Errors
/// As [`tests_oracle`]; [`Failure`] of class `UserError` for a declaration that contradicts itself, `Setup` when an
/// analyzer is not there in the version declared.
pub fn grader(cx: &Context, scoring: Scoring, declared: Option<&Declared>) -> Result<Grader> {
    let panel = declared.map(|d| panel(cx, d)).transpose()?;
    Ok(Grader::new(tests_oracle(cx)?, scoring, panel))
}

fn panel(cx: &Context, declared: &Declared) -> Result<Panel> {
    let service = cx.spec.services.get("judge");
    let mut asker = |_: &str, params: &OracleParams| -> Result<Box<dyn Asker>, String> {
        let remote = match (service, &params.url) {
            // the service's key says which weights judge
            (Some(s), None) => Remote::of_service(&s.task_dir, &s.key.to_string(), params),
            _ => Remote::of_url(params)?,
        };
        // a judge may be half an hour in coming; a stop signal is not
        Ok(Box::new(remote.stopping_when(cx.stopper())))
    };
    // the environment that scripts/bandit.sh makes stands in the checkout, as `runs/` does by default
    let here = std::env::current_dir()?;
    let mut tools = Toolbox {
        bandit_python: Bandit::default_python(&here),
        cache: cx.spec.task_dir.parent().and_then(std::path::Path::parent).map(|run| run.join("cache")),
        asker: &mut asker,
    };
    let panel = Panel::new(declared, &mut tools).map_err(|e| {
        let class = match &e {
            PanelError::Declaration(_) => FailureClass::UserError,
            PanelError::Oracle { .. } => FailureClass::Setup,
        };
        Failure::new(class, e.to_string())
    })?;
    eprintln!("scoring with {}", panel.identity());
    Ok(panel)
}

/// A judge that is away may come back; everything else is as it is.
pub fn failure(e: RewardError) -> Box<dyn std::error::Error + Send + Sync> {
    match e {
        RewardError::Away(why) => Box::new(Failure::new(FailureClass::TryAgain, why)),
        e => Box::new(e),
    }
}

/// The reward of reinforcement learning, with its ledger in `out/rewards.jsonl`.
///
/// # Errors
/// As [`grader`]; I/O errors of the ledger.
pub fn reward(cx: &Context, scoring: Scoring, declared: Option<&Declared>) -> Result<Reward> {
    let ledger = RewardLedger::append(&cx.out().join(LEDGER))?;
    Ok(Reward::new(grader(cx, scoring, declared)?, Some(ledger)))
}
