//! The words between whoever wants text (server, sampling, RL rollouts, evaluation) and whoever generates it (`model`).
//!
//! Free of libtorch, so that the server and its tests build without it. An [`Engine`] is stepped by one thread that owns
//! it: continuous batching means that requests join and leave between steps.

use serde::{Deserialize, Serialize};

/// Identity of one sequence inside an engine. One request with `n` samples makes `n` sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

/// How to choose the next token. `temperature` 0 is greedy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    pub temperature: f64,
    /// 1.0 is off.
    pub top_p: f64,
    /// 0 is off.
    pub top_k: u32,
    /// 0.0 is off.
    pub min_p: f64,
    /// 1.0 is off.
    pub repetition_penalty: f64,
    /// The sequence's own random stream: same seed, same prompt, same parameters give the same tokens, whatever else
    /// is in the batch (up to the arithmetic of the batch shape).
    pub seed: u64,
    pub max_new_tokens: u32,
    /// Text that ends the sequence; not part of the answer.
    pub stop: Vec<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            max_new_tokens: 256,
            stop: Vec::new(),
        }
    }
}

/// `n` continuations of one prompt; sequence k uses `seed + k`.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Token ids, special tokens included; must not be empty.
    pub prompt: Vec<u32>,
    pub n: u32,
    pub sampling: Sampling,
    /// Name of an adapter of the engine; `None`: the engine's own weights.
    pub adapter: Option<String>,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// End-of-sequence token or stop text.
    Stop,
    /// `max_new_tokens` or the context is full.
    Length,
    Cancelled,
}

/// One finished continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    pub id: SeqId,
    /// Which of the request's `n`.
    pub index: u32,
    /// Generated ids, without the end-of-sequence token's text but with its id if it was drawn.
    pub tokens: Vec<u32>,
    /// Log-probability of each of `tokens` under the *unmodified* distribution (temperature 1, no truncation): what a
    /// teacher-forced pass of the same weights gives.
    pub logprobs: Vec<f32>,
    /// Decoded text, special tokens and stop text left out.
    pub text: String,
    pub finish: Finish,
}

/// What one step brought.
#[derive(Debug, Clone, PartialEq)]
pub enum StepEvent {
    /// A new token; `text` is the newly decodable text (possibly empty in the middle of a character).
    Token {
        id: SeqId,
        token: u32,
        logprob: f32,
        text: String,
    },
    Done(Sequence),
}

/// Keys and values that an engine holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheUse {
    /// Pages of sequences that are running.
    pub pages: usize,
    /// Pages of texts that ended, kept for prompts that begin like them.
    pub kept: usize,
    /// Most pages of both together; `None`: no limit.
    pub limit: Option<usize>,
    /// Bytes of one page.
    pub page_bytes: usize,
    /// Sequences that gave their pages back and were computed again.
    pub preemptions: u64,
    /// Tokens that were found in pages instead of being run.
    pub reused_tokens: u64,
}

/// Refusals of an engine; none of them harms sequences that are already running.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the prompt has {tokens} tokens, the model's context is {context}: shorten the prompt")]
    TooLong { tokens: usize, context: usize },
    #[error("the prompt is empty")]
    Empty,
    #[error("parameter {name}: {why}")]
    BadParameter { name: &'static str, why: String },
    #[error("generation failed: {0}")]
    Failed(String),
}

/// Something that generates text: owned and stepped by one thread.
pub trait Engine {
    /// Text to token ids, special tokens parsed.
    ///
    /// # Errors
    /// [`EngineError::Failed`] with the tokenizer's words.
    fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError>;

    /// Messages to prompt text by the model's chat template.
    ///
    /// # Errors
    /// [`EngineError::Failed`] with the template's words.
    fn chat(&self, messages: &[Message]) -> Result<String, EngineError>;

    /// Longest prompt plus answer, in tokens.
    fn context(&self) -> usize;

    /// Sequences that can run together; more wait inside the engine.
    fn max_batch(&self) -> usize;

    /// Adds a request; its sequences start in a coming step.
    ///
    /// # Errors
    /// See [`EngineError`].
    fn add(&mut self, request: Request) -> Result<Vec<SeqId>, EngineError>;

    /// Ends a sequence early; its `Done` comes with the next step. Unknown ids are ignored.
    fn cancel(&mut self, id: SeqId);

    /// Sequences running or waiting.
    fn pending(&self) -> usize;

    /// What it holds of keys and values; nothing where there is no cache to speak of.
    fn cache(&self) -> CacheUse {
        CacheUse::default()
    }

    /// One token for every running sequence, and a piece of the prompts that wait.
    ///
    /// # Errors
    /// [`EngineError::Failed`]: every running sequence is lost, the engine itself goes on.
    fn step(&mut self) -> Result<Vec<StepEvent>, EngineError>;

    /// Runs all requests to the end. Result `[i][k]` is sample k of request i.
    ///
    /// # Errors
    /// The first refusal or failure.
    fn generate(&mut self, requests: Vec<Request>) -> Result<Vec<Vec<Sequence>>, EngineError> {
        use std::collections::HashMap;
        let mut place = HashMap::new();
        let mut out: Vec<Vec<Option<Sequence>>> = Vec::with_capacity(requests.len());
        for (i, request) in requests.into_iter().enumerate() {
            let ids = self.add(request)?;
            out.push(vec![None; ids.len()]);
            place.extend(ids.into_iter().enumerate().map(|(k, id)| (id, (i, k))));
        }
        let mut left = place.len();
        while left > 0 {
            for event in self.step()? {
                if let StepEvent::Done(sequence) = event
                    && let Some(&(i, k)) = place.get(&sequence.id)
                {
                    out[i][k] = Some(sequence);
                    left -= 1;
                }
            }
        }
        Ok(out.into_iter().map(|row| row.into_iter().flatten().collect()).collect())
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}
