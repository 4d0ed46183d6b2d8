//! Evidence about memory: what the process tree holds, and what the kernel says it has killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Resident memory of all descendants of `root`, in bytes, and their pids. Shared pages count once per process, so it
/// is an upper bound, which is what memory limits of most schedulers go by as well.
pub fn descendants(root: u32) -> (u64, Vec<u32>) {
    let page = 4096u64.max(page_size());
    let Some(found) = by_children(root) else { return by_parents(root, page) };
    let rss = |pid: &u32| Some(resident(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?.1);
    (found.iter().filter_map(rss).sum::<u64>() * page, found)
}

/// Parent and resident pages from the text of /proc/PID/stat.
fn resident(stat: &str) -> Option<(u32, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let pages = fields.nth(19)?.parse::<i64>().ok()?;
    Some((parent, u64::try_from(pages).unwrap_or(0)))
}

/// Down the tree, where the kernel lists children (`CONFIG_PROC_CHILDREN`): a node has many processes, and few are ours.
/// The list may lack a process whose sibling ends at this moment, which a sample of memory can bear.
fn by_children(root: u32) -> Option<Vec<u32>> {
    let me = format!("/proc/{root}/task");
    let mut found = Vec::new();
    let mut todo = vec![root];
    while let Some(pid) = todo.pop() {
        let threads = if pid == root {
            fs::read_dir(&me).ok()?
        } else {
            let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            threads
        };
        for thread in threads.flatten() {
            let children = match fs::read_to_string(thread.path().join("children")) {
                Ok(text) => text,
                Err(_) if pid == root && found.is_empty() => return None,
                Err(_) => continue,
            };
            let children = children.split_whitespace().filter_map(|c| c.parse::<u32>().ok());
            let before = found.len();
            found.extend(children);
            todo.extend_from_slice(&found[before..]);
        }
    }
    Some(found)
}

/// From every process of the node up to its parent.
fn by_parents(root: u32, page: u64) -> (u64, Vec<u32>) {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut rss = BTreeMap::new();
    let Ok(entries) = fs::read_dir("/proc") else { return (0, vec![]) };
    for pid in entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok()) {
        // processes come and go while we look: what cannot be read is gone
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((parent, pages)) = resident(&stat) else { continue };
        children.entry(parent).or_default().push(pid);
        rss.insert(pid, pages * page);
    }
    let mut found = Vec::new();
    let mut todo = vec![root];
    while let Some(pid) = todo.pop() {
        for &child in children.get(&pid).into_iter().flatten() {
            found.push(child);
            todo.push(child);
        }
    }
    (found.iter().filter_map(|p| rss.get(p)).sum(), found)
}

fn page_size() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|n| u64::try_from(n).ok())
        .unwrap_or(4096)
}

/// Number of processes of our control group that the kernel's out-of-memory killer has taken, if the kernel tells.
pub fn oom_kills() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    oom_files(&text).into_iter().find_map(|p| {
        let text = fs::read_to_string(p).ok()?;
        text.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok())
    })
}

/// Where version 2 and version 1 of control groups keep the counter, from `/proc/self/cgroup`.
fn oom_files(cgroup: &str) -> Vec<PathBuf> {
    cgroup
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let path = path.trim_start_matches('/');
            if controllers.is_empty() {
                Some(PathBuf::from("/sys/fs/cgroup").join(path).join("memory.events"))
            } else if controllers.split(',').any(|c| c == "memory") {
                Some(PathBuf::from("/sys/fs/cgroup/memory").join(path).join("memory.oom_control"))
            } else {
                None
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_looked_for_where_each_cgroup_version_keeps_it() {
        assert_eq!(
            oom_files("0::/system.slice/slurmstepd.scope/job_7\n"),
            [PathBuf::from("/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/memory.events")]
        );
        assert_eq!(
            oom_files("5:cpu,cpuacct:/x\n9:memory:/slurm/uid_1/job_7\n"),
            [PathBuf::from("/sys/fs/cgroup/memory/slurm/uid_1/job_7/memory.oom_control")]
        );
        assert!(oom_files("garbage\n").is_empty());
    }

    #[test]
    fn a_child_is_found_and_has_memory() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let me = std::process::id();
        // a process that is just being started has no memory of its own yet
        let begun = std::time::Instant::now();
        let seen = |(bytes, pids): (u64, Vec<u32>)| pids.contains(&child.id()) && bytes > 0;
        let both = || seen(descendants(me)) && seen(by_parents(me, page_size()));
        while !both() {
            assert!(
                begun.elapsed().as_secs() < 60,
                "{:?} {:?}",
                descendants(me),
                by_parents(me, page_size())
            );
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
