//! Processes of this machine, and whose they are: read from /proc each time, so that a new planner finds what a killed
//! one has started, without any file that could be stale.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Carries the attempt's token in the environment of a job and of everything it starts.
pub(super) const TOKEN: &str = "BESSEMER_TOKEN";
/// What the job holds of the machine: `cpus=2 memory_mb=1500 gpus=0,1`.
pub(super) const HOLDS: &str = "BESSEMER_HOLDS";

/// The pool of slots that the job's share is taken from.
pub(super) const POOL: &str = "BESSEMER_POOL";

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proc {
    pub pid: i32,
    pub parent: i32,
    pub session: i32,
    /// Clock ticks since boot: with the pid it identifies a process even when pids are reused.
    pub start: u64,
    /// `R`, `S`, `T` (stopped), `Z`, ...
    pub state: char,
    pub token: Option<String>,
    pub holds: Option<String>,
    pub pool: Option<String>,
}

impl Proc {
    pub(super) fn id(&self) -> String {
        format!("{}-{}", self.pid, self.start)
    }
}

/// All processes but zombies. Those of other users carry no token.
pub(super) fn all() -> Vec<Proc> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter_map(read)
        .filter(|p| p.state != 'Z' && p.state != 'X')
        .collect()
}

/// One process; `None` if it is gone.
pub(super) fn read(pid: i32) -> Option<Proc> {
    let dir = Path::new("/proc").join(pid.to_string());
    let stat = std::fs::read_to_string(dir.join("stat")).ok()?;
    let mut proc = parse_stat(pid, &stat)?;
    // unreadable for other users' processes: then it is none of ours
    if let Ok(environ) = std::fs::read(dir.join("environ")) {
        proc.token = variable(&environ, TOKEN);
        proc.holds = variable(&environ, HOLDS);
        proc.pool = variable(&environ, POOL);
    }
    Some(proc)
}

/// Fields of /proc/PID/stat; the name in parentheses may hold anything, so it is skipped from behind.
fn parse_stat(pid: i32, stat: &str) -> Option<Proc> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let number = |n: usize| fields.get(n)?.parse().ok();
    Some(Proc {
        pid,
        state: fields.first()?.chars().next()?,
        parent: number(1)?,
        session: number(3)?,
        start: fields.get(19)?.parse().ok()?,
        token: None,
        holds: None,
        pool: None,
    })
}

fn variable(environ: &[u8], name: &str) -> Option<String> {
    environ
        .split(|b| *b == 0)
        .filter_map(|v| std::str::from_utf8(v).ok())
        .find_map(|v| v.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
}

/// Processes by token. The first of each list is the job's leader where it still lives (it is the oldest).
pub(super) fn by_token(procs: &[Proc]) -> BTreeMap<String, Vec<Proc>> {
    let mut jobs: BTreeMap<String, Vec<Proc>> = BTreeMap::new();
    for p in procs {
        if let Some(token) = &p.token {
            jobs.entry(token.clone()).or_default().push(p.clone());
        }
    }
    for members in jobs.values_mut() {
        members.sort_by_key(|p| (p.start, p.pid));
    }
    jobs
}

/// Everything that belongs to a job: what carries its token, what shares a session with that, and all their descendants
/// (which may have emptied their environment).
pub(super) fn family(procs: &[Proc], token: &str) -> BTreeSet<i32> {
    // Not getsid(): in a container whose session leader is outside of its pid namespace the answer is 0, which is no pid.
    let own_session = read(std::process::id().cast_signed()).map_or(0, |me| me.session);
    let mut members: BTreeSet<i32> =
        procs.iter().filter(|p| p.token.as_deref() == Some(token)).map(|p| p.pid).collect();
    let sessions: BTreeSet<i32> = procs
        .iter()
        .filter(|p| members.contains(&p.pid) && p.session != own_session && p.session > 1)
        .map(|p| p.session)
        .collect();
    members.extend(procs.iter().filter(|p| sessions.contains(&p.session)).map(|p| p.pid));
    loop {
        let more: Vec<i32> = procs
            .iter()
            .filter(|p| members.contains(&p.parent) && !members.contains(&p.pid))
            .map(|p| p.pid)
            .collect();
        if more.is_empty() {
            return members;
        }
        members.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_process_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) R (b) S 1 7 6 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        let p = parse_stat(7, stat).unwrap();
        assert_eq!((p.state, p.parent, p.session, p.start), ('S', 1, 6, 4242));
    }

    #[test]
    fn our_own_process_is_found_with_its_start_time() {
        let me = i32::try_from(std::process::id()).unwrap();
        let p = read(me).unwrap();
        assert!(all().iter().any(|q| q.id() == p.id()));
    }

    #[test]
    fn a_family_is_token_session_and_descendants() {
        let p = |pid, parent, session, token: Option<&str>| Proc {
            pid,
            parent,
            session,
            start: 1,
            state: 'S',
            token: token.map(str::to_owned),
            holds: None,
            pool: None,
        };
        let procs = [
            p(100_001, 1, 100_001, Some("t")),
            p(100_002, 100_001, 100_001, None),
            p(100_003, 100_002, 100_003, None), // left the session, emptied its environment
            p(100_004, 1, 100_004, Some("t")),  // a daemon that kept it
            p(100_005, 1, 100_005, Some("other")),
            p(100_006, 1, 100_006, None),
        ];
        let family: Vec<i32> = family(&procs, "t").into_iter().collect();
        assert_eq!(family, [100_001, 100_002, 100_003, 100_004]);
    }

    proptest! {
        #[test]
        fn no_stat_line_panics(text in "(?s).{0,200}") { let _ = parse_stat(1, &text); }
    }
}
