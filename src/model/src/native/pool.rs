//! Threads for kernels that last microseconds. Work is handed out in pieces, on demand: where other processes share the
//! cores, whoever runs takes more, and nobody waits for a thread that has not begun.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// How often an idle thread looks before it sleeps: some 20 microseconds, the pause between two kernels of one step.
const SPINS: u32 = 2000;

type Work = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// Pieces that nobody has taken. Positive only while `work` is valid.
    left: AtomicUsize,
    /// Pieces that are finished.
    done: AtomicUsize,
    work: UnsafeCell<Option<(Work, usize)>>,
    failed: AtomicBool,
    asleep: AtomicUsize,
    quit: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `work` is written only by `Pool::run` (which takes `&mut self`) while `left` is 0 and every piece is done, and
// read only by whoever has taken a piece, which `run` waits for.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer refers to something `Sync` that outlives every piece.
unsafe impl Send for Shared {}

impl Shared {
    /// Takes and runs one piece; `false` when there is none.
    fn piece(&self) -> bool {
        let mut left = self.left.load(Ordering::Acquire);
        loop {
            if left == 0 {
                return false;
            }
            match self.left.compare_exchange_weak(left, left - 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => left = now,
            }
        }
        // SAFETY: a piece was taken, so `run` has not returned and `work` does not change.
        if let Some((work, total)) = unsafe { *self.work.get() } {
            // SAFETY: as above; the closure lives on the stack of `run`.
            let work = unsafe { &*work };
            // a panic must not leave `run` waiting for ever
            if catch_unwind(AssertUnwindSafe(|| work(total - left))).is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
        }
        self.done.fetch_add(1, Ordering::Release);
        true
    }

    fn serve(&self) {
        let mut idle = 0;
        loop {
            if self.piece() {
                idle = 0;
                continue;
            }
            idle += 1;
            if idle < SPINS {
                std::hint::spin_loop();
                continue;
            }
            idle = 0;
            let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.asleep.fetch_add(1, Ordering::SeqCst);
            // work that came before we counted as asleep is seen here; later work takes the lock to wake us
            while self.left.load(Ordering::SeqCst) == 0 && !self.quit.load(Ordering::SeqCst) {
                guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.asleep.fetch_sub(1, Ordering::SeqCst);
            if self.quit.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

/// Threads that libtorch calculates with.
pub(crate) fn threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1)
}

/// A pool of `threads` threads, the calling one among them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

impl Pool {
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            left: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            work: UnsafeCell::new(None),
            failed: AtomicBool::new(false),
            asleep: AtomicUsize::new(0),
            quit: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let helpers = (1..threads)
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                // fewer threads than wished are slower, not wrong
                std::thread::Builder::new().name(format!("decode-{i}")).spawn(move || shared.serve()).ok()
            })
            .collect();
        Self { shared, helpers }
    }

    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Runs `work(0..pieces)`, in any order, and returns when all are done.
    ///
    /// # Panics
    /// When a piece did.
    pub fn run(&mut self, pieces: usize, work: &(dyn Fn(usize) + Sync)) {
        if pieces <= 1 || self.helpers.is_empty() {
            (0..pieces).for_each(work);
            return;
        }
        let s = &*self.shared;
        // SAFETY: the lifetime is taken off; `run` does not return before every piece is done.
        let work: Work = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Work>(work) };
        s.done.store(0, Ordering::Relaxed);
        // SAFETY: nobody holds a piece: the last call waited for all of them, and `left` is 0.
        unsafe { *s.work.get() = Some((work, pieces)) };
        s.left.store(pieces, Ordering::SeqCst);
        if s.asleep.load(Ordering::SeqCst) > 0 {
            let _guard = s.lock.lock().unwrap_or_else(PoisonError::into_inner);
            s.wake.notify_all();
        }
        while s.piece() {}
        let mut spins = 0u32;
        while s.done.load(Ordering::Acquire) < pieces {
            spins += 1;
            if spins < 10_000 {
                std::hint::spin_loop();
            } else {
                // the helper that holds the last piece may wait for this very core
                std::thread::yield_now();
            }
        }
        assert!(!s.failed.swap(false, Ordering::Relaxed), "a calculating thread failed");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::SeqCst);
        {
            let _guard = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.wake.notify_all();
        }
        for helper in self.helpers.drain(..) {
            let _ = helper.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_runs_once_in_every_one_of_many_short_runs() {
        let mut pool = Pool::new(4);
        for round in 0..2000 {
            let pieces = round % 7;
            let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
            pool.run(pieces, &|i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "round {round}");
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let mut pool = Pool::new(3);
        let failed = catch_unwind(AssertUnwindSafe(|| pool.run(8, &|i| assert_ne!(i, 5))));
        assert!(failed.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(10, &|i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.load(Ordering::Relaxed), 45);
    }
}
