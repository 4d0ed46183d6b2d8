//! An engine without a model, and a server around it on loopback.
#![allow(dead_code, reason = "every test file uses its own part")]

use generate::{CacheUse, Engine, EngineError, Finish, Message, Request, SeqId, Sequence, StepEvent};
use record::layout;
use serve::{Endpoint, Left, Limits, Report, Service, run_service};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Holds the engine's steps while it is closed.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn set(&self, closed: bool) {
        *self.0.0.lock().unwrap() = closed;
        self.0.1.notify_all();
    }
    fn pass(&self) {
        let mut closed = self.0.0.lock().unwrap();
        while *closed {
            closed = self.0.1.wait(closed).unwrap();
        }
    }
}

struct Running {
    id: SeqId,
    index: u32,
    left: VecDeque<u8>,
    request: Request,
    tokens: Vec<u32>,
    text: String,
    cancelled: bool,
}

/// One byte is one token. Answers `<seed>:<last message>`; a prompt with `forever` gets `x` without end, one with
/// `break` makes a step fail.
pub struct Fake {
    gate: Gate,
    next: u64,
    running: Vec<Running>,
}

impl Fake {
    pub fn new(gate: Gate) -> Self {
        Self { gate, next: 0, running: Vec::new() }
    }
}

impl Engine for Fake {
    fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        Ok(text.bytes().map(u32::from).collect())
    }
    fn chat(&self, messages: &[Message]) -> Result<String, EngineError> {
        Ok(messages.last().map(|m| m.content.clone()).unwrap_or_default())
    }
    fn context(&self) -> usize {
        4096
    }
    fn max_batch(&self) -> usize {
        8
    }
    fn add(&mut self, request: Request) -> Result<Vec<SeqId>, EngineError> {
        if request.prompt.is_empty() {
            return Err(EngineError::Empty);
        }
        if request.prompt.len() > self.context() {
            return Err(EngineError::TooLong { tokens: request.prompt.len(), context: self.context() });
        }
        let prompt: String = request.prompt.iter().map(|t| *t as u8 as char).collect();
        let mut ids = Vec::new();
        for index in 0..request.n {
            let seed = request.sampling.seed + u64::from(index);
            let named = request.adapter.as_ref().map(|a| format!("{a}/")).unwrap_or_default();
            let answer = if prompt.contains("forever") {
                "x".repeat(100_000)
            } else {
                format!("{named}{seed}:{prompt}")
            };
            self.next += 1;
            let id = SeqId(self.next);
            ids.push(id);
            self.running.push(Running {
                id,
                index,
                left: answer.into_bytes().into(),
                request: request.clone(),
                tokens: vec![],
                text: String::new(),
                cancelled: false,
            });
        }
        Ok(ids)
    }
    fn cancel(&mut self, id: SeqId) {
        for r in self.running.iter_mut().filter(|r| r.id == id) {
            r.cancelled = true;
        }
    }
    fn pending(&self) -> usize {
        self.running.len()
    }
    /// A page for every sequence.
    fn cache(&self) -> CacheUse {
        CacheUse {
            pages: self.running.len(),
            kept: 2,
            limit: Some(7),
            page_bytes: 1024,
            preemptions: 3,
            reused_tokens: 48,
        }
    }
    fn step(&mut self) -> Result<Vec<StepEvent>, EngineError> {
        self.gate.pass();
        let mut events = Vec::new();
        let mut failed = false;
        self.running.retain_mut(|r| {
            let prompt: String = r.request.prompt.iter().map(|t| *t as u8 as char).collect();
            failed |= prompt.contains("break");
            let mut finish = r.cancelled.then_some(Finish::Cancelled);
            if finish.is_none() {
                match r.left.pop_front() {
                    None => finish = Some(Finish::Stop),
                    Some(byte) => {
                        r.tokens.push(u32::from(byte));
                        r.text.push(byte as char);
                        let text = (byte as char).to_string();
                        events.push(StepEvent::Token {
                            id: r.id,
                            token: u32::from(byte),
                            logprob: -0.5,
                            text,
                        });
                        let stop = r.request.sampling.stop.iter().find(|s| r.text.ends_with(s.as_str()));
                        if let Some(stop) = stop {
                            r.text.truncate(r.text.len() - stop.len());
                            finish = Some(Finish::Stop);
                        } else if r.tokens.len() >= r.request.sampling.max_new_tokens as usize {
                            finish = Some(Finish::Length);
                        }
                    }
                }
            }
            let Some(finish) = finish else { return true };
            events.push(StepEvent::Done(Sequence {
                id: r.id,
                index: r.index,
                logprobs: vec![-0.5; r.tokens.len()],
                tokens: std::mem::take(&mut r.tokens),
                text: std::mem::take(&mut r.text),
                finish,
            }));
            false
        });
        if failed {
            self.running.clear();
            return Err(EngineError::Failed("it broke".into()));
        }
        Ok(events)
    }
}

/// A service on its own thread.
pub struct Server {
    pub dir: PathBuf,
    pub gate: Gate,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<(Left, Report)>>,
}

pub fn service(dir: &Path, attempt: u32) -> Service {
    Service {
        task_dir: dir.to_owned(),
        attempt,
        model: "tiny".into(),
        adapters: vec!["tiny-sft".into()],
        bind: std::net::Ipv4Addr::LOCALHOST.into(),
        limits: Limits { sequences: 4, max_new_tokens: 200_000, body: 10_000, choices: 4 },
        consumers: vec![],
        idle_timeout: Duration::from_secs(3600),
        drain_limit: Duration::from_secs(60),
        poll: Duration::from_millis(1),
    }
}

impl Server {
    pub fn start(service: Service) -> Self {
        let gate = Gate::default();
        let stop = Arc::new(AtomicBool::new(false));
        let dir = service.task_dir.clone();
        let thread = {
            let (gate, stop) = (gate.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut engine = Fake::new(gate);
                let stop = || stop.load(Ordering::Relaxed);
                run_service(&mut engine, &service, &stop, &mut |_| {}).unwrap()
            })
        };
        Self { dir, gate, stop, thread: Some(thread) }
    }

    /// Where it is, once it has published its lease.
    pub fn endpoint(&self) -> Endpoint {
        let patience = serve::client::Patience { pause: Duration::from_millis(1), ..Default::default() };
        serve::Client::of_service(&self.dir, patience).wait_ready().unwrap()
    }

    pub fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until it has left by itself.
    pub fn join(mut self) -> (Left, Report) {
        self.thread.take().unwrap().join().unwrap()
    }

    pub fn stop(self) -> (Left, Report) {
        self.ask_to_stop();
        self.join()
    }
}

pub fn lease(dir: &Path) -> record::service::ServiceLease {
    record::atomic::read_json(&dir.join(layout::SERVICE)).unwrap().unwrap()
}

/// Status and body of one request.
pub fn call(endpoint: &Endpoint, method: &str, path: &str, body: &str) -> (u16, String) {
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let url = format!("{}{path}", endpoint.url);
    let bearer = format!("Bearer {}", endpoint.token.clone().unwrap_or_default());
    let response = match method {
        "GET" => agent.get(url).header("authorization", bearer).call(),
        _ => agent.post(url).header("authorization", bearer).send(body),
    };
    let mut response = response.unwrap();
    (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
}

pub fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}
