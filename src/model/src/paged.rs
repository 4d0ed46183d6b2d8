//! Sequences over shared pages, whoever calculates: [`native`](crate::native) kernels on processors, libtorch
//! ([`frozen`](crate::frozen)) on GPUs and for decoders that the kernels do not know.
//!
//! Sequences stand in slots `0..n`, densely: the engine's list of running sequences and the slots are always in the same order.

use crate::decoder::Decoder;
use crate::error::Result;
use crate::pages::{PAGE, Pages};
use generate::{EngineError, Sampling};
use std::collections::HashSet;
use std::path::Path;

/// The next token and its log-probability; `None` where the logits are not finite.
pub(crate) type Choice = Option<(u32, f32)>;

/// What decides a next token beside the logits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw<'a> {
    pub sampling: &'a Sampling,
    /// In [0, 1).
    pub u: f64,
}

/// What is asked for after the last token of a piece.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask<'a> {
    Nothing,
    /// The logits.
    Row,
    /// The next token; the logits do as well.
    Token(Draw<'a>),
}

/// What there is after the last token of a piece.
pub(crate) enum Answer<'a> {
    Row(&'a [f32]),
    Token(Choice),
}

/// Answers to what was asked for, in order.
pub(crate) struct Answers {
    /// Logits, `[rows, width]`.
    data: Vec<f32>,
    width: usize,
    /// Tokens that have been chosen; the others have rows, in order.
    chosen: Vec<Option<Choice>>,
    /// By answer, how many rows come before it.
    before: Vec<usize>,
}

impl Answers {
    pub fn rows(data: Vec<f32>, n: usize) -> Self {
        Self::new(data, vec![None; n])
    }

    /// `data`: logits of those that have not been chosen, one after the other.
    pub fn new(data: Vec<f32>, chosen: Vec<Option<Choice>>) -> Self {
        let mut rows = 0;
        let mut before = Vec::with_capacity(chosen.len());
        for choice in &chosen {
            before.push(rows);
            rows += usize::from(choice.is_none());
        }
        Self { width: data.len() / rows.max(1), data, chosen, before }
    }

    pub fn get(&self, i: usize) -> Answer<'_> {
        match self.chosen[i] {
            Some(choice) => Answer::Token(choice),
            None => Answer::Row(&self.data[self.before[i] * self.width..][..self.width]),
        }
    }
}

/// Tokens of one sequence that a step computes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece<'a> {
    pub tokens: &'a [u32],
    /// Of the first one.
    pub position: usize,
    /// The sequence's pages, at least up to its last token here.
    pub table: &'a [u32],
    /// 0 for none, else the number of the adapter, from 1 in the order of [`Kernels::adapter`].
    pub adapter: u32,
    pub ask: Ask<'a>,
}

impl Piece<'_> {
    pub fn wanted(&self) -> bool {
        !matches!(self.ask, Ask::Nothing)
    }
}

/// Calculates steps and holds the pages' content.
pub(crate) trait Kernels: Send {
    /// Runs `pieces`, of one sequence each, and answers those that ask for something, in order.
    fn run(&mut self, pieces: &[Piece<'_>]) -> std::result::Result<Answers, EngineError>;

    /// Makes room for pages `0..pages`; what pages hold stays.
    fn hold(&mut self, pages: usize);

    /// How many pages to add to `made` ones when they do not suffice.
    fn more(&self, made: usize) -> usize;

    /// Page `to` becomes what page `from` is.
    fn copy(&mut self, from: u32, to: u32);

    /// Gives the memory of all pages back.
    fn clear(&mut self);

    /// Of one page, all layers.
    fn page_bytes(&self) -> usize;

    /// Takes the decoder's weights anew.
    fn refresh(&mut self, decoder: &Decoder);

    /// Reads an adapter for single requests.
    fn adapter(&mut self, name: &str, dir: &Path, decoder: &Decoder) -> Result<()>;

    /// `native` or `libtorch`.
    fn name(&self) -> &'static str;

    /// Runs `work(0..n)` on the calculating threads.
    fn each(&mut self, n: usize, work: &(dyn Fn(usize) + Sync));
}

/// A sequence in pages.
struct Slot {
    pages: Vec<u32>,
    text: Vec<u32>,
    /// Tokens of `text` whose keys and values are in `pages`.
    known: usize,
    adapter: u32,
    /// Some of it has been run here; before, pages of others may still be taken over.
    begun: bool,
    /// All of its first text has been run.
    filled: bool,
    /// Its pages come from weights that have been replaced since.
    outdated: bool,
}

impl Slot {
    /// Tells others of its full pages.
    fn learn(&self, pages: &mut Pages) {
        if !self.outdated {
            pages.learn(&self.text[..self.known], self.adapter, &self.pages);
        }
    }

    /// What identifies the page in which the first token that is not known stands: the whole text up to its end. `None` for
    /// the last page, which nobody shares.
    fn next_page(&self) -> Option<(u32, Vec<u32>)> {
        let end = (self.known / PAGE + 1) * PAGE;
        (end < self.text.len()).then(|| (self.adapter, self.text[..end].to_vec()))
    }
}

/// Pages that a step will compute.
#[derive(Default)]
pub(crate) struct Coming(HashSet<(u32, Vec<u32>)>);

/// All slots of an engine.
pub(crate) struct Paged {
    kernels: Box<dyn Kernels>,
    pages: Pages,
    slots: Vec<Slot>,
    reused: u64,
}

impl Paged {
    /// `keep_bytes`: for pages that nobody uses at the moment. `limit_bytes`: for all pages.
    pub fn new(kernels: Box<dyn Kernels>, keep_bytes: usize, limit_bytes: usize) -> Self {
        let bytes = kernels.page_bytes();
        let pages = Pages::new(keep_bytes / bytes, limit_bytes / bytes);
        Self { kernels, pages, slots: Vec::new(), reused: 0 }
    }

    pub fn kernels(&mut self) -> &mut dyn Kernels {
        &mut *self.kernels
    }

    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    pub fn page_bytes(&self) -> usize {
        self.kernels.page_bytes()
    }

    /// `native` or `libtorch`.
    pub fn name(&self) -> &'static str {
        self.kernels.name()
    }

    /// Tokens that were found in pages instead of being run.
    pub fn reused(&self) -> u64 {
        self.reused
    }

    /// Appends a slot for a text, none of which has been run.
    pub fn open(&mut self, text: Vec<u32>, adapter: u32) {
        self.slots.push(Slot {
            pages: Vec::new(),
            text,
            known: 0,
            adapter,
            begun: false,
            filled: false,
            outdated: false,
        });
    }

    /// Pages that a text would add to those in use, with those that the texts in slots still need.
    pub fn demand(&mut self, text: &[u32], adapter: u32) -> usize {
        let open: usize = (0..self.slots.len()).map(|slot| self.need(slot, self.left(slot))).sum();
        self.pages.missing(text, adapter) + open
    }

    /// Appends a token to the text of a slot.
    pub fn push(&mut self, slot: usize, token: u32) {
        self.slots[slot].text.push(token);
    }

    /// Tokens of a slot's text that have not been run.
    pub fn left(&self, slot: usize) -> usize {
        self.slots[slot].text.len() - self.slots[slot].known
    }

    /// Pages to take before the next `n` tokens of a slot can be run.
    pub fn need(&self, slot: usize, n: usize) -> usize {
        let s = &self.slots[slot];
        (s.known + n).div_ceil(PAGE).saturating_sub(s.pages.len())
    }

    /// Whether a slot's text should go on in the step that `coming` is collected for. One that has not begun takes over
    /// what others have in pages; if its next page is coming from another one, it waits for that.
    pub fn ready(&mut self, slot: usize, coming: &mut Coming) -> bool {
        let s = &mut self.slots[slot];
        if !s.begun {
            self.pages.release(&s.pages);
            s.pages = self.pages.find(&s.text, s.adapter);
            s.known = s.pages.len() * PAGE;
        }
        let fresh = s.next_page().is_none_or(|page| coming.0.insert(page));
        s.begun || fresh
    }

    /// Runs the next tokens of some slots, given as `(slot, how many, what is asked for then)`; answers in order.
    ///
    /// # Errors
    /// More pages than there may be; what the kernels say.
    pub fn run(&mut self, work: &[(usize, usize, Ask<'_>)]) -> std::result::Result<Answers, EngineError> {
        for &(slot, n, _) in work {
            for _ in 0..self.need(slot, n) {
                let page = self.take()?;
                self.slots[slot].pages.push(page);
            }
        }
        self.kernels.hold(self.pages.made());
        let pieces: Vec<Piece<'_>> = work
            .iter()
            .map(|&(slot, n, ask)| {
                let s = &self.slots[slot];
                let end = s.known + n;
                Piece {
                    tokens: &s.text[s.known..end],
                    position: s.known,
                    table: &s.pages[..end.div_ceil(PAGE)],
                    adapter: s.adapter,
                    ask,
                }
            })
            .collect();
        let answers = self.kernels.run(&pieces)?;
        for &(slot, n, _) in work {
            let s = &mut self.slots[slot];
            if !s.begun {
                self.reused += s.known as u64;
                s.begun = true;
            }
            s.known += n;
            if !s.filled {
                s.learn(&mut self.pages);
                s.filled = s.known == s.text.len();
            }
        }
        Ok(answers)
    }

    fn take(&mut self) -> std::result::Result<u32, EngineError> {
        let page = self.pages.take(|made| self.kernels.more(made));
        page.ok_or_else(|| {
            EngineError::Failed(format!("all {} pages of the cache are in use", self.pages.limit()))
        })
    }

    /// Appends a slot that begins with the first `length` tokens of slot `from`.
    ///
    /// # Errors
    /// More pages than there may be; it takes at most one.
    pub fn fork(&mut self, from: usize, length: usize) -> std::result::Result<(), EngineError> {
        let shared = length / PAGE;
        // full pages are shared; the last one will be written on
        let last = if length.is_multiple_of(PAGE) { None } else { Some(self.take()?) };
        let source = &self.slots[from];
        let mut pages = source.pages[..shared].to_vec();
        pages.iter().for_each(|&page| self.pages.share(page));
        if let Some(page) = last {
            self.kernels.hold(self.pages.made());
            self.kernels.copy(source.pages[shared], page);
            pages.push(page);
        }
        self.slots.push(Slot {
            pages,
            text: source.text[..length].to_vec(),
            known: length,
            begun: true,
            filled: true,
            ..*source
        });
        Ok(())
    }

    /// Slot `slot` is over; the last one takes its place.
    pub fn swap_remove(&mut self, slot: usize) {
        let slot = self.slots.swap_remove(slot);
        // the next turn of a conversation begins with this one
        slot.learn(&mut self.pages);
        self.pages.release(&slot.pages);
    }

    /// Takes the decoder's weights anew; running sequences go on.
    pub fn refresh(&mut self, decoder: &Decoder) {
        self.kernels.refresh(decoder);
        self.pages.forget_all();
        self.slots.iter_mut().for_each(|s| s.outdated = true);
    }

    /// Drops all slots and gives the memory of keys and values back.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.pages.clear();
        self.kernels.clear();
    }
}
