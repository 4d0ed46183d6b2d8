//! What this machine allows, for `bessemer doctor`.

use crate::config::{Config, Tier};
use crate::pool::Sandbox;
use serde::Serialize;
use slot::wire::Isolation;

/// What a sandbox would be here.
#[derive(Debug, Clone, Serialize)]
pub struct Probe {
    /// The tier; `None` when no slot can be built.
    pub tier: Option<Tier>,
    /// One line each: what holds, what is missing and why.
    pub facts: Vec<String>,
    /// Languages and what runs them, or why not.
    pub languages: Vec<(String, Result<String, String>)>,
}

/// Builds a slot, asks what it has, and takes it down again.
#[must_use]
pub fn probe(config: &Config) -> Probe {
    let lowest = Config { tier_min: Tier::D, slots: 1, ..config.clone() };
    let sandbox = match Sandbox::start(lowest) {
        Ok(s) => s,
        Err(e) => return Probe { tier: None, facts: vec![e.to_string()], languages: Vec::new() },
    };
    let hello = sandbox.hello();
    let mut facts = match hello.isolation {
        Isolation::Namespaces => of_namespaces(&sandbox),
        outside => of_outside(&sandbox, outside),
    };
    facts.push(match sandbox.warm_python() {
        Ok(version) => format!("Python runs are forks of a warm interpreter ({version})"),
        Err(why) => format!("Python runs start an interpreter each: {why}"),
    });
    for (name, has) in sandbox.profiles() {
        facts.push(match has {
            Ok(()) => format!("profile {name}: warm"),
            Err(why) => format!("profile {name}: {why}"),
        });
    }
    facts.push(match sandbox.compile_cache() {
        Ok(dir) => format!("compiled programs are kept in {}", dir.display()),
        Err(why) => format!("every compiled program is compiled anew: {why}"),
    });
    let languages = sandbox.languages().into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
    Probe { tier: Some(sandbox.tier()), facts, languages }
}

fn fact(holds: bool, yes: &str, no: &str) -> String {
    if holds { yes.to_owned() } else { no.to_owned() }
}

fn of_namespaces(sandbox: &Sandbox) -> Vec<String> {
    let hello = sandbox.hello();
    vec![
        fact(
            hello.net_namespace,
            "own network namespace",
            "no network namespace: sockets are refused by the system-call filter only",
        ),
        fact(hello.proc_mounted, "own /proc", "no /proc inside (the container around us masks parts of it)"),
        match sandbox.control_groups() {
            Ok(which) => format!("memory and processes are limited by control groups ({which})"),
            Err(why) => format!("no control groups: {why}"),
        },
        match hello.landlock {
            0 => "no Landlock: the read-only mounts are the only lock on files".to_owned(),
            abi => format!("Landlock (ABI {abi}) is a second lock on files"),
        },
        fact(
            hello.can_observe,
            "memory and CPU time are summed over all processes of a program",
            "memory and CPU limits hold for each process alone",
        ),
        fact(
            hello.processes_scoped,
            "the kernel limits the number of processes of each slot",
            "processes are counted every 5 ms (the kernel counts them per user only)",
        ),
    ]
}

fn of_outside(sandbox: &Sandbox, isolation: Isolation) -> Vec<String> {
    let tier = sandbox.tier();
    let mut facts: Vec<_> = sandbox.refused().iter().map(|why| format!("no better tier: {why}")).collect();
    facts.push(format!(
        "it has to be allowed: --tier-min {tier}, or BESSEMER_TIER_MIN={tier} in a site's set-up lines"
    ));
    facts.push(
        "programs start no process, and get no signal to anybody else's; one that tries is unscored".into(),
    );
    facts.push(match isolation {
        Isolation::Filter => "programs open no file; modules have to be of those that are imported beforehand".into(),
        _ => format!(
            "Landlock (ABI {}) is the lock on files: what a program may not open it can still see the size of",
            sandbox.hello().landlock
        ),
    });
    facts
}
