//! Requests that wait for a slot: so many and no more.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A bounded queue that can be closed.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    most: usize,
}

struct State<T> {
    waiting: VecDeque<T>,
    running: usize,
    closed: bool,
}

impl<T> Queue<T> {
    pub fn new(most: usize) -> Self {
        let state = State { waiting: VecDeque::new(), running: 0, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), most }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waiting, and taken but not yet [`Queue::done`].
    pub fn counts(&self) -> (usize, usize) {
        let s = self.lock();
        (s.waiting.len(), s.running)
    }

    /// Nothing more would be taken now.
    pub fn is_full(&self) -> bool {
        let s = self.lock();
        s.closed || s.waiting.len() >= self.most
    }

    /// Nothing will be taken any more.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Adds one at the end; gives it back when the queue is full or closed.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut s = self.lock();
        if s.closed || s.waiting.len() >= self.most {
            return Err(item);
        }
        s.waiting.push_back(item);
        self.changed.notify_one();
        Ok(())
    }

    /// The first; waits for one. `None`: the queue is closed and empty.
    pub fn pop(&self) -> Option<T> {
        let mut s = self.lock();
        loop {
            if let Some(item) = s.waiting.pop_front() {
                s.running += 1;
                return Some(item);
            }
            if s.closed {
                return None;
            }
            s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One that was taken is done with.
    pub fn done(&self) {
        self.lock().running -= 1;
        self.changed.notify_all();
    }

    /// Takes no more; what waited comes back.
    pub fn close(&self) -> Vec<T> {
        let mut s = self.lock();
        s.closed = true;
        self.changed.notify_all();
        s.waiting.drain(..).collect()
    }

    /// Waits until everything that was taken is done with; false when the time is over first.
    pub fn settled(&self, wait: std::time::Duration) -> bool {
        let s = self.lock();
        let (s, _) = self
            .changed
            .wait_timeout_while(s, wait, |s| s.running > 0)
            .unwrap_or_else(PoisonError::into_inner);
        s.running == 0
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;
    use std::time::Duration;

    #[test]
    fn a_full_or_closed_queue_gives_back_what_it_does_not_take() {
        let q = Queue::new(2);
        assert_eq!((q.push(1), q.push(2), q.push(3)), (Ok(()), Ok(()), Err(3)));
        assert_eq!(q.pop(), Some(1));
        assert_eq!((q.push(4), q.counts()), (Ok(()), (2, 1)));
        assert_eq!(q.close(), [2, 4]);
        assert_eq!((q.push(5), q.pop()), (Err(5), None));
        assert!(!q.settled(Duration::ZERO));
        q.done();
        assert!(q.settled(Duration::ZERO));
    }
}
