//! Eight chains of five tasks that do nothing: what the sweep adds to its critical path.

use super::lab::Lab;
use super::{REPEAT, median, spread};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const CHAINS: usize = 8;
const LENGTH: usize = 5;

pub fn measure() -> String {
    let lab = Lab::slurm(&[]);
    let site = "bessemer_site: 1\nname: bench\nscheduler: slurm\nlimits: {max_array: 1}\n";
    lab.write("clean.yaml", site);
    lab.write("site.yaml", &format!("{site}export: all\n"));
    let bare_script = format!(
        "for c in $(seq {CHAINS}); do dep=; for p in $(seq {LENGTH}); do \
         id=$(sbatch --parsable -o /dev/null -c 1 --mem=60 --time=5 ${{dep:+--dependency=afterok:$dep}} --wrap 'true; touch \"$DONE/$SLURM_JOB_ID\"'); dep=$id; done; done"
    );
    let (mut bare, mut clean, mut ours, mut work) = (vec![], vec![], vec![], vec![]);
    for round in 0..REPEAT {
        let done = lab.dir.join(format!("done{round}"));
        std::fs::create_dir(&done).expect("the directory is writable");
        let begun = Instant::now();
        lab.run("bash", &["-c", &format!("export DONE={}; {bare_script}", done.display())]);
        wait(|| std::fs::read_dir(&done).map_or(0, Iterator::count) >= CHAINS * LENGTH);
        bare.push(begun.elapsed().as_secs_f64());
        lab.cancel_all();

        let (seconds, _) = sweep(&lab, &format!("clean{round}"), "clean.yaml");
        clean.push(seconds);
        let (seconds, tasks) = sweep(&lab, &format!("chain{round}"), "site.yaml");
        ours.push(seconds);
        // the commands' own time on the longest chain: next to nothing, so the rest is what scheduler and we add
        let walls: Vec<f64> = results(&tasks)
            .filter_map(|t| {
                let record: record::AttemptRecord =
                    record::atomic::read_json(&t.join("attempt-1/record.json")).ok()??;
                Some(record.usage.wall_s)
            })
            .collect();
        work.push(median(&walls) * LENGTH as f64);
    }
    let overhead: Vec<f64> = ours.iter().zip(&work).map(|(o, w)| o - w).collect();
    format!(
        "### Chains: {CHAINS} x {LENGTH} tasks of `true`, submit to last record\n\n| | wall |\n|---|---|\n\
         | bare `sbatch --dependency=afterok`, no records, no checks; `sbatch`'s default environment | {} |\n\
         | `bessemer submit`, `export: all`: the environment that the bare jobs have | {} |\n\
         | of that: the tasks themselves, {LENGTH} in a row | {} |\n| overhead over the critical path | {} |\n\
         | `bessemer submit`, `export: none` (the default) | {} |\n\n\
         All jobs are handed in at once with their dependencies; Slurm starts a dependent at its next tick of one second or, when a \
         job ends at the right moment, at once. With `--export=NONE` (and with a list of variables) slurmd makes a login (`su -`) \
         for every job before it starts it, one after another on a node, here 0.3 s each: that is the whole difference between the \
         two rows of ours, and a clean environment is worth it where tasks run for hours. No process of ours stays while the sweep \
         runs.\n",
        spread(&bare, "s"),
        spread(&ours, "s"),
        spread(&work, "s"),
        spread(&overhead, "s"),
        spread(&clean, "s")
    )
}

/// Seconds from submit to the last result, and the directory of the tasks.
fn sweep(lab: &Lab, name: &str, site: &str) -> (f64, PathBuf) {
    lab.write("job.yaml", &job(name));
    let begun = Instant::now();
    let ran = lab.bessemer(&["submit", "job.yaml", "--site", site]);
    assert_eq!(ran.code, 0);
    let tasks = lab.dir.join("runs").join(name).join("tasks");
    wait(|| results(&tasks).count() >= CHAINS * LENGTH);
    let seconds = begun.elapsed().as_secs_f64();
    lab.cancel_all();
    (seconds, tasks)
}

/// Directories of tasks that have a result.
fn results(tasks: &Path) -> impl Iterator<Item = PathBuf> {
    let all = std::fs::read_dir(tasks).into_iter().flatten().flatten().map(|t| t.path());
    all.filter(|t| t.join("result.json").exists())
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
