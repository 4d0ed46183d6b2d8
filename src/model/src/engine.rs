//! `generate::Engine` over a decoder: continuous batching over shared pages, prompts in pieces between decoding steps, one
//! prefill for all samples of a prompt.

use crate::Model;
use crate::chat::ChatTemplate;
use crate::frozen::TorchKernels;
use crate::native::Native;
use crate::native::kernels::NativeKernels;
use crate::paged::{Answer, Ask, Choice, Coming, Kernels, Paged};
use crate::pages::PAGE;
use crate::sampler;
use crate::sequence::{Ends, Running};
use crate::shim::InferenceMode;
use crate::tokenizer::Tokenizer;
use generate::{CacheUse, EngineError, Message, Request, Sampling, SeqId, Sequence, StepEvent};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Limits of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Sequences decoded together.
    pub max_batch: usize,
    /// Prompt tokens of one step while no sequence is being decoded.
    pub prefill_tokens: usize,
    /// Prompt tokens of one step beside sequences that are being decoded: what a long prompt delays their next token by.
    pub piece_tokens: usize,
    /// Bytes to spend on keys and values of texts that nobody uses at the moment, for prompts that begin like them.
    pub prefix_bytes: usize,
    /// Most bytes of keys and values, those of `prefix_bytes` included; `None`: they follow the work.
    pub kv_bytes: Option<usize>,
    /// Native kernels of a bf16 model hold keys and values in bf16: half of the memory, and rounded as transformers does it.
    pub half_pages: bool,
    /// Calculate with libtorch even where there are kernels of our own. For comparing the two.
    pub libtorch: bool,
    /// Let libtorch choose next tokens where the logits are on a processor too, as it does on GPUs. For comparing the two.
    pub choose_there: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_batch: 64,
            prefill_tokens: 8192,
            piece_tokens: 256,
            prefix_bytes: 256 << 20,
            kv_bytes: None,
            half_pages: false,
            libtorch: false,
            choose_there: false,
        }
    }
}

impl Options {
    /// As a job file has them; no `kv_bytes` is 0 there.
    #[must_use]
    pub fn new(max_batch: u32, kv_bytes: u64) -> Self {
        let kv_bytes = (kv_bytes > 0).then(|| usize::try_from(kv_bytes).unwrap_or(usize::MAX));
        Self { max_batch: max_batch as usize, kv_bytes, ..Self::default() }
    }

    /// For work that nobody reads along with: prompts in the largest pieces at all times.
    #[must_use]
    pub fn offline(self) -> Self {
        Self { piece_tokens: self.prefill_tokens, ..self }
    }
}

/// A request whose samples have not all begun.
struct Fresh {
    request: u64,
    prompt: Arc<Vec<u32>>,
    adapter: u32,
    sampling: Arc<Sampling>,
    /// `(id, index)` of those that have not begun.
    left: VecDeque<(SeqId, u32)>,
    /// The sample that runs the prompt for all of them at the moment.
    leader: Option<SeqId>,
    /// Logits after the prompt, once it has been run.
    logits: Option<Arc<Vec<f32>>>,
}

/// Something that waits for a place.
enum Waiting {
    Fresh(Fresh),
    /// A sequence that had to give its pages back; it goes on where it was.
    Again(Running),
}

/// What is asked for when a sequence has been run to its end.
fn ask<'a>(r: &'a Running, waiting: &VecDeque<Waiting>) -> Ask<'a> {
    // others wait to choose from the same logits
    let followed = || waiting.iter().any(|w| matches!(w, Waiting::Fresh(f) if f.leader == Some(r.id)));
    if r.filling && followed() { Ask::Row } else { Ask::Token(r.draw()) }
}

/// The engine. `Send`: make it anywhere, step it on one thread.
pub struct TorchEngine {
    paged: Paged,
    /// Longest text and number of token ids.
    context: usize,
    vocab: usize,
    /// Names of adapters; their number is the place plus 1.
    adapters: Vec<String>,
    tokenizer: Arc<Tokenizer>,
    chat: Arc<ChatTemplate>,
    eos: Vec<u32>,
    options: Options,
    /// By slot.
    running: Vec<Running>,
    waiting: VecDeque<Waiting>,
    /// Ended without ever running.
    ended: Vec<Sequence>,
    preemptions: u64,
    next_id: u64,
    next_request: u64,
}

impl TorchEngine {
    /// An engine over the model as it is now, adapter merged in.
    #[must_use]
    pub fn new(model: &Model, options: Options) -> Self {
        let decoder = &model.decoder;
        let kernels: Box<dyn Kernels> = if Native::knows(decoder) && !options.libtorch {
            Box::new(NativeKernels::new(decoder, options.half_pages && decoder.kind == tch::Kind::BFloat16))
        } else {
            Box::new(TorchKernels::new(decoder, options.choose_there))
        };
        let size = |n: i64| usize::try_from(n).unwrap_or(usize::MAX);
        Self {
            paged: Paged::new(kernels, options.prefix_bytes, options.kv_bytes.unwrap_or(usize::MAX)),
            context: size(decoder.config.context),
            vocab: size(decoder.config.vocab),
            adapters: Vec::new(),
            tokenizer: Arc::clone(&model.tokenizer),
            chat: Arc::clone(&model.chat),
            eos: model.eos.clone(),
            options,
            running: Vec::new(),
            waiting: VecDeque::new(),
            ended: Vec::new(),
            preemptions: 0,
            next_id: 0,
            next_request: 0,
        }
    }

    /// Takes the weights of `model` anew, after training has changed them. Sequences that are running go on with them.
    pub fn refresh(&mut self, model: &Model) {
        self.paged.refresh(&model.decoder);
        for w in &mut self.waiting {
            if let Waiting::Fresh(f) = w {
                f.logits = None;
            }
        }
    }

    /// Reads an adapter in PEFT's layout that requests may name. `model` is the one the engine was made from.
    ///
    /// # Errors
    /// A name that is taken; I/O errors, shapes that do not fit.
    pub fn add_adapter(&mut self, name: &str, dir: &Path, model: &Model) -> crate::Result<()> {
        if self.adapters.iter().any(|a| a == name) {
            return Err(crate::Error::Invalid(format!("there are two adapters named {name:?}")));
        }
        self.paged.kernels().adapter(name, dir, &model.decoder)?;
        self.adapters.push(name.to_owned());
        Ok(())
    }

    /// How steps are calculated: `native` or `libtorch`.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        self.paged.name()
    }

    /// Tokens that were found in shared pages instead of being run again.
    #[must_use]
    pub fn reused_tokens(&self) -> u64 {
        self.paged.reused()
    }

    /// Refuses a limit `kv_bytes` under which no answer of `new` tokens fits behind a prompt of `prompt` tokens.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] with the least that does.
    pub fn check_limit(&self, prompt: usize, new: usize) -> crate::Result<()> {
        let (limit, each) = (self.paged.pages().limit(), self.paged.page_bytes());
        let needed = self.context.min(prompt + new).div_ceil(PAGE);
        let Some(bytes) = self.options.kv_bytes.filter(|_| needed > limit) else { return Ok(()) };
        Err(crate::Error::Limit(format!(
            "kv_bytes {bytes} holds {limit} pages of {each} bytes ({PAGE} tokens each), and an answer of max_new_tokens {new} \
             behind a prompt of {prompt} fills {needed}: set kv_bytes to {} or more, better several times that, or lower \
             max_new_tokens",
            needed * each
        )))
    }

    /// Gives the memory of the cache back; for the time between rollouts.
    ///
    /// # Panics
    /// When sequences are running.
    pub fn release(&mut self) {
        assert!(self.running.is_empty(), "sequences are running");
        self.paged.clear();
    }

    /// Takes the next token of sequences, each given by its slot and its logits, or by what has been chosen.
    fn accept(
        &mut self,
        rows: &[(usize, Answer<'_>)],
        events: &mut Vec<StepEvent>,
    ) -> Result<(), EngineError> {
        let running = &self.running;
        let chosen: Vec<OnceLock<Choice>> = rows.iter().map(|_| OnceLock::new()).collect();
        self.paged.kernels().each(rows.len(), &|i| {
            let _ = chosen[i].set(match &rows[i] {
                (slot, Answer::Row(logits)) => running[*slot].choose(logits),
                (_, Answer::Token(choice)) => *choice,
            });
        });
        let ends = Ends { tokenizer: &self.tokenizer, eos: &self.eos, context: self.context };
        for ((slot, _), choice) in rows.iter().zip(chosen) {
            events.push(self.running[*slot].take(choice.into_inner().flatten(), &ends)?);
        }
        Ok(())
    }

    /// Takes ended sequences out of their slots; the last slots move into the holes.
    fn retire(&mut self, events: &mut Vec<StepEvent>) {
        let mut slot = 0;
        while slot < self.running.len() {
            if self.running[slot].finish.is_none() {
                slot += 1;
                continue;
            }
            // the last one takes the place; one that is over as well goes first
            let last = self.running.len() - 1;
            let at = if self.running[last].finish.is_some() { last } else { slot };
            events.push(StepEvent::Done(self.leave(at).done()));
        }
    }

    /// Takes a sequence out of its slot. Samples that waited for it to run their prompt have to do that themselves.
    fn leave(&mut self, slot: usize) -> Running {
        self.paged.swap_remove(slot);
        let r = self.running.swap_remove(slot);
        if r.filling {
            self.led_by(r.id).for_each(|f| f.leader = None);
        }
        r
    }

    fn led_by(&mut self, id: SeqId) -> impl Iterator<Item = &mut Fresh> {
        self.waiting.iter_mut().filter_map(move |w| match w {
            Waiting::Fresh(f) if f.leader == Some(id) => Some(f),
            _ => None,
        })
    }

    /// Whether there are pages for a text and, beside it, one more for every sequence that is growing.
    fn fits(&mut self, text: &[u32], adapter: u32) -> bool {
        self.options.kv_bytes.is_none()
            || self.running.is_empty()
            || self.paged.demand(text, adapter) + self.running.len() <= self.paged.pages().available()
    }

    fn open(&mut self, mut r: Running) {
        self.paged.open(r.written(), r.adapter);
        r.filling = true;
        self.running.push(r);
    }

    /// Gives free places to what waits, in order. Samples whose prompt has been run choose their first token at once.
    fn admit(&mut self, events: &mut Vec<StepEvent>) -> Result<(), EngineError> {
        let mut at = 0;
        // places of samples whose prompt is being run
        let mut promised = 0;
        let mut forked: Vec<(usize, Arc<Vec<f32>>)> = Vec::new();
        while at < self.waiting.len() {
            let places = self.options.max_batch.saturating_sub(self.running.len() + promised);
            if places == 0 {
                break;
            }
            match &mut self.waiting[at] {
                Waiting::Fresh(f) if f.leader.is_some() => {
                    promised += f.left.len();
                    at += 1;
                    continue;
                }
                Waiting::Fresh(f) => {
                    let sibling = self.running.iter().position(|r| r.request == f.request && !r.filling);
                    if let (Some(sibling), Some(logits)) = (sibling, f.logits.clone()) {
                        let done = self.join(at, sibling, places, &logits, &mut forked)?;
                        if done { continue } else { break }
                    }
                    let (prompt, adapter) = (Arc::clone(&f.prompt), f.adapter);
                    if !self.fits(&prompt, adapter) {
                        break;
                    }
                    let Waiting::Fresh(f) = &mut self.waiting[at] else { break };
                    let Some(first) = f.left.pop_front() else { break };
                    let r = Running::new(first, f.request, adapter, &prompt, &f.sampling);
                    (f.leader, f.logits) = (Some(r.id), None);
                    if f.left.is_empty() {
                        self.waiting.remove(at);
                    }
                    self.open(r);
                }
                Waiting::Again(r) => {
                    let (text, adapter) = (r.written(), r.adapter);
                    if !self.fits(&text, adapter) {
                        break;
                    }
                    if let Some(Waiting::Again(r)) = self.waiting.remove(at) {
                        self.open(r);
                    }
                }
            }
        }
        let rows: Vec<_> = forked.iter().map(|(slot, l)| (*slot, Answer::Row(l.as_slice()))).collect();
        self.accept(&rows, events)
    }

    /// Starts up to `places` further samples of the request that waits at `at` from the slot of one that has run its
    /// prompt. `false`: some still wait.
    fn join(
        &mut self,
        at: usize,
        sibling: usize,
        places: usize,
        logits: &Arc<Vec<f32>>,
        forked: &mut Vec<(usize, Arc<Vec<f32>>)>,
    ) -> Result<bool, EngineError> {
        for _ in 0..places {
            let tight =
                self.options.kv_bytes.is_some() && self.paged.pages().available() <= self.running.len() + 1;
            let Waiting::Fresh(f) = &mut self.waiting[at] else { return Ok(false) };
            if tight {
                break;
            }
            let Some(next) = f.left.pop_front() else { break };
            let r = Running::new(next, f.request, f.adapter, &f.prompt, &f.sampling);
            self.paged.fork(sibling, r.prompt.len())?;
            forked.push((self.running.len(), Arc::clone(logits)));
            self.running.push(r);
        }
        let Waiting::Fresh(f) = &self.waiting[at] else { return Ok(false) };
        let done = f.left.is_empty();
        if done {
            self.waiting.remove(at);
        }
        Ok(done)
    }

    /// What the next step runs, `(slot, tokens)`: the next token of every sequence, and pieces of prompts as far as the
    /// budget goes; older sequences first. `Err`: the slot that has to give its pages back before.
    fn plan(&mut self) -> Result<Vec<(usize, usize)>, usize> {
        let mut order: Vec<usize> = (0..self.running.len()).collect();
        order.sort_by_key(|&slot| self.running[slot].id);
        let decoding = self.running.iter().any(|r| !r.filling);
        let o = &self.options;
        let mut budget = if decoding { o.piece_tokens } else { o.prefill_tokens }.max(1);
        let (mut work, mut coming, mut needed) = (Vec::new(), Coming::default(), 0);
        for &slot in &order {
            let mut n = 1;
            if self.running[slot].filling {
                if budget == 0 || !self.paged.ready(slot, &mut coming) {
                    continue;
                }
                n = self.paged.left(slot).min(budget);
                budget -= n;
            }
            needed += self.paged.need(slot, n);
            if needed > self.paged.pages().available() && order.len() > 1 {
                return Err(order[order.len() - 1]);
            }
            work.push((slot, n));
        }
        Ok(work)
    }

    /// One step of all sequences that hold slots.
    fn pass(&mut self, events: &mut Vec<StepEvent>) -> Result<(), EngineError> {
        for (slot, r) in self.running.iter().enumerate().filter(|(_, r)| !r.filling) {
            self.paged.push(slot, r.last().expect("who has been run to the end has got a token"));
        }
        let work = loop {
            match self.plan() {
                Ok(work) => break work,
                Err(youngest) => self.preempt(youngest),
            }
        };
        if work.is_empty() {
            return Ok(());
        }
        let work: Vec<(usize, usize, Ask<'_>)> = work
            .into_iter()
            .map(|(slot, n)| {
                let over = self.paged.left(slot) == n;
                (slot, n, if over { ask(&self.running[slot], &self.waiting) } else { Ask::Nothing })
            })
            .collect();
        let answers = self.paged.run(&work)?;
        let asked = work.iter().filter(|w| !matches!(w.2, Ask::Nothing)).map(|w| w.0);
        let rows: Vec<_> = asked.enumerate().map(|(i, slot)| (slot, answers.get(i))).collect();
        for (slot, answer) in &rows {
            if std::mem::take(&mut self.running[*slot].filling) {
                let id = self.running[*slot].id;
                if let Answer::Row(row) = answer {
                    self.led_by(id).for_each(|f| (f.leader, f.logits) = (None, Some(Arc::new(row.to_vec()))));
                }
            }
        }
        self.accept(&rows, events)
    }

    /// Takes the pages of a sequence; it is computed again from its tokens when there is room.
    fn preempt(&mut self, slot: usize) {
        self.preemptions += 1;
        let r = self.leave(slot);
        self.waiting.push_front(Waiting::Again(r));
    }

    fn turn(&mut self) -> Result<Vec<StepEvent>, EngineError> {
        let _inference = InferenceMode::enter();
        let mut events: Vec<StepEvent> = self.ended.drain(..).map(StepEvent::Done).collect();
        // cancelled ones leave before they cost another token
        self.retire(&mut events);
        self.admit(&mut events)?;
        self.retire(&mut events);
        self.pass(&mut events)?;
        // before a sample whose prompt has just been run may leave: the others begin from its pages
        self.admit(&mut events)?;
        self.retire(&mut events);
        Ok(events)
    }

    /// Pages of the longest that a request can become, if that is more than there may be.
    fn too_many(&self, request: &Request) -> Option<usize> {
        let longest = (request.prompt.len() + request.sampling.max_new_tokens as usize).min(self.context);
        let pages = longest.div_ceil(PAGE);
        (pages > self.paged.pages().limit()).then_some(pages)
    }
}

impl generate::Engine for TorchEngine {
    fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        self.tokenizer.encode(text).map_err(|e| EngineError::Failed(e.to_string()))
    }

    fn chat(&self, messages: &[Message]) -> Result<String, EngineError> {
        self.chat.render(messages, true).map_err(|e| EngineError::Failed(e.to_string()))
    }

    fn context(&self) -> usize {
        self.context
    }

    fn max_batch(&self) -> usize {
        self.options.max_batch
    }

    fn add(&mut self, request: Request) -> Result<Vec<SeqId>, EngineError> {
        if request.prompt.is_empty() {
            return Err(EngineError::Empty);
        }
        let context = self.context;
        if request.prompt.len() >= context {
            return Err(EngineError::TooLong { tokens: request.prompt.len(), context });
        }
        if request.n == 0 {
            return Err(EngineError::BadParameter { name: "n", why: "must be at least 1".into() });
        }
        let vocab = self.vocab;
        if let Some(id) = request.prompt.iter().find(|&&id| id as usize >= vocab) {
            return Err(EngineError::BadParameter {
                name: "prompt",
                why: format!("token id {id} is beyond the vocabulary of {vocab}"),
            });
        }
        sampler::check(&request.sampling)?;
        if let Some(pages) = self.too_many(&request) {
            let (each, limit) = (self.paged.page_bytes(), self.options.kv_bytes.unwrap_or(usize::MAX));
            return Err(EngineError::BadParameter {
                name: "max_tokens",
                why: format!(
                    "prompt and answer may need {} bytes of keys and values, kv_bytes is {limit}: ask for fewer tokens \
                     or raise kv_bytes",
                    pages * each
                ),
            });
        }
        let adapter = match &request.adapter {
            None => 0,
            Some(name) => {
                1 + self.adapters.iter().position(|a| a == name).ok_or_else(|| EngineError::BadParameter {
                    name: "model",
                    why: format!("there is no adapter {name:?}"),
                })?
            }
        };
        let ids: Vec<SeqId> = (0..u64::from(request.n)).map(|k| SeqId(self.next_id + k)).collect();
        self.next_id += u64::from(request.n);
        self.next_request += 1;
        self.waiting.push_back(Waiting::Fresh(Fresh {
            request: self.next_request,
            prompt: Arc::new(request.prompt),
            adapter: adapter as u32,
            sampling: Arc::new(request.sampling),
            left: ids.iter().copied().zip(0..).collect(),
            leader: None,
            logits: None,
        }));
        Ok(ids)
    }

    fn cancel(&mut self, id: SeqId) {
        if let Some(r) = self.running.iter_mut().find(|r| r.id == id) {
            r.finish = Some(generate::Finish::Cancelled);
            return;
        }
        let Some(at) = self.waiting.iter().position(|w| match w {
            Waiting::Fresh(f) => f.left.iter().any(|(i, _)| *i == id),
            Waiting::Again(r) => r.id == id,
        }) else {
            return;
        };
        match &mut self.waiting[at] {
            Waiting::Fresh(f) => {
                let place = f.left.iter().position(|(i, _)| *i == id).expect("it was found there");
                let which = f.left.remove(place).expect("it was found there");
                let r = Running::new(which, f.request, f.adapter, &f.prompt, &f.sampling);
                self.ended.push(r.done());
                if f.left.is_empty() {
                    self.waiting.remove(at);
                }
            }
            Waiting::Again(_) => {
                if let Some(Waiting::Again(r)) = self.waiting.remove(at) {
                    self.ended.push(r.done());
                }
            }
        }
    }

    fn pending(&self) -> usize {
        let waiting = self.waiting.iter().map(|w| match w {
            Waiting::Fresh(f) => f.left.len(),
            Waiting::Again(_) => 1,
        });
        self.running.len() + waiting.sum::<usize>() + self.ended.len()
    }

    fn cache(&self) -> CacheUse {
        let pages = self.paged.pages();
        CacheUse {
            pages: pages.in_use(),
            kept: pages.kept(),
            limit: self.options.kv_bytes.map(|_| pages.limit()),
            page_bytes: self.paged.page_bytes(),
            preemptions: self.preemptions,
            reused_tokens: self.paged.reused(),
        }
    }

    fn step(&mut self) -> Result<Vec<StepEvent>, EngineError> {
        // tch reports libtorch's errors as panics; one bad batch must not end the server, nor leave the thread's recording off
        let _recording = crate::shim::Recording::keep();
        let result = catch_unwind(AssertUnwindSafe(|| self.turn())).unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "libtorch failed".into());
            Err(EngineError::Failed(words))
        });
        if result.is_err() {
            self.running.clear();
            self.paged.clear();
            for w in &mut self.waiting {
                if let Waiting::Fresh(f) = w {
                    f.leader = None;
                }
            }
        }
        result
    }
}
