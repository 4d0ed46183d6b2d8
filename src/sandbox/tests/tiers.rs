//! Tiers C and D, on a machine that could do better: `tier_max` takes the namespaces away. What hostile programs can do in
//! them is in `hostile.rs`.

use sandbox::{Config, File, Grade, Job, JobResult, Limits, Sandbox, SandboxError, Tier, Value, Verdict};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// In a directory of its own, so that what a slot leaves there can be seen.
fn config(tier: Tier, place: &Path) -> Config {
    // Outside of namespaces a slot of root's runs as nobody in particular, who may not read the tester's own interpreter.
    let python = if nix::unistd::geteuid().is_root() { "/usr/bin/python3" } else { "python3" };
    Config {
        slots: 1,
        tier_min: tier,
        tier_max: tier,
        directory: Some(place.to_owned()),
        python: python.into(),
        compile_cache: None,
        ..Config::default()
    }
}

fn place() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).expect("our own directory");
    dir
}

fn start(tier: Tier, place: &tempfile::TempDir) -> Sandbox {
    let sandbox = Sandbox::start(config(tier, place.path())).unwrap_or_else(|e| panic!("tier {tier}: {e}"));
    assert_eq!(sandbox.tier(), tier);
    sandbox
}

/// Tier C needs Landlock, which the kernel of a test machine may not have; tier D needs nothing.
fn tiers() -> Vec<Tier> {
    let landlock = slot::landlock::abi() > 0;
    [Tier::C, Tier::D].into_iter().filter(|t| *t == Tier::D || landlock).collect()
}

fn slots_in(place: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(place).expect("a directory").map(|e| e.expect("an entry").path()).collect()
}

fn stdout(r: &JobResult) -> String {
    r.tests.first().map(|t| t.stdout.lossy().into_owned()).unwrap_or_default()
}

#[test]
fn honest_programs_pass_in_every_mode_and_wrong_ones_do_not() {
    for tier in tiers() {
        let place = place();
        let s = start(tier, &place);
        let sum = "import sys\nprint(sum(map(int, sys.stdin.read().split())))";
        let f = "def f(a):\n    return [a, a + 1]\n";
        let call = |expected: i128| {
            let expected = Value::List(vec![Value::Int(1), Value::Int(expected)]);
            Job::function("call", f, "f").call(vec![Value::Int(1)], expected)
        };
        let cases = [
            (Job::python("right", sum).test("1 2 3", "6"), Verdict::Pass),
            (Job::python("wrong", sum).test("1 2 3", "7"), Verdict::WrongAnswer),
            (call(2), Verdict::Pass),
            (call(3), Verdict::WrongAnswer),
            (Job::pytest("tests", f, "def test_f():\n    assert f(1) == [1, 2]\n"), Verdict::Pass),
            (Job::pytest("tests", f, "def test_f():\n    assert f(1) == [1, 3]\n"), Verdict::WrongAnswer),
            (Job::python("raises", "raise ValueError('no')").test("", ""), Verdict::RuntimeError),
            (Job::python("syntax", "def").test("", ""), Verdict::CompileError),
            (Job::python("leaves", "import sys\nsys.exit(3)").test("", ""), Verdict::RuntimeError),
            (Job::python("aborts", "import os\nos.abort()").test("", ""), Verdict::RuntimeError),
            (Job::python("memory", "x = bytearray(10 ** 9)").test("", ""), Verdict::MemoryLimit),
            (
                Job::python(
                    "threads",
                    "import threading as t\nx = t.Thread(target=print, args=(1,))\nx.start()\nx.join()",
                )
                .test("", "1"),
                Verdict::Pass,
            ),
        ];
        for (job, verdict) in cases {
            let r = s.run(&job);
            assert_eq!(r.verdict, verdict, "tier {tier}, {}: {r:?}", job.id);
            assert_eq!(r.tier, tier);
        }
        let forever = Job {
            limits: Limits { wall_s: 0.3, ..Limits::default() },
            ..Job::python("loop", "while True: pass").test("", "")
        };
        assert_eq!(s.run(&forever).verdict, Verdict::TimeLimit, "tier {tier}");
        let many = Job { grade: Grade::Program, ..Job::python("many", sum).test("1", "1").test("2 2", "4") };
        let r = s.run(&many);
        assert_eq!((r.verdict, r.grade), (Verdict::Pass, Grade::Program), "tier {tier}: {r:?}");
    }
}

#[test]
fn what_a_tier_cannot_give_is_unscored_and_not_a_failure() {
    let forks = [
        "import os\nos.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.system('true')",
    ];
    let pool = "from multiprocessing import Pool\nwith Pool(2) as p:\n    print(p.map(abs, [1]))";
    let files = [
        "print(open('/etc/hostname').read())",
        "open('new', 'w').write('x')",
        "import os\nprint(os.path.exists('/etc'))",
        "import os\nprint(os.listdir('.'))",
        "import turtledemo",
        "import this",
    ];
    for tier in tiers() {
        let place = place();
        let s = start(tier, &place);
        let files = if tier == Tier::D { files.as_slice() } else { &[] };
        for code in forks.iter().chain([&pool]).chain(files).copied() {
            let r = s.run(&Job::python("p", code).test("", "1"));
            if code == "import turtledemo" && r.verdict == Verdict::RuntimeError {
                continue; // Debian has it in a package of its own
            }
            assert_eq!(r.verdict, Verdict::Unscored, "tier {tier}: {code}: {r:?}");
            assert!(r.reason.as_deref().is_some_and(|why| why.contains("user namespaces")), "{r:?}");
        }
        // What is nowhere is not there here either.
        let missing = "try:\n    import no_such_module\nexcept ImportError:\n    print('none')";
        assert!(s.run(&Job::python("missing", missing).test("", "none")).passed_all(), "tier {tier}");
    }
}

#[test]
fn files_stay_in_scratch_and_are_gone_with_the_run() {
    if !tiers().contains(&Tier::C) {
        return;
    }
    let (place, outside) = (place(), tempfile::tempdir().expect("a directory"));
    let s = start(Tier::C, &place);
    let target = outside.path().join("target");
    std::fs::write(&target, "kept").expect("written");
    let path = target.to_str().expect("a plain path");
    let code = format!(
        "import os\nopen('a', 'w').write('x')\nos.makedirs('/'.join('d' * 40))\nprint(open('given').read(), open('a').read())\n\
         for what in (lambda: open({path:?}), lambda: open({path:?}, 'w'), lambda: os.chmod({path:?}, 0o777),\n\
                      lambda: os.utime({path:?}), lambda: os.truncate({path:?}, 0), lambda: os.unlink({path:?}),\n\
                      lambda: os.link({path:?}, 'b'), lambda: os.rename('a', {path:?}), lambda: os.chmod('a', 0o700)):\n\
         \x20   try:\n        what()\n        print('ESCAPED')\n    except OSError:\n        pass\n"
    );
    let given = File { path: "given".into(), data: "g".into() };
    let job = Job { files: vec![given], fetch: vec!["a".into()], ..Job::python("files", code).input("") };
    for _ in 0..2 {
        let r = s.run(&job);
        assert_eq!(stdout(&r), "g x\n", "{r:?}");
        assert_eq!(r.files[0].data.as_ref().map(|d| d.lossy().into_owned()).as_deref(), Some("x"));
    }
    assert_eq!(std::fs::read_to_string(&target).expect("it is there"), "kept");
    // Many files of moderate size: each is below its own limit, the sum is not.
    let flood = "for i in range(10 ** 6):\n    open(f'f{i}', 'wb').write(bytes(1 << 20))\n";
    let limits = Limits { scratch_mb: 16, wall_s: 60.0, cpu_s: 60.0, ..Limits::default() };
    let r = s.run(&Job { limits, ..Job::python("flood", flood).input("") });
    assert_eq!(r.verdict, Verdict::OutputLimit, "{r:?}");
    let empty = "import os\nprint(os.listdir('.'), os.listdir(os.environ['TMPDIR']))";
    assert_eq!(stdout(&s.run(&Job::python("after", empty).input(""))), "[] []\n");
}

/// A process of the user's own, which a slot without a process namespace could reach.
struct Bystander(Child);

impl Bystander {
    fn lives(&mut self) -> bool {
        self.0.try_wait().expect("our own child").is_none()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nobody_elses_process_is_touched() {
    for tier in tiers() {
        let place = place();
        let mut bystander = Bystander(Command::new("sleep").arg("600").spawn().expect("sleep"));
        let pid = bystander.0.id();
        let s = start(tier, &place);
        let code = format!(
            "import os, signal, resource\nfor what in (lambda: os.kill({pid}, 9), lambda: os.kill({pid}, 0), lambda: os.kill(-1, 9),\n\
             \x20            lambda: os.kill(0, 9), lambda: os.kill(os.getppid(), 9), lambda: os.killpg(0, 9),\n\
             \x20            lambda: resource.prlimit({pid}, resource.RLIMIT_CPU, (1, 1)),\n\
             \x20            lambda: os.sched_setaffinity({pid}, [0])):\n\
             \x20   try:\n        what()\n        print('ESCAPED')\n    except OSError as e:\n        pass\nprint('done')\n"
        );
        let r = s.run(&Job::python("signals", code).input(""));
        assert_eq!(stdout(&r), "done\n", "tier {tier}: {r:?}");
        // The kill at a limit reaches what the run left, and nobody else.
        let limits = Limits { wall_s: 0.2, ..Limits::default() };
        let _ = s.run(&Job { limits, ..Job::python("loop", "while True: pass").input("") });
        assert!(bystander.lives(), "tier {tier}");
        drop(s);
        assert!(bystander.lives(), "tier {tier}: the end of the sandbox");
    }
}

#[test]
fn a_compiler_may_start_processes_and_its_program_may_not() {
    if !tiers().contains(&Tier::C) {
        return;
    }
    let place = place();
    let s = start(Tier::C, &place);
    if let Some((_, Err(why))) = s.languages().into_iter().find(|(name, _)| *name == "c") {
        eprintln!("no C compiler: {why}");
        return;
    }
    let c = |code: &str| Job::stdio("c", "c", code);
    let adds = "#include <stdio.h>\nint main() { int a, b; scanf(\"%d%d\", &a, &b); printf(\"%d\\n\", a + b); return 0; }";
    let r = s.run(&c(adds).test("1 2", "3"));
    assert!(r.passed_all(), "{r:?}");
    let forks = "#include <unistd.h>\nint main() { return fork() < 0; }";
    assert_eq!(s.run(&c(forks).test("", "")).verdict, Verdict::Unscored);
    // The compiler proper is a child of the driver: it goes with it.
    let endless = "int f() {\n#include \"/dev/zero\"\n}";
    let r = s.run(&Job { compile_wall_s: 0.5, ..c(endless).test("", "") });
    assert_eq!(r.verdict, Verdict::CompileError, "{r:?}");
    assert!(s.run(&c(adds).test("1 2", "3")).passed_all());
    let secret = c("#include \"/etc/shadow\"\nint main() { return 0; }").test("", "");
    let r = s.run(&secret);
    assert_eq!(r.verdict, Verdict::CompileError);
    assert!(
        !r.compile.expect("it was compiled").output.lossy().contains("root"),
        "Landlock keeps the host's files shut"
    );
}

#[test]
fn weaker_tiers_have_to_be_asked_for() {
    let place = place();
    let strict = Config { tier_min: Tier::BMinus, ..config(Tier::C, place.path()) };
    let Err(SandboxError::Slot(why)) = Sandbox::start(strict) else { panic!("a sandbox below its policy") };
    assert!(why.contains("tier_max"), "{why}");
    assert!(slots_in(place.path()).is_empty());
    let cold = Config { warm_python: false, ..config(Tier::D, place.path()) };
    let Err(SandboxError::Slot(why)) = Sandbox::start(cold) else { panic!("Python that has to open files") };
    assert!(why.contains("warm"), "{why}");
    let s = start(Tier::D, &place);
    let shell = s.run(&Job::stdio("shell", "bash", "echo 1").test("", "1"));
    assert_eq!(shell.verdict, Verdict::Unscored, "{shell:?}");
}

#[test]
fn a_slots_directory_goes_with_it_even_when_it_was_killed() {
    for tier in tiers() {
        let place = place();
        let s = start(tier, &place);
        assert!(s.run(&Job::python("p", "print(1)").test("", "1")).passed_all());
        let [dir] = slots_in(place.path())[..].to_vec().try_into().expect("one slot has one directory");
        drop(s);
        assert!(slots_in(place.path()).is_empty(), "tier {tier}: {dir:?}");
        // One that nobody holds, as a slot leaves it whose every process was killed.
        std::fs::create_dir_all(dir.join("work/a/b")).expect("made");
        std::fs::create_dir_all(place.path().join("bessemer-slot-other.kept")).expect("made");
        let other = std::fs::File::open(place.path().join("bessemer-slot-other.kept")).expect("open");
        let held = nix::fcntl::Flock::lock(other, nix::fcntl::FlockArg::LockExclusiveNonblock).expect("free");
        let s = start(tier, &place);
        assert!(!dir.exists(), "tier {tier}: swept");
        assert_eq!(slots_in(place.path()).len(), 2, "that of a living slot is left alone");
        drop((s, held));
    }
}
