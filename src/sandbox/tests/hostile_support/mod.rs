//! Headers of hostile programs, canaries, and the rules that hold for every program.

pub mod canaries;

use canaries::Held;
use sandbox::{Call, Job, JobResult, Limits, Mode, Sandbox, StdioTest, Tier, Value, Verdict};
use std::collections::HashMap;
use std::path::Path;

/// One program with its header.
pub struct Program {
    pub name: String,
    code: String,
    header: HashMap<String, String>,
}

impl Program {
    fn forks(&self) -> bool {
        ["os.fork", "subprocess", "multiprocessing"].iter().any(|word| self.code.contains(word))
    }

    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let text = String::from_utf8(bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut header = HashMap::new();
        let mut code = String::new();
        let mut in_header = true;
        for line in text.split_inclusive('\n') {
            let pair = line.trim_end().strip_prefix("# ").and_then(|l| l.split_once(": "));
            match pair.filter(|_| in_header) {
                Some((k, v)) => {
                    header.insert(k.to_owned(), v.to_owned());
                    code.push('\n'); // it may hold what is expected, which the program must not see
                }
                None => {
                    in_header = false;
                    code.push_str(line);
                }
            }
        }
        let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        assert!(header.contains_key("expect"), "{name} has no `expect`");
        Self { name, code, header }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.header.get(key).map(String::as_str)
    }

    fn words(&self, key: &str) -> Vec<&str> {
        self.get(key).unwrap_or_default().split_whitespace().collect()
    }

    fn json_text(&self, key: &str) -> Option<String> {
        self.get(key).map(|t| serde_json::from_str(t).unwrap_or_else(|e| panic!("{} {key}: {e}", self.name)))
    }

    fn limits(&self) -> Limits {
        let mut l = Limits {
            wall_s: 5.0,
            cpu_s: 5.0,
            memory_mb: 256,
            output_bytes: 1 << 20,
            scratch_mb: 64,
            processes: 32,
        };
        for pair in self.words("limits") {
            let (key, value) = pair.split_once('=').unwrap_or_else(|| panic!("{}: {pair}", self.name));
            let number: f64 = value.parse().unwrap_or_else(|e| panic!("{}: {pair}: {e}", self.name));
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "small numbers of a header"
            )]
            let whole = number as u64;
            match key {
                "wall" => l.wall_s = number,
                "cpu" => l.cpu_s = number,
                "mem" => l.memory_mb = whole,
                "out" => l.output_bytes = whole,
                "file" => l.scratch_mb = whole,
                "procs" => l.processes = whole,
                _ => panic!("{}: no limit {key}", self.name),
            }
        }
        l
    }

    fn job(&self, held: &Held) -> Job {
        let mut job = match self.get("mode").unwrap_or("stdio") {
            "stdio" => {
                let stdin = self.json_text("stdin").unwrap_or_default();
                let token = self.words("needs").contains(&"expected-token");
                let expected = token.then(|| held.token.clone().into());
                let mode = Mode::Stdio { tests: vec![StdioTest { stdin: stdin.into(), expected }] };
                Job { mode, ..Job::python(&self.name, self.code.as_str()) }
            }
            "function" => {
                let text = self.get("tests").expect("tests of a function");
                let tests: Vec<serde_json::Value> = serde_json::from_str(text).expect("JSON");
                let call = |t: &serde_json::Value| Call {
                    args: t["args"].as_array().expect("args").iter().map(Value::from).collect(),
                    expected: Value::from(&t["expected"]),
                };
                let entry = self.get("entry").expect("an entry").to_owned();
                let mode = Mode::Function { entry, tests: tests.iter().map(call).collect() };
                Job { mode, ..Job::python(&self.name, self.code.as_str()) }
            }
            "pytest" => {
                let (code, tests) =
                    self.code.split_once("# ---- tests ----").expect("a line that parts the tests");
                Job::pytest(&self.name, code, tests)
            }
            other => panic!("{}: no mode {other}", self.name),
        };
        job.limits = self.limits();
        job.fetch = self.words("fetch").into_iter().map(str::to_owned).collect();
        job
    }

    fn repeat(&self) -> usize {
        self.get("repeat").map_or(1, |n| n.parse().expect("a number"))
    }
}

/// Looks for its own source, which is not to be seen in tier D.
const OWN_FILE: &str = "honest_main_module";

/// What goes through a whole campaign.
pub struct Campaign<'a> {
    held: &'a Held,
    /// Tiers C and D, where much of what programs do is refused: see [`refused_here`].
    outside: bool,
    programs: usize,
    runs: usize,
    failures: Vec<String>,
    latest_ms: f64,
}

impl<'a> Campaign<'a> {
    pub fn new(held: &'a Held) -> Self {
        Self { held, outside: false, programs: 0, runs: 0, failures: Vec::new(), latest_ms: 0.0 }
    }

    /// Fails when any program did not meet its header.
    pub fn finish(self) {
        self.held.untouched();
        eprintln!(
            "{} programs, {} runs, {} failures; the latest verdict came {:.0} ms behind its wall limit",
            self.programs,
            self.runs,
            self.failures.len(),
            self.latest_ms
        );
        assert!(self.failures.is_empty(), "\n{}", self.failures.join("\n"));
    }

    fn rules(&mut self, p: &Program, r: &JobResult) {
        let limits = p.limits();
        let mut wrong = Vec::new();
        for t in &r.tests {
            self.runs += 1;
            self.latest_ms = self.latest_ms.max(t.wall_ms - limits.wall_s * 1000.0);
            for (name, stream) in [("stdout", &t.stdout), ("stderr", &t.stderr)] {
                let text = stream.lossy();
                if text.contains("ESCAPED") {
                    wrong.push(format!("{name}: {}", text.trim()));
                }
                if self.held.secrets.iter().any(|c| text.contains(c)) {
                    wrong.push(format!("a canary came back on {name}"));
                }
                if stream.len() as u64 > limits.output_bytes {
                    wrong.push(format!("{} bytes on {name}", stream.len()));
                }
            }
            // One process is held by its own limit. A tree is sampled (tier B has no cgroup): what it touches between two
            // looks comes on top, and on a busy machine looks are late. docs/SANDBOX.md says so.
            let slack = if p.forks() { limits.memory_mb + 64 } else { 64 };
            #[allow(clippy::cast_precision_loss, reason = "mebibytes")]
            if t.memory_peak_mb > (limits.memory_mb + slack) as f64 {
                wrong.push(format!("{} MiB in use", t.memory_peak_mb));
            }
        }
        for f in &r.files {
            if f.data.is_some() {
                wrong.push(format!("{} came back: {f:?}", f.path));
            }
        }
        let word = outcome(p, r);
        let wanted = p.words("expect");
        let safe = wanted.contains(&"SAFE") && r.verdict != Verdict::Unscored;
        let refused = self.outside && refused_here(word, r);
        if !safe && !refused && !wanted.contains(&word) {
            wrong.push(format!("{word} ({:?}, {:?}), expected {}", r.verdict, r.reason, wanted.join(" or ")));
        }
        if p.words("needs").contains(&"expected-token") && r.verdict == Verdict::Pass {
            wrong.push("it knew the expected output".into());
        }
        if word == "OK"
            && let Some(t) = r.tests.first()
        {
            let wanted =
                p.json_text("stdout").map(String::into_bytes).or_else(|| p.get("stdout-hex").map(unhex));
            if wanted.is_some_and(|w| w != t.stdout.0) && !(self.outside && p.name == OWN_FILE) {
                wrong.push(format!("stdout {:?}", t.stdout));
            }
            if p.get("stdout-sha256").is_some_and(|w| w != record::key::sha256_hex(&t.stdout)) {
                wrong.push("stdout has another SHA-256".into());
            }
        }
        if !wrong.is_empty() {
            let stderr = r.tests.first().map(|t| t.stderr.lossy().into_owned()).unwrap_or_default();
            self.failures.push(format!("{}: {}\n    stderr: {}", p.name, wrong.join("; "), tail(&stderr)));
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().rev().take(4).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hex")).collect()
}

/// Whether a program failed for what it may not do outside of namespaces, where a root of its own would have had it: a
/// path or a call was refused, or nobody can say what it would have done. That is no verdict against it, and never for it.
fn refused_here(word: &str, r: &JobResult) -> bool {
    let stderr = r.tests.first().map(|t| t.stderr.lossy().into_owned()).unwrap_or_default();
    word == "unscored"
        || (word == "RE" && stderr.contains("PermissionError"))
        || (word == "OLE" && r.tests.iter().all(|t| !t.truncated)) // files beyond the scratch space
}

/// The verdict in the words of the headers.
fn outcome(p: &Program, r: &JobResult) -> &'static str {
    let stdio = p.get("mode").unwrap_or("stdio") == "stdio";
    match r.verdict {
        Verdict::Unscored => "unscored",
        Verdict::Pass if !stdio => "PASS",
        _ if !stdio => "NOTPASS",
        Verdict::Pass | Verdict::WrongAnswer => "OK",
        Verdict::RuntimeError => "RE",
        Verdict::TimeLimit => "TLE",
        Verdict::MemoryLimit => "MLE",
        Verdict::OutputLimit => "OLE",
        Verdict::CompileError => "CE",
    }
}

/// Runs programs as one batch, each as often as it says, with an honest and a wrong program behind every run.
pub fn check(sandbox: &Sandbox, programs: &[Program], campaign: &mut Campaign<'_>) {
    campaign.outside = sandbox.tier() <= Tier::C;
    let mut jobs = Vec::new();
    let mut owners = Vec::new();
    for p in programs {
        campaign.programs += 1;
        for _ in 0..p.repeat() {
            jobs.push(p.job(campaign.held));
            owners.push(Some(p));
        }
        let code = "import sys, json, random\nprint(sum(map(int, sys.stdin.read().split())))";
        jobs.push(Job::python("honest", code).test("1 2 3 4", "10"));
        jobs.push(Job::python("wrong", code).test("1 2 3 4", "11"));
        owners.extend([None, None]);
    }
    let results = sandbox.run_batch(&jobs);
    let mut last = "";
    for (r, owner) in results.iter().zip(owners) {
        match owner {
            Some(p) => {
                last = &p.name;
                campaign.rules(p, r);
            }
            None => {
                let right = if r.id == "honest" { Verdict::Pass } else { Verdict::WrongAnswer };
                if r.verdict != right {
                    campaign.failures.push(format!("after {last}: the {} program got {r:?}", r.id));
                }
            }
        }
    }
}

/// Processes below this one: keepers, process 1 of each slot, and anything that should not be there.
pub fn leftovers() -> usize {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    let mut todo = vec![std::process::id()];
    let mut n = 0;
    while let Some(pid) = todo.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        n += below.len();
        todo.extend(below);
    }
    n
}

/// A random order, with its seed printed so that it can be had again.
pub fn shuffle<T>(items: &mut [T]) {
    let seed = std::env::var("BESSEMER_TEST_SEED").ok().and_then(|s| s.parse().ok());
    let mut state: u64 = seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
        now.subsec_nanos().into()
    });
    eprintln!("order: BESSEMER_TEST_SEED={state}");
    for i in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let j = usize::try_from((state >> 33) % (i as u64 + 1)).expect("small");
        items.swap(i, j);
    }
}
