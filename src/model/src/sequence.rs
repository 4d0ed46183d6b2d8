//! One sequence on its way: its tokens, its text, what ends it.

use crate::paged::{Choice, Draw};
use crate::sampler;
use crate::tokenizer::{Stream, Tokenizer};
use generate::{EngineError, Finish, Sampling, SeqId, Sequence, StepEvent};
use std::sync::Arc;

/// What ends every sequence of an engine.
pub(crate) struct Ends<'a> {
    pub tokenizer: &'a Tokenizer,
    pub eos: &'a [u32],
    /// Longest text in tokens.
    pub context: usize,
}

/// A sequence that has begun.
pub(crate) struct Running {
    pub id: SeqId,
    pub request: u64,
    pub adapter: u32,
    pub prompt: Arc<Vec<u32>>,
    pub finish: Option<Finish>,
    /// Its text has not been run to the end, so that there is no next token to choose.
    pub filling: bool,
    index: u32,
    sampling: Arc<Sampling>,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    stream: Stream,
    text: String,
    /// Bytes of `text` that have gone out.
    sent: usize,
}

impl Running {
    pub fn new(
        (id, index): (SeqId, u32),
        request: u64,
        adapter: u32,
        prompt: &Arc<Vec<u32>>,
        sampling: &Arc<Sampling>,
    ) -> Self {
        Self {
            id,
            request,
            adapter,
            prompt: Arc::clone(prompt),
            finish: None,
            filling: false,
            index,
            sampling: Arc::clone(sampling),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            stream: Stream::default(),
            text: String::new(),
            sent: 0,
        }
    }

    /// Prompt and answer so far.
    pub fn written(&self) -> Vec<u32> {
        self.prompt.iter().chain(&self.tokens).copied().collect()
    }

    /// The last token of the answer.
    pub fn last(&self) -> Option<u32> {
        self.tokens.last().copied()
    }

    fn length(&self) -> usize {
        self.prompt.len() + self.tokens.len()
    }

    /// What decides the next token beside the logits and, with a repetition penalty, the text.
    pub fn draw(&self) -> Draw<'_> {
        let seed = self.sampling.seed.wrapping_add(u64::from(self.index));
        Draw { sampling: &self.sampling, u: sampler::uniform(seed, self.tokens.len() as u64) }
    }

    /// The next token after `logits`.
    pub fn choose(&self, logits: &[f32]) -> Choice {
        let u = self.draw().u;
        let history = if self.sampling.repetition_penalty == 1.0 { Vec::new() } else { self.written() };
        sampler::choose(logits, &self.sampling, &history, u)
    }

    /// Appends a chosen token and says what became of it.
    ///
    /// # Errors
    /// No choice; the tokenizer's words.
    pub fn take(&mut self, choice: Choice, ends: &Ends<'_>) -> Result<StepEvent, EngineError> {
        let failed = |e: crate::Error| EngineError::Failed(e.to_string());
        let (token, logprob) = choice.ok_or_else(|| {
            EngineError::Failed(format!(
                "the logits after {} tokens are not finite: the weights or the number format overflow",
                self.length()
            ))
        })?;
        self.tokens.push(token);
        self.logprobs.push(logprob);
        self.text += &self.stream.push(ends.tokenizer, token).map_err(failed)?;
        let ended = ends.eos.contains(&token);
        let full =
            self.tokens.len() >= self.sampling.max_new_tokens as usize || self.length() >= ends.context;
        if ended || full {
            self.text += &self.stream.finish(ends.tokenizer).map_err(failed)?;
        }
        let stop = &self.sampling.stop;
        if let Some(at) = find_stop(&self.text, stop) {
            self.text.truncate(at);
            self.finish = Some(Finish::Stop);
        } else if ended {
            self.finish = Some(Finish::Stop);
        } else if full {
            self.finish = Some(Finish::Length);
        }
        // text that may be the beginning of a stop text waits for what follows
        let safe =
            if self.finish.is_some() { self.text.len() } else { self.text.len() - held(&self.text, stop) };
        let from = self.sent.min(safe);
        self.sent = safe.max(self.sent.min(self.text.len()));
        let text = self.text.get(from..safe).unwrap_or("").to_owned();
        Ok(StepEvent::Token { id: self.id, token, logprob, text })
    }

    /// What it came to; one that has not finished was cancelled.
    pub fn done(self) -> Sequence {
        Sequence {
            id: self.id,
            index: self.index,
            tokens: self.tokens,
            logprobs: self.logprobs,
            text: self.text,
            finish: self.finish.unwrap_or(Finish::Cancelled),
        }
    }
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
