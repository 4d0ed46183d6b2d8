//! The model, the peer, numbers and their printing.

use model::{Model, Options, TorchEngine};
use record::params::Precision;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

pub struct Lab {
    root: PathBuf,
    model: PathBuf,
    pub threads: usize,
}

impl Lab {
    /// Sets libtorch up and makes the model if it is not there yet.
    pub fn new() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        model::runtime::init(u32::try_from(threads).unwrap_or(1));
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let model = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-model");
        let lab = Self { root, model, threads };
        if !lab.model.join("tokenizer.json").exists() {
            let ok = lab.python().arg("make").arg(&lab.model).status().is_ok_and(|s| s.success());
            assert!(ok, "the model could not be made: run tests/parity/setup.sh first");
        }
        lab
    }

    fn python(&self) -> Command {
        let mut command = Command::new(self.root.join(".venv-parity/bin/python"));
        command.arg(self.root.join("tests/bench/generation/peer.py"));
        // what `runtime::init` sets for ourselves
        command
            .env("MALLOC_MMAP_MAX_", "0")
            .env("MALLOC_TRIM_THRESHOLD_", i32::MAX.to_string())
            .env("MALLOC_TOP_PAD_", (64 << 20).to_string())
            .env("OMP_NUM_THREADS", self.threads.to_string())
            .env("TRANSFORMERS_VERBOSITY", "error");
        command
    }

    pub fn load(&self, precision: Precision) -> Model {
        Model::load(&self.model, precision, tch::Device::Cpu).expect("the benchmark's model")
    }

    pub fn engine(&self, precision: Precision, max_batch: usize) -> TorchEngine {
        self.load(precision).engine(Options { max_batch, ..Options::default() })
    }

    pub fn peer(&self, dtype: &str) -> Peer {
        let mut command = self.python();
        command.arg("serve").arg(&self.model).arg(dtype);
        Peer::start(command)
    }

    /// candle's own Llama, where `make bench-generation` has built it.
    pub fn candle(&self) -> Option<Peer> {
        let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("candle/release/candle-peer");
        program.is_file().then(|| {
            let mut command = Command::new(program);
            command.arg(&self.model).env("RAYON_NUM_THREADS", self.threads.to_string());
            Peer::start(command)
        })
    }

    pub fn header(&self) -> String {
        let read = |p: &str| std::fs::read_to_string(p).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let name = cpu.lines().find_map(|l| l.strip_prefix("model name")?.split(':').nth(1)).unwrap_or("?");
        let load = read("/proc/loadavg").split_whitespace().next().unwrap_or("?").to_owned();
        format!(
            "Machine: {} cores ({}, {}), load average at the start {load}; torch {} for us and transformers, {} threads, glibc malloc with the \
             same settings. Model: random Llama, 56.4 M weights (hidden 512, 8 layers, 8 heads over 4, intermediate 1408, vocabulary \
             32000). Medians of interleaved repetitions with the smallest and largest in brackets. Release build.\n",
            self.threads,
            name.trim(),
            model::runtime::cpu_capability(),
            model::runtime::LIBTORCH,
            self.threads
        )
    }
}

/// A peer in a process of its own.
pub struct Peer {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the peer starts");
        let stdin = child.stdin.take().expect("piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut hello = String::new();
        stdout.read_line(&mut hello).expect("the peer speaks");
        assert!(hello.contains("threads"), "the peer failed: {hello}");
        Self { child, stdin, stdout }
    }

    pub fn ask(&mut self, what: &Value) -> Value {
        writeln!(self.stdin, "{what}").expect("the peer listens");
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the peer answers");
        // its threads spin for a moment after their work
        std::thread::sleep(std::time::Duration::from_millis(300));
        serde_json::from_str(&line).expect("the peer's answer; see its words above")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `rows` prompts of `length` random tokens behind `shared` tokens that all have in common.
pub fn prompts(rows: usize, shared: usize, length: usize, seed: u64) -> Vec<Vec<u32>> {
    let token = |stream: u64, i: usize| 3 + (model::sampler::bits(stream, i as u64) % 31_990) as u32;
    (0..rows)
        .map(|row| {
            let common = (0..shared).map(|i| token(seed, i));
            common.chain((0..length).map(|i| token(seed + 1 + row as u64, i))).collect()
        })
        .collect()
}

pub fn ids(prompts: &[Vec<u32>]) -> Value {
    json!(prompts)
}

/// Peak resident memory of this process since [`reset_peak`], MB.
pub fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) / 1024
}

pub fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Median, smallest, largest.
#[derive(Clone, Copy)]
pub struct Stat(pub f64, pub f64, pub f64);

impl Stat {
    pub fn of(values: &[f64]) -> Self {
        let mut v = values.to_vec();
        v.sort_by(f64::total_cmp);
        Self(v[v.len() / 2], v[0], v[v.len() - 1])
    }
}

impl std::fmt::Display for Stat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.0 < 10.0 { 2 } else { 0 };
        write!(f, "{:.digits$} [{:.digits$}, {:.digits$}]", self.0, self.1, self.2)
    }
}

/// Puts `text` between `<!-- name:begin -->` and `<!-- name:end -->`.
pub fn replace(file: &Path, name: &str, text: &str) {
    let (begin, end) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
    let old = std::fs::read_to_string(file).expect("docs/BENCHMARKS.md");
    let (Some(from), Some(to)) = (old.find(&begin), old.find(&end)) else {
        panic!("{} lacks the markers {begin} and {end}", file.display())
    };
    let new = format!("{}\n{text}\n{}", &old[..from + begin.len()], &old[to..]);
    std::fs::write(file, new).expect("docs/BENCHMARKS.md is writable");
}
