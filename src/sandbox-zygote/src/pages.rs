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

use crate::sample::GROUPS;
use crate::worth::worth_a_call;
use slot::{Context, Result, SlotError};
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

pub const PAGE: usize = 4096;
const HUGE: usize = 2 << 20;

/// A piece of our address space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    pub start: usize,
    pub end: usize,
    /// As in `/proc/self/maps`: `rw-p`.
    pub access: String,
    /// A path, `[heap]` and the like, or nothing.
    pub name: String,
}

/// All of it.
///
/// # Errors
/// There is no `/proc`.
pub fn regions() -> Result<Vec<Region>> {
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

fn add(to: &mut Stretches, page: usize) {
    match to.last_mut() {
        Some((at, len)) if *at + *len == page => *len += PAGE,
        _ => to.push((page, PAGE)),
    }
}

/// Moves all writable memory into a sealed memfd, mapped private at the same addresses. Nobody can write that file:
/// it is sealed, and has no descriptor any more.
///
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

/// Pages that runs of each group write: address and length of each stretch.
static HOT: OnceLock<[Stretches; GROUPS]> = OnceLock::new();

/// Gets the pages that runs of a group write, in the child.
pub fn populate(group: usize) {
    if let Some(hot) = HOT.get() {
        fill_in(&hot[group]);
    }
}

/// Where a sample run puts what the kernel says of its pages; shared with process 1.
pub struct Sheet {
    regions: Vec<Region>,
    words: *mut u64,
    len: usize,
}

const PRESENT: u64 = 1 << 63;
const OF_A_FILE: u64 = 1 << 61;
const ONLY_OURS: u64 = 1 << 56;
/// Each page is a mapping of its own while a sample runs, and the kernel allows some 65,000 of them.
const PAGES_MAX: usize = 40_000;

/// What a sample run did with a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    None,
    Read,
    Wrote,
}

impl Region {
    pub fn pages(&self) -> usize {
        (self.end - self.start) / PAGE
    }

    /// Code and constants of a file.
    pub fn is_fixed(&self) -> bool {
        self.name.starts_with('/') && matches!(self.access.as_str(), "r-xp" | "r--p")
    }
}

impl Sheet {
    fn new() -> Result<Self> {
        let mut all = regions()?;
        all.retain(|r| r.access == "rw-p" || r.is_fixed());
        if all.iter().map(Region::pages).sum::<usize>() > PAGES_MAX {
            all.retain(|r| r.access == "rw-p");
        }
        let len: usize = all.iter().map(Region::pages).sum();
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
        Ok(Self { regions: all, words: words.cast(), len })
    }

    /// In the sample run, at its start: what was mapped from files is forgotten, and from here on the kernel maps what is
    /// touched and nothing around it. (It maps sixteen pages for a fault, but within one mapping; so every page is made
    /// one, by advice that means nothing here and is different from that of its neighbours.)
    pub fn begin(&self) {
        self.fill();
        let mut at = self.words;
        let whole = self.len <= PAGES_MAX;
        for r in self.regions.iter().filter(|_| whole) {
            for (i, page) in (r.start..r.end).step_by(PAGE).enumerate() {
                // SAFETY: advice on a page of ours; what is dropped is a clean page of a file. The word is within the sheet.
                unsafe {
                    let word = *at.add(i);
                    if r.name != "[stack]" && i % 2 == 0 {
                        libc::madvise(page as *mut libc::c_void, PAGE, libc::MADV_RANDOM);
                    }
                    if word & PRESENT != 0 && word & OF_A_FILE != 0 {
                        libc::madvise(page as *mut libc::c_void, PAGE, libc::MADV_DONTNEED);
                    }
                }
            }
            // SAFETY: the sheet has a word for each page of the regions.
            at = unsafe { at.add(r.pages()) };
        }
    }

    /// In the sample run, at its end: what the kernel says of each page. Allocates nothing.
    pub fn fill(&self) {
        // SAFETY: reads into the shared mapping, which has a word for each page of the regions.
        unsafe {
            let fd = libc::open(c"/proc/self/pagemap".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            let mut word = self.words;
            for r in &self.regions {
                let at = libc::off_t::try_from(r.start / PAGE * 8).unwrap_or(0);
                libc::pread(fd, word.cast(), r.pages() * 8, at);
                word = word.add(r.pages());
            }
            libc::close(fd);
        }
    }

    fn take(&self, reads: bool) -> Vec<Use> {
        // SAFETY: the mapping has this many words, and the sample run that wrote them has ended.
        let words = unsafe { std::slice::from_raw_parts_mut(self.words, self.len) };
        let used = |w: &u64| match w & (PRESENT | OF_A_FILE | ONLY_OURS) {
            w if w & PRESENT == 0 => Use::None,
            w if w & OF_A_FILE == 0 && w & ONLY_OURS != 0 => Use::Wrote,
            _ if reads => Use::Read,
            _ => Use::None,
        };
        let seen = words.iter().map(used).collect();
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

/// Stretches of pages: address and length.
pub type Stretches = Vec<(usize, usize)>;

/// What sample runs used.
#[derive(Default)]
pub struct Learnt {
    /// Writable pages that some run read or wrote.
    some: Stretches,
    /// Pages that every run of a group wrote.
    every: [Stretches; GROUPS],
    /// Pages of code and constants that some run used, by mapping.
    fixed: Vec<(Region, Stretches)>,
}

/// Runs samples, each of a group, and notes the pages that they use. `sample` forks, and its child calls [`Sheet::begin`]
/// first, where it is `thorough`, and [`Sheet::fill`] at the end, and leaves; it returns false when that went wrong:
/// nothing is learnt of it then. Only of thorough samples it is learnt what they read; they take ten times as long.
pub fn learn(samples: &[(usize, bool)], mut sample: impl FnMut(usize, &Sheet) -> bool) -> Result<Learnt> {
    let sheet = Sheet::new()?;
    let mut written = vec![[0_usize; GROUPS]; sheet.len];
    let mut used = vec![false; sheet.len];
    let mut runs = [0; GROUPS];
    for (i, (group, thorough)) in samples.iter().enumerate() {
        let went_well = sample(i, &sheet);
        let seen = sheet.take(*thorough);
        if !went_well {
            continue;
        }
        runs[*group] += 1;
        for ((n, used), how) in written.iter_mut().zip(&mut used).zip(seen) {
            n[*group] += usize::from(how == Use::Wrote);
            *used |= how != Use::None;
        }
    }
    let mut learnt = Learnt::default();
    let mut marks = written.iter().zip(&used);
    for r in &sheet.regions {
        let mut mine = Stretches::new();
        for (page, (n, used)) in (r.start..r.end).step_by(PAGE).zip(&mut marks) {
            if *used {
                add(&mut mine, page);
            }
            for group in 0..GROUPS {
                if n[group] > 0 && n[group] == runs[group] {
                    add(&mut learnt.every[group], page);
                }
            }
        }
        if r.is_fixed() {
            learnt.fixed.push((r.clone(), mine));
        } else {
            learnt.some.extend(mine);
        }
    }
    Ok(learnt)
}

/// Makes pages our own, with what they hold.
pub fn fill_in(stretches: &[(usize, usize)]) {
    for (at, len) in stretches {
        // SAFETY: fills in private pages of ours with what they hold.
        unsafe { libc::madvise(*at as *mut libc::c_void, *len, libc::MADV_POPULATE_WRITE) };
    }
}

/// What is mapped there of a file, and has not been written to; nothing where the kernel does not tell.
pub fn of_a_file(pagemap: &fs::File, start: usize, end: usize) -> Stretches {
    let mut bytes = vec![0_u8; (end - start) / PAGE * 8];
    let mut out = Stretches::new();
    if pagemap.read_exact_at(&mut bytes, (start / PAGE * 8) as u64).is_ok() {
        let words = bytes.as_chunks::<8>().0.iter().map(|w| u64::from_le_bytes(*w));
        for (page, word) in (start..end).step_by(PAGE).zip(words) {
            if word & PRESENT != 0 && word & OF_A_FILE != 0 {
                add(&mut out, page);
            }
        }
    }
    out
}

/// Forgets pages [`of_a_file`]: they are read again when they are needed.
pub fn forget(stretches: &[(usize, usize)]) {
    for (at, len) in stretches {
        // SAFETY: what is dropped are clean pages of a file, mapped privately.
        unsafe { libc::madvise(*at as *mut libc::c_void, *len, libc::MADV_DONTNEED) };
    }
}

/// Code and constants of one file, side by side in memory, and what runs use of it.
struct Library {
    start: usize,
    end: usize,
    name: String,
    code: bool,
    used: Stretches,
}

fn libraries(fixed: Vec<(Region, Stretches)>) -> Vec<Library> {
    let mut out: Vec<Library> = Vec::new();
    for (r, used) in fixed {
        let code = r.access == "r-xp";
        match out.last_mut() {
            Some(last) if last.end == r.start && last.name == r.name => {
                last.end = r.end;
                last.code |= code;
                last.used.extend(used);
            }
            _ => out.push(Library { start: r.start, end: r.end, name: r.name, code, used }),
        }
    }
    out
}

/// What runs use of a library becomes memory of ours, and the rest is not mapped until somebody uses it. Its parts allow
/// the same afterwards, so that the kernel has one mapping to copy and not three: constants become executable beside the
/// code, which is no loss where programs may map what they like.
fn heat_library(library: &Library) {
    let access = libc::PROT_READ | if library.code { libc::PROT_EXEC } else { 0 };
    let (at, len) = (library.start as *mut libc::c_void, library.end - library.start);
    // SAFETY: mappings of ours, which hold the bytes that they held.
    unsafe {
        if library.used.is_empty() || libc::mprotect(at, len, access | libc::PROT_WRITE) != 0 {
            return;
        }
        fill_in(&library.used);
        libc::mprotect(at, len, access);
    }
    if let Ok(pagemap) = fs::File::open("/proc/self/pagemap") {
        forget(&of_a_file(&pagemap, library.start, library.end));
    }
}

/// After a [`snapshot`]: makes what runs use anonymous memory of ours, so that a fork finds it mapped and copies no other
/// entries, and a child takes no fault to read it; and remembers what a child gets at once.
pub fn heat(learnt: Learnt) {
    fill_in(&learnt.some);
    for library in libraries(learnt.fixed) {
        heat_library(&library);
    }
    let _ = HOT.set(learnt.every.map(|hot| worth_a_call(&hot))); // the second time would be a mistake of ours, and harmless
}
