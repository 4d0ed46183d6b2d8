//! `status` with ten thousand tracked jobs.

use super::lab::{Lab, many};
use super::{REPEAT, median, spread};

const JOBS: usize = 10_000;

pub fn measure() -> String {
    let lab = Lab::slurm(&[]);
    lab.write(
        "site.yaml",
        "bessemer_site: 1\nname: bench\nscheduler: slurm\nlimits: {max_array: 1000}\nextra: ['--hold']\n",
    );
    lab.write("job.yaml", &many("status", JOBS, "['true']"));
    let submit = lab.bessemer(&["submit", "job.yaml", "--site", "site.yaml"]);
    assert_eq!(submit.code, 0);
    let (mut wall, mut peak, mut bare, mut squeues, mut others) = (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..REPEAT {
        let ran = lab.run("squeue", &["-h", "-r", "-t", "all", "-o", "%i|%T|%j|%R", "--me"]);
        bare.push(ran.wall.as_secs_f64());
        lab.reset_counters();
        let ran = lab.bessemer(&["status"]);
        assert!([0, 1].contains(&ran.code), "status: exit {}", ran.code);
        wall.push(ran.wall.as_secs_f64());
        peak.push(ran.peak_mb);
        let jobs = lab.requests("REQUEST_JOB_INFO") as f64;
        squeues.push(jobs);
        others.push(lab.requests("REQUEST_JOB_USER_INFO") as f64);
    }
    format!(
        "### Status: {JOBS} tracked jobs (10 held arrays of 1000)\n\n| | wall | peak RSS | job queries (`sdiag`) |\n|---|---|---|---|\n\
         | `squeue -r` alone | {} | | 1 |\n| `bessemer status` | {} | {} | {:.0} |\n\n\
         Targets: under 0.5 s, 50 MB, one `squeue` and at most one `sacct`. Handing them in took {:.1} s with 10 submit requests.\n",
        spread(&bare, "s"),
        spread(&wall, "s"),
        spread(&peak, "MB"),
        median(&squeues) + median(&others),
        submit.wall.as_secs_f64()
    )
}
