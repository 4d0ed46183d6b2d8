//! Parsers and classifiers on recordings of real schedulers, where `BESSEMER_FIXTURES` names a folder with `slurm/` and `pbs/`
//! transcripts (`$ COMMAND`, `--- stdout`, `--- stderr`, `--- exit N`). The same facts, condensed, are in the unit tests.

use cluster::backend::{JobState, Submitted};
use cluster::pbs::{self, qselect, qstat, qsub};
use cluster::runner::CmdOut;
use cluster::site::{Flavor, Patterns};
use cluster::slurm::{self, config, sbatch};
use std::path::{Path, PathBuf};

struct Block {
    file: String,
    command: String,
    out: CmdOut,
}

fn blocks(folder: &str) -> Vec<Block> {
    let Some(root) = std::env::var_os("BESSEMER_FIXTURES") else {
        eprintln!("skipped: BESSEMER_FIXTURES is not set");
        return vec![];
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(Path::new(&root).join(folder))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    let all: Vec<Block> = files.iter().flat_map(|f| transcript(f)).collect();
    assert!(all.len() > 50, "only {} recordings", all.len());
    all
}

fn transcript(file: &Path) -> Vec<Block> {
    let text = String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned();
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let mut blocks = Vec::new();
    let (mut command, mut stdout, mut stderr, mut into) = (String::new(), String::new(), String::new(), 0);
    for line in text.lines() {
        match line {
            "--- stdout" => into = 1,
            "--- stderr" => into = 2,
            _ if line.starts_with("--- exit ") => {
                let code = line["--- exit ".len()..].trim().parse().ok();
                let out =
                    CmdOut { code, stdout: std::mem::take(&mut stdout), stderr: std::mem::take(&mut stderr) };
                blocks.push(Block { file: name.clone(), command: std::mem::take(&mut command), out });
                into = 0;
            }
            _ => {
                let target = [&mut command, &mut stdout, &mut stderr];
                let [command, stdout, stderr] = target;
                let to = match into {
                    1 => stdout,
                    2 => stderr,
                    _ => command,
                };
                to.push_str(line.strip_prefix("$ ").filter(|_| into == 0).unwrap_or(line));
                to.push('\n');
            }
        }
    }
    blocks
}

/// One plain command, no shell around it whose exit status would be another's.
fn is_single(command: &str, program: &str) -> bool {
    let lines: Vec<&str> = command.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()).collect();
    matches!(lines[..], [line] if line.starts_with(program) && !line.contains([';', '|', '&', '>', '`']))
}

#[test]
fn every_recorded_sbatch_is_accepted_or_refused_for_a_reason() {
    let (mut accepted, mut refused) = (0, 0);
    for b in
        blocks("slurm").iter().filter(|b| b.file != "torque-wrappers.txt" && is_single(&b.command, "sbatch "))
    {
        let informs = ["--version", "--test-only", "--help"].iter().any(|o| b.command.contains(o));
        if informs {
            continue;
        }
        match (b.out.code, sbatch::parse(&b.out.stdout)) {
            (Some(0), Some(_)) => accepted += 1,
            (Some(0), None) => assert!(b.command.contains(" -Q"), "{}: {}", b.file, b.command),
            _ => {
                refused += 1;
                let answer = slurm::classify(&Patterns::default(), &b.out);
                let said = &b.out.stderr;
                let want = if said.contains("Socket timed out") {
                    matches!(answer, Submitted::Uncertain(_))
                } else if said.contains("Unable to contact") {
                    matches!(answer, Submitted::Unavailable(_))
                } else if said.contains("MaxSubmit") || said.contains("Resource temporarily unavailable") {
                    matches!(answer, Submitted::Limit(_))
                } else {
                    matches!(answer, Submitted::Refused(_))
                };
                assert!(want, "{}: {}{said} -> {answer:?}", b.file, b.command);
            }
        }
    }
    if std::env::var_os("BESSEMER_FIXTURES").is_some() {
        assert!(accepted > 40 && refused > 15, "{accepted} accepted, {refused} refused");
    }
}

#[test]
fn every_recorded_state_of_slurm_is_known() {
    let mut seen = 0;
    for b in blocks("slurm").iter().filter(|b| b.command.contains("scontrol show job")) {
        for line in b.out.stdout.lines() {
            let Some(rest) = line.trim().strip_prefix("JobState=") else { continue };
            let mut words = rest.split_whitespace();
            let (state, reason) =
                (words.next().unwrap(), words.next().unwrap_or("").trim_start_matches("Reason="));
            assert_ne!(slurm::state(state, reason, None), JobState::Unknown, "{}: {line}", b.file);
            seen += 1;
        }
    }
    for b in blocks("slurm").iter().filter(|b| b.command.starts_with("scontrol show config")) {
        assert!(config::parse(&b.out.stdout).contains_key("MaxArraySize"), "{}", b.file);
    }
    assert!(std::env::var_os("BESSEMER_FIXTURES").is_none() || seen > 15, "{seen}");
}

#[test]
fn every_recorded_qsub_is_accepted_or_refused_for_a_reason() {
    let (mut accepted, mut refused) = (0, 0);
    for b in
        blocks("pbs").iter().filter(|b| is_single(&b.command, "qsub ") && !b.command.contains("--version"))
    {
        match (b.out.code, qsub::parse(&b.out.stdout)) {
            (Some(0), Some(_)) => accepted += 1,
            (code, id) => {
                assert!(code != Some(0) && id.is_none(), "{}: {}", b.file, b.command);
                refused += 1;
                let answer = pbs::classify(&Patterns::default(), &b.out);
                let want = if b.out.stderr.contains("cannot connect") {
                    matches!(answer, Submitted::Unavailable(_))
                } else if b.out.stderr.contains("would exceed") {
                    matches!(answer, Submitted::Limit(_))
                } else {
                    matches!(answer, Submitted::Refused(_))
                };
                assert!(want, "{}: {}{} -> {answer:?}", b.file, b.command, b.out.stderr);
            }
        }
    }
    assert!(
        std::env::var_os("BESSEMER_FIXTURES").is_none() || (accepted > 5 && refused > 10),
        "{accepted} {refused}"
    );
}

#[test]
fn every_recorded_qstat_is_read_whole_and_no_job_without_exit_status_is_a_success() {
    let mut jobs = 0;
    for b in blocks("pbs").iter().filter(|b| b.command.contains("qstat") && !b.command.contains("-F ")) {
        // blocks that went through grep show only some attributes
        if !b.out.stdout.contains("Job Id:")
            || !b.out.stdout.contains("job_state =")
            || b.command.contains("grep")
        {
            continue;
        }
        let rows = qstat::parse(&b.out.stdout).unwrap_or_else(|e| panic!("{}: {e}", b.file));
        for row in rows {
            jobs += 1;
            let state = pbs::state(Flavor::PbsPro, &row);
            assert_ne!(state, JobState::Unknown, "{}: {}", b.file, row.id);
            assert!(
                !matches!(state, JobState::Completed | JobState::Failed)
                    || row.number("Exit_status").is_some(),
                "{}: {} is {state:?}",
                b.file,
                row.id
            );
            assert!(!row.get("Job_Name").is_empty());
        }
    }
    for b in blocks("pbs").iter().filter(|b| is_single(&b.command, "qselect ")) {
        qselect::parse(&b.out.stdout).unwrap_or_else(|e| panic!("{}: {e}", b.file));
    }
    assert!(std::env::var_os("BESSEMER_FIXTURES").is_none() || jobs > 0, "{jobs}");
}
