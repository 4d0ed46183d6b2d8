//! Can a task ever run here? Asked before it is handed in, since schedulers accept jobs that wait for ever (specs: F11).

use crate::render::clock;
use crate::site::Site;
use crate::slurm::{partition::Partition, sinfo::Nodes};
use record::Resources;

/// What a live Slurm says about the partition that a site uses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Live {
    pub partition: Option<Partition>,
    /// Kinds of nodes in it.
    pub nodes: Vec<Nodes>,
}

/// Why a task with these resources can never run on this site: one sentence each, with what to change. Empty: nothing
/// speaks against it.
#[must_use]
pub fn check(site: &Site, r: &Resources, live: Option<&Live>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut over = |what: &str, asked: String, limit: String, whose: &str| {
        wrong.push(format!(
            "it asks for {asked} {what}, {whose} allows {limit}: change `resources` in the job file"
        ));
    };
    let b = &site.limits;
    if let Some(max) = b.walltime.filter(|max| r.walltime_s > max.0) {
        over("of walltime", clock(r.walltime_s), clock(max.0), "the site file");
    }
    if let Some(max) = b.cpus.filter(|max| r.cpus > *max) {
        over("CPUs", r.cpus.to_string(), max.to_string(), "the site file");
    }
    if let Some(max) = b.memory.filter(|max| r.memory_mb > max.0) {
        over("MB of memory", r.memory_mb.to_string(), max.0.to_string(), "the site file");
    }
    if let Some(max) = b.gpus.filter(|max| r.gpus > *max) {
        over("GPUs", r.gpus.to_string(), max.to_string(), "the site file");
    }
    if let Some(live) = live {
        against_live(site, r, live, &mut wrong);
    }
    wrong
}

fn against_live(site: &Site, r: &Resources, live: &Live, wrong: &mut Vec<String>) {
    let Some(p) = &live.partition else {
        if let Some(queue) = &site.queue {
            wrong.push(format!("there is no partition `{queue}` (see `scontrol show partition`)"));
        }
        return;
    };
    let name = &p.name;
    if let Some(max) = p.max_time_s.filter(|max| r.walltime_s > *max) {
        wrong.push(format!(
            "it asks for {} of walltime, partition `{name}` allows {}: shorten it (the task continues from its \
             checkpoint) or use another partition",
            clock(r.walltime_s),
            clock(max)
        ));
    }
    if live.nodes.is_empty() {
        return;
    }
    let kind = site.gpu.kind.as_ref().map(|k| k.as_str());
    let gpus_of = |n: &Nodes| -> u32 {
        n.gpus.iter().filter(|(t, _)| kind.is_none_or(|k| k == t)).map(|(_, count)| *count).sum()
    };
    let memory_mib = r.memory_mb.saturating_mul(1_000_000).div_ceil(1 << 20);
    let fits = |n: &Nodes| n.cpus >= r.cpus && n.memory_mib >= memory_mib && gpus_of(n) >= r.gpus;
    if !live.nodes.iter().any(fits) {
        let most = |f: &dyn Fn(&Nodes) -> u64| live.nodes.iter().map(f).max().unwrap_or(0);
        wrong.push(format!(
            "no node of partition `{name}` has {} CPUs, {memory_mib} MiB and {} GPUs{} together (at most {} CPUs, {} MiB, \
             {} GPUs)",
            r.cpus,
            r.gpus,
            kind.map_or(String::new(), |k| format!(" of type {k}")),
            most(&|n| n.cpus.into()),
            most(&|n| n.memory_mib),
            most(&|n| gpus_of(n).into()),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn site(more: &str) -> Site {
        Site::load(Path::new("s"), &format!("bessemer_site: 1\nname: t\nscheduler: slurm\n{more}")).unwrap()
    }

    fn r() -> Resources {
        Resources { cpus: 8, gpus: 1, memory_mb: 32_000, walltime_s: 7200 }
    }

    fn live() -> Live {
        let partition =
            Partition { name: "gpu".into(), up: true, max_time_s: Some(3600), ..Partition::default() };
        let node = |cpus, memory_mib, gpus: &[(&str, u32)]| Nodes {
            partition: "gpu".into(),
            cpus,
            memory_mib,
            gpus: gpus.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect(),
        };
        Live {
            partition: Some(partition),
            nodes: vec![node(64, 500_000, &[]), node(8, 40_000, &[("v100", 4)])],
        }
    }

    #[test]
    fn what_fits_has_nothing_against_it() {
        let mut r = r();
        r.walltime_s = 3600;
        assert_eq!(check(&site("gpu: {type: v100}\n"), &r, Some(&live())), [""; 0]);
    }

    #[test]
    fn each_limit_of_the_site_file_is_named() {
        let s = site("limits: {walltime: 1h, cpus: 4, memory: 16GB, gpus: 0}\n");
        let wrong = check(&s, &r(), None);
        assert_eq!(wrong.len(), 4, "{wrong:?}");
        assert!(wrong[0].contains("02:00:00") && wrong[0].contains("01:00:00"), "{}", wrong[0]);
    }

    #[test]
    fn a_job_that_slurm_would_accept_and_never_start_is_found() {
        let wrong = check(&site(""), &r(), Some(&live()));
        assert!(wrong.len() == 1 && wrong[0].contains("01:00:00"), "{wrong:?}");
        let mut r = r();
        (r.walltime_s, r.cpus) = (60, 16); // 16 CPUs exist, and a GPU exists, but not on one node
        assert!(check(&site(""), &r, Some(&live()))[0].contains("together"));
        r.cpus = 1;
        assert!(check(&site("gpu: {type: a100}\n"), &r, Some(&live()))[0].contains("type a100"));
        let closed = Live { partition: None, nodes: vec![] };
        assert!(check(&site("partition: nosuch\n"), &r, Some(&closed))[0].contains("nosuch"));
    }
}
