//! Work done by other threads a little ahead of who needs it, in order: the files of the next submissions are written, and
//! waited for on the disk, while the scheduler answers about the ones before.

use crate::engine::prepare::Prepared;
use crate::error::Result;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How many items may lie ready: what a submission that stops half-way has written for nothing.
const DEPTH: usize = 64;

/// Threads. They wait for fsync most of the time; more of them would only crowd the commits of the ledger.
const WRITERS: usize = 4;

/// Items by their number, made ahead of [`Ahead::take`].
pub(super) struct Ahead {
    state: Mutex<State>,
    changed: Condvar,
    /// How many items there are in all.
    size: usize,
}

#[derive(Default)]
struct State {
    /// The next item that nobody has begun.
    next: usize,
    /// Items below this number have been asked for.
    wanted: usize,
    ready: BTreeMap<usize, std::thread::Result<Result<Prepared>>>,
    over: bool,
}

impl Ahead {
    /// Nothing is made ahead.
    pub(super) fn none() -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), size: 0 }
    }

    /// Runs `user` while threads run `make` over `jobs`, at most [`DEPTH`] ahead of what `user` has taken.
    pub(super) fn over<J: Sync, R>(
        jobs: &[J],
        make: impl Fn(&J) -> Result<Prepared> + Sync,
        user: impl FnOnce(&Ahead) -> R,
    ) -> R {
        let ahead = Ahead { size: jobs.len(), ..Self::none() };
        std::thread::scope(|scope| {
            for _ in 0..WRITERS.min(jobs.len()) {
                scope.spawn(|| {
                    while let Some(k) = ahead.begin() {
                        let made = catch_unwind(AssertUnwindSafe(|| make(&jobs[k])));
                        ahead.lock().ready.insert(k, made);
                        ahead.changed.notify_all();
                    }
                });
            }
            // dropped on every way out, a panic included: the scope waits for the threads
            let _end = End(&ahead);
            user(&ahead)
        })
    }

    /// Item `k`, waited for. `None` where nothing is made ahead. Each item can be taken once; what is skipped stays.
    pub(super) fn take(&self, k: usize) -> Option<Result<Prepared>> {
        if k >= self.size {
            return None;
        }
        let mut state = self.lock();
        state.wanted = state.wanted.max(k + 1);
        self.changed.notify_all();
        loop {
            if let Some(made) = state.ready.remove(&k) {
                return Some(made.unwrap_or_else(|panic| resume_unwind(panic)));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next item to make, as soon as it is near enough.
    fn begin(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.over || state.next >= self.size {
                return None;
            }
            if state.next < state.wanted + DEPTH {
                state.next += 1;
                return Some(state.next - 1);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct End<'a>(&'a Ahead);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use record::{ContentKey, Resources, Token};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn made(n: usize) -> Prepared {
        let token = Token::new("nonce", "command", &ContentKey(n.to_string()), 1);
        Prepared {
            token: token.clone(),
            tokens: vec![token],
            array: None,
            script: "s".into(),
            script_sha256: String::new(),
            sched_dir: "d".into(),
            resources: Resources { cpus: 1, gpus: 0, memory_mb: 1, walltime_s: 1 },
            title: n.to_string(),
        }
    }

    #[test]
    fn items_come_in_order_and_never_run_far_ahead() {
        let jobs: Vec<usize> = (0..500).collect();
        let begun = AtomicUsize::new(0);
        let make = |k: &usize| {
            begun.fetch_max(k + 1, Ordering::SeqCst);
            Ok(made(*k))
        };
        Ahead::over(&jobs, make, |ahead| {
            for k in (0..300).filter(|k| k % 7 != 3) {
                assert_eq!(ahead.take(k).unwrap().unwrap().title, k.to_string());
                let most = begun.load(Ordering::SeqCst);
                assert!(most <= k + 1 + DEPTH, "{most} begun when {k} was taken");
            }
        });
        assert!(begun.load(Ordering::SeqCst) < 500, "what nobody asks for is not made");
        assert!(Ahead::none().take(0).is_none());
    }

    #[test]
    fn errors_and_panics_reach_who_asks_and_nobody_waits_for_ever() {
        let make = |k: &usize| match k {
            1 => Err(Error::LeaseLost("x".into())),
            2 => panic!("crash in a thread"),
            _ => Ok(made(*k)),
        };
        let jobs: Vec<usize> = (0..200).collect();
        Ahead::over(&jobs, make, |ahead| {
            assert!(ahead.take(0).unwrap().is_ok());
            assert!(ahead.take(1).unwrap().is_err());
            assert!(catch_unwind(AssertUnwindSafe(|| ahead.take(2))).is_err());
        });
        let left =
            catch_unwind(AssertUnwindSafe(|| Ahead::over(&jobs, make, |_| panic!("crash of the user"))));
        assert!(left.is_err());
    }
}
