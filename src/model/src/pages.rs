//! Which page holds what, and who looks at it: keys and values lie in pages of 16 tokens, and a page belongs to everybody
//! whose text begins the same way (the samples of one prompt, prompts with an equal system prompt, earlier turns of a
//! conversation). Numbers only; the keys and values themselves are with whoever calculates ([`crate::paged::Kernels`]).

use std::collections::{BTreeMap, HashMap};

/// Tokens of a page of keys and values.
pub(crate) const PAGE: usize = 16;

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

/// All pages of an engine.
pub(crate) struct Pages {
    pages: Vec<Page>,
    free: Vec<u32>,
    index: HashMap<Key, u32>,
    /// Known pages that nobody uses, oldest first.
    idle: BTreeMap<u64, u32>,
    /// Most idle pages to keep.
    keep: usize,
    /// Most pages that there may be, idle ones included.
    limit: usize,
    clock: u64,
}

impl Pages {
    /// `keep`: most pages that nobody uses at the moment; they go when `limit` leaves no room for pages in use.
    pub fn new(keep: usize, limit: usize) -> Self {
        Self {
            pages: Vec::new(),
            free: Vec::new(),
            index: HashMap::new(),
            idle: BTreeMap::new(),
            keep,
            limit: limit.min(u32::MAX as usize),
            clock: 0,
        }
    }

    /// Most pages that there may be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Pages that there are: their numbers are below it.
    pub fn made(&self) -> usize {
        self.pages.len()
    }

    pub fn in_use(&self) -> usize {
        self.pages.len() - self.free.len() - self.idle.len()
    }

    /// Pages that nobody uses but whose content is known.
    pub fn kept(&self) -> usize {
        self.idle.len()
    }

    /// Pages that can still be taken.
    pub fn available(&self) -> usize {
        self.limit - self.in_use()
    }

    /// A page for one user, content undefined; `None` when as many as there may be are in use. `more`: how many to add to
    /// so many when none is free.
    pub fn take(&mut self, more: impl Fn(usize) -> usize) -> Option<u32> {
        let made = self.pages.len();
        let page = if let Some(page) = self.free.pop() {
            page
        } else if made < self.limit {
            let more = more(made).clamp(1, self.limit - made);
            self.pages.extend((0..more).map(|_| Page::default()));
            self.free.extend((made as u32 + 1..(made + more) as u32).rev());
            made as u32
        } else {
            let (_, page) = self.idle.pop_first()?;
            self.forget(page);
            page
        };
        self.pages[page as usize].users = 1;
        Some(page)
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

    /// How many pages a text of these tokens would add to those in use.
    pub fn missing(&mut self, tokens: &[u32], adapter: u32) -> usize {
        let before = self.in_use();
        let found = self.find(tokens, adapter);
        let idle = self.in_use() - before;
        self.release(&found);
        tokens.len().div_ceil(PAGE) - found.len() + idle
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

    /// Forgets that there are pages.
    pub fn clear(&mut self) {
        *self = Self::new(self.keep, self.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(keep: usize) -> Pages {
        Pages::new(keep, usize::MAX)
    }

    fn taken(p: &mut Pages, n: usize) -> Vec<u32> {
        (0..n).map(|_| p.take(|_| 7).expect("no limit")).collect()
    }

    fn text(n: u32) -> Vec<u32> {
        (0..n).collect()
    }

    #[test]
    fn known_beginnings_are_found_and_the_last_token_is_always_left_over() {
        let mut p = pages(8);
        let table = taken(&mut p, 3);
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
        let table = taken(&mut p, 3);
        p.learn(&text(48), 0, &table);
        p.release(&table);
        assert_eq!((p.in_use(), p.kept()), (0, 2));
        let again = p.find(&text(49), 0);
        assert_eq!(again, table[..2]);
        assert_eq!((p.in_use(), p.kept()), (2, 0));
        p.release(&again);
        p.forget_all();
        assert!(p.find(&text(49), 0).is_empty());
        assert_eq!((p.in_use(), p.kept()), (0, 0));
    }

    #[test]
    fn pages_in_use_are_never_given_away() {
        let mut p = pages(0);
        let mine = taken(&mut p, 40);
        let mut seen = mine.clone();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 40);
        p.learn(&text(640), 0, &mine);
        p.share(mine[0]);
        p.release(&mine);
        assert_eq!((p.in_use(), p.kept()), (1, 0));
        let more = taken(&mut p, 100);
        assert!(!more.contains(&mine[0]));
    }

    #[test]
    fn a_limit_is_kept_and_pages_in_use_go_before_idle_ones() {
        let mut p = Pages::new(3, 4);
        let table = taken(&mut p, 3);
        p.learn(&text(48), 0, &table);
        p.release(&table);
        assert_eq!((p.in_use(), p.kept(), p.available()), (0, 3, 4));
        // two pages are there and idle, the third is left over for its last token: all three have to be had
        assert_eq!(p.missing(&text(48), 0), 3);
        let found = p.find(&text(48), 0);
        assert_eq!(p.missing(&text(48), 0), 1, "shared with who uses them");
        let more = taken(&mut p, 2);
        assert!(more.iter().all(|page| !found.contains(page)));
        assert_eq!((p.in_use(), p.kept(), p.available()), (4, 0, 0));
        assert_eq!(p.take(|_| 7), None);
        p.release(&more);
        assert!(p.take(|_| 7).is_some() && p.made() == 4);
    }
}
