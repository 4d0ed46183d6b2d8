//! kill -9 of the planner at random moments, against the real Slurm: no job twice, none orphaned, none lost.

use super::lab::{Lab, slurm_is_here};
use super::sweeps;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// xorshift; the seed is printed so that a failure can be tried again (`BESSEMER_CRASH_SEED`).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// How long `bessemer ARGS` takes when nobody kills it decides where kills are useful.
fn measured(lab: &Lab, args: &[&str]) -> Duration {
    let begun = Instant::now();
    lab.run(args);
    begun.elapsed()
}

#[test]
fn a_planner_killed_at_any_moment_leaves_no_duplicate_no_orphan_and_loses_nothing() {
    if !slurm_is_here() {
        return;
    }
    const TASKS: usize = 8;
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    // `make campaign` asks for more
    let wanted = number("BESSEMER_CRASH_KILLS").unwrap_or(24);
    let seed = number("BESSEMER_CRASH_SEED");
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()) * 2_654_435_761 + 1);
    eprintln!("BESSEMER_CRASH_SEED={seed}");
    let mut dice = Dice(seed);
    let lab = Lab::new(&["--set", "MinJobAge=300"]);
    lab.site("limits: {min_poll: 1s, max_array: 1}\n");

    let name = |sweep: usize| format!("crash{sweep}");
    let write = |sweep: usize| {
        lab.job(
            &sweeps::many(&lab, TASKS, &format!(": {sweep}; sleep 0.2"))
                .replace("name: many", &format!("name: {}", name(sweep))),
        );
    };
    write(0);
    let submit = ["submit", "job.yaml", "--site", "site.yaml"];
    let whole = measured(&lab, &submit);
    let mut sweeps_made = vec![0];
    let (mut kills, mut landed) = (0, 0);
    while kills < wanted {
        let sweep = sweeps_made.len();
        write(sweep);
        sweeps_made.push(sweep);
        // kill the submission, then up to two resumes of the same sweep
        let mut args: Vec<String> = submit.iter().map(|s| (*s).to_owned()).collect();
        for _ in 0..3 {
            let words: Vec<&str> = args.iter().map(String::as_str).collect();
            let mut child = lab.start(&words);
            let micros = u64::try_from(whole.as_micros()).unwrap_or(u64::MAX);
            std::thread::sleep(Duration::from_micros(dice.below(micros.max(1))));
            // a child that has finished already was not killed: it does not count
            landed += u64::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
            kills = landed;
            if lab.dir.join("runs").join(name(sweep)).join("plan.json").exists() {
                args = ["resume", &name(sweep)].map(str::to_owned).to_vec();
            }
        }
        // killed before the sweep existed: hand it in as a user would; else go on with it
        let frozen = lab.dir.join("runs").join(name(sweep)).join("plan.json").exists();
        let known = frozen && lab.run(&["status", &name(sweep), "--offline", "--json"]).code == 0;
        let done = if known { lab.run(&["resume", &name(sweep)]) } else { lab.submit() };
        assert!([0, 75].contains(&done.code), "{done}");
    }
    eprintln!("{kills} kills that met a living planner, {} sweeps", sweeps_made.len());

    let begun = Instant::now();
    for sweep in &sweeps_made {
        loop {
            let done = lab.run(&["resume", &name(*sweep)]);
            assert!([0, 75].contains(&done.code), "{done}");
            let status = lab.run(&["status", &name(*sweep), "--all", "--json"]).code(0);
            let status = super::lab::Status(serde_json::from_str(&status.out).unwrap());
            if status.all_in(&["succeeded"]) {
                assert_eq!(status.tasks().len(), TASKS);
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(400), "lost: {status:#?}\n{}", lab.evidence());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    // every task ran exactly once: no duplicate (a second job would have left a second mark), none lost
    let marks = lab.marks();
    assert_eq!(marks.len(), TASKS * sweeps_made.len(), "{marks:#?}");
    // every job that Slurm ever took belongs to an attempt that we know: no orphan
    let mut tokens = BTreeSet::new();
    for sweep in &sweeps_made {
        let dir = lab.dir.join("runs").join(name(*sweep)).join("tasks");
        for task in std::fs::read_dir(dir).unwrap() {
            let task = task.unwrap().path();
            for attempt in record::layout::attempts(&task).unwrap() {
                let spec =
                    record::TaskSpec::read(&record::layout::attempt_dir(&task, attempt).join("task.json"))
                        .unwrap();
                tokens.insert(spec.token.to_string());
            }
        }
    }
    let names = lab.job_names();
    let distinct: BTreeSet<&String> = names.iter().collect();
    assert_eq!(names.len(), distinct.len(), "a job was handed in twice");
    for name in names {
        assert!(tokens.contains(&name), "{name} is an orphan");
    }
}
