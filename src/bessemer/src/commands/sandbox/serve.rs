//! `bessemer sandbox serve`: SandboxFusion's endpoints that make sense without its data sets, and our own batch.

use super::{Serve, batch};
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::interrupts::Interrupts;
use record::exit;
use sandbox::fusion::{RunCode, RunCodeResponse};
use sandbox::{Sandbox, Verdict};
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tiny_http::{Header, Method, Request, Response, Server};

/// No body is larger; a batch is meant to be cut into several.
const BODY_MAX: u64 = 256 << 20;
/// How often an idle server looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(200);

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
    let waiting = AtomicUsize::new(0);
    let service = Service { sandbox: &sandbox, token, waiting: &waiting, queue: args.queue };
    // Slots do the work; a few threads more read requests, refuse what does not fit, and wait for a slot.
    let threads = args.queue.clamp(1, 64);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !interrupts.stop.load(Ordering::Relaxed) {
                    match server.recv_timeout(LOOK) {
                        Ok(Some(request)) => service.answer(request),
                        Ok(None) => {}
                        Err(e) => eprintln!("bessemer sandbox serve: {e}"),
                    }
                }
            });
        }
    });
    Ok(exit::DONE)
}

/// The token in a file; a new one of 256 bits when there is no file yet.
fn token(path: &Path) -> Result<String> {
    use std::io::Write;
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
    waiting: &'a AtomicUsize,
    queue: usize,
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

impl Service<'_> {
    fn answer(&self, mut request: Request) {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let (status, body, kind) = self.route(&mut request, waiting);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let mut response = Response::from_data(body).with_status_code(status);
        let mut headers = vec![("Content-Type", kind)];
        if status == 503 {
            headers.push(("Retry-After", "1"));
        }
        for (name, value) in headers {
            if let Ok(h) = Header::from_bytes(name, value) {
                response.add_header(h);
            }
        }
        let _ = request.respond(response); // a client that has gone away hears nothing
    }

    fn route(&self, request: &mut Request, waiting: usize) -> Answer {
        let path = request.url().split('?').next().unwrap_or_default().to_owned();
        match (request.method(), path.as_str()) {
            (Method::Get, "/v1/ping") => return text(200, "\"pong\""),
            (Method::Get, "/health") => {
                return json(
                    200,
                    &serde_json::json!({"status": "ok", "tier": self.sandbox.tier(), "waiting": waiting}),
                );
            }
            (Method::Post, "/run_code" | "/v1/batch") => {}
            (_, "/run_code" | "/v1/batch" | "/v1/ping" | "/health") => {
                return text(405, "method not allowed");
            }
            _ => return text(404, "there are POST /run_code, POST /v1/batch, GET /v1/ping, GET /health"),
        }
        if !self.allowed(request) {
            return text(401, "a bearer token is needed");
        }
        if waiting >= self.queue {
            return text(503, "too many requests are waiting");
        }
        let mut body = Vec::new();
        match request.as_reader().take(BODY_MAX + 1).read_to_end(&mut body) {
            Ok(_) if body.len() as u64 > BODY_MAX => return text(413, "the body is too large"),
            Ok(_) => {}
            Err(e) => return text(400, &format!("reading the body: {e}")),
        }
        if path == "/run_code" { self.run_code(&body) } else { self.batch(&body) }
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

    fn run_code(&self, body: &[u8]) -> Answer {
        let request: RunCode = match serde_json::from_slice(body) {
            Ok(r) => r,
            // FastAPI's status and shape for a body that does not fit.
            Err(e) => {
                return json(
                    422,
                    &serde_json::json!({"detail": [{"msg": e.to_string(), "type": "value_error"}]}),
                );
            }
        };
        let pytest = request.language == "pytest";
        let result = self.sandbox.run(&request.into_job());
        if result.verdict == Verdict::Unscored {
            eprintln!("bessemer sandbox serve: unscored: {}", result.reason.as_deref().unwrap_or_default());
        }
        json(200, &RunCodeResponse::new(&result, pytest))
    }

    fn batch(&self, body: &[u8]) -> Answer {
        let mut out = Vec::new();
        match batch::lines(self.sandbox, body, &mut out) {
            Ok(_) => (200, out, "application/x-ndjson"),
            Err(e) => text(500, &e.to_string()),
        }
    }
}
