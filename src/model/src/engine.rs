//! `generate::Engine` over a decoder: continuous batching on slots, one prefill for all samples of a prompt.

use crate::Model;
use crate::chat::ChatTemplate;
use crate::frozen::{Cache, Frozen};
use crate::sampler;
use crate::shim::InferenceMode;
use crate::tokenizer::{Stream, Tokenizer};
use generate::{EngineError, Finish, Message, Request, Sampling, SeqId, Sequence, StepEvent};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Limits of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Sequences decoded together.
    pub max_batch: usize,
    /// Prompt tokens (padding included) of one prefill pass.
    pub prefill_tokens: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_batch: 64, prefill_tokens: 8192 }
    }
}

/// A request whose sequences have not all started.
struct Waiting {
    request: u64,
    prompt: Arc<Vec<u32>>,
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
    weights: Frozen,
    tokenizer: Arc<Tokenizer>,
    chat: Arc<ChatTemplate>,
    eos: Vec<u32>,
    options: Options,
    cache: Cache,
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
        let weights = Frozen::new(&model.decoder);
        let cache = weights.cache();
        Self {
            weights,
            tokenizer: Arc::clone(&model.tokenizer),
            chat: Arc::clone(&model.chat),
            eos: model.eos.clone(),
            options,
            cache,
            running: Vec::new(),
            waiting: VecDeque::new(),
            ended: Vec::new(),
            next_id: 0,
            next_request: 0,
        }
    }

    /// Takes the weights of `model` anew, after training has changed them. Sequences that are running go on with them.
    pub fn refresh(&mut self, model: &Model) {
        self.weights = Frozen::new(&model.decoder);
    }

    /// Gives the memory of the cache back; for the time between rollouts.
    ///
    /// # Panics
    /// When sequences are running.
    pub fn release(&mut self) {
        assert!(self.running.is_empty(), "sequences are running");
        self.cache.clear();
    }

    fn context_of(&self, r: &Running) -> usize {
        (r.prompt.len() + r.sampling.max_new_tokens as usize).min(self.context_tokens())
    }

    fn context_tokens(&self) -> usize {
        usize::try_from(self.weights.config.context).unwrap_or(usize::MAX)
    }

    /// Chooses the next token of `running[slot]` from its logits.
    fn accept(
        &mut self,
        slot: usize,
        logits: &[f32],
        events: &mut Vec<StepEvent>,
    ) -> Result<(), EngineError> {
        let context = self.context_tokens();
        let r = &mut self.running[slot];
        let u = sampler::uniform(r.sampling.seed.wrapping_add(u64::from(r.index)), r.tokens.len() as u64);
        let history: Vec<u32> = if r.sampling.repetition_penalty == 1.0 {
            Vec::new()
        } else {
            r.prompt.iter().chain(&r.tokens).copied().collect()
        };
        let (token, logprob) = sampler::choose(logits, &r.sampling, &history, u).ok_or_else(|| {
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
            let last = self.running.len() - 1;
            if slot < last && self.running[last].finish.is_none() {
                // the newest token is not in the cache yet
                let length = self.running[last].length() - 1;
                self.cache.move_slot(last, slot, length);
            }
            let r = self.running.swap_remove(slot);
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
        let tokens: Vec<i64> = self
            .running
            .iter()
            .map(|r| i64::from(*r.tokens.last().expect("prefill gave the first token")))
            .collect();
        let positions: Vec<i64> = self.running.iter().map(|r| r.length() as i64 - 1).collect();
        let logits = self.weights.decode(&mut self.cache, &tokens, &positions).map_err(failed)?;
        let rows = to_rows(&logits)?;
        for (slot, row) in rows.iter().enumerate() {
            self.accept(slot, row, events)?;
        }
        Ok(())
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
        let mut prompts: Vec<Arc<Vec<u32>>> = Vec::new();
        let mut rows_of_slot: Vec<i64> = Vec::new();
        let mut ready: Vec<Arc<Vec<f32>>> = Vec::new();
        let mut longest = 0;
        let mut batch: Vec<Waiting> = Vec::new();
        while let Some(mut w) = self.waiting.pop_front() {
            let length = longest.max(w.prompt.len());
            let over = !prompts.is_empty() && length * (prompts.len() + 1) > self.options.prefill_tokens;
            if free == 0 || over {
                self.waiting.push_front(w);
                break;
            }
            if let Some(logits) = w.logits.take() {
                // begun earlier: its prompt stands in a sibling's slot, or is run again
                if let Some(sibling) = self.running.iter().position(|r| r.request == w.request) {
                    self.waiting.push_front(Waiting { logits: Some(Arc::clone(&logits)), ..w });
                    if prompts.is_empty() {
                        return self.join(sibling, &logits, events);
                    }
                    break;
                }
            }
            let n = free.min(w.left.len());
            rows_of_slot.extend(std::iter::repeat_n(prompts.len() as i64, n));
            prompts.push(Arc::clone(&w.prompt));
            longest = length;
            free -= n;
            for (id, index) in w.left.drain(..n) {
                self.running.push(new_running(id, index, w.request, &w.prompt, &w.sampling));
            }
            batch.push(w);
        }
        let room = self.running.iter().map(|r| self.context_of(r)).max().unwrap_or(0).max(longest);
        self.weights.reserve(&mut self.cache, self.running.len(), room);
        let views: Vec<&[u32]> = prompts.iter().map(|p| p.as_slice()).collect();
        let logits = self.weights.prefill(&mut self.cache, &views, first, &rows_of_slot).map_err(failed)?;
        ready.extend(to_rows(&logits)?.into_iter().map(Arc::new));
        for (j, &row) in rows_of_slot.iter().enumerate() {
            self.accept(first + j, &ready[row as usize], events)?;
        }
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
        self.weights.reserve(&mut self.cache, self.running.len() + n, room);
        for (id, index) in w.left.drain(..n) {
            let slot = self.running.len();
            self.cache.move_slot(sibling, slot, w.prompt.len());
            self.running.push(new_running(id, index, w.request, &w.prompt, &w.sampling));
            self.accept(slot, logits, events)?;
        }
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

fn to_rows(logits: &tch::Tensor) -> Result<Vec<Vec<f32>>, EngineError> {
    let failed = |e: tch::TchError| EngineError::Failed(e.to_string());
    let (n, width) = logits.size2().map_err(failed)?;
    let flat = Vec::<f32>::try_from(logits.reshape([n * width])).map_err(failed)?;
    Ok(flat.chunks(width.max(1) as usize).map(<[f32]>::to_vec).collect())
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
        self.context_tokens()
    }

    fn max_batch(&self) -> usize {
        self.options.max_batch
    }

    fn add(&mut self, request: Request) -> Result<Vec<SeqId>, EngineError> {
        if request.prompt.is_empty() {
            return Err(EngineError::Empty);
        }
        let context = self.context_tokens();
        if request.prompt.len() >= context {
            return Err(EngineError::TooLong { tokens: request.prompt.len(), context });
        }
        if request.n == 0 {
            return Err(EngineError::BadParameter { name: "n", why: "must be at least 1".into() });
        }
        let vocab = self.weights.config.vocab;
        if let Some(id) = request.prompt.iter().find(|&&id| i64::from(id) >= vocab) {
            return Err(EngineError::BadParameter {
                name: "prompt",
                why: format!("token id {id} is beyond the vocabulary of {vocab}"),
            });
        }
        sampler::check(&request.sampling)?;
        let ids: Vec<SeqId> = (0..u64::from(request.n)).map(|k| SeqId(self.next_id + k)).collect();
        self.next_id += u64::from(request.n);
        self.next_request += 1;
        self.waiting.push_back(Waiting {
            request: self.next_request,
            prompt: Arc::new(request.prompt),
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
        // tch reports libtorch's errors as panics; one bad batch must not end the server
        let result = catch_unwind(AssertUnwindSafe(|| self.turn())).unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "libtorch failed".into());
            Err(EngineError::Failed(words))
        });
        if result.is_err() {
            self.running.clear();
            self.cache.clear();
        }
        result
    }
}
