//! `generate::Engine` over a decoder: continuous batching on slots, one prefill for all samples of a prompt.

use crate::Model;
use crate::backend::{Backend, Paged, Slotted, Start};
use crate::chat::ChatTemplate;
use crate::native::Native;
use crate::sampler;
use crate::shim::InferenceMode;
use crate::tokenizer::{Stream, Tokenizer};
use generate::{EngineError, Finish, Message, Request, Sampling, SeqId, Sequence, StepEvent};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Limits of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Sequences decoded together.
    pub max_batch: usize,
    /// Prompt tokens (padding included) of one prefill pass.
    pub prefill_tokens: usize,
    /// Bytes to spend on keys and values of texts that nobody uses at the moment, for prompts that begin like them.
    pub prefix_bytes: usize,
    /// Calculate with libtorch even where there are kernels of our own. For comparing the two.
    pub libtorch: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_batch: 64, prefill_tokens: 8192, prefix_bytes: 256 << 20, libtorch: false }
    }
}

/// A request whose sequences have not all started.
struct Waiting {
    request: u64,
    prompt: Arc<Vec<u32>>,
    adapter: u32,
    sampling: Arc<Sampling>,
    /// `(id, index)` of those that have not started.
    left: VecDeque<(SeqId, u32)>,
    /// Logits after the prompt, once it has been run.
    logits: Option<Arc<Vec<f32>>>,
}

/// A sequence that holds a slot: its slot is its place in `running`.
struct Running {
    id: SeqId,
    index: u32,
    request: u64,
    prompt: Arc<Vec<u32>>,
    sampling: Arc<Sampling>,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    stream: Stream,
    text: String,
    /// Bytes of `text` that have gone out.
    sent: usize,
    finish: Option<Finish>,
}

impl Running {
    fn length(&self) -> usize {
        self.prompt.len() + self.tokens.len()
    }
}

/// The engine. `Send`: make it anywhere, step it on one thread.
pub struct TorchEngine {
    backend: Box<dyn Backend>,
    /// Longest text and number of token ids.
    context: usize,
    vocab: usize,
    /// Names of adapters; the backend's number is the place plus 1.
    adapters: Vec<String>,
    tokenizer: Arc<Tokenizer>,
    chat: Arc<ChatTemplate>,
    eos: Vec<u32>,
    options: Options,
    running: Vec<Running>,
    waiting: VecDeque<Waiting>,
    /// Ended without ever running.
    ended: Vec<Sequence>,
    next_id: u64,
    next_request: u64,
}

impl TorchEngine {
    /// An engine over the model as it is now, adapter merged in.
    #[must_use]
    pub fn new(model: &Model, options: Options) -> Self {
        let decoder = &model.decoder;
        let backend: Box<dyn Backend> = if Native::knows(decoder) && !options.libtorch {
            Box::new(Paged::new(decoder, options.prefix_bytes))
        } else {
            Box::new(Slotted::new(decoder))
        };
        let size = |n: i64| usize::try_from(n).unwrap_or(usize::MAX);
        Self {
            backend,
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
            next_id: 0,
            next_request: 0,
        }
    }

    /// Takes the weights of `model` anew, after training has changed them. Sequences that are running go on with them.
    pub fn refresh(&mut self, model: &Model) {
        self.backend.refresh(&model.decoder);
    }

    /// Reads an adapter in PEFT's layout that requests may name. `model` is the one the engine was made from.
    ///
    /// # Errors
    /// A name that is taken; I/O errors, shapes that do not fit; a decoder for which this is not built.
    pub fn add_adapter(&mut self, name: &str, dir: &Path, model: &Model) -> crate::Result<()> {
        if self.adapters.iter().any(|a| a == name) {
            return Err(crate::Error::Invalid(format!("there are two adapters named {name:?}")));
        }
        self.backend.adapter(name, dir, &model.decoder)?;
        self.adapters.push(name.to_owned());
        Ok(())
    }

    /// How steps are calculated: `native` or `libtorch`.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        self.backend.name()
    }

    /// Prompt tokens that were found in shared pages instead of being run again.
    #[must_use]
    pub fn reused_tokens(&self) -> u64 {
        self.backend.reused()
    }

    /// Gives the memory of the cache back; for the time between rollouts.
    ///
    /// # Panics
    /// When sequences are running.
    pub fn release(&mut self) {
        assert!(self.running.is_empty(), "sequences are running");
        self.backend.clear();
    }

    fn context_of(&self, r: &Running) -> usize {
        (r.prompt.len() + r.sampling.max_new_tokens as usize).min(self.context)
    }

    /// Chooses the next token of every slot from `first` on; `row(slot)` gives its logits.
    fn accept<'a>(
        &mut self,
        first: usize,
        row: impl Fn(usize) -> &'a [f32] + Sync,
        events: &mut Vec<StepEvent>,
    ) -> Result<(), EngineError> {
        let running = &self.running;
        let chosen: Vec<OnceLock<Option<(u32, f32)>>> =
            (first..running.len()).map(|_| OnceLock::new()).collect();
        self.backend.each(chosen.len(), &|i| {
            let _ = chosen[i].set(choose(&running[first + i], row(first + i)));
        });
        for (slot, choice) in (first..).zip(chosen) {
            self.take(slot, choice.into_inner().flatten(), events)?;
        }
        Ok(())
    }

    /// Appends a chosen token to the sequence of `slot` and says what became of it.
    fn take(
        &mut self,
        slot: usize,
        choice: Option<(u32, f32)>,
        events: &mut Vec<StepEvent>,
    ) -> Result<(), EngineError> {
        let context = self.context;
        let r = &mut self.running[slot];
        let (token, logprob) = choice.ok_or_else(|| {
            EngineError::Failed(format!(
                "the logits after {} tokens are not finite: the weights or the number format overflow",
                r.length()
            ))
        })?;
        r.tokens.push(token);
        r.logprobs.push(logprob);
        r.text += &r.stream.push(&self.tokenizer, token).map_err(failed)?;
        let ended = self.eos.contains(&token);
        let full = r.tokens.len() >= r.sampling.max_new_tokens as usize || r.length() >= context;
        if ended || full {
            r.text += &r.stream.finish(&self.tokenizer).map_err(failed)?;
        }
        if let Some(at) = find_stop(&r.text, &r.sampling.stop) {
            r.text.truncate(at);
            r.finish = Some(Finish::Stop);
        } else if ended {
            r.finish = Some(Finish::Stop);
        } else if full {
            r.finish = Some(Finish::Length);
        }
        // text that may be the beginning of a stop text waits for what follows
        let safe =
            if r.finish.is_some() { r.text.len() } else { r.text.len() - held(&r.text, &r.sampling.stop) };
        let from = r.sent.min(safe);
        r.sent = safe.max(r.sent.min(r.text.len()));
        let text = r.text.get(from..safe).unwrap_or("").to_owned();
        events.push(StepEvent::Token { id: r.id, token, logprob, text });
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
            self.backend.swap_remove(at);
            let r = self.running.swap_remove(at);
            events.push(StepEvent::Done(Sequence {
                id: r.id,
                index: r.index,
                tokens: r.tokens,
                logprobs: r.logprobs,
                text: r.text,
                finish: r.finish.unwrap_or(Finish::Cancelled),
            }));
        }
    }

    fn decode(&mut self, events: &mut Vec<StepEvent>) -> Result<(), EngineError> {
        if self.running.is_empty() {
            return Ok(());
        }
        let tokens: Vec<u32> =
            self.running.iter().map(|r| *r.tokens.last().expect("prefill gave the first token")).collect();
        let logits = self.backend.decode(&tokens)?;
        self.accept(0, |slot| logits.row(slot), events)
    }

    /// Starts waiting sequences in free slots.
    fn admit(&mut self, events: &mut Vec<StepEvent>) -> Result<(), EngineError> {
        while self.running.len() < self.options.max_batch && !self.waiting.is_empty() {
            self.admit_some(events)?;
            self.retire(events);
        }
        Ok(())
    }

    /// One prefill pass: as many requests as fit its budget and the free slots.
    fn admit_some(&mut self, events: &mut Vec<StepEvent>) -> Result<(), EngineError> {
        let mut free = self.options.max_batch - self.running.len();
        let first = self.running.len();
        let mut copies: Vec<usize> = Vec::new();
        let mut longest = 0;
        let mut batch: Vec<Waiting> = Vec::new();
        while let Some(mut w) = self.waiting.pop_front() {
            let length = longest.max(w.prompt.len());
            let over = !copies.is_empty() && length * (copies.len() + 1) > self.options.prefill_tokens;
            if free == 0 || over {
                self.waiting.push_front(w);
                break;
            }
            if let Some(logits) = w.logits.take() {
                // begun earlier: its prompt stands in a sibling's slot, or is run again
                if let Some(sibling) = self.running.iter().position(|r| r.request == w.request) {
                    self.waiting.push_front(Waiting { logits: Some(Arc::clone(&logits)), ..w });
                    if copies.is_empty() {
                        return self.join(sibling, &logits, events);
                    }
                    break;
                }
            }
            let n = free.min(w.left.len());
            copies.push(n);
            longest = length;
            free -= n;
            for (id, index) in w.left.drain(..n) {
                self.running.push(new_running(id, index, w.request, &w.prompt, &w.sampling));
            }
            batch.push(w);
        }
        let room = self.running.iter().map(|r| self.context_of(r)).max().unwrap_or(0);
        let starts: Vec<Start<'_>> = batch
            .iter()
            .zip(&copies)
            .map(|(w, &copies)| Start { tokens: &w.prompt, adapter: w.adapter, copies })
            .collect();
        let logits = self.backend.prefill(&starts, room)?;
        let of_slot: Vec<usize> =
            copies.iter().enumerate().flat_map(|(row, &n)| std::iter::repeat_n(row, n)).collect();
        self.accept(first, |slot| logits.row(of_slot[slot - first]), events)?;
        let ready = (0..batch.len()).map(|row| Arc::new(logits.row(row).to_vec())).collect::<Vec<_>>();
        for (w, logits) in batch.into_iter().zip(ready).rev() {
            if !w.left.is_empty() {
                self.waiting.push_front(Waiting { logits: Some(logits), ..w });
            }
        }
        Ok(())
    }

    /// Starts further samples of the first waiting request from the slot of a running one.
    fn join(
        &mut self,
        sibling: usize,
        logits: &[f32],
        events: &mut Vec<StepEvent>,
    ) -> Result<(), EngineError> {
        let Some(mut w) = self.waiting.pop_front() else { return Ok(()) };
        let n = (self.options.max_batch - self.running.len()).min(w.left.len());
        let room = self.running.iter().map(|r| self.context_of(r)).max().unwrap_or(0);
        let first = self.running.len();
        for (id, index) in w.left.drain(..n) {
            self.backend.fork(sibling, w.prompt.len(), room);
            self.running.push(new_running(id, index, w.request, &w.prompt, &w.sampling));
        }
        self.accept(first, |_| logits, events)?;
        if !w.left.is_empty() {
            self.waiting.push_front(Waiting { logits: Some(Arc::new(logits.to_vec())), ..w });
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<Vec<StepEvent>, EngineError> {
        let _inference = InferenceMode::enter();
        let mut events: Vec<StepEvent> = self.ended.drain(..).map(StepEvent::Done).collect();
        // cancelled ones leave before they cost another token
        self.retire(&mut events);
        self.decode(&mut events)?;
        self.retire(&mut events);
        self.admit(&mut events)?;
        Ok(events)
    }
}

fn new_running(
    id: SeqId,
    index: u32,
    request: u64,
    prompt: &Arc<Vec<u32>>,
    sampling: &Arc<Sampling>,
) -> Running {
    Running {
        id,
        index,
        request,
        prompt: Arc::clone(prompt),
        sampling: Arc::clone(sampling),
        tokens: Vec::new(),
        logprobs: Vec::new(),
        stream: Stream::default(),
        text: String::new(),
        sent: 0,
        finish: None,
    }
}

fn failed(e: crate::Error) -> EngineError {
    EngineError::Failed(e.to_string())
}

/// The next token of a sequence after `logits`, and its log-probability.
fn choose(r: &Running, logits: &[f32]) -> Option<(u32, f32)> {
    let u = sampler::uniform(r.sampling.seed.wrapping_add(u64::from(r.index)), r.tokens.len() as u64);
    let history: Vec<u32> = if r.sampling.repetition_penalty == 1.0 {
        Vec::new()
    } else {
        r.prompt.iter().chain(&r.tokens).copied().collect()
    };
    sampler::choose(logits, &r.sampling, &history, u)
}

/// Start of the earliest stop text.
fn find_stop(text: &str, stop: &[String]) -> Option<usize> {
    stop.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(s.as_str())).min()
}

/// Bytes at the end of `text` that may be the beginning of a stop text.
fn held(text: &str, stop: &[String]) -> usize {
    stop.iter()
        .flat_map(|s| {
            (1..s.len()).rev().filter(|&n| s.is_char_boundary(n)).find(|&n| text.ends_with(&s[..n]))
        })
        .max()
        .unwrap_or(0)
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
        self.waiting.push_back(Waiting {
            request: self.next_request,
            prompt: Arc::new(request.prompt),
            adapter: adapter as u32,
            sampling: Arc::new(request.sampling),
            left: ids.iter().copied().zip(0..).collect(),
            logits: None,
        });
        Ok(ids)
    }

    fn cancel(&mut self, id: SeqId) {
        if let Some(r) = self.running.iter_mut().find(|r| r.id == id) {
            r.finish = Some(Finish::Cancelled);
            return;
        }
        for w in &mut self.waiting {
            if let Some(at) = w.left.iter().position(|(i, _)| *i == id) {
                let (_, index) = w.left.remove(at).expect("position found it");
                self.ended.push(Sequence {
                    id,
                    index,
                    tokens: Vec::new(),
                    logprobs: Vec::new(),
                    text: String::new(),
                    finish: Finish::Cancelled,
                });
            }
        }
        self.waiting.retain(|w| !w.left.is_empty());
    }

    fn pending(&self) -> usize {
        self.running.len() + self.waiting.iter().map(|w| w.left.len()).sum::<usize>() + self.ended.len()
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
            self.backend.clear();
        }
        result
    }
}
