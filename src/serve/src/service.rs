//! A whole service task: bind, publish, serve, leave.

use crate::Limits;
use crate::api::Models;
use crate::engine_loop::{Flow, Shared, run};
use crate::http::{App, handle};
use crate::lease::{Keeper, LeaseError, advertised_host, host_name, write_token};
use axum::serve::ListenerExt;
use generate::Engine;
use record::layout;
use record::service::ServiceLease;
use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};

/// What a service task is told.
#[derive(Debug, Clone)]
pub struct Service {
    pub task_dir: PathBuf,
    pub attempt: u32,
    /// Name that requests must give as `model`.
    pub model: String,
    /// Adapters of the engine: further names that requests may give as `model`.
    pub adapters: Vec<String>,
    pub bind: IpAddr,
    pub limits: Limits,
    /// Directories whose `result.json` end the need for this service. Empty: only the other reasons end it.
    pub consumers: Vec<PathBuf>,
    /// Leave after this long without a request.
    pub idle_timeout: Duration,
    /// When leaving, wait this long for running answers.
    pub drain_limit: Duration,
    /// How often to look for results, idleness and successors.
    pub poll: Duration,
}

/// Why a server left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Every consumer has its result.
    ConsumersDone,
    /// Nobody asked for anything for too long.
    Idle,
    /// It was told to stop.
    Stopped,
    /// A later attempt of the same service is up.
    Superseded,
}

/// What a server did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    pub requests: u64,
    pub prompt_tokens: u64,
    pub generated_tokens: u64,
    /// Sequences running or waiting right now.
    pub sequences: usize,
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("cannot listen on {address}: {source}; set BESSEMER_SERVE_BIND to an address of this node")]
    Bind { address: IpAddr, source: std::io::Error },
    #[error("cannot start the HTTP threads: {0}")]
    Runtime(std::io::Error),
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

/// Serves `engine` until there is no more need for it. `stop` is asked between steps (checkpoint signal, deadline);
/// `progress` is called about once per [`Service::poll`].
///
/// # Errors
/// Only before the lease is published; afterwards it always leaves in order.
pub fn run_service(
    engine: &mut dyn Engine,
    service: &Service,
    stop: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(&Report),
) -> Result<(Left, Report), ServiceError> {
    let bind_error = |source| ServiceError::Bind { address: service.bind, source };
    let listener = TcpListener::bind((service.bind, 0)).map_err(bind_error)?;
    listener.set_nonblocking(true).map_err(bind_error)?;
    let port = listener.local_addr().map_err(bind_error)?.port();
    let token = write_token(&service.task_dir)?;
    let now = record::now_ms();
    let lease = ServiceLease {
        format: record::FORMAT,
        url: format!("http://{}:{port}", advertised_host(service.bind, |name| std::env::var(name).ok())),
        token_file: layout::SERVICE_TOKEN.to_owned(),
        model: service.model.clone(),
        attempt: service.attempt,
        host: host_name(),
        pid: std::process::id(),
        started_ms: now,
        heartbeat_ms: now,
        draining: false,
    };
    let shared = Arc::new(Shared::default());
    shared.alive_ms.store(now, Relaxed);
    shared.metrics.last_request_ms.store(now, Relaxed);
    let (jobs_in, jobs) = std::sync::mpsc::channel();
    let app = Arc::new(App {
        shared: Arc::clone(&shared),
        limits: service.limits.clone(),
        models: Models { base: service.model.clone(), adapters: service.adapters.clone() },
        token,
        created: now / 1000,
        jobs: jobs_in,
        places: Arc::new(Semaphore::new(service.limits.sequences)),
    });
    let http = Http::start(listener, app)?;
    let keeper = {
        let shared = Arc::clone(&shared);
        Keeper::start(&service.task_dir, lease, move || shared.alive_ms.load(Relaxed))?
    };
    let mut left = Left::Stopped;
    let mut looked: Option<Instant> = None;
    run(engine, &jobs, &shared, service.drain_limit, |shared| {
        let reason = if stop() {
            Some(Left::Stopped)
        } else if looked.is_none_or(|at| at.elapsed() >= service.poll) {
            looked = Some(Instant::now());
            progress(&report(shared));
            reason_to_leave(service, shared, &keeper)
        } else {
            None
        };
        let Some(reason) = reason else { return Flow::Go };
        left = reason;
        keeper.drain();
        Flow::Drain
    });
    // requests that were admitted while the loop ended get 503 instead of silence
    drop(jobs);
    http.stop();
    drop(keeper);
    Ok((left, report(&shared)))
}

fn report(shared: &Shared) -> Report {
    let m = &shared.metrics;
    Report {
        requests: m.requests.load(Relaxed),
        prompt_tokens: m.prompt_tokens.load(Relaxed),
        generated_tokens: m.generated_tokens.load(Relaxed),
        sequences: m.sequences.load(Relaxed),
    }
}

fn reason_to_leave(service: &Service, shared: &Shared, keeper: &Keeper) -> Option<Left> {
    if keeper.superseded() {
        return Some(Left::Superseded);
    }
    if !service.consumers.is_empty() && service.consumers.iter().all(|dir| has_result(dir)) {
        return Some(Left::ConsumersDone);
    }
    let idle = record::now_ms().saturating_sub(shared.metrics.last_request_ms.load(Relaxed));
    let busy = shared.metrics.sequences.load(Relaxed) > 0;
    let limit = i64::try_from(service.idle_timeout.as_millis()).unwrap_or(i64::MAX);
    (!busy && idle >= limit).then_some(Left::Idle)
}

/// Opening the directory first makes a network file system look again.
fn has_result(dir: &Path) -> bool {
    let _ = std::fs::File::open(dir);
    dir.join(layout::RESULT).exists()
}

/// The HTTP side: a runtime with its own thread.
struct Http {
    runtime: tokio::runtime::Runtime,
    stop: oneshot::Sender<()>,
    done: tokio::task::JoinHandle<()>,
}

impl Http {
    fn start(listener: TcpListener, app: Arc<App>) -> Result<Self, ServiceError> {
        // one thread: parsing and framing are nothing beside the model, which wants the cores
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(ServiceError::Runtime)?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(ServiceError::Runtime)?
        };
        // tokens of a stream are small packets that must not wait for each other
        let listener = listener.tap_io(|socket| {
            let _ = socket.set_nodelay(true);
        });
        let router = axum::Router::new().fallback(handle).with_state(app);
        let (stop, stopped) = oneshot::channel::<()>();
        let done = runtime.spawn(async move {
            let server = axum::serve(listener, router).with_graceful_shutdown(async move {
                let _ = stopped.await;
            });
            let _ = server.await;
        });
        Ok(Self { runtime, stop, done })
    }

    /// Closes the listener, lets open connections finish their answers for a moment, then drops them.
    fn stop(self) {
        let _ = self.stop.send(());
        let _ =
            self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(2), self.done).await });
        self.runtime.shutdown_background();
    }
}
