//! What is here? Which scheduler, its limits, and a site file to start from. Every question may be forbidden on a site:
//! what is not answered keeps its default and is named in the notes.

use crate::check::Live;
use crate::runner::{CmdSpec, Runner};
use crate::site::{Flavor, Scheduler, Site};
use crate::slurm::{config, partition, sacctmgr, sinfo};
use std::collections::BTreeMap;
use std::time::Duration;

/// What answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    pub scheduler: Scheduler,
    pub flavor: Option<Flavor>,
    /// As it names itself.
    pub version: String,
}

/// A site file to look over and keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// YAML with comments; loads as it is.
    pub text: String,
    /// What could not be found out, and why.
    pub notes: Vec<String>,
}

const TIMEOUT: Duration = Duration::from_secs(30);

/// Never from the presence of `qsub`: on a Slurm site that is often a wrapper around sbatch (specs: F34).
///
/// # Errors
/// A sentence that says what was tried.
pub fn detect(runner: &dyn Runner) -> Result<Detected, String> {
    let version = |program: &'static str| runner.run(&CmdSpec::new(program, ["--version"], TIMEOUT));
    if let Ok(out) = version("sbatch")
        && out.code == Some(0)
    {
        return Ok(Detected {
            scheduler: Scheduler::Slurm,
            flavor: None,
            version: out.stdout.trim().to_owned(),
        });
    }
    if let Ok(out) = version("qstat") {
        let text = format!("{}\n{}", out.stdout, out.stderr);
        let line =
            |mark: &str| text.lines().find(|l| l.trim_start().starts_with(mark)).map(|l| l.trim().to_owned());
        let pbs = |flavor, version| Detected { scheduler: Scheduler::Pbs, flavor: Some(flavor), version };
        if let Some(line) = line("pbs_version") {
            return Ok(pbs(Flavor::PbsPro, line));
        }
        if let Some(line) = line("Version:") {
            return Ok(pbs(Flavor::Torque, line));
        }
    }
    Err("no scheduler found: neither `sbatch --version` nor `qstat --version` says anything known; \
         use slurm/laptop.yaml to run on this machine"
        .into())
}

/// What the site's partition can take, for [`crate::check()`]. `None` where Slurm does not say.
pub fn live(site: &Site, runner: &dyn Runner) -> Option<Live> {
    if site.scheduler != Scheduler::Slurm {
        return None;
    }
    let mut found = Found::default();
    found.ask_partitions(runner);
    if found.partitions.is_empty() {
        return None;
    }
    let name = site.queue.as_ref().map(|q| q.as_str());
    let partition = found.partitions.iter().find(|p| name.map_or(p.default, |n| n == p.name)).cloned();
    let nodes = found
        .nodes
        .into_iter()
        .filter(|n| partition.as_ref().is_some_and(|p| p.name == n.partition))
        .collect();
    Some(Live { partition, nodes })
}

/// Reads limits off the scheduler that is here and proposes a site file.
///
/// # Errors
/// Where there is no scheduler.
pub fn probe(runner: &dyn Runner, user: &str) -> Result<Proposal, String> {
    let detected = detect(runner)?;
    let mut found = Found::default();
    if detected.scheduler == Scheduler::Slurm {
        found.ask_partitions(runner);
        found.ask_config(runner);
        found.ask_limits(runner, user);
    } else {
        found.notes.push("limits of PBS queues are not read: see `qstat -Qf`".into());
    }
    Ok(Proposal { text: found.write(&detected), notes: found.notes })
}

#[derive(Default)]
struct Found {
    config: BTreeMap<String, String>,
    partitions: Vec<partition::Partition>,
    nodes: Vec<sinfo::Nodes>,
    accounts: Vec<String>,
    max_submit: Option<u32>,
    notes: Vec<String>,
}

impl Found {
    /// The answer's text, or a note.
    fn ask(&mut self, runner: &dyn Runner, program: &'static str, args: &[&str]) -> Option<String> {
        let spec = CmdSpec::new(program, args.iter().copied(), TIMEOUT);
        match runner.run(&spec) {
            Ok(out) if out.code == Some(0) => return Some(out.stdout),
            Ok(out) => self.notes.push(format!("{}: {}", spec.line(), out.complaint())),
            Err(e) => self.notes.push(e.to_string()),
        }
        None
    }

    fn ask_partitions(&mut self, runner: &dyn Runner) {
        if let Some(text) = self.ask(runner, "scontrol", &["show", "partition", "-o"]) {
            match partition::parse(&text) {
                Ok(p) => self.partitions = p,
                Err(e) => self.notes.push(e.to_string()),
            }
        }
        if let Some(text) = self.ask(runner, "sinfo", &["-h", "-e", "-o", sinfo::FORMAT]) {
            match sinfo::parse(&text) {
                Ok(n) => self.nodes = n,
                Err(e) => self.notes.push(e.to_string()),
            }
        }
    }

    fn ask_config(&mut self, runner: &dyn Runner) {
        if let Some(text) = self.ask(runner, "scontrol", &["show", "config"]) {
            self.config = config::parse(&text);
        }
    }

    fn ask_limits(&mut self, runner: &dyn Runner, user: &str) {
        let who = format!("user={user}");
        let fields = "format=Account,MaxSubmitJobs,MaxJobs,QOS";
        let Some(text) = self.ask(runner, "sacctmgr", &["-nP", "show", "assoc", &who, fields]) else {
            return;
        };
        let mut submit: Vec<u32> = Vec::new();
        let mut qos: Vec<String> = Vec::new();
        match sacctmgr::parse(&text, 4) {
            Ok(rows) => {
                for row in rows {
                    self.accounts.push(row[0].clone());
                    submit.extend(row[1].parse::<u32>());
                    qos.extend(row[3].split(',').map(str::to_owned));
                }
            }
            Err(e) => self.notes.push(e.to_string()),
        }
        if let Some(text) =
            self.ask(runner, "sacctmgr", &["-nP", "show", "qos", "format=Name,MaxSubmitPU,MaxJobsPU,MaxWall"])
            && let Ok(rows) = sacctmgr::parse(&text, 4)
        {
            // only a quality of service that is the user's sole one limits every job
            qos.sort();
            qos.dedup();
            if let [only] = &qos[..] {
                submit.extend(rows.iter().filter(|r| &r[0] == only).filter_map(|r| r[1].parse::<u32>().ok()));
            }
        }
        self.max_submit = submit.into_iter().min();
    }

    fn write(&self, d: &Detected) -> String {
        let scheduler = if d.scheduler == Scheduler::Slurm { "slurm" } else { "pbs" };
        let mut y = format!(
            "# Proposed by `bessemer site probe` on {}. Look it over: every value can be wrong for you.\n\
             # All keys: docs/SITES.md.\nbessemer_site: 1\n",
            comment(&d.version)
        );
        let cluster = self.config.get("ClusterName").filter(|n| plain(n));
        y += &format!("name: {}\nscheduler: {scheduler}\n", cluster.map_or("my-site", String::as_str));
        match d.flavor {
            Some(Flavor::PbsPro) => y += "flavor: pbspro\n",
            Some(Flavor::Torque) => y += "flavor: torque\n",
            None => {}
        }
        self.write_partitions(&mut y);
        match &self.accounts[..] {
            [] => {}
            [one] if plain(one) => y += &format!("account: {one}\n"),
            many => y += &format!("# account: one of {}\n", comment(&many.join(", "))),
        }
        y += "\nlimits:\n";
        let array = config::number(&self.config, "MaxArraySize");
        match array.and_then(|n| u32::try_from(n).ok()) {
            // the highest index is one less (specs: F20)
            Some(n) => {
                y += &format!("  # MaxArraySize is {n}\n  max_array: {}\n", n.saturating_sub(1).max(1))
            }
            None if d.scheduler == Scheduler::Slurm => {
                y += "  # MaxArraySize is not known: Slurm's default\n  max_array: 1000\n"
            }
            None => {}
        }
        if let Some(n) = self.max_submit {
            y += &format!("  # yours, array elements counted\n  max_submit: {n}\n");
        }
        if let Some(p) = self.chosen() {
            if let Some(s) = p.max_time_s {
                y += &format!("  walltime: {}\n", clock_units(s));
            }
            let nodes = || self.nodes.iter().filter(|n| n.partition == p.name);
            if let Some(largest) =
                nodes().max_by_key(|n| (n.gpus.iter().map(|g| g.1).sum::<u32>(), n.memory_mib))
            {
                let gpus: u32 = largest.gpus.iter().map(|g| g.1).sum();
                // MiB to MB, rounded down: a node has no more
                let mb = largest.memory_mib.saturating_mul(1 << 20) / 1_000_000;
                y += &format!(
                    "  # the largest node\n  cpus: {}\n  memory: {mb}MB\n  gpus: {gpus}\n",
                    largest.cpus
                );
            }
        }
        y += "  min_poll: 60s\n";
        self.write_remarks(&mut y);
        y
    }

    /// The default partition, or one with GPUs if that has none.
    fn chosen(&self) -> Option<&partition::Partition> {
        let has_gpus = |p: &&partition::Partition| {
            p.up && self.nodes.iter().any(|n| n.partition == p.name && !n.gpus.is_empty())
        };
        let default = self.partitions.iter().find(|p| p.default);
        default
            .filter(has_gpus)
            .or_else(|| self.partitions.iter().find(has_gpus))
            .or(default)
            .or(self.partitions.first())
    }

    fn write_partitions(&self, y: &mut String) {
        let Some(chosen) = self.chosen().filter(|p| plain(&p.name)) else { return };
        *y += "\n# Partitions here:\n";
        for p in &self.partitions {
            let time = p.max_time_s.map_or("no time limit".into(), |s| format!("at most {}", clock_units(s)));
            let mut gpus: Vec<String> = self
                .nodes
                .iter()
                .filter(|n| n.partition == p.name)
                .flat_map(|n| {
                    n.gpus.iter().map(|(t, c)| format!("{c} x {}", if t.is_empty() { "gpu" } else { t }))
                })
                .collect();
            gpus.sort();
            gpus.dedup();
            let gpus = if gpus.is_empty() { "no GPUs".to_owned() } else { gpus.join(", ") };
            let up = if p.up { "" } else { ", not up" };
            *y += &format!("#   {}: {time}, {}{up}\n", comment(&p.name), comment(&gpus));
        }
        *y += &format!("partition: {}\n", chosen.name);
        let kinds = self.nodes.iter().filter(|n| n.partition == chosen.name).flat_map(|n| &n.gpus);
        if let Some((kind, _)) = kinds.into_iter().find(|(t, _)| plain(t)) {
            *y += &format!("gpu:\n  spelling: gres\n  type: {kind}\n");
        }
    }

    fn write_remarks(&self, y: &mut String) {
        if self.config.get("AccountingStorageType").is_some_and(|t| t.ends_with("/none")) {
            *y += "\n# There is no accounting here.\naccounting: off\n";
        }
        if let Some(age) = config::number(&self.config, "MinJobAge").filter(|age| *age < 60) {
            *y += &format!(
                "\n# Finished jobs leave the queue after {age} s: their own records tell how they ended.\n"
            );
        }
        if self.config.get("EnforcePartLimits").is_some_and(|v| v == "NO") {
            *y += "\n# EnforcePartLimits=NO: Slurm accepts jobs that can never run; `limits` above catches them.\n";
        }
        for note in &self.notes {
            *y += &format!("# not found out: {}\n", comment(note));
        }
    }
}

fn plain(name: &str) -> bool {
    // a YAML plain scalar that is a string: starts with a letter, no sign that YAML reads
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && !["true", "false", "null", "yes", "no", "on", "off"].contains(&name.to_ascii_lowercase().as_str())
}

fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

fn clock_units(s: u64) -> String {
    match s {
        s if s % 86_400 == 0 && s > 0 => format!("{}d", s / 86_400),
        s if s % 3600 == 0 && s > 0 => format!("{}h", s / 3600),
        s if s % 60 == 0 && s > 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

#[cfg(test)]
mod tests;
