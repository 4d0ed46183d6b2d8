//! Directive lines from typed values.

use super::quote::sbatch_word;
use super::{RenderError, ScriptInput, Target};
use crate::site::{Export, Flavor, GpuSpelling, Site};

/// Megabytes (10^6) to the mebibytes that schedulers mean by `M` and `mb`, rounded up.
pub(crate) fn mebibytes(memory_mb: u64) -> u64 {
    memory_mb.saturating_mul(1_000_000).div_ceil(1 << 20)
}

/// `HH:MM:SS`, hours unbounded: both families read it.
pub(crate) fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

pub(super) fn slurm(site: &Site, input: &ScriptInput, sched: &str) -> Vec<String> {
    let r = &input.resources;
    let output = slurm_pattern(sched, matches!(input.target, Target::Array { .. }));
    let mut d = vec![
        format!("--job-name={}", input.token),
        format!("--output={}", sbatch_word(&output)),
        "--open-mode=append".into(),
        "--nodes=1".into(),
        "--ntasks=1".into(),
        format!("--cpus-per-task={}", r.cpus.max(1)),
        format!("--mem={}M", mebibytes(r.memory_mb)),
        format!("--time={}", clock(r.walltime_s)),
    ];
    if let Target::Array { size, .. } = input.target {
        d.push(format!("--array=0-{}", size.saturating_sub(1)));
    }
    for (option, value) in [("partition", &site.queue), ("account", &site.account), ("qos", &site.qos)] {
        d.extend(value.as_ref().map(|v| format!("--{option}={v}")));
    }
    if r.gpus > 0 {
        let typed = site.gpu.kind.as_ref().map_or(String::new(), |t| format!("{t}:"));
        let n = r.gpus;
        d.push(match site.gpu.spelling {
            GpuSpelling::Gres => format!("--gres=gpu:{typed}{n}"),
            GpuSpelling::Gpus => format!("--gpus={typed}{n}"),
            GpuSpelling::GpusPerNode => format!("--gpus-per-node={typed}{n}"),
            GpuSpelling::GpusPerTask => format!("--gpus-per-task={typed}{n}"),
        });
    }
    d.extend(warning(input.margin_s, r.walltime_s));
    d.push(if site.requeue { "--requeue".into() } else { "--no-requeue".into() });
    d.push(format!("--export={}", if site.export == Export::None { "NONE" } else { "ALL" }));
    // always said: the cluster's own default may be either
    d.push(format!("--kill-on-invalid-dep={}", if site.kill_on_invalid_dep { "yes" } else { "no" }));
    d.extend(site.extra.iter().chain(&input.extra).cloned());
    d
}

/// How early Slurm may send a warning: 60 s by its manual, measured 21 s more (specs: F23, slurm-pbs 2).
const EARLY_S: u64 = 90;

/// `--signal`, a second line behind the supervisor's own timer, which is exact. Left out where the warning could come
/// right at the start: the task would be asked to leave before it has done anything.
fn warning(margin_s: u64, walltime_s: u64) -> Option<String> {
    // refused beyond 65535 s
    let margin = margin_s.clamp(1, 65_535);
    (margin + 2 * EARLY_S <= walltime_s).then(|| format!("--signal=B:USR2@{margin}"))
}

/// The value of `--output`: Slurm expands `%` in it. As it goes on a command line; in a script it also needs quotes.
pub(crate) fn slurm_pattern(dir: &str, array: bool) -> String {
    format!("{}/{}", dir.replace('%', "%%"), if array { "slurm-%A_%a.out" } else { "slurm-%j.out" })
}

pub(super) fn pbs(site: &Site, input: &ScriptInput, sched: &str) -> Result<Vec<String>, RenderError> {
    if matches!(input.target, Target::Array { .. }) {
        // an array's exit status on PBS is that of the subjob that ended last (specs: F10, F22)
        return Err(RenderError::NoArrays("PBS"));
    }
    if sched.contains(|c: char| c.is_whitespace() || c == ':' || c == ',') {
        return Err(RenderError::PbsPath(sched.into()));
    }
    let r = &input.resources;
    let mut d = vec![
        format!("-N {}", input.token),
        format!("-o {sched}/pbs.out"),
        "-j oe".into(),
        "-S /bin/bash".into(),
        format!("-r {}", if site.requeue { "y" } else { "n" }),
    ];
    d.extend(site.queue.as_ref().map(|q| format!("-q {q}")));
    d.extend(site.account.as_ref().map(|a| format!("-A {a}")));
    let (cpus, memory, time) = (r.cpus.max(1), mebibytes(r.memory_mb), clock(r.walltime_s));
    if site.flavor == Some(Flavor::Torque) {
        let kind = site.gpu.kind.as_ref().map_or(String::new(), |t| format!(":{t}"));
        let gpus = if r.gpus > 0 { format!(":gpus={}{kind}", r.gpus) } else { String::new() };
        d.push(format!("-l nodes=1:ppn={cpus}{gpus}"));
        d.push(format!("-l mem={memory}mb,walltime={time}"));
        d.extend(site.qos.as_ref().map(|q| format!("-l qos={q}")));
    } else {
        let mut chunk = format!("-l select=1:ncpus={cpus}");
        if r.gpus > 0 {
            chunk.push_str(&format!(":ngpus={}", r.gpus));
        }
        chunk.push_str(&format!(":mem={memory}mb"));
        for more in &site.select {
            chunk.push_str(&format!(":{more}"));
        }
        d.push(chunk);
        d.push(format!("-l walltime={time}"));
    }
    d.extend(site.extra.iter().chain(&input.extra).cloned());
    Ok(d)
}
