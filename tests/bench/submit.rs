//! What handing in a job costs, against a bare `sbatch` loop.

use super::lab::{Lab, many};
use super::{REPEAT, median, spread};

const JOBS: usize = 200;

pub fn measure() -> String {
    let lab = Lab::slurm(&[]);
    lab.write(
        "site.yaml",
        "bessemer_site: 1\nname: bench\nscheduler: slurm\nlimits: {max_array: 1}\nextra: ['--hold']\n",
    );
    lab.write("bare.sh", "#!/bin/bash\ntrue\n");
    let (mut bare, mut ours, mut requests) = (vec![], vec![], vec![]);
    for round in 0..REPEAT {
        let ran = lab.run(
            "bash",
            &["-c", &format!("for i in $(seq {JOBS}); do sbatch --parsable --hold -J b$i -o /dev/null -c 1 --mem=60 --time=5 bare.sh; done")],
        );
        assert_eq!(ran.code, 0);
        bare.push(ran.wall.as_secs_f64() * 1000.0 / JOBS as f64);
        lab.cancel_all();

        lab.write("job.yaml", &many(&format!("submit{round}"), JOBS, "['true']"));
        lab.reset_counters();
        let ran = lab.bessemer(&["submit", "job.yaml", "--site", "site.yaml"]);
        assert_eq!(ran.code, 0);
        ours.push(ran.wall.as_secs_f64() * 1000.0 / JOBS as f64);
        requests.push(lab.requests("REQUEST_SUBMIT_BATCH_JOB") as f64 / JOBS as f64);
        lab.cancel_all();
    }
    format!(
        "### Submit: {JOBS} held single jobs\n\n| | per job | submit requests per job (`sdiag`) |\n|---|---|---|\n\
         | `sbatch` in a bash loop | {} | 1 |\n\
         | `bessemer submit`: spec, script, intent and id of every job durable | {} | {:.2} |\n\n\
         Ratio of the medians: {:.2} (target: at most 1.3).\n",
        spread(&bare, "ms"),
        spread(&ours, "ms"),
        median(&requests),
        median(&ours) / median(&bare)
    )
}
