//! The environment of scheduler commands: the user's, without what would change options or output.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// Variables with these beginnings override directives or formats, or leak the job that we run in (specs: F17, F19).
const DROP: &[&str] = &[
    "SLURM_",
    "SLURMD_",
    "SBATCH_",
    "SALLOC_",
    "SRUN_",
    "SQUEUE_",
    "SACCT_",
    "SCANCEL_",
    "SCONTROL_",
    "SINFO_",
    "SPRIO_",
    "SSTAT_",
    "PMI",
    "PBS_",
    "QSTAT_",
    "OMPI_",
    "LC_",
    "BESSEMER_",
];
/// ... and these must stay, or the commands do not find their cluster.
const KEEP: &[&str] = &[
    "SLURM_CONF",
    "SLURM_CONF_SERVER",
    "SLURM_CLUSTERS",
    "SLURM_JWT",
    "PBS_CONF_FILE",
    "PBS_EXEC",
    "PBS_SERVER",
    "PBS_DEFAULT",
];

/// Filters an environment. The locale is set to C: output is parsed.
pub fn scrubbed(vars: impl IntoIterator<Item = (OsString, OsString)>) -> BTreeMap<OsString, OsString> {
    let keep = |name: &OsString| {
        let name = name.to_string_lossy();
        KEEP.contains(&&*name)
            || !(DROP.iter().any(|p| name.starts_with(p)) || name == "LANG" || name == "LANGUAGE")
    };
    let mut env: BTreeMap<_, _> = vars.into_iter().filter(|(name, _)| keep(name)).collect();
    env.insert("LC_ALL".into(), "C".into());
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overriding_variables_go_and_the_way_to_the_cluster_stays() {
        let names = [
            "SBATCH_JOB_NAME",
            "SQUEUE_FORMAT",
            "SLURM_CPU_BIND",
            "SLURM_JOB_ID",
            "PMIX_RANK",
            "PBS_JOBID",
            "LC_TIME",
            "SLURM_TIME_FORMAT",
            "LANG",
            "SLURM_CONF",
            "PBS_SERVER",
            "HOME",
            "PATH",
            "TZ",
        ];
        let env = scrubbed(names.iter().map(|n| (OsString::from(n), OsString::from("v"))));
        let left: Vec<_> = env.keys().map(|k| k.to_str().unwrap()).collect();
        assert_eq!(left, ["HOME", "LC_ALL", "PATH", "PBS_SERVER", "SLURM_CONF", "TZ"]);
        assert_eq!(env[&OsString::from("LC_ALL")], "C");
    }
}
