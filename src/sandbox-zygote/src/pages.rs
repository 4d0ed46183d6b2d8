//! What makes a fork of the warm interpreter cheap: fewer page-table entries to copy, fewer faults to take.
//!
//! Almost the whole cost of a run is memory: copying page tables in `fork`, a fault for each page that the program
//! touches first, and tearing it all down. Three steps, taken once before the first run, cut it to a third:
//!
//! 1. [`snapshot`]: the interpreter's writable memory is put into a sealed memfd and mapped from there, private, at the
//!    same addresses. `fork` copies page-table entries of anonymous memory, but not those of private file mappings
//!    that nobody has written to: a run then pays for the pages that it uses and not for all that the interpreter has.
//! 2. [`learn`]: a few sample programs are run, and the kernel is asked which pages they wrote. Later runs get those
//!    pages by a few `MADV_POPULATE_WRITE` instead of by a fault each.
//! 3. [`huge_text`]: the interpreter's code is put into huge pages, where there are some: no faults, one entry.
//!
//! Each is only a matter of speed. Where a kernel refuses one, the others still work.

use slot::{Context, Result, SlotError};
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

const PAGE: usize = 4096;
const HUGE: usize = 2 << 20;

/// A piece of our address space.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Region {
    start: usize,
    end: usize,
    /// As in `/proc/self/maps`: `rw-p`.
    access: String,
    /// A path, `[heap]` and the like, or nothing.
    name: String,
}

fn regions() -> Result<Vec<Region>> {
    let text = fs::read_to_string("/proc/self/maps").context(|| "/proc/self/maps".into())?;
    Ok(text.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<Region> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let access = fields.next()?.to_owned();
    let name = fields.nth(3).unwrap_or_default().trim().to_owned();
    let number = |s| usize::from_str_radix(s, 16).ok();
    Some(Region { start: number(start)?, end: number(end)?, access, name })
}

fn os(what: &str) -> SlotError {
    SlotError(format!("{what}: {}", std::io::Error::last_os_error()))
}

/// Writable memory of our own, the stack aside (we stand on it).
fn writable() -> Result<Vec<Region>> {
    let mut all = regions()?;
    all.retain(|r| r.access == "rw-p" && r.name != "[stack]");
    Ok(all)
}

/// The address of each page of writable memory.
pub fn writable_pages() -> Vec<usize> {
    writable().unwrap_or_default().iter().flat_map(|r| (r.start..r.end).step_by(PAGE)).collect()
}

/// Moves all writable memory into a sealed memfd, mapped private at the same addresses. Nobody can write that file:
/// it is sealed, and has no descriptor any more.
pub fn snapshot() -> Result<()> {
    let all = writable()?;
    let size: usize = all.iter().map(|r| r.end - r.start).sum();
    // SAFETY: makes a new descriptor or fails.
    let raw = unsafe { libc::memfd_create(c"zygote".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if raw < 0 {
        return Err(os("memfd_create"));
    }
    // SAFETY: it is new and ours.
    let file = unsafe { OwnedFd::from_raw_fd(raw) };
    let length = libc::off_t::try_from(size).context(|| "size of our memory".into())?;
    // SAFETY: a plain call on our descriptor.
    if unsafe { libc::ftruncate(raw, length) } != 0 {
        return Err(os("ftruncate"));
    }
    let mut at: libc::off_t = 0;
    for r in &all {
        let len = r.end - r.start;
        // SAFETY: the region is mapped and readable. From the first byte copied to the remapping nothing is written in
        // this process: it has one thread, and only system calls are made, whose failure would be told in errno, which
        // is read before anything relies on the copy.
        unsafe {
            let mut done = 0;
            while done < len {
                let here = at + libc::off_t::try_from(done).unwrap_or(0);
                let n = libc::pwrite(raw, (r.start + done) as *const libc::c_void, len - done, here);
                match usize::try_from(n) {
                    Ok(n) if n > 0 => done += n,
                    _ => return Err(os("copying our memory")),
                }
            }
            let got = libc::mmap(
                r.start as *mut libc::c_void,
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED,
                raw,
                at,
            );
            if got == libc::MAP_FAILED {
                return Err(os("mapping our memory anew"));
            }
        }
        at += libc::off_t::try_from(len).unwrap_or(0);
    }
    // SAFETY: a plain call on our descriptor. Private mappings are no obstacle to the seals.
    unsafe {
        let seals = libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
        if libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) != 0 {
            return Err(os("sealing our memory"));
        }
    }
    Ok(())
}

/// Puts the part of the interpreter's code and constants that covers whole huge pages into huge pages.
///
/// Only mappings of one file without write access are touched, and their content and addresses stay.
pub fn huge_text() -> Result<()> {
    let all = regions()?;
    let mut i = 0;
    while i < all.len() {
        let first = &all[i];
        let fits = |r: &Region| r.name.starts_with('/') && matches!(r.access.as_str(), "r-xp" | "r--p");
        let mut end = first.end;
        let mut code = first.access == "r-xp";
        let mut next = i + 1;
        if fits(first) {
            while next < all.len()
                && all[next].start == end
                && all[next].name == first.name
                && fits(&all[next])
            {
                end = all[next].end;
                code |= all[next].access == "r-xp";
                next += 1;
            }
            let from = first.start.next_multiple_of(HUGE);
            let to = end / HUGE * HUGE;
            if code && from < to {
                into_huge_pages(from, to - from)?;
            }
        }
        i = next;
    }
    Ok(())
}

fn into_huge_pages(at: usize, len: usize) -> Result<()> {
    // SAFETY: a new mapping with room to align; the copy reads mapped memory; mremap replaces the old mapping in one
    // step by one of the same content. This code itself lies in another file than those that are replaced, or in the
    // same at the same address with the same bytes.
    unsafe {
        let spare = libc::mmap(
            std::ptr::null_mut(),
            len + HUGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if spare == libc::MAP_FAILED {
            return Err(os("mmap"));
        }
        let start = (spare as usize).next_multiple_of(HUGE);
        let release = |from: usize, to: usize| {
            if from < to {
                libc::munmap(from as *mut libc::c_void, to - from);
            }
        };
        release(spare as usize, start);
        release(start + len, spare as usize + len + HUGE);
        let target = start as *mut libc::c_void;
        libc::madvise(target, len, libc::MADV_HUGEPAGE);
        std::ptr::copy_nonoverlapping(at as *const u8, start as *mut u8, len);
        // Constants become executable beside the code: no loss where programs may map what they like.
        if libc::mprotect(target, len, libc::PROT_READ | libc::PROT_EXEC) != 0 {
            let e = os("mprotect");
            release(start, start + len);
            return Err(e);
        }
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        if libc::mremap(target, len, len, flags, at as *mut libc::c_void) == libc::MAP_FAILED {
            let e = os("mremap");
            release(start, start + len);
            return Err(e);
        }
    }
    Ok(())
}

/// Pages that runs write: address and length of each stretch.
static HOT: OnceLock<Vec<(usize, usize)>> = OnceLock::new();

/// Gets the pages that runs write, in the child.
pub fn populate() {
    for (at, len) in HOT.get().map(Vec::as_slice).unwrap_or_default() {
        // SAFETY: fills in private pages of ours with what they hold; an error means that they come by faults instead.
        unsafe { libc::madvise(*at as *mut libc::c_void, *len, libc::MADV_POPULATE_WRITE) };
    }
}

/// Where a sample run puts what the kernel says of its pages; shared with process 1.
pub struct Sheet {
    regions: Vec<(usize, usize)>,
    words: *mut u64,
    len: usize,
}

const PRESENT: u64 = 1 << 63;
const OF_A_FILE: u64 = 1 << 61;
const ONLY_OURS: u64 = 1 << 56;

impl Sheet {
    fn new() -> Result<Self> {
        let mut all = regions()?;
        all.retain(|r| r.access == "rw-p");
        let regions: Vec<_> = all.iter().map(|r| (r.start, r.end)).collect();
        let len: usize = regions.iter().map(|(a, b)| (b - a) / PAGE).sum();
        // SAFETY: a new shared mapping, or failure.
        let words = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                (len * 8).max(PAGE),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if words == libc::MAP_FAILED {
            return Err(os("mmap"));
        }
        Ok(Self { regions, words: words.cast(), len })
    }

    /// In the sample run, at its end: what the kernel says of each page. Allocates nothing.
    pub fn fill(&self) {
        // SAFETY: reads into the shared mapping, which has a word for each page of the regions.
        unsafe {
            let fd = libc::open(c"/proc/self/pagemap".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            let mut word = self.words;
            for (start, end) in &self.regions {
                let pages = (end - start) / PAGE;
                let at = libc::off_t::try_from(start / PAGE * 8).unwrap_or(0);
                libc::pread(fd, word.cast(), pages * 8, at);
                word = word.add(pages);
            }
        }
    }

    fn take(&self) -> Vec<bool> {
        // SAFETY: the mapping has this many words, and the sample run that wrote them has ended.
        let words = unsafe { std::slice::from_raw_parts_mut(self.words, self.len) };
        let wrote = |w: &u64| w & PRESENT != 0 && w & OF_A_FILE == 0 && w & ONLY_OURS != 0;
        let seen = words.iter().map(wrote).collect();
        words.fill(0);
        seen
    }
}

impl Drop for Sheet {
    fn drop(&mut self) {
        // SAFETY: our own mapping, of this size.
        unsafe { libc::munmap(self.words.cast(), (self.len * 8).max(PAGE)) };
    }
}

/// What sample runs wrote.
#[derive(Default)]
pub struct Learnt {
    /// Pages that some run wrote.
    some: Vec<(usize, usize)>,
    /// Pages that every run wrote.
    every: Vec<(usize, usize)>,
}

/// Runs samples and notes the pages that they write. `sample` forks, and its child calls [`Sheet::fill`] at the end and
/// leaves; it returns false when that went wrong.
pub fn learn(samples: usize, mut sample: impl FnMut(usize, &Sheet) -> bool) -> Result<Learnt> {
    let sheet = Sheet::new()?;
    let mut times = vec![0_usize; sheet.len];
    for i in 0..samples {
        if !sample(i, &sheet) {
            return Err(SlotError(format!("sample program {i} did not end well")));
        }
        for (n, wrote) in times.iter_mut().zip(sheet.take()) {
            *n += usize::from(wrote);
        }
    }
    let mut learnt = Learnt::default();
    let pages = sheet.regions.iter().flat_map(|(a, b)| (*a..*b).step_by(PAGE));
    for (page, n) in pages.zip(&times) {
        let add = |to: &mut Vec<(usize, usize)>| match to.last_mut() {
            Some((at, len)) if *at + *len == page => *len += PAGE,
            _ => to.push((page, PAGE)),
        };
        if *n > 0 {
            add(&mut learnt.some);
        }
        if *n == samples {
            add(&mut learnt.every);
        }
    }
    Ok(learnt)
}

/// After a [`snapshot`]: makes what runs write anonymous memory of ours, so that a fork finds it mapped and copies no
/// other entries; and remembers what a child gets at once.
pub fn heat(learnt: Learnt) {
    for (at, len) in &learnt.some {
        // SAFETY: fills in private pages of ours with what they hold.
        unsafe { libc::madvise(*at as *mut libc::c_void, *len, libc::MADV_POPULATE_WRITE) };
    }
    // A call for a single page costs as much as its fault.
    let worth = learnt.every.into_iter().filter(|(_, len)| *len > PAGE).collect();
    let _ = HOT.set(worth); // the second time would be a mistake of ours, and harmless
}
