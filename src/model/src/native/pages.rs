//! Keys and values in pages of 16 tokens. A page belongs to everybody whose text begins the same way: the samples of one
//! prompt, and prompts with an equal beginning (a system prompt, earlier turns of a conversation).

use super::simd::LANES;
use std::collections::{BTreeMap, HashMap};

/// Tokens of a page.
pub(crate) const PAGE: usize = LANES;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

/// What a full page holds: these tokens, after what the parent page stands for. Exact, not a hash: two texts can never be
/// taken for each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Serial number of the page before, 0 at the beginning of a text.
    parent: u64,
    adapter: u32,
    tokens: [u32; PAGE],
}

#[derive(Debug, Default)]
struct Page {
    /// Sequences that look at it.
    users: u32,
    /// Set once its content is known under a key.
    known: Option<(Key, u64)>,
    /// Place in `idle` while nobody uses it.
    since: u64,
}

/// Shape of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub layers: usize,
    pub kv_heads: usize,
    pub dim: usize,
}

impl Shape {
    /// Width of a row of values.
    pub fn padded(self) -> usize {
        self.dim.next_multiple_of(LANES)
    }

    /// fp32 numbers of one layer's and head's keys `[dim, 16]` and values `[16, padded]`.
    fn unit(self) -> usize {
        PAGE * (self.dim + self.padded())
    }

    fn floats(self) -> usize {
        self.layers * self.kv_heads * self.unit()
    }
}

/// All pages of an engine.
pub(crate) struct Pages {
    shape: Shape,
    /// Pages are made in slabs of about 8 MB: growth copies nothing.
    slabs: Vec<Vec<Line>>,
    per_slab: usize,
    pages: Vec<Page>,
    free: Vec<u32>,
    index: HashMap<Key, u32>,
    /// Known pages that nobody uses, oldest first.
    idle: BTreeMap<u64, u32>,
    /// Most idle pages to keep.
    keep: usize,
    clock: u64,
}

impl Pages {
    /// `keep_bytes`: how much to spend on pages that nobody uses at the moment.
    pub fn new(shape: Shape, keep_bytes: usize) -> Self {
        let bytes = shape.floats() * size_of::<f32>();
        Self {
            shape,
            slabs: Vec::new(),
            per_slab: ((8 << 20) / bytes).max(1),
            pages: Vec::new(),
            free: Vec::new(),
            index: HashMap::new(),
            idle: BTreeMap::new(),
            keep: keep_bytes / bytes,
            clock: 0,
        }
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Distance from a page's keys to its values, for one layer and head.
    pub fn values(&self) -> usize {
        PAGE * self.shape.dim
    }

    /// Start of the keys of a layer and head.
    pub fn keys(&self, page: u32, layer: usize, head: usize) -> *const f32 {
        let (page, s) = (page as usize, self.shape);
        let lines = self.slabs[page / self.per_slab].as_ptr();
        let at = (page % self.per_slab) * s.floats() + (layer * s.kv_heads + head) * s.unit();
        debug_assert!(at + s.unit() <= self.slabs[page / self.per_slab].len() * LANES);
        // SAFETY: inside the slab, by the arithmetic above.
        unsafe { lines.cast::<f32>().add(at) }
    }

    /// Puts one token's key and value `[kv_heads * dim]` at `place` of `page`.
    pub fn put(&mut self, page: u32, place: usize, layer: usize, k: &[f32], v: &[f32]) {
        let s = self.shape;
        let slab = &mut self.slabs[page as usize / self.per_slab];
        let from = (page as usize % self.per_slab) * s.floats() + layer * s.kv_heads * s.unit();
        let units = flat(&mut slab[from / LANES..(from + s.kv_heads * s.unit()) / LANES]);
        for (h, unit) in units.chunks_exact_mut(s.unit()).enumerate() {
            let (keys, values) = unit.split_at_mut(PAGE * s.dim);
            for (i, &x) in k[h * s.dim..(h + 1) * s.dim].iter().enumerate() {
                keys[i * LANES + place] = x;
            }
            values[place * s.padded()..place * s.padded() + s.dim]
                .copy_from_slice(&v[h * s.dim..(h + 1) * s.dim]);
        }
    }

    /// A page for one user, content undefined.
    pub fn take(&mut self) -> u32 {
        let page = if let Some(page) = self.free.pop() {
            page
        } else if self.idle.len() > self.keep
            && let Some((_, page)) = self.idle.pop_first()
        {
            self.forget(page);
            page
        } else {
            let first = self.pages.len() as u32;
            self.slabs.push(vec![Line([0.0; LANES]); self.per_slab * self.shape.floats() / LANES]);
            self.pages.extend((0..self.per_slab).map(|_| Page::default()));
            self.free.extend((first + 1..first + self.per_slab as u32).rev());
            first
        };
        self.pages[page as usize].users = 1;
        page
    }

    fn forget(&mut self, page: u32) {
        if let Some((key, _)) = self.pages[page as usize].known.take() {
            self.index.remove(&key);
        }
    }

    /// One more user.
    pub fn share(&mut self, page: u32) {
        let p = &mut self.pages[page as usize];
        if p.users == 0 {
            self.idle.remove(&p.since);
        }
        p.users += 1;
    }

    /// One user less, for every page of a table.
    pub fn release(&mut self, table: &[u32]) {
        // ends of texts go first when room is needed: without its beginning a page cannot be found
        for &page in table.iter().rev() {
            let p = &mut self.pages[page as usize];
            p.users -= 1;
            if p.users > 0 {
                continue;
            }
            if p.known.is_none() {
                self.free.push(page);
                continue;
            }
            self.clock += 1;
            p.since = self.clock;
            self.idle.insert(self.clock, page);
        }
        while self.idle.len() > self.keep
            && let Some((_, page)) = self.idle.pop_first()
        {
            self.forget(page);
            self.free.push(page);
        }
    }

    /// A page of the same content.
    pub fn copy(&mut self, from: u32) -> u32 {
        let to = self.take();
        let n = self.shape.floats() / LANES;
        let (a, b) = (from as usize, to as usize);
        let source = self.slabs[a / self.per_slab][a % self.per_slab * n..][..n].to_vec();
        self.slabs[b / self.per_slab][b % self.per_slab * n..][..n].copy_from_slice(&source);
        to
    }

    /// Known pages at the beginning of `tokens`, each with one user more. Leaves at least one token over.
    pub fn find(&mut self, tokens: &[u32], adapter: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let mut parent = 0;
        let most = tokens.len().saturating_sub(1) / PAGE;
        for part in tokens.chunks_exact(PAGE).take(most) {
            let key = Key { parent, adapter, tokens: part.try_into().expect("chunks of one page") };
            let Some(&page) = self.index.get(&key) else { break };
            self.share(page);
            parent = self.pages[page as usize].known.as_ref().map_or(0, |k| k.1);
            found.push(page);
        }
        found
    }

    /// Makes the full pages of a text known.
    pub fn learn(&mut self, tokens: &[u32], adapter: u32, table: &[u32]) {
        let mut parent = 0;
        for (part, &page) in tokens.chunks_exact(PAGE).zip(table) {
            let key = Key { parent, adapter, tokens: part.try_into().expect("chunks of one page") };
            // somebody may have computed the same page at the same time; the first one stays the known one
            let at = *self.index.entry(key.clone()).or_insert(page);
            if at == page && self.pages[page as usize].known.is_none() {
                self.clock += 1;
                self.pages[page as usize].known = Some((key, self.clock));
            }
            parent = self.pages[at as usize].known.as_ref().map_or(0, |k| k.1);
        }
    }

    /// Forgets what pages stand for: the weights have changed.
    pub fn forget_all(&mut self) {
        self.index.clear();
        for page in &mut self.pages {
            page.known = None;
        }
        self.free.extend(std::mem::take(&mut self.idle).into_values());
    }

    /// Gives all memory back.
    pub fn clear(&mut self) {
        *self = Self { keep: self.keep, per_slab: self.per_slab, ..Self::new(self.shape, 0) };
    }

    /// `(in use, kept for later)`
    #[cfg(test)]
    pub fn count(&self) -> (usize, usize) {
        (self.pages.len() - self.free.len() - self.idle.len(), self.idle.len())
    }
}

fn flat(lines: &mut [Line]) -> &mut [f32] {
    // SAFETY: a line is 16 fp32 numbers and nothing else.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * LANES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(keep: usize) -> Pages {
        let shape = Shape { layers: 1, kv_heads: 1, dim: 4 };
        Pages::new(shape, keep * shape.floats() * 4)
    }

    fn text(n: u32) -> Vec<u32> {
        (0..n).collect()
    }

    #[test]
    fn known_beginnings_are_found_and_the_last_token_is_always_left_over() {
        let mut p = pages(8);
        let table: Vec<u32> = (0..3).map(|_| p.take()).collect();
        p.learn(&text(48), 0, &table);
        assert_eq!(p.find(&text(48), 0), table[..2]);
        assert_eq!(p.find(&text(49), 0), table);
        assert!(p.find(&text(49), 1).is_empty(), "another adapter gives other keys and values");
        let mut other = text(49);
        other[20] = 7;
        assert_eq!(p.find(&other, 0), table[..1]);
        other[0] = 7;
        assert!(p.find(&other, 0).is_empty(), "the same page after another one is another page");
    }

    #[test]
    fn unused_pages_are_kept_up_to_the_limit_oldest_ends_going_first() {
        let mut p = pages(2);
        let table: Vec<u32> = (0..3).map(|_| p.take()).collect();
        p.learn(&text(48), 0, &table);
        p.release(&table);
        assert_eq!(p.count(), (0, 2));
        let again = p.find(&text(49), 0);
        assert_eq!(again, table[..2]);
        assert_eq!(p.count(), (2, 0));
        p.release(&again);
        p.forget_all();
        assert!(p.find(&text(49), 0).is_empty());
        assert_eq!(p.count(), (0, 0));
    }

    #[test]
    fn pages_in_use_are_never_given_away() {
        let mut p = pages(0);
        let mine: Vec<u32> = (0..40).map(|_| p.take()).collect();
        let mut seen = mine.clone();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 40);
        p.learn(&text(640), 0, &mine);
        p.share(mine[0]);
        p.release(&mine);
        assert_eq!(p.count(), (1, 0));
        let more: Vec<u32> = (0..100).map(|_| p.take()).collect();
        assert!(!more.contains(&mine[0]));
    }

    #[test]
    fn what_is_put_is_what_is_read() {
        let mut p = pages(0);
        let page = p.take();
        p.put(page, 3, 0, &[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]);
        let copy = p.copy(page);
        for page in [page, copy] {
            let k = p.keys(page, 0, 0);
            // SAFETY: keys are [4, 16], values follow as [16, 16].
            unsafe {
                assert_eq!((*k.add(3), *k.add(2 * LANES + 3)), (1.0, 3.0));
                assert_eq!(*k.add(p.values() + 3 * 16 + 1), 6.0);
            }
        }
    }
}
