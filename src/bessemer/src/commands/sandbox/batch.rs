//! `bessemer sandbox batch`: one request a line in, one result a line out, in order, as soon as order allows.

use super::Batch;
use crate::context::Context;
use crate::failure::Result;
use record::exit;
use sandbox::{Cancel, Job, JobResult, Sandbox, wire};
use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::sync::{Mutex, PoisonError};

pub fn run(_: &mut Context, args: &Batch) -> Result {
    let sandbox = args.slots.start()?;
    let failed = lines(&sandbox, io::BufReader::new(io::stdin()), io::stdout(), &Cancel::default())?;
    Ok(if failed { exit::USER_ERROR } else { exit::DONE })
}

/// Results that wait for one before them, and the place of the next one to be written.
struct InOrder<W> {
    next: usize,
    waiting: BTreeMap<usize, JobResult>,
    to: W,
    error: Option<io::Error>,
}

impl<W: Write> InOrder<W> {
    fn put(&mut self, at: usize, result: JobResult) {
        self.waiting.insert(at, result);
        while let Some(result) = self.waiting.remove(&self.next) {
            self.next += 1;
            let written = serde_json::to_writer(&mut self.to, &result)
                .map_err(io::Error::from)
                .and_then(|()| self.to.write_all(b"\n"))
                .and_then(|()| self.to.flush());
            if let Err(e) = written {
                self.error.get_or_insert(e);
            }
        }
    }
}

/// Runs every line; true when some line was no request. Shared with the service's `/v1/batch`.
pub fn lines(
    sandbox: &Sandbox,
    from: impl BufRead + Send,
    to: impl Write + Send,
    cancel: &Cancel,
) -> io::Result<bool> {
    let order = Mutex::new(InOrder { next: 0, waiting: BTreeMap::new(), to, error: None });
    let put = |at: usize, result: JobResult| {
        let mut order = order.lock().unwrap_or_else(PoisonError::into_inner);
        order.put(at, result);
        if order.error.is_some() {
            cancel.cancel(); // nobody reads the results
        }
    };
    let mut bad = false;
    let mut broken = None;
    // Places of good lines among all, since bad ones are answered at once.
    let places = Mutex::new(Vec::new());
    let mut at = 0;
    let mut lines = from.split(b'\n').enumerate();
    let jobs = std::iter::from_fn(|| {
        loop {
            if cancel.is_cancelled() {
                return None;
            }
            let (number, line) = lines.next()?;
            let line = match line {
                Ok(l) if l.iter().all(u8::is_ascii_whitespace) => continue,
                Ok(l) => l,
                Err(e) => {
                    broken = Some(e);
                    return None;
                }
            };
            let place = at;
            at += 1;
            match wire::job_of_line(number + 1, &line, sandbox.tier()) {
                Ok(job) => {
                    places.lock().unwrap_or_else(PoisonError::into_inner).push(place);
                    return Some::<Job>(job);
                }
                Err(result) => {
                    bad = true;
                    put(place, *result);
                }
            }
        }
    });
    sandbox.run_each(jobs, cancel, |i, result| {
        let place = places.lock().unwrap_or_else(PoisonError::into_inner)[i];
        put(place, result);
    });
    let order = order.into_inner().unwrap_or_else(PoisonError::into_inner);
    match order.error.or(broken) {
        Some(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(bad),
        Some(e) => Err(e),
        None => Ok(bad),
    }
}
