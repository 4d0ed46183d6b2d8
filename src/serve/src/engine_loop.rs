//! The one thread that owns the engine: takes jobs, steps, hands out text.

use crate::api::{Call, Piece, TokenText};
use crate::fields::ApiError;
use crate::metrics::Metrics;
use crate::prompt::Prompt;
use crate::stream::HoldBack;
use generate::{Engine, EngineError, Request, SeqId, StepEvent};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

/// A request on its way to the engine.
pub(crate) struct Job {
    pub call: Call,
    pub reply: UnboundedSender<Out>,
    /// Its places in the queue; given back when the last of its sequences ends.
    pub permit: OwnedSemaphorePermit,
}

/// What the engine's thread says about a job.
#[derive(Debug)]
pub(crate) enum Out {
    /// All prompts were taken.
    Accepted {
        prompt_tokens: usize,
    },
    Piece {
        index: usize,
        piece: Piece,
        tokens: usize,
    },
    Refused(ApiError),
}

/// What both sides of the server see.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub metrics: Metrics,
    pub draining: AtomicBool,
    /// Milliseconds since the epoch at which the engine's thread last showed that it lives.
    pub alive_ms: AtomicI64,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Go,
    /// Take nothing new, finish what runs.
    Drain,
}

struct Live {
    reply: UnboundedSender<Out>,
    index: usize,
    text: HoldBack,
    tokens: usize,
    _permit: Arc<OwnedSemaphorePermit>,
}

/// How often an idle engine looks up.
const IDLE: Duration = Duration::from_millis(100);

/// Runs until `tick` has asked for a drain and nothing is left, or `drain_limit` has passed since it asked.
pub(crate) fn run(
    engine: &mut dyn Engine,
    jobs: &Receiver<Job>,
    shared: &Shared,
    drain_limit: Duration,
    mut tick: impl FnMut(&Shared) -> Flow,
) {
    let mut live: HashMap<SeqId, Live> = HashMap::new();
    let mut drain_since: Option<Instant> = None;
    loop {
        shared.alive_ms.store(record::now_ms(), Relaxed);
        if drain_since.is_none() && tick(shared) == Flow::Drain {
            shared.draining.store(true, Relaxed);
            drain_since = Some(Instant::now());
        }
        if !take_jobs(engine, jobs, shared, &mut live, drain_since.is_some()) {
            return;
        }
        shared.metrics.sequences.store(live.len(), Relaxed);
        if live.is_empty() {
            if drain_since.is_some() {
                return;
            }
            continue;
        }
        if drain_since.is_some_and(|since| since.elapsed() > drain_limit) {
            fail_all(engine, &mut live, || {
                ApiError::new(503, "server_error", "shutting_down", "the server is leaving; try again")
            });
            return;
        }
        let step = engine.step();
        shared.metrics.set_cache(engine.cache());
        match step {
            Ok(events) => {
                shared.metrics.steps.fetch_add(1, Relaxed);
                for event in events {
                    dispatch(engine, event, shared, &mut live);
                }
            }
            Err(e) => fail_all(engine, &mut live, || failed(&e)),
        }
    }
}

/// Moves waiting jobs into the engine; blocks a moment when there is nothing else to do. `false`: nobody can send any
/// more and nothing runs.
fn take_jobs(
    engine: &mut dyn Engine,
    jobs: &Receiver<Job>,
    shared: &Shared,
    live: &mut HashMap<SeqId, Live>,
    draining: bool,
) -> bool {
    if live.is_empty() && !draining {
        match jobs.recv_timeout(IDLE) {
            Ok(job) => start(engine, job, shared, live),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
    loop {
        match jobs.try_recv() {
            Ok(job) => start(engine, job, shared, live),
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Disconnected) => return !live.is_empty(),
        }
    }
}

fn start(engine: &mut dyn Engine, job: Job, shared: &Shared, live: &mut HashMap<SeqId, Live>) {
    let Job { call, reply, permit } = job;
    let permit = Arc::new(permit);
    let mut ids: Vec<SeqId> = Vec::new();
    let mut prompt_tokens = 0;
    let added = encode(engine, &call).and_then(|prompts| {
        for prompt in prompts {
            prompt_tokens += prompt.len();
            ids.extend(engine.add(Request {
                prompt,
                n: call.n,
                sampling: call.sampling.clone(),
                adapter: call.adapter.clone(),
            })?);
        }
        Ok(())
    });
    if let Err(e) = added {
        for id in ids {
            engine.cancel(id);
        }
        let _ = reply.send(Out::Refused(failed(&e)));
        return;
    }
    shared.metrics.requests.fetch_add(1, Relaxed);
    shared.metrics.prompt_tokens.fetch_add(prompt_tokens as u64, Relaxed);
    shared.metrics.last_request_ms.store(record::now_ms(), Relaxed);
    // a client that has left already is noticed at its first token
    let _ = reply.send(Out::Accepted { prompt_tokens });
    for (index, id) in ids.into_iter().enumerate() {
        let text = HoldBack::new(call.sampling.stop.clone());
        let place = Live { reply: reply.clone(), index, text, tokens: 0, _permit: Arc::clone(&permit) };
        live.insert(id, place);
    }
}

fn encode(engine: &dyn Engine, call: &Call) -> Result<Vec<Vec<u32>>, EngineError> {
    call.prompts
        .iter()
        .map(|prompt| match prompt {
            Prompt::Chat(messages) => {
                // templates refuse conversations that their model does not know (roles, order)
                let text = engine.chat(messages).map_err(|e| match e {
                    EngineError::Failed(why) => EngineError::BadParameter { name: "messages", why },
                    e => e,
                })?;
                engine.encode(&text)
            }
            Prompt::Text(text) => engine.encode(text),
            Prompt::Tokens(ids) => Ok(ids.clone()),
        })
        .collect()
}

fn dispatch(engine: &mut dyn Engine, event: StepEvent, shared: &Shared, live: &mut HashMap<SeqId, Live>) {
    match event {
        StepEvent::Token { id, logprob, text, .. } => {
            shared.metrics.generated_tokens.fetch_add(1, Relaxed);
            let Some(place) = live.get_mut(&id) else { return };
            place.tokens += 1;
            let piece = Piece {
                text: place.text.push(&text),
                tokens: vec![TokenText { text, logprob }],
                finish: None,
            };
            let out = Out::Piece { index: place.index, piece, tokens: place.tokens };
            if place.reply.send(out).is_err() {
                shared.metrics.cancelled.fetch_add(1, Relaxed);
                engine.cancel(id);
                live.remove(&id);
            }
        }
        StepEvent::Done(sequence) => {
            let Some(place) = live.remove(&sequence.id) else { return };
            let piece = Piece {
                text: place.text.finish(&sequence.text),
                tokens: Vec::new(),
                finish: Some(sequence.finish),
            };
            let out = Out::Piece { index: place.index, piece, tokens: sequence.tokens.len() };
            let _ = place.reply.send(out);
        }
    }
}

fn fail_all(engine: &mut dyn Engine, live: &mut HashMap<SeqId, Live>, error: impl Fn() -> ApiError) {
    for (id, place) in live.drain() {
        engine.cancel(id);
        let _ = place.reply.send(Out::Refused(error()));
    }
}

/// An engine's refusal in the API's words.
fn failed(e: &EngineError) -> ApiError {
    match e {
        EngineError::TooLong { .. } => {
            ApiError { code: Some("context_length_exceeded"), ..ApiError::bad("messages", e.to_string()) }
        }
        EngineError::Empty => ApiError::bad("messages", e.to_string()),
        EngineError::BadParameter { name, .. } => ApiError::bad(name, e.to_string()),
        EngineError::Failed(_) => ApiError::new(500, "server_error", "generation_failed", e.to_string()),
    }
}
