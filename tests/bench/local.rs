//! The local executor against GNU parallel and a bare loop.

use super::lab::{Lab, many};
use super::{REPEAT, median, spread};

const TASKS: usize = 1000;

pub fn measure() -> String {
    let lab = Lab::here();
    let slots = std::thread::available_parallelism().map_or(2, usize::from);
    lab.write(
        "site.yaml",
        &format!("bessemer_site: 1\nname: here\nscheduler: local\nlocal: {{cpus: {slots}}}\n"),
    );
    let (mut fork, mut parallel, mut ours) = (vec![], vec![], vec![]);
    let has_parallel =
        std::process::Command::new("parallel").arg("--version").output().is_ok_and(|o| o.status.success());
    for round in 0..REPEAT {
        let ran = lab.run("bash", &["-c", &format!("for i in $(seq {TASKS}); do /bin/true; done")]);
        fork.push(ran.wall.as_secs_f64() * 1000.0 / TASKS as f64);
        if has_parallel {
            let log = format!("joblog{round}");
            let ran = lab.run(
                "bash",
                &[
                    "-c",
                    &format!(
                        "seq {TASKS} | parallel --will-cite -j{slots} --joblog {log} /bin/true '#' {{}}"
                    ),
                ],
            );
            assert_eq!(ran.code, 0);
            parallel.push(ran.wall.as_secs_f64() * 1000.0 / TASKS as f64);
        }
        lab.write("job.yaml", &many(&format!("local{round}"), TASKS, "['/bin/true']"));
        let ran = lab.bessemer(&["run", "job.yaml", "--site", "site.yaml", "--plain"]);
        assert_eq!(ran.code, 0);
        let done = std::fs::read_dir(lab.dir.join(format!("runs/local{round}/tasks")))
            .into_iter()
            .flatten()
            .flatten();
        assert_eq!(done.filter(|t| t.path().join("result.json").exists()).count(), TASKS);
        ours.push(ran.wall.as_secs_f64() * 1000.0 / TASKS as f64);
    }
    let mut text = format!(
        "### Local executor: {TASKS} x `true`, {slots} slots\n\n| | per task |\n|---|---|\n| bash loop: fork and exec, one after the other, no record | {} |\n",
        spread(&fork, "ms")
    );
    if has_parallel {
        text.push_str(&format!("| GNU parallel with a job log | {} |\n", spread(&parallel, "ms")));
    }
    text.push_str(&format!(
        "| `bessemer run`: a directory, a claim, an fsynced record with hashes and a published result for each | {} |\n",
        spread(&ours, "ms")
    ));
    if has_parallel {
        text.push_str(&format!("\nRatio to GNU parallel: {:.2}.\n", median(&ours) / median(&parallel)));
    }
    text
}
