//! A Hub on loopback: listings, redirects to a storage of its own, ranges, hashes, tokens, and faults on demand.

#![allow(dead_code, reason = "every test file uses its own part")]

use sha1::{Digest, Sha1};
use sha2::Sha256;
use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const SECRET: &str = "hf_the_right_one";

/// What to do wrong once.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Close the connection after so many bytes of the body.
    CutAfter(usize),
    /// Answer the whole file with status 200 whatever was asked.
    NoRanges,
    /// Change one byte.
    Flip,
    Status(u16, &'static str),
    OtherCommit,
}

#[derive(Default)]
struct State {
    faults: HashMap<String, VecDeque<Fault>>,
    /// File -> first byte of each request for its content.
    ranges: HashMap<String, Vec<Option<usize>>>,
    storage: u32,
    storage_tokens: u32,
    plain: bool,
}

pub struct Server {
    hub: u16,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    ports: [u16; 2],
}

/// Content by name: a few bytes, or 20 kB for weights.
pub fn content(file: &str) -> Vec<u8> {
    match file {
        "model.safetensors.index.json" => {
            br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#.to_vec()
        }
        f if f.ends_with(".safetensors") => {
            f.bytes().cycle().zip(0u32..20_000).map(|(b, i)| b ^ (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
        }
        f => format!("{{\"file\": \"{f}\"}}\n").into_bytes(),
    }
}

fn files(id: &str) -> Option<&'static [&'static str]> {
    Some(match id {
        "models/org/tiny" | "models/org/private" | "models/org/gated" => {
            &["README.md", "config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json"]
        }
        "models/org/sharded" => &[
            "config.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.fp16.safetensors",
        ],
        "datasets/org/rows" => &["README.md", "data/train.jsonl", "extra.csv", "make.py"],
        _ => return None,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn large(file: &str) -> bool {
    file.ends_with(".safetensors")
}

fn etag(file: &str) -> String {
    let bytes = content(file);
    if large(file) {
        return hex(&Sha256::digest(&bytes));
    }
    hex(&Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(&bytes).finalize())
}

struct Request {
    path: String,
    range: Option<usize>,
    token: Option<String>,
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let (mut range, mut token) = (None, None);
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => range = value.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok(),
            "authorization" => token = value.strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    Some(Request { path, range, token })
}

fn answer(mut stream: TcpStream, status: u16, headers: &[(&str, String)], body: &[u8], length: usize) {
    let mut head = format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let _ =
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).and_then(|()| stream.flush());
}

impl Server {
    pub fn start() -> Self {
        let listeners =
            [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
        let ports = [0, 1].map(|i| listeners[i].local_addr().unwrap().port());
        let (state, stop) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        for (i, listener) in listeners.into_iter().enumerate() {
            let (state, stop, storage) = (state.clone(), stop.clone(), ports[1]);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (state, Ok(stream)) = (state.clone(), stream) else { continue };
                    std::thread::spawn(move || {
                        let Some(request) = read(&stream) else { return };
                        if i == 0 {
                            hub(stream, &request, &state, storage)
                        } else {
                            storage_of(stream, &request, &state)
                        }
                    });
                }
            });
        }
        Self { hub: ports[0], state, stop, ports }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.hub)
    }

    pub fn fault(&self, file: &str, fault: Fault) {
        self.state.lock().unwrap().faults.entry(file.into()).or_default().push_back(fault);
    }

    pub fn heal(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    pub fn plain_listing(&self) {
        self.state.lock().unwrap().plain = true;
    }

    pub fn ranges(&self, file: &str) -> Vec<Option<usize>> {
        self.state.lock().unwrap().ranges.get(file).cloned().unwrap_or_default()
    }

    pub fn downloads(&self) -> usize {
        self.state.lock().unwrap().ranges.values().map(Vec::len).sum()
    }

    pub fn storage_requests(&self) -> u32 {
        self.state.lock().unwrap().storage
    }

    pub fn tokens_at_storage(&self) -> u32 {
        self.state.lock().unwrap().storage_tokens
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // wakes the listeners
        for port in self.ports {
            let _ = TcpStream::connect(("127.0.0.1", port));
        }
    }
}

fn hub(stream: TcpStream, request: &Request, state: &Mutex<State>, storage: u16) {
    let path = request.path.split('?').next().unwrap();
    let error = |stream, status, code: &str| {
        answer(stream, status, &[("X-Error-Code", code.to_owned()), ("Retry-After", "0".into())], b"", 0);
    };
    let (id, revision, file) = if let Some(rest) = path.strip_prefix("/api/") {
        let (id, revision) = rest.split_once("/revision/").unwrap();
        (id.to_owned(), revision.to_owned(), None)
    } else {
        let (id, rest) = path[1..].split_once("/resolve/").unwrap();
        let (revision, file) = rest.split_once('/').unwrap();
        let id = if id.starts_with("datasets/") { id.to_owned() } else { format!("models/{id}") };
        (id, revision.to_owned(), Some(file.to_owned()))
    };
    let right = request.token.as_deref() == Some(SECRET);
    match id.as_str() {
        "models/org/private" if !right => return error(stream, 401, ""),
        "models/org/gated" => return error(stream, 403, "GatedRepo"),
        _ => {}
    }
    let Some(names) = files(&id) else { return error(stream, 404, "RepoNotFound") };
    if !["main", "v1", COMMIT].contains(&revision.as_str()) {
        return error(stream, 404, "RevisionNotFound");
    }
    let take = |name: &str| state.lock().unwrap().faults.get_mut(name).and_then(VecDeque::pop_front);
    let Some(file) = file else {
        if let Some(Fault::Status(status, code)) = take("api") {
            return error(stream, status, code);
        }
        let plain = state.lock().unwrap().plain;
        let siblings: Vec<_> = names
            .iter()
            .map(|f| match (plain, large(f)) {
                (true, _) => serde_json::json!({"rfilename": f}),
                (_, true) => serde_json::json!({
                    "rfilename": f, "size": content(f).len(), "blobId": "f".repeat(40),
                    "lfs": {"sha256": etag(f), "size": content(f).len(), "pointerSize": 130}
                }),
                _ => serde_json::json!({"rfilename": f, "size": content(f).len(), "blobId": etag(f)}),
            })
            .collect();
        let body = serde_json::json!({"id": id, "sha": COMMIT, "siblings": siblings}).to_string();
        return answer(stream, 200, &[], body.as_bytes(), body.len());
    };
    if !names.contains(&file.as_str()) {
        return error(stream, 404, "EntryNotFound");
    }
    let mut headers = vec![("X-Repo-Commit", COMMIT.to_owned())];
    if large(&file) {
        // the hash stands in the first answer only, as on the Hub
        headers.push(("X-Linked-Etag", format!("\"{}\"", etag(&file))));
        headers.push(("X-Linked-Size", content(&file).len().to_string()));
        headers.push(("Location", format!("http://127.0.0.1:{storage}/{file}?signature=secret")));
        return answer(stream, 302, &headers, b"", 0);
    }
    headers.push(("ETag", format!("W/\"{}\"", etag(&file))));
    give(stream, request, &file, take(&file), headers, state);
}

fn storage_of(stream: TcpStream, request: &Request, state: &Mutex<State>) {
    let file = request.path[1..].split('?').next().unwrap().to_owned();
    let fault = {
        let mut state = state.lock().unwrap();
        state.storage += 1;
        state.storage_tokens += u32::from(request.token.is_some());
        state.faults.get_mut(&file).and_then(VecDeque::pop_front)
    };
    give(stream, request, &file, fault, vec![("ETag", "\"storage-has-its-own\"".into())], state);
}

fn give(
    stream: TcpStream,
    request: &Request,
    file: &str,
    fault: Option<Fault>,
    mut headers: Vec<(&str, String)>,
    state: &Mutex<State>,
) {
    state.lock().unwrap().ranges.entry(file.into()).or_default().push(request.range);
    let mut body = content(file);
    let whole = body.len();
    let mut from = request.range.unwrap_or(0);
    let mut cut = None;
    match fault {
        Some(Fault::Status(status, code)) => {
            return answer(
                stream,
                status,
                &[("X-Error-Code", code.into()), ("Retry-After", "0".into())],
                b"",
                0,
            );
        }
        Some(Fault::CutAfter(n)) => cut = Some(n),
        Some(Fault::NoRanges) => from = 0,
        Some(Fault::Flip) => body[whole / 2] ^= 1,
        Some(Fault::OtherCommit) => headers[0].1 = "f".repeat(40),
        None => {}
    }
    let part = &body[from..];
    let status = if from > 0 { 206 } else { 200 };
    if from > 0 {
        headers.push(("Content-Range", format!("bytes {from}-{}/{whole}", whole - 1)));
    }
    let sent = &part[..cut.unwrap_or(part.len()).min(part.len())];
    answer(stream, status, &headers, sent, part.len());
}
