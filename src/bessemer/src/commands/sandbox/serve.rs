//! `bessemer sandbox serve`: SandboxFusion's endpoints that make sense without its data sets, and our own batch.
//!
//! A few threads read requests and refuse at once what is malformed or does not fit into the queue; one thread for each slot takes
//! requests from the queue. So a client hears within a moment whether it is served, and waiting never counts against a
//! program.

use super::queue::Queue;
use super::{Serve, batch};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::interrupts::Interrupts;
use record::exit;
use sandbox::fusion::{
    GetPromptById, GetPrompts, RunCode, RunCodeResponse, RunJupyter, RunJupyterResponse, Submission, Submit,
};
use sandbox::{Cancel, Sandbox, Verdict};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tiny_http::{Header, Method, Request, Response, Server};

/// No body is larger; a batch is meant to be cut into several.
const BODY_MAX: u64 = 256 << 20;
/// How often an idle server looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(200);
/// Threads that read requests.
const READERS: usize = 16;
/// How long running programs may go on when the service is told to stop; schedulers kill after 30 s.
const DRAIN: Duration = Duration::from_secs(10);

pub fn run(context: &mut Context, args: &Serve) -> Result {
    let token = match (&args.token_file, args.no_token) {
        (_, true) => None,
        (Some(path), false) => Some(token(path)?),
        (None, false) => {
            return Err(Failure::usage(
                "a service that runs programs wants a token: --token-file FILE (it is made if it is not there), or --no-token",
            ));
        }
    };
    let sandbox = args.slots.start()?;
    let address = (args.host.as_str(), args.port);
    let server = Server::http(address).map_err(|e| {
        Failure::new(exit::SETUP_FAILED, format!("listening on {}:{}: {e}", args.host, args.port))
    })?;
    context.out.line(format_args!("listening on http://{} (tier {})", server.server_addr(), sandbox.tier()));
    context.out.flush()?;
    let interrupts = Interrupts::listen(None)?;
    let service = Service {
        sandbox: &sandbox,
        token,
        queue: Queue::new(args.queue),
        patience: Duration::from_secs_f64(args.queue_wait.clamp(0.0, 1e6)),
        running: Mutex::new(Vec::new()),
    };
    let stopped = Cancel::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if let Err(e) = sandbox.warm_up(&stopped) {
                eprintln!("bessemer sandbox serve: {e}");
            }
        });
        for _ in 0..sandbox.slots() {
            scope.spawn(|| service.work());
        }
        for _ in 0..READERS {
            scope.spawn(|| {
                while !interrupts.stop.load(Ordering::Relaxed) {
                    match server.recv_timeout(LOOK) {
                        Ok(Some(request)) => service.admit(request),
                        Ok(None) => {}
                        Err(e) => eprintln!("bessemer sandbox serve: {e}"),
                    }
                }
            });
        }
        while !interrupts.stop.load(Ordering::Relaxed) {
            std::thread::park_timeout(LOOK);
        }
        stopped.cancel();
        service.stop();
    });
    Ok(exit::DONE)
}

/// The token in a file; a new one of 256 bits when there is no file yet.
fn token(path: &Path) -> Result<String> {
    use std::os::unix::fs::OpenOptionsExt;
    let named = |e: io::Error| Failure::input(format!("{}: {e}", path.display()));
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let mut random = [0_u8; 32];
            std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut random))?;
            let text: String = random.iter().map(|b| format!("{b:02x}")).collect();
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(named)?;
            Ok(text)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let text = std::fs::read_to_string(path).map_err(named)?.trim().to_owned();
            if text.is_empty() {
                Err(Failure::input(format!("{} is empty", path.display())))
            } else {
                Ok(text)
            }
        }
        Err(e) => Err(named(e)),
    }
}

struct Service<'a> {
    sandbox: &'a Sandbox,
    token: Option<String>,
    queue: Queue<Ticket>,
    /// How long a request may wait for a slot.
    patience: Duration,
    /// What is going on.
    running: Mutex<Vec<Cancel>>,
}

/// A request that waits for a slot.
struct Ticket {
    request: Request,
    work: Work,
    since: Instant,
}

enum Work {
    RunCode(RunCode),
    Jupyter(RunJupyter),
    Submit(Box<Submission>),
    Batch(Vec<u8>),
}

/// Status, body, content type.
type Answer = (u16, Vec<u8>, &'static str);

fn text(status: u16, text: &str) -> Answer {
    (status, text.as_bytes().to_vec(), "text/plain; charset=utf-8")
}

fn json(status: u16, value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => (status, body, "application/json"),
        Err(e) => text(500, &e.to_string()),
    }
}

/// A refusal in FastAPI's shape, which clients of SandboxFusion know.
fn detail(status: u16, why: &str) -> Answer {
    json(status, &serde_json::json!({"detail": why}))
}

/// FastAPI's status and shape for a body that does not fit.
fn unfit(e: &serde_json::Error) -> Answer {
    json(
        422,
        &serde_json::json!({"detail": [{"loc": ["body"], "msg": e.to_string(), "type": "value_error"}]}),
    )
}

fn header(name: &str, value: &str) -> Option<Header> {
    Header::from_bytes(name, value).ok()
}

fn respond(request: Request, (status, body, kind): Answer) {
    let mut response = Response::from_data(body).with_status_code(status);
    for h in
        [header("Content-Type", kind), header("Retry-After", "1").filter(|_| matches!(status, 429 | 503))]
            .into_iter()
            .flatten()
    {
        response.add_header(h);
    }
    let _ = request.respond(response); // a client that has gone away hears nothing
}

impl Service<'_> {
    /// Answers what needs no slot, and queues the rest.
    fn admit(&self, mut request: Request) {
        match self.route(&mut request) {
            Err(answer) => respond(request, answer),
            Ok(work) => {
                if let Err(back) = self.queue.push(Ticket { request, work, since: Instant::now() }) {
                    respond(back.request, self.full());
                }
            }
        }
    }

    fn route(&self, request: &mut Request) -> std::result::Result<Work, Answer> {
        const POSTS: [&str; 9] = [
            "/run_code",
            "/run_jupyter",
            "/submit",
            "/v1/batch",
            "/list_ids",
            "/get_prompts",
            "/get_prompt_by_id",
            "/get_metrics",
            "/get_metrics_function",
        ];
        const GETS: [&str; 3] = ["/v1/ping", "/health", "/list_datasets"];
        let path = request.url().split('?').next().unwrap_or_default().to_owned();
        let (posts, gets) = (POSTS.contains(&path.as_str()), GETS.contains(&path.as_str()));
        match request.method() {
            Method::Post if posts => {}
            Method::Get if gets => {}
            _ if posts || gets => return Err(detail(405, "Method Not Allowed")),
            _ => {
                let all = format!("there are GET {} and POST {}", GETS.join(", "), POSTS.join(", "));
                return Err(detail(404, &all));
            }
        }
        match path.as_str() {
            "/v1/ping" => return Err(json(200, &"pong")),
            "/health" => {
                let (waiting, running) = self.queue.counts();
                let body = serde_json::json!({"status": "ok", "tier": self.sandbox.tier(), "waiting": waiting, "running": running});
                return Err(json(200, &body));
            }
            _ if !self.allowed(request) => return Err(detail(401, "a bearer token is needed")),
            // No data sets here, so nothing is registered and nothing has metrics of its own.
            "/list_datasets" => return Err(json(200, &serde_json::json!([]))),
            "/get_metrics" => return Err(json(200, &serde_json::json!({}))),
            "/get_metrics_function" => return Err(json(200, &serde_json::json!({"function": null}))),
            _ => {}
        }
        // Before the body is read: a full server is told from its first line.
        if self.queue.is_full() {
            return Err(self.full());
        }
        if request.body_length().is_some_and(|n| n as u64 > BODY_MAX) {
            return Err(detail(413, "the body is too large"));
        }
        let mut body = Vec::new();
        match request.as_reader().take(BODY_MAX + 1).read_to_end(&mut body) {
            Ok(_) if body.len() as u64 > BODY_MAX => return Err(detail(413, "the body is too large")),
            Ok(_) => {}
            Err(e) => return Err(detail(400, &format!("reading the body: {e}"))),
        }
        match path.as_str() {
            "/run_code" => {
                let request: RunCode = serde_json::from_slice(&body).map_err(|e| unfit(&e))?;
                match request.refusal() {
                    Some(why) => Err(json(200, &RunCodeResponse::error(why))),
                    None => Ok(Work::RunCode(request)),
                }
            }
            "/run_jupyter" => {
                Ok(Work::Jupyter(serde_json::from_slice::<RunJupyter>(&body).map_err(|e| unfit(&e))?))
            }
            "/list_ids" | "/get_prompts" => {
                let rows: GetPrompts = serde_json::from_slice(&body).map_err(|e| unfit(&e))?;
                let answer = if path == "/list_ids" {
                    rows.ids().map(|ids| json(200, &ids))
                } else {
                    rows.prompts().map(|prompts| json(200, &prompts))
                };
                Err(answer.unwrap_or_else(|why| detail(400, &why)))
            }
            "/get_prompt_by_id" => {
                let row: GetPromptById = serde_json::from_slice(&body).map_err(|e| unfit(&e))?;
                Err(row.prompt().map_or_else(|why| detail(400, &why), |prompt| json(200, &prompt)))
            }
            "/submit" => {
                let submit: Submit = serde_json::from_slice(&body).map_err(|e| unfit(&e))?;
                submit.prepare().map(|s| Work::Submit(Box::new(s))).map_err(|why| detail(400, &why))
            }
            _ => Ok(Work::Batch(body)),
        }
    }

    /// A full queue asks for patience; a server that stops will not be there later.
    fn full(&self) -> Answer {
        if self.queue.is_closed() {
            detail(503, "the service is stopping")
        } else {
            detail(429, "too many requests are waiting")
        }
    }

    fn allowed(&self, request: &Request) -> bool {
        let Some(token) = &self.token else { return true };
        let given = request.headers().iter().find(|h| h.field.equiv("Authorization"));
        let given = given.and_then(|h| h.value.as_str().strip_prefix("Bearer "));
        // All bytes are looked at, so that the time tells nothing.
        given.is_some_and(|g| {
            g.len() == token.len() && g.bytes().zip(token.bytes()).fold(0, |d, (a, b)| d | (a ^ b)) == 0
        })
    }

    /// Serves requests until the queue is closed.
    fn work(&self) {
        while let Some(Ticket { request, work, since }) = self.queue.pop() {
            let cancel = Cancel::default();
            lock(&self.running).push(cancel.clone());
            if since.elapsed() > self.patience {
                // The client has most likely gone. 504 is what clients of SandboxFusion try again after.
                respond(request, detail(504, "the request waited too long for a slot"));
            } else {
                self.serve(request, work, &cancel);
            }
            lock(&self.running).retain(|c| !c.is_same(&cancel));
            self.queue.done();
        }
    }

    fn serve(&self, request: Request, work: Work, cancel: &Cancel) {
        match work {
            Work::RunCode(run) => {
                let pytest = run.language == "pytest";
                let result = self.sandbox.run_until(&run.into_job(), cancel);
                if result.verdict == Verdict::Unscored {
                    eprintln!(
                        "bessemer sandbox serve: unscored: {}",
                        result.reason.as_deref().unwrap_or_default()
                    );
                }
                respond(request, json(200, &RunCodeResponse::new(&result, pytest)));
            }
            Work::Jupyter(run) => {
                let (job, cells) = run.into_job();
                let result = self.sandbox.run_until(&job, cancel);
                respond(request, json(200, &RunJupyterResponse::new(&result, cells)));
            }
            Work::Submit(submission) => {
                let result = self.sandbox.run_until(&submission.job, cancel);
                match submission.answer(&result) {
                    Ok(answer) => respond(request, json(200, &answer)),
                    Err(why) => {
                        respond(request, detail(500, &format!("Failed to check stdio test case: {why}")))
                    }
                }
            }
            Work::Batch(body) => self.batch(request, &body, cancel),
        }
    }

    /// Results go out as they come; a client that goes away stops the rest.
    fn batch(&self, request: Request, body: &[u8], cancel: &Cancel) {
        const KIND: &str = "application/x-ndjson";
        if *request.http_version() < (1, 1) {
            let mut out = Vec::new();
            let answer = match batch::lines(self.sandbox, body, &mut out, cancel) {
                Ok(_) => (200, out, KIND),
                Err(e) => detail(500, &e.to_string()),
            };
            return respond(request, answer);
        }
        // By hand, because the server's own chunks go out when 8 KiB are full.
        let mut to = request.into_writer();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {KIND}\r\nTransfer-Encoding: chunked\r\n\r\n");
        let sent = to.write_all(head.as_bytes()).and_then(|()| {
            let mut rows = io::BufWriter::new(Chunks(&mut to));
            batch::lines(self.sandbox, body, &mut rows, cancel)?;
            rows.flush()
        });
        if let Err(e) = sent.and_then(|()| to.write_all(b"0\r\n\r\n")).and_then(|()| to.flush()) {
            eprintln!("bessemer sandbox serve: a batch: {e}");
        }
    }

    /// Refuses what waits, and gives what runs a moment.
    fn stop(&self) {
        for ticket in self.queue.close() {
            respond(ticket.request, detail(503, "the service is stopping"));
        }
        if !self.queue.settled(DRAIN) {
            lock(&self.running).iter().for_each(Cancel::cancel);
        }
    }
}

/// Each write as a chunk of a chunked body.
struct Chunks<W>(W);

impl<W: Write> Write for Chunks<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if !data.is_empty() {
            // An empty chunk would end the body.
            write!(self.0, "{:x}\r\n", data.len())?;
            self.0.write_all(data)?;
            self.0.write_all(b"\r\n")?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
