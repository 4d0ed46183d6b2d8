//! Every program of `tests/hostile` (and of a directory named by `BESSEMER_HOSTILE`) meets its header, and the rules
//! that hold for all: alone, as one of a random sequence on one slot, and in a batch over several slots; as the user
//! that runs the tests and, where that is root, as an ordinary user as well.
//!
//! The canaries have to be in the supervisor's own environment, home and descriptors, so each campaign runs in a child
//! process of this test: the same binary, started with [`CAMPAIGN`] set.

mod hostile_support;

use hostile_support::{Campaign, Program, canaries, check, leftovers};
use sandbox::{Config, Sandbox, Tier};
use std::path::{Path, PathBuf};
use std::process::Command;

/// "alone", "sequence" or "batch": what a child process is to do.
const CAMPAIGN: &str = "BESSEMER_TEST_CAMPAIGN";
const PROGRAMS: &str = "BESSEMER_TEST_PROGRAMS";
const NOBODY: u32 = 65534;

fn directories() -> Vec<PathBuf> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/hostile");
    let named = std::env::var_os("BESSEMER_HOSTILE").map(PathBuf::from);
    [ours].into_iter().chain(named).collect()
}

fn programs(dir: &Path) -> Vec<Program> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut programs: Vec<_> = entries
        .map(|e| e.expect("a readable directory").path())
        .filter(|p| p.extension().is_some_and(|e| e == "py"))
        .map(|p| Program::read(&p))
        .collect();
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    programs
}

/// Starts this binary again for one campaign; as `user`, and in the tier `most`, when given.
fn spawn(campaign: &str, user: Option<u32>, most: Option<Tier>) {
    let place = tempfile::tempdir().expect("a temporary directory");
    open_to_all(place.path());
    let exe = place.path().join("campaign");
    std::fs::copy(std::env::current_exe().expect("our own path"), &exe).expect("a copy that anybody can run");
    let files = place.path().join("programs");
    std::fs::create_dir(&files).expect("a directory");
    for dir in directories() {
        for entry in std::fs::read_dir(dir).expect("a directory of programs") {
            let from = entry.expect("a readable directory").path();
            if from.extension().is_some_and(|e| e == "py") {
                std::fs::copy(&from, files.join(from.file_name().expect("a file"))).expect("a copy");
            }
        }
    }
    let home = place.path().join("home");
    let mut command = Command::new(exe);
    command.env("BESSEMER_COMPILE_CACHE", "off"); // nothing of ours may be written to the home either
    command.args(["--ignored", "--exact", "campaign_in_this_process", "--nocapture", "--test-threads=1"]);
    if let Some(tier) = most {
        command.env("BESSEMER_TIER_MAX", tier.to_string()).env("BESSEMER_TIER_MIN", tier.to_string());
    }
    command.env(CAMPAIGN, campaign).env(PROGRAMS, &files).current_dir(place.path());
    canaries::plant(&mut command, &home, user);
    if let Some(id) = user {
        use std::os::unix::process::CommandExt;
        command.uid(id).gid(id);
    }
    let status = command.status().expect("the campaign starts");
    assert!(status.success(), "campaign {campaign} as {user:?}, {most:?}: {status}; its messages are above");
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("our own directory");
}

fn users() -> Vec<Option<u32>> {
    let root = nix::unistd::geteuid().is_root();
    if root { vec![None, Some(NOBODY)] } else { vec![None] }
}

#[test]
fn hostile_programs_meet_their_headers_alone() {
    users().into_iter().for_each(|u| spawn("alone", u, None));
}

#[test]
fn hostile_programs_meet_their_headers_in_a_random_sequence_on_one_slot() {
    users().into_iter().for_each(|u| spawn("sequence", u, None));
}

#[test]
fn hostile_programs_meet_their_headers_in_a_batch() {
    users().into_iter().for_each(|u| spawn("batch", u, None));
}

/// Each in a fresh slot would take minutes; in a sequence each finds what the one before left.
#[test]
fn hostile_programs_do_no_harm_without_namespaces() {
    for user in users() {
        if slot::landlock::abi() > 0 {
            spawn("sequence", user, Some(Tier::C));
        }
        spawn("sequence", user, Some(Tier::D));
    }
}

/// What the child process does. Ignored, because without the canaries of [`spawn`] it means nothing.
#[test]
#[ignore = "started by the other tests of this file"]
fn campaign_in_this_process() {
    let (Ok(campaign), Some(dir)) = (std::env::var(CAMPAIGN), std::env::var_os(PROGRAMS)) else {
        panic!("this test is started by the others, with {CAMPAIGN} and {PROGRAMS} set");
    };
    let programs = programs(Path::new(&dir));
    let held = canaries::hold();
    let start = |slots| {
        // An ordinary user may not read the tester's own interpreter, but always the system's.
        let config = Config { slots, ..Config::default() };
        let named = nix::unistd::geteuid().is_root() && config.tier_max > Tier::C;
        let python = if named { "python3" } else { "/usr/bin/python3" };
        let config = Config { python: python.into(), ..config };
        let sandbox = Sandbox::start(config).expect("a sandbox");
        // Without it the exec lane would be tested in its place, and nobody would notice.
        sandbox.warm_python().expect("a warm interpreter");
        sandbox
    };
    let mut campaign_state = Campaign::new(&held);
    match campaign.as_str() {
        "alone" => {
            for p in &programs {
                let sandbox = start(1);
                check(&sandbox, std::slice::from_ref(p), &mut campaign_state);
                drop(sandbox);
                assert_eq!(leftovers(), 0, "{}: processes are left when the sandbox is gone", p.name);
            }
        }
        "sequence" => {
            let mut order = programs;
            hostile_support::shuffle(&mut order);
            let sandbox = start(1);
            for p in &order {
                check(&sandbox, std::slice::from_ref(p), &mut campaign_state);
                // One keeper, one process 1; twice where a test slot was needed too.
                let n = leftovers();
                assert!(n == 2 || n == 4, "{}: {n} processes after the verdict", p.name);
            }
        }
        "batch" => check(&start(4), &programs, &mut campaign_state),
        other => panic!("no campaign {other:?}"),
    }
    campaign_state.finish();
}
