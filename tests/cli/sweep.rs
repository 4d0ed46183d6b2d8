//! Sweeps on this machine, from plan to report, with the built program.

mod util;

use serde_json::Value;
use std::path::Path;
use std::process::{Child, Stdio};
use util::{Done, Place, until};

/// Each task notes in `ran` that it ran; `make` then `use` for three seeds.
const SMALL: &str = r#"
bessemer: 1
name: small
matrix: {seed: [1, 2, 3]}
defaults: {resources: {cpus: 1, memory: 50MB, walltime: 5m}}
phases:
  make:
    kind: command
    params: {argv: [sh, -c, "echo make >> $RAN; echo data > d"], outputs: [d]}
  use:
    kind: command
    inputs: {data: make}
    params:
      argv: [sh, -c, "echo use-${seed} >> $RAN; cat $BESSEMER_INPUT_DATA/d > e"]
"#;

/// Waits for a file `go` of its own, so that a test decides when it ends; USR2 makes it checkpoint.
const GATED: &str = r#"
bessemer: 1
name: gated
matrix: {seed: [1, 2]}
defaults: {resources: {cpus: 1, memory: 50MB, walltime: 5m}}
phases:
  train:
    kind: command
    params:
      argv:
        - sh
        - -c
        - |
          echo "train-${seed} $BESSEMER_ATTEMPT" >> $RAN
          trap 'exit 85' USR2
          n=0
          while ! [ -e $GO-${seed} ]; do
            n=$((n+1)); echo "{\"at\":$n,\"step\":$n,\"of\":1000000,\"values\":{\"loss\":0.5}}" >> $BESSEMER_EVENTS
            sleep 0.05
          done
          echo done > d
"#;

fn place(job: &str) -> Place {
    let place = Place::new();
    place.write("job.yaml", job);
    place.local_site(2);
    place
}

const RUN: [&str; 4] = ["run", "job.yaml", "--site", "here.yaml"];

fn ran(place: &Place) -> Vec<String> {
    let mut lines: Vec<String> = place.read("ran").lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn status(place: &Place) -> Value {
    serde_json::from_str(&place.run(&["status", "--json", "--all"]).code(0).out).unwrap()
}

fn states(place: &Place) -> Vec<String> {
    let doc = status(place);
    doc["data"].as_array().unwrap().iter().map(|t| t["state"].as_str().unwrap().to_owned()).collect()
}

fn start(place: &Place, args: &[&str]) -> Child {
    place.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(child: Child) -> Done {
    Done::of(child.wait_with_output().unwrap())
}

fn signal(child: &Child, s: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()), s).unwrap();
}

#[test]
fn a_sweep_runs_to_its_report_and_a_second_run_does_nothing() {
    let p = place(SMALL);
    p.run(&["plan", "job.yaml"]).code(0).says("4 tasks").says("never run");
    let done = p.run(&RUN).code(0);
    assert!(done.out.contains("report.html"), "{}", done.out);
    assert_eq!(ran(&p), ["make", "use-1", "use-2", "use-3"]);
    assert!(p.read("runs/small/report.html").contains("small"));
    p.run(&["plan", "job.yaml"]).code(0).says("nothing to do");
    p.run(&RUN).code(0);
    assert_eq!(ran(&p).len(), 4, "results are reused");
    p.run(&["verify"]).code(0).says("4 results hold").says("0 damaged");
    p.run(&["logs", "small", "use", "seed=2"]).code(0).says("exit 0 (done)");
    p.run(&["report", "small", "--json"]).code(0).says("\"kind\": \"report\"");
}

#[test]
fn a_changed_parameter_runs_only_what_depends_on_it_and_plan_says_why() {
    let p = place(SMALL);
    p.run(&RUN).code(0);
    let set = ["--set", "matrix.seed=[1, 9]"];
    p.run(&[&["plan", "job.yaml"], &set[..]].concat()).code(0).says("seed=9");
    p.run(&[&RUN[..], &set[..]].concat()).code(0);
    assert_eq!(ran(&p), ["make", "use-1", "use-2", "use-3", "use-9"]);
}

#[test]
fn status_json_is_a_versioned_table() {
    let p = place(SMALL);
    p.run(&RUN).code(0);
    let doc = status(&p);
    assert_eq!((&doc["format"], &doc["kind"], &doc["done"]), (&1.into(), &"status".into(), &true.into()));
    assert_eq!(doc["counts"]["succeeded"], 4);
    let columns: Vec<&str> =
        doc["schema"]["fields"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    for row in doc["data"].as_array().unwrap() {
        for c in &columns {
            assert!(row.get(c).is_some(), "{c} is promised and missing in {row}");
        }
    }
}

#[test]
fn two_dry_runs_are_byte_identical_and_touch_no_scheduler() {
    let p = place(SMALL);
    p.write("slurm.yaml", "bessemer_site: 1\nname: far\nscheduler: slurm\npartition: gpu\n");
    // programs of schedulers that complain loudly when they are called
    for name in ["sbatch", "squeue", "scontrol", "sacct", "sinfo", "sacctmgr", "scancel"] {
        p.program(&format!("bin/{name}"), "#!/bin/sh\necho called >> called; exit 1\n");
    }
    let dry = |out: &str| {
        p.run(&["plan", "job.yaml", "--site", "slurm.yaml", "--dry-run", "--out", out]).code(0);
        files(&p.dir.path().join(out))
    };
    let (one, two) = (dry("one"), dry("two"));
    assert_eq!(one, two);
    let scripts = one.iter().filter(|(name, _)| name.ends_with("job.sh")).count();
    assert!(scripts >= 2, "{:?}", one.iter().map(|f| &f.0).collect::<Vec<_>>());
    assert!(one.iter().any(|(_, text)| String::from_utf8_lossy(text).contains("#SBATCH --partition=gpu")));
    assert_eq!(dry("one"), two, "a dry run may be repeated in its own directory");
    p.write("mine/precious", "x");
    p.run(&["plan", "job.yaml", "--site", "slurm.yaml", "--dry-run", "--out", "mine"])
        .code(2)
        .says("not empty");
    assert_eq!(p.read("mine/precious"), "x");
    assert!(!p.dir.path().join("called").exists() && !p.dir.path().join("runs").exists());
    assert!(!p.dir.path().join("state").exists(), "a plan leaves no ledger");
}

/// Relative names and contents of all files below.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let (mut found, mut todo) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(d) = todo.pop() {
        for e in std::fs::read_dir(d).unwrap() {
            let path = e.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
                found.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn mistakes_in_a_job_file_are_pointed_at() {
    let p = place(&SMALL.replace("outputs:", "output:"));
    let done = p.run(&["plan", "job.yaml"]).code(65).says("job.yaml:9:").says("outputs");
    assert!(done.out.is_empty());
    p.run(&["plan", "jub.yaml"]).code(65).says("jub.yaml").says("there are: ./here.yaml, ./job.yaml");
    let p = place(SMALL);
    p.run(&["plan", "job.yaml", "--set", "phases.use.params.args=1"]).code(65).says("--set").says("argv");
    p.run(&["plan", "job.yaml", "--set", "nonsense"]).code(2).says("PATH=VALUE");
    p.run(&["submit", "job.yaml", "--site", "here.yaml"]).code(2).says("bessemer run job.yaml");
    p.run(&["status"]).code(2).says("there is no sweep");
    assert!(!p.dir.path().join("state").exists(), "asking makes no ledger");
}

#[test]
fn a_killed_driver_is_resumed_and_no_task_runs_twice() {
    let p = place(GATED);
    let driver = start(&p, &RUN);
    until("both run", || p.dir.path().join("ran").exists() && ran(&p).len() == 2);
    signal(&driver, nix::sys::signal::Signal::SIGKILL);
    end(driver);
    p.write("go-1", "");
    p.write("go-2", "");
    p.run(&["resume"]).code(0);
    assert_eq!(ran(&p), ["train-1 1", "train-2 1"], "the running attempts were adopted, not repeated");
    assert_eq!(states(&p), ["succeeded", "succeeded"]);
}

#[test]
fn killing_the_driver_at_any_moment_never_runs_a_finished_task_again() {
    let p = place(SMALL);
    for delay_ms in [0, 20, 60, 120, 250, 400] {
        let driver = start(&p, &RUN);
        // not a synchronisation: the kill is meant to fall anywhere
        std::thread::sleep(std::time::Duration::from_millis(delay_ms));
        signal(&driver, nix::sys::signal::Signal::SIGKILL);
        end(driver);
    }
    p.run(&RUN).code(0);
    assert_eq!(ran(&p), ["make", "use-1", "use-2", "use-3"]);
}

#[test]
fn ctrl_c_stops_with_checkpoints_and_resume_goes_on() {
    let p = place(GATED);
    let driver = start(&p, &RUN);
    until("both run", || p.dir.path().join("ran").exists() && ran(&p).len() == 2);
    signal(&driver, nix::sys::signal::Signal::SIGINT);
    end(driver).code(85).says("bessemer resume gated");
    assert_eq!(states(&p), ["checkpointed", "checkpointed"]);
    p.write("go-1", "");
    p.write("go-2", "");
    p.run(&["resume"]).code(0);
    assert_eq!(ran(&p), ["train-1 1", "train-1 2", "train-2 1", "train-2 2"]);
}

#[test]
fn the_second_ctrl_c_kills_what_does_not_listen() {
    let p = place(&GATED.replace("trap 'exit 85' USR2", "trap '' USR2 TERM"));
    let driver = start(&p, &RUN);
    until("both run", || p.dir.path().join("ran").exists() && ran(&p).len() == 2);
    signal(&driver, nix::sys::signal::Signal::SIGINT);
    let mut driver = driver;
    until("the driver has left", || {
        signal(&driver, nix::sys::signal::Signal::SIGINT);
        driver.try_wait().unwrap().is_some()
    });
    end(driver).code(85);
    assert_eq!(states(&p), ["cancelled", "cancelled"]);
}

#[test]
fn cancel_ends_what_a_killed_driver_left_running() {
    let p = place(GATED);
    let driver = start(&p, &RUN);
    until("both run", || p.dir.path().join("ran").exists() && ran(&p).len() == 2);
    signal(&driver, nix::sys::signal::Signal::SIGKILL);
    end(driver);
    p.run(&["cancel", "gated", "seed=1"]).code(0).says("1 attempts cancelled");
    assert_eq!(states(&p), ["cancelled", "running"]);
    p.run(&["cancel", "gated", "no-such-thing"]).code(2).says("phases: train");
    p.run(&["cancel", "gated"]).code(0);
    assert_eq!(states(&p), ["cancelled", "cancelled"]);
}

#[test]
fn a_cancellation_reaches_the_driver_at_work_and_what_it_names_is_not_started_any_more() {
    let p = place(&GATED.replace("seed: [1, 2]", "seed: [1, 2, 3, 4]"));
    let driver = start(&p, &RUN);
    until("two run", || p.dir.path().join("ran").exists() && ran(&p).len() == 2);
    // seed 3 has not begun: it must not take the slot that comes free
    let done = p.run(&["cancel", "gated", "seed=1", "seed=3"]).code(0);
    done.says("asking it to cancel").says("1 attempts cancelled");
    until("the next one has the slot", || ran(&p).len() == 3);
    p.run(&["cancel", "gated", "no-such-thing"]).code(2).says("phases: train");
    p.write("go-2", "");
    p.write("go-4", "");
    end(driver).code(1).says("cancelled");
    assert_eq!(ran(&p), ["train-1 1", "train-2 1", "train-4 1"]);
    assert_eq!(states(&p), ["cancelled", "succeeded", "planned", "succeeded"]);
    let left = std::fs::read_dir(p.dir.path().join("runs/gated/requests")).unwrap().count();
    assert_eq!(left, 0, "nothing that a later driver could obey");
}

/// As in a container: process 1 is the shell, and the session's leader lies outside of the namespace.
#[test]
fn in_a_pid_namespace_a_sweep_runs_is_cancelled_and_stops_on_ctrl_c() {
    let unshare = |script: &str, p: &Place| {
        let path = p
            .command(&[])
            .get_envs()
            .find_map(|(k, v)| (k == "PATH").then(|| v.unwrap().to_owned()))
            .unwrap();
        let mut u = std::process::Command::new("unshare");
        u.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "bash", "-ec", script]);
        u.current_dir(p.dir.path()).env("PATH", path).env("B", util::BESSEMER).stdin(Stdio::null());
        u.env("RAN", p.dir.path().join("ran")).env("GO", p.dir.path().join("go"));
        Done::of(u.output().unwrap())
    };
    let p = place(GATED);
    let probe = unshare("true", &p);
    if probe.code != 0 {
        eprintln!("skipped: no user and pid namespaces here: {}", probe.err.trim());
        return;
    }
    // `cancel` while the driver works, then Ctrl-C; `set -m` so that bash does not shield its child from SIGINT
    let script = r#"
        set -m
        "$B" run job.yaml --site here.yaml --plain & driver=$!
        until [ "$(wc -l <"$RAN" 2>/dev/null)" = 2 ]; do sleep 0.05; done
        "$B" cancel gated seed=1
        kill -INT $driver
        code=0; wait $driver || code=$?
        "$B" status gated --offline
        for p in /proc/[0-9]*; do
            if tr '\0' '\n' <"$p/environ" 2>/dev/null | grep -q '^BESSEMER_TOKEN='; then echo "left: $p"; fi
        done
        exit $code
    "#;
    let done = unshare(script, &p).code(85).says("1 attempts cancelled").says("1 cancelled, 1 checkpointed");
    assert!(!done.out.contains("left:"), "{}", done.out);
    p.write("go-1", "");
    p.write("go-2", "");
    unshare(r#""$B" resume gated"#, &p).code(0);
    assert_eq!(states(&p), ["succeeded", "succeeded"]);
}

#[test]
fn a_second_driver_is_refused_while_the_first_works_and_may_look() {
    let p = place(GATED);
    let driver = start(&p, &RUN);
    until("both run", || p.dir.path().join("ran").exists() && ran(&p).len() == 2);
    p.run(&RUN).code(75).says("is being worked on by");
    p.run(&["resume"]).code(75).says("is being worked on by");
    until("status sees them run", || states(&p) == ["running", "running"]);
    let doc = status(&p);
    assert!(doc["held_by"].as_str().is_some_and(|h| h.contains("run")), "{doc}");
    until("and their progress", || status(&p)["data"][0]["step"].as_u64().is_some_and(|n| n > 0));
    p.write("go-1", "");
    p.write("go-2", "");
    end(driver).code(0);
}

#[test]
fn watch_on_a_pipe_tells_changes_and_ends_with_the_sweep() {
    let p = place(GATED);
    let driver = start(&p, &RUN);
    until("both run", || p.dir.path().join("ran").exists() && ran(&p).len() == 2);
    let watcher = start(&p, &["watch"]);
    p.write("go-1", "");
    p.write("go-2", "");
    end(driver).code(0);
    let done = end(watcher).code(0).says("train seed=1").says("done: bessemer report gated");
    assert!(!done.out.contains('\x1b'), "no drawing on a pipe: {}", done.out);
}

#[test]
fn a_failing_task_is_retried_and_then_reported_with_what_to_do() {
    let p = place(
        &SMALL
            .replace("echo data > d\"", "echo 'no such corpus' >&2; exit 65\"")
            .replace(", outputs: [d]", ""),
    );
    let done = p.run(&RUN).code(1).says("not done").says("bessemer logs small");
    assert!(done.out.contains("make"), "{}", done.out);
    assert_eq!(ran(&p), ["make"], "a user error is not tried again, and nothing that needs it starts");
    assert_eq!(states(&p), ["failed", "blocked", "blocked", "blocked"]);
    p.run(&["logs", "small", "make"]).code(0).says("no such corpus");
}

#[test]
fn damage_is_found_by_verify_and_mended_by_resume() {
    let p = place(SMALL);
    p.run(&RUN).code(0);
    let doc = status(&p);
    let key = doc["data"][0]["task"].as_str().unwrap();
    p.write(&format!("runs/small/tasks/{key}/attempt-1/out/d"), "DATA\n");
    p.run(&["verify", "--quick"]).code(0);
    p.run(&["verify"]).code(1).says("make").says("1 damaged");
    p.run(&["resume"]).code(0);
    assert_eq!(ran(&p).iter().filter(|l| *l == "make").count(), 2);
    p.run(&["verify"]).code(0).says("0 damaged");
}

#[test]
fn a_lost_ledger_is_rebuilt_from_files() {
    let p = place(SMALL);
    p.run(&RUN).code(0);
    std::fs::remove_dir_all(p.dir.path().join("state")).unwrap();
    p.run(&["status"]).code(2);
    p.run(&["rebuild"]).code(0).says("small: 4 tasks");
    assert_eq!(states(&p), ["succeeded"; 4]);
    p.run(&["resume"]).code(0);
    assert_eq!(ran(&p).len(), 4);
}

#[test]
fn a_closed_pipe_is_no_failure_and_stops_no_work() {
    let p = place(SMALL);
    let mut c = std::process::Command::new("bash");
    let line = format!("set -o pipefail; '{}' run job.yaml --site here.yaml | head -n 1", util::BESSEMER);
    let done = Done::of(
        c.args(["-c", &line])
            .current_dir(p.dir.path())
            .env("RAN", p.dir.path().join("ran"))
            .output()
            .unwrap(),
    );
    done.code(0);
    assert_eq!(ran(&p).len(), 4);
    // cut output is a failure: a program would read half a document
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let done = Done::of(p.command(&["report", "small", "--json"]).stdout(full).output().unwrap());
    done.code(1).says("cannot write to standard output");
}

#[test]
fn rehearse_uses_its_profile_under_a_name_of_its_own() {
    let p = place(&format!("{SMALL}\nprofiles:\n  rehearse: {{matrix: {{seed: [7]}}}}\n"));
    p.run(&["rehearse", "job.yaml", "--site", "here.yaml"]).code(0).says("everything fits together");
    assert_eq!(ran(&p), ["make", "use-7"]);
    p.run(&["status", "small-rehearsal"]).code(0).says("2 succeeded");
    p.run(&["status", "small"]).code(2);
}

#[test]
fn doctor_says_what_to_do_about_every_red_line() {
    let p = place(SMALL);
    let mut c = p.command(&["doctor", "--json"]);
    let done = Done::of(c.env("BESSEMER_WORKER", "/no/such/worker").output().unwrap()).code(1);
    let doc: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((&doc["format"], &doc["kind"], &doc["ok"]), (&1.into(), &"doctor".into(), &false.into()));
    let findings = doc["findings"].as_array().unwrap();
    let checks: Vec<&str> = findings.iter().map(|f| f["check"].as_str().unwrap()).collect();
    for c in ["worker", "python3", "sandbox", "languages", "gpu", "scheduler", "ledger", "runs", "clock"] {
        assert!(checks.contains(&c), "{c} in {checks:?}");
    }
    for f in findings.iter().filter(|f| f["level"] == "bad") {
        assert!(f["advice"].as_str().is_some_and(|a| !a.is_empty()), "{f}");
    }
    assert_eq!(findings.last().unwrap()["check"], "worker", "what needs attention stands last");
}

#[test]
fn a_mistyped_tier_is_named_as_one() {
    let p = place(SMALL);
    let mut c = p.command(&["doctor"]);
    Done::of(c.env("BESSEMER_TIER_MIN", "c").output().unwrap())
        .code(1)
        .says("BESSEMER_TIER_MIN: a tier is A, B, B-, C or D, not \"c\"")
        .says("correct the variable");
}

#[test]
fn the_schema_and_the_help_topics_are_there() {
    let p = place(SMALL);
    let schema: Value = serde_json::from_str(&p.run(&["schema"]).code(0).out).unwrap();
    assert!(schema["properties"]["phases"].is_object(), "{schema}");
    let codes = p.run(&["help", "exit-codes"]).code(0);
    for n in ["0", "65", "74", "75", "76", "77", "78", "85"] {
        assert!(codes.out.lines().any(|l| l.trim_start().starts_with(n)), "{n}: {}", codes.out);
    }
    p.run(&["help", "environment"]).code(0).says("BESSEMER_INPUT_<ROLE>");
    p.run(&["help", "plan"]).code(0).says("--dry-run");
    p.run(&["help", "nothing"]).code(2);
    p.run(&["completions", "zsh"]).code(0).says("rehearse");
    p.run(&["site", "check", "here.yaml"]).code(0).says("the file is right");
    p.run(&["site", "show", "here.yaml"]).code(0).says("task run");
}
