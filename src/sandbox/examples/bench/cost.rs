//! What a call costs: CPU time of ourselves and of everything that works for us, and wall-clock time.

use std::fs;
use std::time::Instant;

/// One thing that is measured.
pub struct Variant<'a> {
    pub name: &'static str,
    /// How many runs one call stands for.
    pub runs: f64,
    /// Calls in a round.
    pub calls: u32,
    /// What the call returns is all of the CPU time.
    pub tells_all: bool,
    /// Returns CPU time in microseconds that is to be added to what is seen from outside.
    pub call: Box<dyn FnMut() -> f64 + 'a>,
    /// Microseconds of CPU time for a run, one value a round.
    pub cpu_us: Vec<f64>,
    /// Microseconds of wall-clock time for a run, one value a call.
    pub wall_us: Vec<f64>,
}

impl<'a> Variant<'a> {
    pub fn new(name: &'static str, runs: f64, calls: u32, call: impl FnMut() -> f64 + 'a) -> Self {
        Self {
            name,
            runs,
            calls,
            tells_all: false,
            call: Box::new(call),
            cpu_us: Vec::new(),
            wall_us: Vec::new(),
        }
    }

    /// One round.
    pub fn round(&mut self) {
        let mut cpu = if self.tells_all { 0.0 } else { -cpu_us() };
        for _ in 0..self.calls {
            let at = Instant::now();
            cpu += (self.call)();
            self.wall_us.push(at.elapsed().as_secs_f64() * 1e6 / self.runs);
        }
        cpu += if self.tells_all { 0.0 } else { cpu_us() };
        self.cpu_us.push(cpu / f64::from(self.calls) / self.runs);
    }

    /// Median CPU time of a run.
    pub fn cpu(&self) -> f64 {
        quantile(&self.cpu_us, 0.5)
    }

    /// A quantile of the wall-clock time of a run.
    pub fn wall(&self, q: f64) -> f64 {
        quantile(&self.wall_us, q)
    }
}

/// A quantile; 0 of nothing.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let at = (sorted.len() as f64 * q) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

fn rusage(who: libc::c_int) -> f64 {
    // SAFETY: the struct lives on our stack, and all zeroes is valid for it.
    unsafe {
        let mut u: libc::rusage = std::mem::zeroed();
        libc::getrusage(who, &raw mut u);
        #[allow(clippy::cast_precision_loss, reason = "seconds of a benchmark")]
        let us = |t: libc::timeval| t.tv_sec as f64 * 1e6 + t.tv_usec as f64;
        us(u.ru_utime) + us(u.ru_stime)
    }
}

/// CPU time of ourselves, of children that have ended, and of the slots' own processes. What programs in slots used is
/// told by their results.
fn cpu_us() -> f64 {
    let mut sum = rusage(libc::RUSAGE_SELF) + rusage(libc::RUSAGE_CHILDREN);
    for pid in descendants() {
        let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
        let run_ns: f64 = schedstat.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
        sum += run_ns / 1000.0;
    }
    sum
}

fn descendants() -> Vec<u32> {
    let mut found = Vec::new();
    let mut todo = vec![std::process::id()];
    while let Some(pid) = todo.pop() {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|c| c.parse().ok()) {
                found.push(child);
                todo.push(child);
            }
        }
    }
    found
}

/// The floor of any design that forks for each run: a process with this much private memory is forked, the child
/// writes some of its pages and leaves.
pub fn fork_floor(memory: &mut [u8], pages: usize) {
    let stride = memory.len() / pages / 4096 * 4096;
    // SAFETY: the child writes memory of its own copy and leaves at once.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            for i in 0..pages {
                std::ptr::write_volatile(memory.as_mut_ptr().add(i * stride), 1);
            }
            libc::_exit(0);
        }
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}
