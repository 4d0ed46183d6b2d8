//! Allocators made ready for children: what they hand out next lies in fresh pages, side by side.
//!
//! Without this, each small object of a run lands in a gap of some page that the interpreter filled long ago, and the
//! kernel copies that page for the run. So the gaps are filled, once, with memory that nobody uses.

use std::collections::HashSet;
use std::ffi::c_void;
use std::fs::File;
use std::os::unix::fs::FileExt;

unsafe extern "C" {
    fn PyObject_Malloc(size: usize) -> *mut c_void;
    fn PyObject_Free(block: *mut c_void);
}

const PAGE: usize = 4096;
/// Small objects come in steps of this size, up to [`LARGEST`]; CPython 3.8 to 3.14.
const STEP: usize = 16;
const LARGEST: usize = 512;
/// Blocks of one size lie in pools of this size, on a border of it (4 KiB before 3.10, which only makes us less exact).
const POOL: usize = 16 * 1024;
/// A block in the first bytes of its pool, behind the pool's header, is the first of the pool.
const HEADER_MAX: usize = 64;
/// malloc keeps up to seven freed blocks of each size up to this for the next request (more in newer versions).
const KEPT_MAX: usize = 1032;
const KEPT: usize = 32;
/// A guard against an allocator that is not the one we know.
const MOST: usize = 20_000;

/// Whether the page of this address is in memory.
fn resident(pagemap: Option<&File>, at: usize) -> bool {
    let mut word = [0_u8; 8];
    pagemap.is_some_and(|f| {
        f.read_exact_at(&mut word, (at / PAGE * 8) as u64).is_ok() && u64::from_le_bytes(word) >> 63 == 1
    })
}

/// Fills the gaps of the interpreter's small-object allocator.
pub fn fill_pools() {
    let pagemap = File::open("/proc/self/pagemap").ok();
    // What is in memory before we touch it: the pages of pools that were used and are free again.
    let used: HashSet<usize> = super::pages::writable_pages()
        .into_iter()
        .filter(|page| resident(pagemap.as_ref(), *page))
        .map(|page| page / POOL)
        .collect();
    // SAFETY: blocks are only taken and, at most once, given back; the interpreter's lock is held.
    unsafe {
        let first_of_pool = |p: *mut c_void| p as usize % POOL <= HEADER_MAX;
        // Whole pools that were used before: taken from the arena by the largest size.
        for _ in 0..MOST {
            let p = PyObject_Malloc(LARGEST);
            if first_of_pool(p) && !used.contains(&(p as usize / POOL)) {
                PyObject_Free(p);
                break;
            }
        }
        // Pools that are filled in part.
        for size in (STEP..=LARGEST).step_by(STEP) {
            for _ in 0..MOST {
                let p = PyObject_Malloc(size);
                if first_of_pool(p) {
                    PyObject_Free(p);
                    break;
                }
            }
        }
    }
}

/// Fills the gaps of malloc: from here on it takes from the end of the heap.
#[cfg(target_env = "gnu")]
pub fn fill_malloc() {
    // SAFETY: plain calls of the C library; blocks are taken and never given back, but the one from the heap's end.
    unsafe {
        // No list of small blocks that wait for being joined: the first large block of a run would join them all, and
        // write to every page where one lies.
        libc::mallopt(libc::M_MXFAST, 0);
        let end = || libc::sbrk(0) as usize - libc::mallinfo2().keepcost;
        let mut size = 64 * 1024;
        let mut taken = 0;
        while size >= 24 {
            let before = end();
            let p = libc::malloc(size);
            taken += 1;
            if p as usize + PAGE >= before || taken > MOST {
                libc::free(p);
                size -= (size / 8).next_multiple_of(16).max(16).min(size);
            }
        }
        // Blocks that wait in lists of one exact size each.
        for size in (24..=KEPT_MAX).step_by(16) {
            for _ in 0..KEPT {
                let before = end();
                let p = libc::malloc(size);
                if p as usize + PAGE >= before {
                    libc::free(p);
                    break;
                }
            }
        }
    }
}

/// Other C libraries keep their own counsel.
#[cfg(not(target_env = "gnu"))]
pub fn fill_malloc() {}
