//! Whole outputs, written by us from what real schedulers print: `tests/vectors`.

use crate::backend::JobState;
use crate::pbs::{self, qstat};
use crate::site::Flavor;
use crate::slurm;

/// As serde spells it: `node-failed`.
fn named(state: JobState) -> String {
    serde_yaml::to_string(&state).unwrap().trim().to_owned()
}

#[test]
fn pbs_jobs_are_what_the_vectors_expect() {
    for (flavor, text, count) in [
        (Flavor::PbsPro, include_str!("tests/vectors/pbspro.txt"), 12),
        (Flavor::Torque, include_str!("tests/vectors/torque.txt"), 7),
    ] {
        let jobs = qstat::parse(text).unwrap();
        assert_eq!(jobs.len(), count);
        for job in jobs {
            let exit = match pbs::exit(&job) {
                Some((code, 0)) => format!(" exit {code}"),
                Some((_, signal)) => format!(" signal {signal}"),
                None => String::new(),
            };
            assert_eq!(named(pbs::state(flavor, &job)) + &exit, job.get("expect"), "{flavor:?} {}", job.id);
        }
    }
}

#[test]
fn slurm_states_are_what_the_vectors_expect() {
    let mut count = 0;
    for line in include_str!("tests/vectors/slurm.txt").lines().filter(|l| !l.starts_with('#')) {
        let fields: Vec<&str> = line.split(" | ").collect();
        let [_, state, reason, exit, expected] = fields[..] else { panic!("{line}") };
        let exit = exit.split_once(':').map(|(c, s)| (c.parse().unwrap(), s.parse().unwrap()));
        assert_eq!(named(slurm::state(state, reason, exit)), expected, "{line}");
        count += 1;
    }
    assert_eq!(count, 27);
}
