//! HTTP: routes, authorisation, limits, answers and streams.

use crate::Limits;
use crate::api::{Call, Endpoint, Head, Models, Piece, parse, usage};
use crate::engine_loop::{Job, Out, Shared};
use crate::fields::ApiError;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use subtle::ConstantTimeEq;
use tokio::sync::mpsc::{UnboundedReceiver, channel, unbounded_channel};
use tokio::sync::{Semaphore, TryAcquireError};
use tokio_stream::wrappers::ReceiverStream;

/// What every request sees.
pub(crate) struct App {
    pub shared: Arc<Shared>,
    pub limits: Limits,
    pub models: Models,
    pub token: String,
    pub created: i64,
    pub jobs: Sender<Job>,
    /// One permit per sequence that may wait or run.
    pub places: Arc<Semaphore>,
}

/// The whole service as one function, so that unknown paths get OpenAI's error body as well.
pub(crate) async fn handle(State(app): State<Arc<App>>, request: Request) -> Response<Body> {
    let response = route(&app, request).await.unwrap_or_else(|e| refusal(&e));
    app.shared.metrics.answered(response.status().as_u16());
    response
}

async fn route(app: &Arc<App>, request: Request) -> Result<Response<Body>, ApiError> {
    let path = request.uri().path().trim_end_matches('/').to_owned();
    let method = request.method().clone();
    let expected = match path.as_str() {
        "/health" | "/metrics" | "/v1/models" => Method::GET,
        "/v1/chat/completions" | "/v1/completions" => Method::POST,
        p if p.starts_with("/v1/models/") => Method::GET,
        _ => return Err(not_found(&path)),
    };
    if method != expected {
        let message = format!("{path} takes {expected}, not {method}");
        return Err(ApiError::new(405, "invalid_request_error", "method_not_allowed", message));
    }
    let draining = app.shared.draining.load(Relaxed);
    match path.as_str() {
        // open to everybody: they tell nothing about prompts, and probes have no token
        "/health" if draining => Ok(json(503, &serde_json::json!({"status": "draining"}))),
        "/health" => Ok(json(200, &serde_json::json!({"status": "ok", "model": app.models.base}))),
        "/metrics" => Ok(text(app.shared.metrics.text(draining))),
        _ => {
            authorise(app, request.headers())?;
            match path.as_str() {
                "/v1/models" => {
                    let data: Vec<_> = app.models.names().map(|name| model(app, name)).collect();
                    Ok(json(200, &serde_json::json!({"object": "list", "data": data})))
                }
                "/v1/chat/completions" => generate(app, Endpoint::Chat, request).await,
                "/v1/completions" => generate(app, Endpoint::Completions, request).await,
                one => {
                    let asked = one.strip_prefix("/v1/models/");
                    let known = app.models.names().find(|name| Some(*name) == asked);
                    known.map(|name| json(200, &model(app, name))).ok_or_else(|| {
                        ApiError::new(404, "invalid_request_error", "model_not_found", "no such model here")
                    })
                }
            }
        }
    }
}

fn not_found(path: &str) -> ApiError {
    let message = format!(
        "there is no {path}; this server has /v1/chat/completions, /v1/completions, /v1/models, /health, /metrics"
    );
    ApiError::new(404, "invalid_request_error", "unknown_url", message)
}

fn model(app: &App, name: &str) -> serde_json::Value {
    // where an adapter's base is shown by other servers
    let parent = (name != app.models.base).then_some(&app.models.base);
    serde_json::json!({
        "id": name, "object": "model", "created": app.created, "owned_by": "bessemer", "parent": parent,
    })
}

fn authorise(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer "))
        .unwrap_or_default();
    // constant time: the answer's delay must not tell how much of a guess was right
    if bool::from(given.as_bytes().ct_eq(app.token.as_bytes())) {
        Ok(())
    } else {
        let message = "the bearer token is missing or wrong; it is in the service's token file";
        Err(ApiError::new(401, "invalid_request_error", "invalid_api_key", message))
    }
}

async fn generate(app: &Arc<App>, endpoint: Endpoint, request: Request) -> Result<Response<Body>, ApiError> {
    let leaving = || ApiError::new(503, "server_error", "shutting_down", "the server is leaving; try again");
    if app.shared.draining.load(Relaxed) {
        return Err(leaving());
    }
    let body = axum::body::to_bytes(request.into_body(), app.limits.body).await.map_err(|_| {
        let message = format!("the request body is unreadable or longer than {} bytes", app.limits.body);
        ApiError::new(413, "invalid_request_error", "body_too_large", message)
    })?;
    let call = parse(endpoint, &body, &app.models, &app.limits)?;
    let wanted = u32::try_from(call.choices()).unwrap_or(u32::MAX);
    let permit = match Arc::clone(&app.places).try_acquire_many_owned(wanted) {
        Ok(permit) => permit,
        Err(TryAcquireError::NoPermits) => {
            let message = "too many sequences are waiting; try again in a moment";
            return Err(ApiError::new(429, "rate_limit_error", "queue_full", message));
        }
        Err(TryAcquireError::Closed) => return Err(leaving()),
    };
    let head = Head::new(&call);
    let (reply, mut outs) = unbounded_channel();
    app.jobs.send(Job { call: call.clone(), reply, permit }).map_err(|_| leaving())?;
    let prompt_tokens = match outs.recv().await {
        Some(Out::Accepted { prompt_tokens }) => prompt_tokens,
        Some(Out::Refused(e)) => return Err(e),
        Some(Out::Piece { .. }) | None => return Err(leaving()),
    };
    if call.stream {
        Ok(stream(call, head, outs, prompt_tokens))
    } else {
        whole(&call, &head, outs, prompt_tokens).await
    }
}

/// Waits for every choice and answers at once.
async fn whole(
    call: &Call,
    head: &Head,
    mut outs: UnboundedReceiver<Out>,
    prompt_tokens: usize,
) -> Result<Response<Body>, ApiError> {
    let mut choices = vec![Piece::default(); call.choices()];
    let mut generated = vec![0; call.choices()];
    let mut left = call.choices();
    while left > 0 {
        match outs.recv().await {
            Some(Out::Piece { index, piece, tokens }) => {
                left -= usize::from(piece.finish.is_some());
                generated[index] = tokens;
                let choice = &mut choices[index];
                choice.text.push_str(&piece.text);
                choice.tokens.extend(piece.tokens);
                choice.finish = piece.finish;
            }
            Some(Out::Refused(e)) => return Err(e),
            Some(Out::Accepted { .. }) => {}
            None => {
                let message = "the server stopped before the answer was complete; try again";
                return Err(ApiError::new(503, "server_error", "shutting_down", message));
            }
        }
    }
    Ok(json(200, &head.answer(&choices, usage(prompt_tokens, generated.iter().sum()))))
}

/// Server-sent events. A client that leaves drops the receiving end, which cancels its sequences.
fn stream(call: Call, head: Head, mut outs: UnboundedReceiver<Out>, prompt_tokens: usize) -> Response<Body> {
    let (sender, receiver) = channel::<Result<Bytes, Infallible>>(64);
    tokio::spawn(async move {
        let event = |doc: &serde_json::Value| Ok(Bytes::from(format!("data: {doc}\n\n")));
        let mut first = vec![true; call.choices()];
        let mut generated = vec![0; call.choices()];
        let mut left = call.choices();
        while left > 0 {
            let chunk = match outs.recv().await {
                Some(Out::Piece { index, piece, tokens }) => {
                    left -= usize::from(piece.finish.is_some());
                    generated[index] = tokens;
                    let silent = piece.text.is_empty() && piece.finish.is_none() && !call.logprobs;
                    if silent && !first[index] {
                        continue;
                    }
                    let first = std::mem::replace(&mut first[index], false);
                    event(&head.chunk(index, &piece, first))
                }
                Some(Out::Refused(e)) => {
                    let _ = sender.send(event(&e.body())).await;
                    return;
                }
                Some(Out::Accepted { .. }) => continue,
                // no [DONE]: the client can see that the answer is not whole
                None => return,
            };
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
        if call.stream_usage {
            let usage = usage(prompt_tokens, generated.iter().sum());
            let _ = sender.send(event(&head.usage_chunk(usage))).await;
        }
        let _ = sender.send(Ok(Bytes::from_static(b"data: [DONE]\n\n"))).await;
    });
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(receiver)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache"));
    response
}

fn json(status: u16, doc: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(doc.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn text(body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn refusal(e: &ApiError) -> Response<Body> {
    let mut response = json(e.status, &e.body());
    if matches!(e.status, 429 | 503) {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    response
}
