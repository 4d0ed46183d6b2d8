//! Fetching from a server of our own that speaks the Hub's protocol and misbehaves on demand.

mod server;

use hub::{Client, Fetch, Fetched, HubError, Patterns, Progress, Settings, Silent, Token, fetch};
use record::source::HubRef;
use server::{Fault, Server};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

fn settings(server: &Server, cache: &Path) -> Settings {
    Settings {
        endpoint: server.endpoint(),
        cache: cache.to_owned(),
        token: None,
        offline: false,
        patience: Duration::ZERO,
    }
}

fn get_with(
    settings: Settings,
    of: &str,
    patterns: &Patterns,
    progress: &dyn Progress,
) -> hub::Result<Fetched> {
    let of: HubRef = of.parse().unwrap();
    let want = Fetch { of: &of, patterns, check: false, workers: 3 };
    fetch(&Client::new(settings), &want, progress)
}

fn get(server: &Server, cache: &Path, of: &str) -> hub::Result<Fetched> {
    get_with(settings(server, cache), of, &Patterns::default(), &Silent)
}

fn refusal(server: &Server, of: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    get(server, dir.path(), of).unwrap_err().to_string()
}

/// Every blob that is not whole yet.
fn incomplete(cache: &Path) -> Vec<PathBuf> {
    let blobs = cache.join("models--org--tiny/blobs");
    let all = std::fs::read_dir(blobs).unwrap().map(|e| e.unwrap().path());
    all.filter(|p| p.extension().is_some_and(|e| e == "incomplete")).collect()
}

const TINY: &str = "hf://org/tiny";

#[test]
fn a_model_arrives_in_the_standard_layout_and_is_not_fetched_twice() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let got = get(&server, dir.path(), TINY).unwrap();
    assert_eq!(got.of.to_string(), format!("hf://org/tiny@{}", server::COMMIT));
    let snapshot = dir.path().join("models--org--tiny/snapshots").join(server::COMMIT);
    assert_eq!(got.snapshot, snapshot);
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        assert_eq!(std::fs::read(snapshot.join(file)).unwrap(), server::content(file), "{file}");
        let target = std::fs::read_link(snapshot.join(file)).unwrap();
        assert!(target.starts_with("../../blobs"), "{}", target.display());
    }
    // weights in another format, and what no loader reads
    assert!(!snapshot.join("pytorch_model.bin").exists() && !snapshot.join("README.md").exists());
    let main = std::fs::read_to_string(dir.path().join("models--org--tiny/refs/main")).unwrap();
    assert_eq!(main, server::COMMIT);
    assert_eq!(got.pin.files["model.safetensors"].bytes, server::content("model.safetensors").len() as u64);
    let before = server.downloads();
    let again = get(&server, dir.path(), TINY).unwrap();
    assert_eq!((again.brought, server.downloads()), (0, before));
    assert_eq!(again.pin, got.pin);
}

#[test]
fn an_interrupted_transfer_is_continued_and_not_begun_again() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    server.fault("model.safetensors", Fault::CutAfter(1000));
    server.fault("model.safetensors", Fault::CutAfter(5000));
    get(&server, dir.path(), TINY).unwrap();
    let ranges = server.ranges("model.safetensors");
    assert_eq!(ranges, [None, Some(1000), Some(6000)]);
}

#[test]
fn what_an_earlier_fetch_left_is_continued() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    // every connection of the first fetch brings nothing after the first 1000 bytes
    server.fault("model.safetensors", Fault::CutAfter(1000));
    for _ in 0..8 {
        server.fault("model.safetensors", Fault::CutAfter(0));
    }
    let e = get(&server, dir.path(), TINY).unwrap_err();
    assert!(e.to_string().contains("HF_ENDPOINT"), "{e}");
    assert_eq!(std::fs::metadata(&incomplete(dir.path())[0]).unwrap().len(), 1000);
    server.heal();
    get(&server, dir.path(), TINY).unwrap();
    assert_eq!(server.ranges("model.safetensors").last(), Some(&Some(1000)));
    assert!(incomplete(dir.path()).is_empty());
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    server.fault("model.safetensors", Fault::CutAfter(1000));
    server.fault("model.safetensors", Fault::NoRanges);
    let got = get(&server, dir.path(), TINY).unwrap();
    assert_eq!(
        std::fs::read(got.snapshot.join("model.safetensors")).unwrap(),
        server::content("model.safetensors")
    );
}

#[test]
fn damage_is_found_by_the_hash_and_fetched_once_more() {
    for file in ["model.safetensors", "config.json"] {
        let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
        server.fault(file, Fault::Flip);
        let got = get(&server, dir.path(), TINY).unwrap();
        assert_eq!(std::fs::read(got.snapshot.join(file)).unwrap(), server::content(file));
        server.fault(file, Fault::Flip);
        server.fault(file, Fault::Flip);
        let other = tempfile::tempdir().unwrap();
        let e = get(&server, other.path(), TINY).unwrap_err();
        assert!(matches!(&e, HubError::Checksum { file: f, .. } if f == file), "{e}");
        assert!(!other.path().join("models--org--tiny/snapshots").exists(), "nothing damaged is kept");
    }
}

#[test]
fn a_damaged_blob_in_the_cache_is_found_by_check() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let got = get(&server, dir.path(), TINY).unwrap();
    let file = got.snapshot.join("model.safetensors");
    let blob = std::fs::canonicalize(&file).unwrap();
    std::fs::write(&blob, "damaged").unwrap();
    let of: HubRef = TINY.parse().unwrap();
    let patterns = Patterns::default();
    let want = Fetch { of: &of, patterns: &patterns, check: true, workers: 1 };
    fetch(&Client::new(settings(&server, dir.path())), &want, &Silent).unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), server::content("model.safetensors"));
}

#[test]
fn too_many_requests_and_a_server_in_trouble_are_waited_for() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    server.fault("api", Fault::Status(429, ""));
    server.fault("api", Fault::Status(503, ""));
    server.fault("model.safetensors", Fault::Status(429, ""));
    server.fault("config.json", Fault::Status(502, ""));
    get(&server, dir.path(), TINY).unwrap();
    for _ in 0..5 {
        server.fault("api", Fault::Status(429, ""));
    }
    assert!(refusal(&server, TINY).contains("429"));
}

#[test]
fn refusals_say_what_to_do() {
    let server = Server::start();
    let said = refusal(&server, "hf://org/nothing");
    assert!(
        said.contains("there is no model `org/nothing`") && said.contains("hf://datasets/org/nothing"),
        "{said}"
    );
    let said = refusal(&server, "hf://org/tiny@nope");
    assert!(said.contains("has no revision `nope`"), "{said}");
    let said = refusal(&server, "hf://org/private");
    assert!(said.contains("HF_TOKEN") && said.contains("hf auth login"), "{said}");
    let said = refusal(&server, "hf://org/gated");
    assert!(said.contains("/org/gated") && said.contains("accept the conditions"), "{said}");
    let dir = tempfile::tempdir().unwrap();
    let bad = Settings { token: Some(Token::new("hf_wrong", "HF_TOKEN")), ..settings(&server, dir.path()) };
    let e = get_with(bad, "hf://org/private", &Patterns::default(), &Silent).unwrap_err().to_string();
    assert!(e.contains("refuses the token") && !e.contains("hf_wrong"), "{e}");
    let offline = Settings { offline: true, ..settings(&server, dir.path()) };
    let e = get_with(offline, TINY, &Patterns::default(), &Silent).unwrap_err().to_string();
    assert!(e.contains("HF_HUB_OFFLINE"), "{e}");
    let gone = Settings { endpoint: "http://127.0.0.1:1".into(), ..settings(&server, dir.path()) };
    let e = get_with(gone, TINY, &Patterns::default(), &Silent).unwrap_err().to_string();
    assert!(e.contains("cannot reach") && e.contains("login node"), "{e}");
}

#[test]
fn the_token_opens_what_is_private_and_never_leaves_the_endpoint() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let mine =
        Settings { token: Some(Token::new(server::SECRET, "HF_TOKEN")), ..settings(&server, dir.path()) };
    get_with(mine, "hf://org/private", &Patterns::default(), &Silent).unwrap();
    // weights come over a redirect to another host, as from the Hub's storage
    assert!(server.storage_requests() > 0);
    assert_eq!(server.tokens_at_storage(), 0);
}

#[test]
fn a_commit_that_is_not_the_asked_one_is_refused() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    server.fault("config.json", Fault::OtherCommit);
    let e = get(&server, dir.path(), TINY).unwrap_err().to_string();
    assert!(e.contains("instead of"), "{e}");
}

#[test]
fn a_listing_without_sizes_and_hashes_is_completed_from_the_headers() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    server.plain_listing();
    let got = get(&server, dir.path(), TINY).unwrap();
    assert_eq!(
        std::fs::read(got.snapshot.join("model.safetensors")).unwrap(),
        server::content("model.safetensors")
    );
    assert_eq!(got.pin.files["model.safetensors"].etag.len(), 64);
}

#[test]
fn shards_are_those_of_the_index_and_a_data_set_brings_its_tables() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let got = get(&server, dir.path(), "hf://org/sharded").unwrap();
    let names: Vec<&str> = got.pin.files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json"
        ]
    );
    let got = get(&server, dir.path(), "hf://datasets/org/rows@v1").unwrap();
    assert!(got.snapshot.starts_with(dir.path().join("datasets--org--rows")));
    assert!(got.snapshot.join("data/train.jsonl").is_file() && !got.snapshot.join("make.py").exists());
    let only = Patterns::new(&["*.csv".into()], &[]).unwrap();
    let got = get_with(settings(&server, dir.path()), "hf://datasets/org/rows@v1", &only, &Silent).unwrap();
    assert_eq!(got.pin.files.keys().collect::<Vec<_>>(), ["extra.csv"]);
}

#[test]
fn two_fetches_at_a_time_share_the_work() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| get(&server, dir.path(), TINY).unwrap());
        }
    });
    assert_eq!(server.ranges("model.safetensors").len(), 1, "one of them brought it");
}

/// Remembers what it is told.
#[derive(Default)]
struct Told(Mutex<(u64, i64, Vec<String>)>);

impl Progress for Told {
    fn begin(&self, _: &str, _: usize, bytes: u64) {
        self.0.lock().unwrap().0 = bytes;
    }
    fn add(&self, bytes: u64) {
        self.0.lock().unwrap().1 += bytes as i64;
    }
    fn take_back(&self, bytes: u64) {
        self.0.lock().unwrap().1 -= bytes as i64;
    }
    fn note(&self, text: &str) {
        self.0.lock().unwrap().2.push(text.to_owned());
    }
    fn done(&self, _: &str, _: u64) {}
}

#[test]
fn progress_ends_at_what_was_announced_whatever_went_wrong() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    server.fault("model.safetensors", Fault::CutAfter(1000));
    server.fault("model.safetensors", Fault::NoRanges);
    server.fault("config.json", Fault::Flip);
    let told = Told::default();
    get_with(settings(&server, dir.path()), TINY, &Patterns::default(), &told).unwrap();
    let told = told.0.into_inner().unwrap();
    assert_eq!(told.0 as i64, told.1);
    assert!(told.2.iter().any(|n| n.contains("config.json")), "{:?}", told.2);
}
