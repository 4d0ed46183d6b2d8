//! What the kernel has mapped around what process 1 reads.
//!
//! A fault on a page of a file maps the sixteen pages around it, and a fork copies an entry for each. Process 1 takes such
//! faults on its runs, after all else has been learnt. So after some everything of files is forgotten; what it had read
//! is watched page by page for two runs more, and what it used of it becomes ordinary memory ([`crate::pages`]).

use crate::pages::{PAGE, Region, fill_in, forget, of_a_file, regions};
use slot::{Context, Result};
use std::fs::File;

/// The runs before which something is done: after a hundred as they come, two that are watched, and one more. It costs as
/// much as it saves in some 350 runs, so a slot that is to do a few never pays.
const FORGET: u32 = 101;
const KEEP: u32 = 103;
const AGAIN: u32 = 104;
/// Each page of these is a mapping of its own while it is watched, which a fork has to copy.
const PAGES_MAX: usize = 5000;

/// Our memory as it was when `/proc` could still be read.
pub struct Around {
    regions: Vec<Region>,
    /// Until all is done.
    pagemap: Option<File>,
    /// Those of `regions` that are watched.
    watched: Vec<usize>,
    runs: u32,
}

impl Around {
    /// Before process 1 closes itself.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub fn new() -> Result<Self> {
        let mut all = regions()?;
        all.retain(|r| r.is_fixed() || r.access == "rw-p" && r.name != "[stack]");
        let pagemap = File::open("/proc/self/pagemap").context(|| "/proc/self/pagemap".into())?;
        Ok(Self { regions: all, pagemap: Some(pagemap), watched: Vec::new(), runs: 0 })
    }

    /// Before each run, between two of them.
    pub fn step(&mut self) {
        let Some(pagemap) = &self.pagemap else { return };
        self.runs += 1;
        match self.runs {
            FORGET => self.watched = forget_all(&self.regions, pagemap, true),
            KEEP => self.watched.iter().for_each(|i| keep(&self.regions[*i], pagemap)),
            AGAIN => {
                // What keeping has read itself. The rest of this struct stays: to free it is to read more.
                forget_all(&self.regions, pagemap, false);
                self.pagemap = None;
            }
            _ => {}
        }
    }
}

/// Forgets everything of files; with `watch` each page of what there was becomes a mapping of its own. Returns which.
fn forget_all(regions: &[Region], pagemap: &File, watch: bool) -> Vec<usize> {
    let mut budget = PAGES_MAX;
    let mut watched = Vec::new();
    for (i, r) in regions.iter().enumerate() {
        let around = of_a_file(pagemap, r.start, r.end);
        forget(&around);
        if watch && !around.is_empty() && r.pages() <= budget {
            budget -= r.pages();
            watched.push(i);
            for page in (r.start..r.end).step_by(2 * PAGE) {
                // SAFETY: advice on a page of ours that only makes it unlike its neighbours.
                unsafe { libc::madvise(page as *mut libc::c_void, PAGE, libc::MADV_RANDOM) };
            }
        }
    }
    watched
}

/// Makes what was used of a region our own, and the region one mapping again.
fn keep(r: &Region, pagemap: &File) {
    let used = of_a_file(pagemap, r.start, r.end);
    let (at, len) = (r.start as *mut libc::c_void, r.end - r.start);
    let access = libc::PROT_READ | if r.access.contains('x') { libc::PROT_EXEC } else { 0 };
    // SAFETY: a mapping of ours, whose content and access are in the end what they were. It stays executable meanwhile,
    // since this code is in one of them.
    unsafe {
        libc::madvise(at, len, libc::MADV_NORMAL);
        if !r.is_fixed() {
            fill_in(&used);
        } else if libc::mprotect(at, len, access | libc::PROT_WRITE) == 0 {
            fill_in(&used);
            libc::mprotect(at, len, access);
        }
    }
}
