//! Eight chains of five tasks that do nothing: what the sweep adds to its critical path.

use super::lab::Lab;
use super::{REPEAT, median, spread};
use std::fmt::Write;
use std::time::{Duration, Instant};

const CHAINS: usize = 8;
const LENGTH: usize = 5;

pub fn measure() -> String {
    let lab = Lab::slurm(&[]);
    lab.write("site.yaml", "bessemer_site: 1\nname: bench\nscheduler: slurm\nlimits: {max_array: 1}\n");
    let bare_script = format!(
        "for c in $(seq {CHAINS}); do dep=; for p in $(seq {LENGTH}); do \
         id=$(sbatch --parsable -o /dev/null -c 1 --mem=60 --time=5 ${{dep:+--dependency=afterok:$dep}} --wrap 'true; touch \"$DONE/$SLURM_JOB_ID\"'); dep=$id; done; done"
    );
    let (mut bare, mut ours, mut work) = (vec![], vec![], vec![]);
    for round in 0..REPEAT {
        let done = lab.dir.join(format!("done{round}"));
        std::fs::create_dir(&done).expect("the directory is writable");
        let begun = Instant::now();
        lab.run("bash", &["-c", &format!("export DONE={}; {bare_script}", done.display())]);
        wait(|| std::fs::read_dir(&done).map_or(0, Iterator::count) >= CHAINS * LENGTH);
        bare.push(begun.elapsed().as_secs_f64());
        lab.cancel_all();

        let name = format!("chain{round}");
        lab.write("job.yaml", &job(&name));
        let begun = Instant::now();
        let ran = lab.bessemer(&["submit", "job.yaml", "--site", "site.yaml"]);
        assert_eq!(ran.code, 0);
        let tasks = lab.dir.join("runs").join(&name).join("tasks");
        let results = || {
            std::fs::read_dir(&tasks)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|t| t.path().join("result.json").exists())
        };
        wait(|| results().count() >= CHAINS * LENGTH);
        ours.push(begun.elapsed().as_secs_f64());
        // the commands' own time on the longest chain: next to nothing, so the rest is what scheduler and we add
        let walls: Vec<f64> = results()
            .filter_map(|t| {
                let record: record::AttemptRecord =
                    record::atomic::read_json(&t.path().join("attempt-1/record.json")).ok()??;
                Some(record.usage.wall_s)
            })
            .collect();
        work.push(median(&walls) * LENGTH as f64);
        lab.cancel_all();
    }
    let overhead: Vec<f64> = ours.iter().zip(&work).map(|(o, w)| o - w).collect();
    format!(
        "### Chains: {CHAINS} x {LENGTH} tasks of `true`, submit to last record\n\n| | wall |\n|---|---|\n\
         | bare `sbatch --dependency=afterok`, no records, no checks | {} |\n\
         | `bessemer submit` | {} |\n| of that: the tasks themselves, {LENGTH} in a row | {} |\n| overhead over the critical path | {} |\n\n\
         Slurm starts a dependent job at its next tick of one second: five ticks are the floor for both. No process of ours stays \
         while the sweep runs.\n",
        spread(&bare, "s"),
        spread(&ours, "s"),
        spread(&work, "s"),
        spread(&overhead, "s")
    )
}

fn job(name: &str) -> String {
    let list: Vec<String> = (0..CHAINS).map(|i| i.to_string()).collect();
    let mut text = format!(
        "bessemer: 1\nname: {name}\nmatrix: {{i: [{}]}}\ndefaults:\n  resources: {{cpus: 1, memory: 60MB, walltime: 5m}}\nphases:\n",
        list.join(", ")
    );
    for p in 0..LENGTH {
        let inputs = if p == 0 { String::new() } else { format!("inputs: {{x: p{}}}, ", p - 1) };
        let _ = writeln!(
            text,
            "  p{p}: {{kind: command, {inputs}params: {{argv: ['true'], env: {{I: \"${{i}}\", P: '{p}', R: '{name}'}}}}}}"
        );
    }
    text
}

fn wait(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(300), "the chains never end");
        std::thread::sleep(Duration::from_millis(10));
    }
}
