use super::*;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

fn site(text: &str) -> Site {
    Site::load(Path::new("s.yaml"), &format!("bessemer_site: 1\nname: t\n{text}")).unwrap()
}

fn input(attempt: &Path) -> ScriptInput {
    ScriptInput {
        token: Token("br-abcdefghijkl".into()),
        target: Target::One(attempt.into()),
        resources: Resources { cpus: 4, gpus: 1, memory_mb: 16_000, walltime_s: 36 * 3600 },
        sched_dir: attempt.join("sched"),
        margin_s: 300,
        bessemer: "/opt/bessemer/bin/bessemer".into(),
        worker: Some("/opt/bessemer/bin/bessemer-worker".into()),
        extra: vec![],
        title: "quickstart: rl variant=binary seed=1, attempt 1".into(),
    }
}

/// Compares with `src/cluster/src/tests/golden/NAME`; `BESSEMER_BLESS=1` rewrites it, for a look at the diff.
fn golden(name: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/golden").join(name);
    if std::env::var_os("BESSEMER_BLESS").is_some() {
        std::fs::write(&file, text).unwrap();
    }
    let want = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text, want, "{name} changed: if that is meant, run the tests with BESSEMER_BLESS=1");
}

fn check_syntax(text: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("job.sh");
    std::fs::write(&file, text).unwrap();
    let out = Command::new("bash").arg("-n").arg(&file).output().unwrap();
    assert!(out.status.success(), "{}\n{text}", String::from_utf8_lossy(&out.stderr));
    if let Ok(out) = Command::new("shellcheck").args(["-s", "bash"]).arg(&file).output() {
        assert!(out.status.success(), "{}\n{text}", String::from_utf8_lossy(&out.stdout));
    }
}

const SLURM: &str = "scheduler: slurm\npartition: gpu\naccount: lab\ngpu: {type: v100}\nsetup: [module load cuda]\n\
                     extra: ['--constraint=nvlink']\ntmp: [$SLURM_TMPDIR, /local, /tmp]\numask: '027'\n";

#[test]
fn scripts_are_as_the_golden_files_say_and_twice_the_same() {
    let dir = Path::new("/data/runs/q/tasks/k/attempt-1");
    let mut array = input(dir);
    array.target = Target::Array { map: "/data/runs/q/arrays/a/index.map".into(), size: 300 };
    array.sched_dir = "/data/runs/q/arrays/a".into();
    let cases = [
        ("slurm.sh", SLURM, input(dir)),
        (
            "slurm-array.sh",
            "scheduler: slurm\nrequeue: true\nexport: all\nkill_on_invalid_dep: true\n",
            array,
        ),
        ("pbspro.sh", "scheduler: pbs\nflavor: pbspro\nqueue: gpuq\nselect: [gputype=v100]\n", input(dir)),
        ("torque.sh", "scheduler: pbs\nflavor: torque\nqos: long\n", input(dir)),
        ("local.sh", "scheduler: local\n", input(dir)),
    ];
    for (name, text, input) in cases {
        let site = site(text);
        let rendered = script(&site, &input).unwrap();
        assert_eq!(rendered, script(&site, &input).unwrap());
        assert!(!rendered.contains('\r') && rendered.ends_with('\n'));
        golden(name, &rendered);
        check_syntax(&rendered);
    }
}

#[test]
fn a_warning_that_could_come_at_the_start_is_not_asked_for() {
    let with = |walltime_s, margin_s| {
        let mut i = input(Path::new("/data/a"));
        i.resources.walltime_s = walltime_s;
        i.margin_s = margin_s;
        script(&site("scheduler: slurm\n"), &i).unwrap()
    };
    // one minute: Slurm would send it within seconds, and a program without a trap would die of it
    for (walltime_s, margin_s) in [(60, 10), (60, 59), (200, 100)] {
        assert!(!with(walltime_s, margin_s).contains("--signal"), "{walltime_s} {margin_s}");
    }
    assert!(with(300, 30).contains("--signal=B:USR2@30\n"));
    assert!(with(3600, 300).contains("--signal=B:USR2@300\n"));
    assert!(with(200_000, 100_000).contains("--signal=B:USR2@65535\n"), "Slurm's own bound");
}

#[test]
fn the_last_option_wins_and_reserved_ones_are_refused() {
    let mut i = input(Path::new("/a"));
    i.extra = vec!["--constraint=pcie".into(), "--mem=0".into()];
    let text = script(&site(SLURM), &i).unwrap();
    let (ours, theirs) = (text.find("--mem=15259M").unwrap(), text.find("--mem=0").unwrap());
    assert!(ours < theirs && text.find("=nvlink").unwrap() < text.find("=pcie").unwrap());
    i.extra = vec!["--array=0-9".into()];
    assert!(matches!(script(&site(SLURM), &i), Err(RenderError::Extra(_))));
}

#[test]
fn every_gpu_spelling_is_rendered() {
    for (spelling, want) in [
        ("gres", "--gres=gpu:v100:1"),
        ("gpus", "--gpus=v100:1"),
        ("gpus-per-node", "--gpus-per-node=v100:1"),
        ("gpus-per-task", "--gpus-per-task=v100:1"),
    ] {
        let s = site(&format!("scheduler: slurm\ngpu: {{spelling: {spelling}, type: v100}}\n"));
        assert!(script(&s, &input(Path::new("/a"))).unwrap().contains(want), "{want}");
    }
    let mut none = input(Path::new("/a"));
    none.resources.gpus = 0;
    assert!(!script(&site(SLURM), &none).unwrap().contains("gpu:"));
}

#[test]
fn what_no_script_can_carry_is_refused() {
    let slurm = site("scheduler: slurm\n");
    let with = |dir: &str| script(&slurm, &input(Path::new(dir)));
    assert!(matches!(with("/a\nb"), Err(RenderError::Control { .. })));
    assert!(matches!(with("a/b"), Err(RenderError::Relative { .. })));
    assert!(with("/a 50%/b").unwrap().contains(r#"--output="/a 50%%/b/sched/slurm-%j.out""#));
    let pbs = site("scheduler: pbs\nflavor: pbspro\n");
    assert!(matches!(script(&pbs, &input(Path::new("/a b"))), Err(RenderError::PbsPath(_))));
    let mut array = input(Path::new("/a"));
    array.target = Target::Array { map: "/m".into(), size: 2 };
    assert!(matches!(script(&pbs, &array), Err(RenderError::NoArrays(_))));
    let long = format!("scheduler: slurm\nsetup: ['{}']\n", "x".repeat(MAX_BYTES));
    assert!(matches!(script(&site(&long), &input(Path::new("/a"))), Err(RenderError::TooLarge(_))));
    assert!(index_map(&["/a\n/b".into()]).is_err());
}

/// A directory with a program in bessemer's place, and a run of the rendered script.
struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    fn new(program: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bessemer");
        std::fs::write(&file, format!("#!/bin/bash\n{program}")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn attempt(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.join("sched")).unwrap();
        path
    }

    fn input(&self, attempt: &Path) -> ScriptInput {
        ScriptInput { bessemer: self.dir.path().join("bessemer"), worker: None, ..input(attempt) }
    }

    fn bash(&self, text: &str, env: &[(&str, &str)]) -> Output {
        let file = self.dir.path().join("job.sh");
        std::fs::write(&file, text).unwrap();
        Command::new("bash")
            .env_remove("CUDA_VISIBLE_DEVICES")
            .arg(&file)
            .envs(env.iter().copied())
            .output()
            .unwrap()
    }
}

#[test]
fn the_supervisors_exit_code_is_the_jobs_and_the_log_is_appended_to() {
    let rig = Rig::new("echo \"$@\"; echo to-stderr >&2; exit 85\n");
    let attempt = rig.attempt("attempt-1");
    let text = script(&site("scheduler: slurm\n"), &rig.input(&attempt)).unwrap();
    for _ in 0..2 {
        assert_eq!(rig.bash(&text, &[("SLURM_JOB_ID", "79")]).status.code(), Some(85));
    }
    let log = std::fs::read_to_string(attempt.join("log.txt")).unwrap();
    let task = attempt.join("task.json");
    assert_eq!(log.matches(&format!("task run {}\nto-stderr\n", task.display())).count(), 2, "{log}");
    assert_eq!(log.matches("bessemer: job 79 on ").count(), 2, "{log}");
    assert_eq!(log.matches("bessemer: exit 85").count(), 2, "{log}");
}

#[test]
fn a_missing_directory_or_program_is_exit_77_with_a_reason() {
    let rig = Rig::new("exit 0\n");
    let gone = rig.dir.path().join("gone");
    let out = rig.bash(&script(&site("scheduler: local\n"), &rig.input(&gone)).unwrap(), &[]);
    assert_eq!(out.status.code(), Some(77));
    assert!(String::from_utf8_lossy(&out.stderr).contains("no directory"));
    let attempt = rig.attempt("a");
    let mut i = rig.input(&attempt);
    i.bessemer = "/nonexistent/bessemer".into();
    assert_eq!(rig.bash(&script(&site("scheduler: local\n"), &i).unwrap(), &[]).status.code(), Some(77));
    assert!(std::fs::read_to_string(attempt.join("log.txt")).unwrap().contains("programs.bessemer"));
}

#[test]
fn an_unwritable_log_is_exit_77() {
    let rig = Rig::new("exit 0\n");
    let attempt = rig.attempt("a");
    std::fs::create_dir(attempt.join("log.txt")).unwrap();
    let out = rig.bash(&script(&site("scheduler: local\n"), &rig.input(&attempt)).unwrap(), &[]);
    assert_eq!(out.status.code(), Some(77), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn setup_lines_may_fail_and_use_unset_variables_but_the_rest_may_not() {
    let rig = Rig::new("echo \"$MADE_BY_SETUP $OMP_NUM_THREADS\"; [[ $- != *e* ]] || exit 3\n");
    let attempt = rig.attempt("a");
    let s = site(
        "scheduler: local\nsetup: ['false', 'echo \"$NO_SUCH_VARIABLE\"', 'export MADE_BY_SETUP=yes']\n",
    );
    let out = rig.bash(&script(&s, &rig.input(&attempt)).unwrap(), &[]);
    let log = std::fs::read_to_string(attempt.join("log.txt")).unwrap();
    assert_eq!(out.status.code(), Some(0), "{log}");
    assert!(log.contains("yes 4"), "{log}");
}

#[test]
fn scratch_is_named_for_the_supervisor_and_what_a_killed_one_left_is_removed() {
    let rig = Rig::new(
        "mkdir \"$BESSEMER_SCRATCH\"; : >\"$BESSEMER_SCRATCH/file\"; echo \"scratch=$BESSEMER_SCRATCH\"\n",
    );
    let (attempt, base) = (rig.attempt("a"), rig.attempt("node local"));
    let s = site("scheduler: local\ntmp: [/nonexistent, $NODE_LOCAL, /tmp]\n");
    let text = script(&s, &rig.input(&attempt)).unwrap();
    assert!(rig.bash(&text, &[("NODE_LOCAL", base.to_str().unwrap())]).status.success());
    let log = std::fs::read_to_string(attempt.join("log.txt")).unwrap();
    assert!(log.contains(&format!("scratch={}/bessemer.", base.display())), "{log}");
    let left: Vec<_> = std::fs::read_dir(&base).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["sched"]);
}

#[test]
fn signals_reach_the_supervisor_and_its_own_exit_code_is_kept() {
    // The program says when it is ready and ends only by the second signal, so nothing here depends on time.
    let rig = Rig::new(
        "trap 'echo got-usr2' USR2; trap 'echo got-term; exit 85' TERM\n: >ready\n\
         while :; do sleep 0.02; done\n",
    );
    let attempt = rig.attempt("a");
    let text = script(&site("scheduler: local\n"), &rig.input(&attempt)).unwrap();
    let file = rig.dir.path().join("job.sh");
    std::fs::write(&file, text).unwrap();
    let mut child = Command::new("bash").arg(&file).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let log = || std::fs::read_to_string(attempt.join("log.txt")).unwrap_or_default();
    until(|| attempt.join("ready").exists());
    rustix::process::kill_process(pid, rustix::process::Signal::USR2).unwrap();
    until(|| log().contains("got-usr2"));
    assert_eq!(child.try_wait().unwrap(), None, "the first signal must not end the script");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(85));
    assert!(log().contains("got-term") && log().contains("bessemer: exit 85"));
}

fn until(mut done: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !done() {
        assert!(std::time::Instant::now() < end, "waited a minute in vain");
        std::thread::yield_now();
    }
}

#[test]
fn the_gpus_that_torque_gave_are_the_only_ones_visible() {
    let rig = Rig::new("echo \"gpus=${CUDA_VISIBLE_DEVICES-unset}\"\n");
    let text = script(&site("scheduler: pbs\nflavor: torque\n"), &rig.input(&rig.attempt("a"))).unwrap();
    let file = rig.dir.path().join("gpufile");
    std::fs::write(&file, "node-gpu7-gpu1\nnode-gpu7-gpu3\n").unwrap();
    assert!(rig.bash(&text, &[("PBS_GPUFILE", file.to_str().unwrap())]).status.success());
    assert!(rig.bash(&text, &[]).status.success());
    let log = std::fs::read_to_string(rig.dir.path().join("a/log.txt")).unwrap();
    assert!(log.contains("gpus=1,3\n") && log.contains("gpus=unset\n"), "{log}");
}

#[test]
fn an_array_element_finds_its_attempt_by_its_index() {
    let rig = Rig::new("echo \"$BESSEMER_JOB_ID: $*\"\n");
    let dirs: Vec<PathBuf> = ["a", "b 'quoted'", "c"].iter().map(|n| rig.attempt(n)).collect();
    let map = rig.dir.path().join("index.map");
    std::fs::write(&map, index_map(&dirs).unwrap()).unwrap();
    let mut i = rig.input(&dirs[0]);
    i.target = Target::Array { map, size: 3 };
    let text = script(&site("scheduler: slurm\n"), &i).unwrap();
    let run =
        |k: &str| rig.bash(&text, &[("SLURM_ARRAY_JOB_ID", "70"), ("SLURM_ARRAY_TASK_ID", k)]).status.code();
    assert_eq!(run("1"), Some(0));
    let log = std::fs::read_to_string(dirs[1].join("log.txt")).unwrap();
    assert!(log.contains(&format!("70_1: task run {}/task.json", dirs[1].display())), "{log}");
    assert!(!dirs[0].join("log.txt").exists() && !dirs[2].join("log.txt").exists());
    assert_eq!(run("3"), Some(77));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nasty_names_survive_the_round_trip_through_bash(
        name in "[ -.0-~äß漢$`'\"\\\\!*?;&|<>(){}#~%]{1,40}", title in "\\PC{0,60}",
    ) {
        prop_assume!(name != "." && name != "..");
        let rig = Rig::new("printf '<%s>' \"$@\"\n");
        let attempt = rig.attempt(&name);
        for scheduler in ["local", "slurm"] {
            let i = ScriptInput { title: title.clone(), ..rig.input(&attempt) };
            let text = script(&site(&format!("scheduler: {scheduler}\n")), &i).unwrap();
            let out = rig.bash(&text, &[]);
            let log = std::fs::read_to_string(attempt.join("log.txt")).unwrap_or_default();
            prop_assert!(out.status.success(), "{}\n{log}", String::from_utf8_lossy(&out.stderr));
            let want = format!("<task><run><{}/task.json>", attempt.display());
            prop_assert!(log.contains(&want), "{log}\nlacks {want}");
        }
    }
}
