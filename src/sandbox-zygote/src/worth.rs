//! Whether a child had better get pages by a call for each stretch of them, or by a fault for each page: machines differ
//! (a fault costs 2 us or more in some virtual machines, and 1.4 in others, where the call saves nothing), so both are tried.

use crate::pages::{PAGE, Stretches, fill_in};
use std::slice;
use std::time::Instant;

/// Children that try each way; the shortest time counts.
const TRIES: usize = 3;

/// Those of the stretches that a child gets sooner by a call.
pub fn worth_a_call(stretches: &Stretches) -> Stretches {
    let len = stretches.len();
    let bytes = (2 * len * size_of::<u64>()).max(PAGE);
    // SAFETY: a new shared mapping; its zeroes are valid numbers; unmapped below, when nothing refers to it.
    let at = unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)
    };
    if at == libc::MAP_FAILED {
        return Stretches::new();
    }
    // SAFETY: the mapping has room for them. A child writes them only while we wait for it.
    let times = unsafe { slice::from_raw_parts_mut(at.cast::<u64>(), 2 * len) };
    times.fill(u64::MAX);
    for i in 0..2 * TRIES {
        let (by_call, by_fault) = times.split_at_mut(len);
        if i % 2 == 0 {
            in_a_child(stretches, by_call, |one| fill_in(&[one]));
        } else {
            in_a_child(stretches, by_fault, touch);
        }
    }
    let (by_call, by_fault) = times.split_at(len);
    let faster = by_call.iter().zip(by_fault).map(|(call, fault)| call < fault);
    let out = stretches.iter().zip(faster).filter(|(_, faster)| *faster).map(|(one, _)| *one).collect();
    // SAFETY: nothing refers to it any more.
    unsafe { libc::munmap(at, bytes) };
    out
}

/// Writes to each page what it holds.
fn touch((at, len): (usize, usize)) {
    for page in (at..at + len).step_by(PAGE) {
        let byte = page as *mut u8;
        // SAFETY: a writable page of ours, in a process with one thread.
        unsafe { byte.write_volatile(byte.read_volatile()) };
    }
}

/// Gets each stretch in a new child, and notes the nanoseconds where they are fewer than before.
fn in_a_child(stretches: &Stretches, times: &mut [u64], get: impl Fn((usize, usize))) {
    // SAFETY: the child does what follows, allocates nothing, and leaves; we wait for it.
    unsafe {
        match libc::fork() {
            0 => {
                let _ = Instant::now(); // takes the faults of the clock
                for (one, best) in stretches.iter().zip(times) {
                    let start = Instant::now();
                    get(*one);
                    let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    *best = ns.min(*best);
                }
                libc::_exit(0)
            }
            pid if pid > 0 => {
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
            _ => {}
        }
    }
}
