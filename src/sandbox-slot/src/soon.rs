//! Waiting for an answer that comes within microseconds: looking a while before sleeping, where that pays.
//!
//! Two processes that talk in turns, each on a CPU of its own, spend most of their time in falling asleep and being woken
//! (on a virtual machine more than ten times what the call itself takes). On one CPU, or where others want the CPUs,
//! looking is wasted, since the other one cannot run meanwhile. So: as long as it helped last time, and now and then else.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long to look.
const LOOK: Duration = Duration::from_micros(15);
/// Looks for nothing, one after the other, that prove nothing yet: the first answers of a process take long.
const PATIENCE: u32 = 3;
/// After one more this many waits sleep at once, and twice as many after the next, up to the last number.
const REST: u32 = 8;
const REST_MAX: u32 = 1024;

thread_local! {
    /// Looks for nothing since one has helped, and waits that still sleep at once.
    static STATE: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
}

/// Looks for something for a moment, unless that has not helped lately.
pub fn soon<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let (misses, resting) = STATE.get();
    if resting > 0 {
        STATE.set((misses, resting - 1));
        return None;
    }
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            STATE.set((0, 0));
            return Some(found);
        }
        if start.elapsed() >= LOOK {
            let misses = misses.saturating_add(1);
            let rest = match misses.checked_sub(PATIENCE) {
                None | Some(0) => 0,
                Some(n) => (REST << (n - 1).min(16)).min(REST_MAX),
            };
            STATE.set((misses, rest));
            return None;
        }
        // SAFETY: no arguments. Where both share a CPU, the other one may have it.
        unsafe { libc::sched_yield() };
    }
}

/// What a socket has right now: bytes read, 0 at its end, -1 for an error; `None` when there is nothing yet.
pub fn look(fd: libc::c_int, into: &mut [u8]) -> Option<isize> {
    // SAFETY: the buffer has the size that is given; returns at once.
    let n = unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) };
    let nothing = n < 0 && nix::errno::Errno::last() == nix::errno::Errno::EAGAIN;
    (!nothing).then_some(n)
}

#[cfg(test)]
mod tests {
    use super::soon;

    #[test]
    fn what_is_there_is_found_at_the_first_look() {
        assert_eq!(soon(|| Some(7)), Some(7));
    }

    #[test]
    fn after_looks_for_nothing_the_next_waits_do_not_look() {
        let mut looks = 0;
        for _ in 0..=super::PATIENCE {
            assert_eq!(soon(|| None::<()>), None);
        }
        for _ in 0..super::REST {
            let none = soon(|| {
                looks += 1;
                None::<()>
            });
            assert_eq!(none, None);
        }
        assert_eq!(looks, 0);
        assert_eq!(soon(|| Some(1)), Some(1));
    }

    #[test]
    fn a_look_for_nothing_among_others_that_helped_changes_nothing() {
        for _ in 0..4 * super::PATIENCE {
            assert_eq!(soon(|| None::<()>), None);
            assert_eq!(soon(|| Some(1)), Some(1));
        }
    }
}
