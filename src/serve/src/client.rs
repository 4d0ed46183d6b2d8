//! Client of a service task, or of any OpenAI-compatible server.

use record::layout;
use record::service::{STALE_MS, ServiceLease};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Where a server is and how to talk to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Without `/v1`.
    pub url: String,
    pub token: Option<String>,
    pub model: String,
}

impl std::fmt::Debug for Endpoint {
    /// Tokens do not belong into logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Endpoint({}, model {})", self.url, self.model)
    }
}

/// Patience of a client.
#[derive(Debug, Clone)]
pub struct Patience {
    /// Longest wait for a service to come up, at the start and after each loss.
    pub ready: Duration,
    /// Tries of one call.
    pub tries: u32,
    /// First pause between tries; doubled each time up to `longest_pause`.
    pub pause: Duration,
    pub longest_pause: Duration,
    /// Limit of one call, generation included.
    pub call: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            ready: Duration::from_secs(1800),
            tries: 8,
            pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(10),
            call: Duration::from_secs(900),
        }
    }
}

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing to do with the request: try the task again later.
    #[error("the service of {dir} did not come up within {waited_s} s: {why}; look at its log with `bessemer logs`", dir = dir.display())]
    NotReady { dir: PathBuf, waited_s: u64, why: String },
    #[error("{url} refused the request with status {status}: {message}")]
    Refused { url: String, status: u16, message: String },
    #[error("{url} gave no answer in {tries} tries, last: {last}")]
    GaveUp { url: String, tries: u32, last: String },
    #[error("{url} answered something that is no OpenAI answer: {why}")]
    Malformed { url: String, why: String },
    #[error("stopped on request")]
    Stopped,
}

/// A chat request.
#[derive(Debug, Clone, PartialEq)]
pub struct Chat {
    pub messages: Vec<generate::Message>,
    pub n: u32,
    pub temperature: f64,
    pub top_p: f64,
    pub max_tokens: u32,
    pub seed: Option<u64>,
    pub stop: Vec<String>,
}

/// One choice of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub text: String,
    /// The token limit ended it.
    pub truncated: bool,
}

/// An answer, choices in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub choices: Vec<Choice>,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

enum Source {
    Service(PathBuf),
    Fixed(Endpoint),
}

/// A client that several threads may share.
pub struct Client {
    source: Source,
    patience: Patience,
    agent: ureq::Agent,
    known: Mutex<Option<Endpoint>>,
    stop: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Client {
    /// A client of a service task of the sweep, found through its lease.
    #[must_use]
    pub fn of_service(task_dir: &Path, patience: Patience) -> Self {
        Self::new(Source::Service(task_dir.to_owned()), patience)
    }

    /// A client of any OpenAI-compatible server.
    #[must_use]
    pub fn of_url(endpoint: Endpoint, patience: Patience) -> Self {
        Self::new(Source::Fixed(endpoint), patience)
    }

    fn new(source: Source, patience: Patience) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_global(Some(patience.call))
            .build()
            .new_agent();
        Self { source, patience, agent, known: Mutex::new(None), stop: Box::new(|| false) }
    }

    /// A question asked between tries; `true` ends waiting with [`ClientError::Stopped`].
    #[must_use]
    pub fn stopping_when(mut self, stop: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.stop = Box::new(stop);
        self
    }

    /// Waits until the server answers `/health`; returns where it is.
    ///
    /// # Errors
    /// [`ClientError::NotReady`] or [`ClientError::Stopped`].
    pub fn wait_ready(&self) -> Result<Endpoint, ClientError> {
        if let Source::Fixed(endpoint) = &self.source {
            return Ok(endpoint.clone());
        }
        let start = Instant::now();
        let mut pause = self.patience.pause;
        loop {
            let why = match self.look() {
                Ok(endpoint) => {
                    *self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
                        Some(endpoint.clone());
                    return Ok(endpoint);
                }
                Err(why) => why,
            };
            if start.elapsed() >= self.patience.ready {
                let Source::Service(dir) = &self.source else { return Err(ClientError::Stopped) };
                return Err(ClientError::NotReady {
                    dir: dir.clone(),
                    waited_s: start.elapsed().as_secs(),
                    why,
                });
            }
            self.rest(pause)?;
            pause = (pause * 2).min(self.patience.longest_pause);
        }
    }

    /// Reads the lease and asks for health, once.
    fn look(&self) -> Result<Endpoint, String> {
        let dir = match &self.source {
            Source::Fixed(endpoint) => return Ok(endpoint.clone()),
            Source::Service(dir) => dir,
        };
        let lease: ServiceLease = record::atomic::read_json(&dir.join(layout::SERVICE))
            .map_err(|e| e.to_string())?
            .ok_or("it has published no lease yet")?;
        let age = record::now_ms() - lease.heartbeat_ms;
        if age > STALE_MS {
            return Err(format!("its last heartbeat is {} s old", age / 1000));
        }
        if lease.draining {
            return Err("it is leaving".into());
        }
        let path = dir.join(&lease.token_file);
        let token = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let answer = self
            .agent
            .get(format!("{}/health", lease.url))
            .config()
            .timeout_global(Some(Duration::from_secs(10)))
            .build()
            .call();
        match answer {
            Ok(r) if r.status() == 200 => {
                Ok(Endpoint { url: lease.url, token: Some(token.trim().to_owned()), model: lease.model })
            }
            Ok(r) => Err(format!("{}/health answers {}", lease.url, r.status())),
            Err(e) => Err(format!("{}/health: {e}", lease.url)),
        }
    }

    /// Sends a chat request. Lost connections, 429 and 5xx are tried again, each time with a fresh look at the lease:
    /// after a restart the server is elsewhere and has another token.
    ///
    /// # Errors
    /// See [`ClientError`]; refusals of the request itself (400, 404, ...) are not tried again.
    pub fn chat(&self, chat: &Chat) -> Result<Reply, ClientError> {
        let mut body = json!({
            "messages": chat.messages, "n": chat.n, "temperature": chat.temperature, "top_p": chat.top_p,
            "max_tokens": chat.max_tokens,
        });
        if let Some(seed) = chat.seed {
            body["seed"] = seed.into();
        }
        if !chat.stop.is_empty() {
            body["stop"] = json!(chat.stop);
        }
        let (url, answer) = self.post("/v1/chat/completions", body)?;
        reply(&answer, chat.n).map_err(|why| ClientError::Malformed { url, why })
    }

    /// Name of the first model that a server lists.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn first_model(url: &str, token: Option<&str>, patience: &Patience) -> Result<String, ClientError> {
        let endpoint =
            Endpoint { url: url.to_owned(), token: token.map(str::to_owned), model: String::new() };
        let client = Self::of_url(endpoint, patience.clone());
        let (url, bytes) = client.get("/v1/models")?;
        let listed: Value = serde_json::from_slice(&bytes)
            .map_err(|e| ClientError::Malformed { url: url.clone(), why: e.to_string() })?;
        let name = listed.pointer("/data/0/id").and_then(Value::as_str);
        name.map(str::to_owned)
            .ok_or_else(|| ClientError::Malformed { url, why: "it lists no model under /v1/models".into() })
    }

    fn get(&self, path: &str) -> Result<(String, Vec<u8>), ClientError> {
        self.call(|endpoint| {
            let mut request = self.agent.get(format!("{}{path}", endpoint.url));
            if let Some(token) = &endpoint.token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            request.call()
        })
    }

    fn post(&self, path: &str, body: Value) -> Result<(String, Vec<u8>), ClientError> {
        self.call(|endpoint| {
            let mut body = body.clone();
            body["model"] = endpoint.model.clone().into();
            let mut request =
                self.agent.post(format!("{}{path}", endpoint.url)).header("content-type", "application/json");
            if let Some(token) = &endpoint.token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            request.send(body.to_string())
        })
    }

    /// Sends until there is an answer, within the patience.
    fn call(
        &self,
        send: impl Fn(&Endpoint) -> Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<(String, Vec<u8>), ClientError> {
        let mut pause = self.patience.pause;
        let mut last = (String::new(), String::new());
        for attempt in 0..self.patience.tries.max(1) {
            if attempt > 0 {
                self.rest(pause)?;
                pause = (pause * 2).min(self.patience.longest_pause);
            }
            let endpoint = self.endpoint()?;
            let why = match send(&endpoint) {
                Ok(mut response) => {
                    let status = response.status().as_u16();
                    match (status, response.body_mut().with_config().limit(256 << 20).read_to_vec()) {
                        (200, Ok(bytes)) => return Ok((endpoint.url, bytes)),
                        (_, Err(e)) => format!("status {status}, then {e}"),
                        (status, Ok(bytes)) => {
                            let message = error_message(&bytes);
                            let service = matches!(self.source, Source::Service(_));
                            // a restarted service has a new token and may carry another model
                            let moved = service && matches!(status, 401 | 404) && attempt == 0;
                            if !(moved || status == 408 || status == 429 || status >= 500) {
                                return Err(ClientError::Refused { url: endpoint.url, status, message });
                            }
                            format!("status {status}: {message}")
                        }
                    }
                }
                Err(e) => e.to_string(),
            };
            last = (endpoint.url, why);
            self.forget();
        }
        Err(ClientError::GaveUp { url: last.0, tries: self.patience.tries, last: last.1 })
    }

    fn endpoint(&self) -> Result<Endpoint, ClientError> {
        let known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        known.map_or_else(|| self.wait_ready(), Ok)
    }

    fn forget(&self) {
        *self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }

    /// Waits, asking now and then whether to stop.
    fn rest(&self, pause: Duration) -> Result<(), ClientError> {
        let end = Instant::now() + pause;
        loop {
            if (self.stop)() {
                return Err(ClientError::Stopped);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(200)));
        }
    }
}

/// The sentence in an error body, or the beginning of whatever it is.
fn error_message(bytes: &[u8]) -> String {
    let said = serde_json::from_slice::<Value>(bytes)
        .ok()
        .and_then(|v| v.pointer("/error/message").and_then(Value::as_str).map(str::to_owned));
    said.unwrap_or_else(|| String::from_utf8_lossy(bytes).chars().take(200).collect())
}

fn reply(bytes: &[u8], n: u32) -> Result<Reply, String> {
    #[derive(Deserialize)]
    struct Answer {
        choices: Vec<AnswerChoice>,
        #[serde(default)]
        usage: Usage,
    }
    #[derive(Deserialize)]
    struct AnswerChoice {
        index: usize,
        message: AnswerMessage,
        finish_reason: Option<String>,
    }
    #[derive(Deserialize)]
    struct AnswerMessage {
        content: Option<String>,
    }
    #[derive(Deserialize, Default)]
    struct Usage {
        #[serde(default)]
        prompt_tokens: u64,
        #[serde(default)]
        completion_tokens: u64,
    }
    let mut answer: Answer = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    answer.choices.sort_by_key(|c| c.index);
    if answer.choices.len() != n as usize {
        return Err(format!("{} choices instead of {n}", answer.choices.len()));
    }
    let choices = answer
        .choices
        .into_iter()
        .map(|c| Choice {
            text: c.message.content.unwrap_or_default(),
            truncated: c.finish_reason.as_deref() == Some("length"),
        })
        .collect();
    Ok(Reply {
        choices,
        prompt_tokens: answer.usage.prompt_tokens,
        completion_tokens: answer.usage.completion_tokens,
    })
}
