//! Grade `program`: the tests of a program in one process, each with fresh globals and streams.
//!
//! Only what passes plainly counts. Every other test (a wrong output, an exception, a limit, threads or files left
//! behind, and all that the process did not come to) is run again in a process of its own, and that is its verdict. So
//! a program can lose nothing by sharing, and all that it can win is what it printed itself.

use crate::bytes::Bytes;
use crate::checker;
use crate::job::{Grade, Job, Profile, StdioTest, TestResult, Verdict};
use crate::judge::{Judge, ms};
use crate::slot_handle::read_bounded;
use nix::sys::memfd::MFdFlags;
use slot::net::memfd;
use slot::wire::{End, How, Run, RunLimits, TESTS_MAX, Told};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Time for starting and compiling, beside that of each test.
const LOAD_US: u64 = 1_000_000;

impl Judge<'_> {
    /// The tests that passed in a process that they shared; `None` for each that has to be run alone.
    pub(crate) fn in_one_process(
        &mut self,
        job: &Job,
        tests: &[StdioTest],
        run: &Run,
    ) -> io::Result<Vec<Option<TestResult>>> {
        let fits = job.grade == Grade::Program
            && matches!(run.how, How::Python { .. })
            && tests.len() > 1
            && job.profile != Profile::Solo
            && job.files.is_empty()
            && job.fetch.is_empty()
            && checker::of(job).is_none();
        let mut out = Vec::new();
        if fits {
            for part in tests.chunks(TESTS_MAX) {
                out.extend(self.batch(job, part, run)?);
                if self.cancel.is_cancelled() {
                    break;
                }
            }
        }
        Ok(out)
    }

    fn batch(&mut self, job: &Job, tests: &[StdioTest], run: &Run) -> io::Result<Vec<Option<TestResult>>> {
        let n = tests.len() as u64;
        let mut run = run.clone();
        run.how = How::Tests { count: u8::try_from(tests.len()).map_err(io::Error::other)? };
        run.limits = RunLimits {
            wall_us: run.limits.wall_us.saturating_mul(n).saturating_add(LOAD_US),
            cpu_us: run.limits.cpu_us.saturating_mul(n).saturating_add(LOAD_US),
            ..run.limits
        };
        let empty = |name| memfd(name, b"", MFdFlags::empty());
        let mut fds = Vec::with_capacity(2 * tests.len() + 1);
        for _ in tests {
            fds.push(empty(c"stdout")?);
        }
        for t in tests {
            fds.push(memfd(c"stdin", &t.stdin, MFdFlags::empty())?);
        }
        fds.push(empty(c"told")?);
        let running = self.slot.begin_with(&run, b"", &fds)?;
        let told = File::from(fds.pop().expect("it has just been put there"));
        // Each test has its own time, which begins when the one before it is told.
        let each = Duration::from_secs_f64(job.limits.wall_s.clamp(0.001, 1e6));
        let (mut done, mut deadline) = (0, Instant::now() + each + Duration::from_micros(LOAD_US));
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.slot.ends_within(left.min(Duration::from_millis(100))) {
                break;
            }
            let now = told.metadata()?.len();
            if now > done {
                (done, deadline) = (now, Instant::now() + each);
            } else if left.is_zero() || self.cancel.is_cancelled() {
                self.slot.stop()?;
                break;
            }
        }
        let whole = self.slot.finish(running)?;
        // What ended in another way than by leaving says nothing of the tests before, which are run again too.
        let left_alone = whole.report.end == End::Exited(0) && whole.report.leftovers == 0;
        let mut results = Vec::with_capacity(tests.len());
        for ((i, test), stdout) in (0_u64..).zip(tests).zip(fds) {
            let one = if left_alone { plain_pass(job, test, stdout, &told, i)? } else { None };
            results.push(one.map(|t| TestResult {
                #[allow(clippy::cast_precision_loss, reason = "kibibytes of a run stay far below 2^52")]
                memory_peak_mb: whole.report.peak_kb as f64 / 1024.0,
                ..t
            }));
        }
        Ok(results)
    }
}

/// The result of a test that ended plainly and printed what was expected.
fn plain_pass(
    job: &Job,
    test: &StdioTest,
    stdout: OwnedFd,
    told: &File,
    i: u64,
) -> io::Result<Option<TestResult>> {
    let mut bytes = [0; Told::SIZE];
    let Some(expected) = &test.expected else { return Ok(None) };
    if told.read_exact_at(&mut bytes, i * Told::SIZE as u64).is_err() {
        return Ok(None);
    }
    let said = Told::decode(&bytes);
    let (stdout, truncated) = read_bounded(&File::from(stdout), job.limits.output_bytes)?;
    let limits = &job.limits;
    let over =
        ms(said.wall_us.into()) > limits.wall_s * 1000.0 || ms(said.cpu_us.into()) > limits.cpu_s * 1000.0;
    if !said.plain || truncated || over || !job.comparator.matches(&stdout, expected) {
        return Ok(None);
    }
    Ok(Some(TestResult {
        name: None,
        verdict: Verdict::Pass,
        reason: None,
        matched: Some(true),
        exit_code: Some(0),
        signal: None,
        wall_ms: ms(said.wall_us.into()),
        cpu_ms: ms(said.cpu_us.into()),
        memory_peak_mb: 0.0,
        stdout: Bytes(stdout),
        stderr: Bytes::default(),
        truncated: false,
    }))
}
