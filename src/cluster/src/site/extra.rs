//! Free scheduler options: which ones would break the contract between script, backend and ledger.

use super::Scheduler;

/// Slurm options that bessemer sets itself, and what to use instead.
const SLURM: &[(&[&str], &str)] = &[
    (&["--job-name", "-J"], "the job name is how a lost submission is found again"),
    (&["--output", "-o", "--error", "-e", "--open-mode"], "logs go to the attempt's log.txt"),
    (&["--time", "-t", "--time-min"], "use `resources: {walltime: ...}`"),
    (&["--array", "-a"], "bessemer makes arrays itself"),
    (&["--dependency", "-d"], "use `inputs:` in the job file"),
    (&["--chdir", "-D", "--workdir"], "jobs run in their attempt's directory"),
    (&["--signal"], "use `margin` in the job file"),
    (&["--requeue", "--no-requeue"], "use the site key `requeue`"),
    (&["--export", "--export-file", "--get-user-env"], "use the site keys `export` and `setup`"),
    (&["--kill-on-invalid-dep"], "use the site key `kill_on_invalid_dep`"),
    (&["--begin", "-b"], "bessemer delays retries itself"),
    (&["--comment"], "the comment carries the task's labels"),
    (
        &[
            "--parsable",
            "--quiet",
            "-Q",
            "--wait",
            "-W",
            "--wrap",
            "--test-only",
            "--help",
            "-h",
            "--usage",
            "--version",
            "-V",
        ],
        "it changes what sbatch prints",
    ),
    (&["--clusters", "-M", "--cluster"], "one site is one cluster"),
];

/// The same for qsub.
const PBS: &[(&[&str], &str)] = &[
    (&["-N"], "the job name is how a lost submission is found again"),
    (&["-o", "-e", "-j"], "logs go to the attempt's log.txt"),
    (&["-J", "-t"], "arrays are not used on PBS"),
    (&["-r"], "use the site key `requeue`"),
    (&["-a"], "bessemer delays retries itself"),
    (&["-V"], "it breaks the output of qstat; use `setup`"),
    (&["-I", "-X", "-x", "-z", "--version"], "it changes what qsub does or prints"),
    (&["-S"], "job scripts are bash"),
    (&["-d", "-w", "-D"], "jobs run in their attempt's directory"),
    (&["-C"], "directives start with #PBS"),
];

/// Whether `option` (`--constraint=v100`, `-l place=excl`) may be added to every job of a site, phase or variant.
///
/// # Errors
/// A sentence that names the option and what to use instead.
pub fn check_extra(scheduler: Scheduler, option: &str) -> Result<(), String> {
    if option.chars().any(char::is_control) {
        return Err(format!("the option {option:?} holds a control character"));
    }
    if !option.starts_with('-') || option.len() < 2 {
        return Err(format!("`{option}` is no scheduler option: it must start with `-`"));
    }
    let name = option.split(['=', ' ']).next().unwrap_or(option);
    let table = match scheduler {
        Scheduler::Slurm => SLURM,
        Scheduler::Pbs => PBS,
        Scheduler::Local => {
            return Err(format!("`{option}`: a local site has no scheduler that could take options"));
        }
    };
    // Short options may carry their value without a blank (-Jname), long ones may be cut short (--job-n=x).
    let same = |own: &str| {
        if name.starts_with("--") { own.starts_with(name) } else { own.len() == 2 && name.starts_with(own) }
    };
    let hit = table.iter().find(|(own, _)| own.iter().any(|o| same(o)));
    if let Some((_, instead)) = hit {
        return Err(format!("`{option}` is not free to set: {instead}"));
    }
    if scheduler == Scheduler::Pbs && name == "-W" && option.contains("depend=") {
        return Err(format!("`{option}` is not free to set: use `inputs:` in the job file"));
    }
    Ok(())
}
