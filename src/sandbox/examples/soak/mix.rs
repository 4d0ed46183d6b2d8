//! The mixture, and what is looked at. Shared by the example and a short test.

use sandbox::{Bytes, Cancel, Checker, Comparator, Config, File, Job, Limits, Sandbox, Value, Verdict};
use std::fmt::Write as _;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// A job and what must come of it.
struct Case {
    job: Job,
    verdict: Verdict,
}

/// Runs the mixture until it has made this many runs; what was wrong, empty when nothing was. `say` gets progress.
pub fn soak(runs: usize, mut say: impl FnMut(&str)) -> Vec<String> {
    let scratch = tempdir();
    let compile_cache = Some(sandbox::CacheConfig { dir: scratch.clone(), max_mb: 16 });
    let config = Config { compile_cache, runs_per_slot: 2000, ..Config::default() };
    let sandbox = Sandbox::start(config).expect("a sandbox can be built here");
    // All of them at once: which slot would else be started in which round is chance.
    sandbox.warm_up(&Cancel::default()).expect("every slot can be built");
    let languages: Vec<_> =
        sandbox.languages().into_iter().filter(|(_, found)| found.is_ok()).map(|(name, _)| name).collect();
    let mut wrong = Vec::new();
    let start = Instant::now();
    let (mut done, mut first, mut round) = (0, None, 0);
    let a_round = (runs / 40).clamp(200, 20_000);
    while done < runs {
        let cases: Vec<_> = (0..).map(|i| case(round, i, &languages)).take(a_round).collect();
        let jobs = cases.iter().map(|c| &c.job);
        let (made, bad) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        sandbox.run_each(jobs, &Cancel::default(), |i, r| {
            made.fetch_add(r.tests.len().max(1), Ordering::Relaxed);
            if r.verdict != cases[i].verdict {
                let mut bad = bad.lock().expect("no panic");
                bad.push(format!(
                    "{}: {:?} instead of {:?}: {:?}",
                    r.id, r.verdict, cases[i].verdict, r.reason
                ));
            }
        });
        wrong.append(&mut bad.into_inner().expect("no panic"));
        done += made.into_inner();
        round += 1;
        let mut seen = Seen::look(&sandbox);
        // A slot lets go of a run's descriptors a moment after its report.
        for _ in 0..20 {
            if first.as_ref().is_none_or(|f| seen.grown(f).is_empty()) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            seen = Seen::look(&sandbox);
        }
        let rate = per_second(done, start);
        say(&format!("{done} runs, {rate:.0}/s, {} wrong; {}", wrong.len(), seen.line()));
        // Every slot stands; the first round fills caches.
        match &first {
            None => first = Some(seen),
            Some(first) => {
                wrong.extend(seen.grown(first).into_iter().map(|g| format!("after {done} runs: {g}")))
            }
        }
        if wrong.len() > 50 {
            wrong.push("more is wrong than is worth counting".into());
            break;
        }
    }
    drop(sandbox);
    let left = descendants().len();
    if left > 0 {
        wrong.push(format!("{left} processes are left when the sandbox is gone"));
    }
    let _ = fs::remove_dir_all(scratch);
    wrong
}

#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn per_second(n: usize, since: Instant) -> f64 {
    n as f64 / since.elapsed().as_secs_f64()
}

fn tempdir() -> std::path::PathBuf {
    use std::os::unix::fs::DirBuilderExt;
    let dir = std::env::temp_dir().join(format!("bessemer-soak-{}", std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&dir).expect("a directory of our own");
    dir
}

/// What must not grow.
struct Seen {
    processes: usize,
    mounts: usize,
    /// Process, and what the descriptor is of.
    descriptors: Vec<(u32, String)>,
    /// Of the slots: files and KiB in scratch, as programs see them.
    scratch: Vec<(u64, u64)>,
    own_kb: u64,
    slots_kb: u64,
}

impl Seen {
    fn look(sandbox: &Sandbox) -> Self {
        let below = descendants();
        let lines = |path: String| fs::read_to_string(path).map_or(0, |t| t.lines().count());
        let everybody = || below.iter().copied().chain([std::process::id()]);
        // In our own name space anybody on this machine may mount something meanwhile.
        let space = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let apart = below.iter().copied().filter(|pid| space(*pid) != space(std::process::id()));
        let fds = |pid: u32| {
            let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let mut of: Vec<_> = links
                .filter_map(|l| Some((pid, fs::read_link(l.path()).ok()?.to_string_lossy().into_owned())))
                .collect();
            // A slot keeps its program's file open where that is the only one, to write the next over it.
            if let Some(kept) = of.iter().position(|(_, of)| of.starts_with("/prog/")) {
                of.swap_remove(kept);
            }
            of
        };
        let mut descriptors: Vec<_> = everybody().flat_map(fds).collect();
        // For each slot that has run something we hold the outputs of its last run, and those for the next: two files each.
        let own = std::process::id();
        let slots = below.iter().filter(|pid| parent(**pid) == Some(own)).count();
        for _ in 0..4 * slots {
            let held = descriptors.iter().position(|(pid, of)| *pid == own && of.starts_with("/memfd:std"));
            let Some(held) = held else { break };
            descriptors.swap_remove(held);
        }
        let slots_kb = below.iter().map(|pid| resident_kb(*pid)).sum();
        Self {
            processes: below.len(),
            mounts: apart.map(|pid| lines(format!("/proc/{pid}/mountinfo"))).sum(),
            descriptors,
            scratch: scratch(sandbox),
            own_kb: resident_kb(std::process::id()),
            slots_kb,
        }
    }

    fn line(&self) -> String {
        let mut text = format!(
            "{} processes, {} mounts, {} descriptors, {} KiB ours, {} KiB of slots, scratch",
            self.processes,
            self.mounts,
            self.descriptors.len(),
            self.own_kb,
            self.slots_kb
        );
        for (files, kb) in &self.scratch {
            let _ = write!(text, " {files} files {kb} KiB");
        }
        text
    }

    /// What is more than it was. Counts may not grow by one; memory has room for what allocators keep.
    fn grown(&self, first: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        let mut count = |name: &str, now: usize, then: usize| {
            if now > then {
                grown.push(format!("{now} {name}, {then} at first"));
            }
        };
        count("processes", self.processes, first.processes);
        count("mounts", self.mounts, first.mounts);
        count("descriptors", self.descriptors.len(), first.descriptors.len());
        if self.descriptors.len() > first.descriptors.len() {
            let new = self.descriptors.iter().filter(|d| !first.descriptors.contains(d));
            grown.push(format!("new descriptors (process, of what): {:?}", new.collect::<Vec<_>>()));
        }
        let most = |s: &Self| s.scratch.iter().copied().max().unwrap_or_default();
        if most(self) > most(first) {
            grown.push(format!("scratch {:?}, {:?} at first", most(self), most(first)));
        }
        for (name, now, then) in
            [("ours", self.own_kb, first.own_kb), ("of slots", self.slots_kb, first.slots_kb)]
        {
            if now > then + then / 4 + 32 * 1024 {
                grown.push(format!("{now} KiB {name}, {then} at first"));
            }
        }
        grown
    }
}

/// Files and KiB in use on the scratch file system before the program's own, asked by programs.
fn scratch(sandbox: &Sandbox) -> Vec<(u64, u64)> {
    let code = "import os\ns = os.statvfs('/tmp')\nprint(s.f_files - s.f_ffree, (s.f_blocks - s.f_bfree) * s.f_bsize // 1024)";
    let jobs: Vec<_> =
        (0..4 * sandbox.slots()).map(|i| Job::python(format!("{i}"), code).input("")).collect();
    let read = |text: String| {
        let mut numbers = text.split_whitespace().map(|n| n.parse().unwrap_or(u64::MAX));
        (numbers.next().unwrap_or(u64::MAX), numbers.next().unwrap_or(u64::MAX))
    };
    let mut seen: Vec<_> = sandbox
        .run_batch(&jobs)
        .iter()
        .map(|r| read(r.tests.first().map(|t| t.stdout.lossy().into_owned()).unwrap_or_default()))
        .collect();
    seen.sort_unstable();
    seen.dedup();
    seen
}

fn resident_kb(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    statm.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).map_or(0, |pages| pages * 4)
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn descendants() -> Vec<u32> {
    let mut found = Vec::new();
    let mut todo = vec![std::process::id()];
    while let Some(pid) = todo.pop() {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|c| c.parse().ok()) {
                found.push(child);
                todo.push(child);
            }
        }
    }
    found
}

const SUM: &str = "import sys\nprint(sum(map(int, sys.stdin.read().split())))";
const LITTER: &str = "
import os, subprocess
for d in ('/work', '/tmp', '/dev/shm'):
    os.makedirs(d + '/a/b/c'); open(d + '/a/b/c/x', 'w').write('1' * 5000); os.symlink('/etc/passwd', d + '/l'); os.mkfifo(d + '/f')
    os.chmod(d + '/a', 0)
print('left')
";
const DAEMONS: &str = "
import os, time
for i in range(4):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(100)
        os._exit(0)
print('gone')
";

/// The case of this number. Rare kinds are the slow ones.
fn case(round: usize, i: usize, languages: &[&str]) -> Case {
    let id = format!("{round}/{i}");
    let short = Limits { wall_s: 0.2, cpu_s: 0.2, ..Limits::default() };
    // The machine may be busy with anything: only what has to meet a time limit may meet one.
    let slow = Limits { wall_s: 60.0, cpu_s: 60.0, ..Limits::default() };
    let python = |code: &str| Job { limits: slow, ..Job::python(id.clone(), code) };
    let has = |name: &str| languages.contains(&name);
    let n = i % 400;
    let (job, verdict) = match n {
        0 => (Job { limits: short, ..python("while True: pass").test("", "") }, Verdict::TimeLimit),
        1 => (Job { limits: short, ..python("import time\ntime.sleep(9)").test("", "") }, Verdict::TimeLimit),
        2 => (python("x = bytearray(1 << 30)").test("", ""), Verdict::MemoryLimit),
        3 => {
            let flood = "import sys\nwhile True: sys.stdout.write('x' * 65536)";
            (
                Job { limits: Limits { output_bytes: 1 << 16, ..slow }, ..python(flood).test("", "") },
                Verdict::OutputLimit,
            )
        }
        4 => {
            let tests = "def test_a():\n  assert f(2) == 4\ndef test_b():\n  assert f(3) == 9";
            (Job { limits: slow, ..Job::pytest(id, "def f(x): return x * x", tests) }, Verdict::Pass)
        }
        5 if has("c") => {
            // One of eight sources, so that most come out of the cache.
            let code = format!("#include <stdio.h>\nint main(){{printf(\"%d\", {});}}", round % 8);
            (
                Job { limits: slow, ..Job::stdio(id, "c", code).test("", format!("{}", round % 8)) },
                Verdict::Pass,
            )
        }
        6 if has("cpp") && round.is_multiple_of(4) => {
            (Job { limits: slow, ..Job::stdio(id, "cpp", "int main( {").test("", "") }, Verdict::CompileError)
        }
        7 if has("nodejs") => (
            Job { limits: slow, ..Job::stdio(id, "nodejs", "console.log(6 * 7)").test("", "42") },
            Verdict::Pass,
        ),
        8 => {
            let code = Bytes::from("import sys\nsys.exit(open(sys.argv[2]).read() != '5\\n')");
            let checker = Checker { language: "python".into(), code, limits: slow };
            (
                Job { comparator: Comparator::Checker(checker), ..python("print(5)").test("", "") },
                Verdict::Pass,
            )
        }
        9 => {
            let room = Limits { memory_mb: 4096, processes: 8, ..slow }; // the bomb is to meet the limit of processes
            (
                Job { limits: room, ..python("import os\nwhile True: os.fork()").test("", "") },
                Verdict::RuntimeError,
            )
        }
        10 => (python("def f(:").test("", ""), Verdict::CompileError),
        11 => (Job { limits: slow, ..Job::parses(id, "x = 1") }, Verdict::Pass),
        12 => {
            let files = vec![File { path: "in/a".into(), data: "abc".into() }];
            let code = "open('out', 'w').write(open('in/a').read() * 1000)\nimport os\nos.symlink('/etc/passwd', 'link')";
            (Job { files, fetch: vec!["out".into(), "link".into()], ..python(code).input("") }, Verdict::Pass)
        }
        _ => match n % 12 {
            0 => (python("raise ValueError('x')").test("", ""), Verdict::RuntimeError),
            1 => (python(SUM).test("1 2", "4"), Verdict::WrongAnswer),
            2 => (python("import os\nos.kill(os.getpid(), 11)").test("", ""), Verdict::RuntimeError),
            3 => (python(LITTER).test("", "left"), Verdict::Pass),
            4 => (python(DAEMONS).test("", "gone"), Verdict::Pass),
            5 => {
                let job = Job { limits: slow, ..Job::function(id, "def f(a, b): return [a, b]", "f") };
                let pair = |a, b| Value::List(vec![Value::Int(a), Value::Int(b)]);
                let job = job.call(vec![Value::Int(1), Value::Int(2)], pair(1, 2));
                (job.call(vec![Value::Int(3), Value::Int(4)], pair(3, 4)), Verdict::Pass)
            }
            6 if has("bash") => {
                let code = "read n; echo $((n + 1)); sleep 50 &";
                (Job { limits: slow, ..Job::stdio(id, "bash", code).test("6\n", "7") }, Verdict::Pass)
            }
            7 => (python("import os\nos._exit(3)").test("", ""), Verdict::RuntimeError),
            _ => (python(SUM).test("1 2 3", "6").test("4", "4"), Verdict::Pass),
        },
    };
    Case { job, verdict }
}
