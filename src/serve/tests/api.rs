//! The OpenAI API over a fake engine, as any client sees it.

mod common;

use common::{Server, call, json, service};
use std::io::{Read, Write};

fn chat(extra: &str, content: &str) -> String {
    format!(r#"{{"model": "tiny", "messages": [{{"role": "user", "content": "{content}"}}]{extra}}}"#)
}

/// The events of a stream, without the closing one; panics if that is missing.
fn events(body: &str) -> Vec<serde_json::Value> {
    let mut lines: Vec<&str> = body.lines().filter_map(|l| l.strip_prefix("data: ")).collect();
    assert_eq!(lines.pop(), Some("[DONE]"), "{body}");
    lines.into_iter().map(json).collect()
}

#[test]
fn answers_have_n_choices_with_their_own_seeds_and_usage() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(service(dir.path(), 1));
    let at = server.endpoint();
    let (status, body) = call(&at, "POST", "/v1/chat/completions", &chat(r#", "n": 2, "seed": 7"#, "hi"));
    let doc = json(&body);
    assert_eq!((status, doc["object"].as_str()), (200, Some("chat.completion")), "{body}");
    let texts: Vec<&str> =
        (0..2).map(|i| doc["choices"][i]["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(texts, ["7:hi", "8:hi"]);
    assert_eq!(doc["usage"]["completion_tokens"], 8);
    assert_eq!(doc["choices"][0]["finish_reason"], "stop");
    let (_, body) =
        call(&at, "POST", "/v1/chat/completions", &chat(r#", "max_tokens": 3, "seed": 1"#, "hey"));
    let cut = &json(&body)["choices"][0];
    assert_eq!(
        (cut["message"]["content"].as_str(), cut["finish_reason"].as_str()),
        (Some("1:h"), Some("length"))
    );
    server.stop();
}

#[test]
fn streams_say_the_same_as_whole_answers_stop_texts_included() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(service(dir.path(), 1));
    let at = server.endpoint();
    let extra = r#", "n": 2, "seed": 3, "stop": ["END", "lo E"]"#;
    let body = chat(extra, "hello EnENDmore");
    let (_, whole) = call(&at, "POST", "/v1/chat/completions", &body);
    let streamed = chat(
        &format!(r#"{extra}, "stream": true, "stream_options": {{"include_usage": true}}"#),
        "hello EnENDmore",
    );
    let (status, stream) = call(&at, "POST", "/v1/chat/completions", &streamed);
    assert_eq!(status, 200);
    let mut texts = [String::new(), String::new()];
    let mut finishes = 0;
    let mut roles = 0;
    let list = events(&stream);
    for event in &list {
        for choice in event["choices"].as_array().unwrap() {
            let i = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
            texts[i].push_str(choice["delta"]["content"].as_str().unwrap_or_default());
            finishes += usize::from(choice["finish_reason"].is_string());
            roles += usize::from(choice["delta"]["role"] == "assistant");
        }
    }
    assert_eq!((finishes, roles), (2, 2));
    assert_eq!(texts, ["3:hel", "4:hel"]);
    assert_eq!(json(&whole)["choices"][1]["message"]["content"], texts[1]);
    assert_eq!(list.last().unwrap()["usage"]["prompt_tokens"], 15);
    server.stop();
}

#[test]
fn completions_take_several_prompts_and_give_logprobs() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(service(dir.path(), 1));
    let at = server.endpoint();
    let body = r#"{"model": "tiny", "prompt": ["a", [98]], "n": 2, "seed": 0, "logprobs": 1}"#;
    let (status, answer) = call(&at, "POST", "/v1/completions", body);
    let doc = json(&answer);
    assert_eq!(status, 200, "{answer}");
    let texts: Vec<&str> =
        doc["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["0:a", "1:a", "0:b", "1:b"]);
    let logprobs = &doc["choices"][3]["logprobs"];
    assert_eq!(logprobs["tokens"], serde_json::json!(["1", ":", "b"]));
    assert_eq!(logprobs["token_logprobs"], serde_json::json!([-0.5, -0.5, -0.5]));
    assert_eq!(logprobs["text_offset"], serde_json::json!([0, 1, 2]));
    let (_, answer) =
        call(&at, "POST", "/v1/chat/completions", &chat(r#", "logprobs": true, "seed": 0"#, "z"));
    assert_eq!(json(&answer)["choices"][0]["logprobs"]["content"][2]["bytes"], serde_json::json!([122]));
    server.stop();
}

#[test]
fn bad_input_gets_the_error_body_and_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(service(dir.path(), 1));
    let at = server.endpoint();
    let post = "/v1/chat/completions";
    let long = "y".repeat(5000);
    let huge = "y".repeat(20_000);
    let cases = [
        (post, "not json".to_owned(), 400, "body"),
        (post, "[1]".to_owned(), 400, "body"),
        (post, r#"{"model": "tiny"}"#.to_owned(), 400, "messages"),
        (post, chat(r#", "n": 5"#, "x"), 400, "n"),
        (post, chat(r#", "top_p": 1.5"#, "x"), 400, "top_p"),
        (post, chat("", ""), 400, "messages"),
        (post, chat("", &long), 400, "messages"),
        (post, chat("", "x").replace("tiny", "gpt-4"), 404, "model"),
        ("/v1/completions", r#"{"model": "tiny", "prompt": {}}"#.to_owned(), 400, "prompt"),
    ];
    for (path, body, status, param) in cases {
        let (got, answer) = call(&at, "POST", path, &body);
        let error = json(&answer)["error"].clone();
        assert_eq!((got, error["param"].as_str()), (status, Some(param)), "{body} -> {answer}");
        assert!(error["message"].as_str().is_some_and(|m| m.len() > 10) && error["type"].is_string());
    }
    assert_eq!(call(&at, "POST", post, &chat("", &huge)).0, 413);
    assert_eq!(call(&at, "GET", post, "").0, 405);
    let (status, answer) = call(&at, "GET", "/v2/x", "");
    assert_eq!((status, json(&answer)["error"]["code"].as_str()), (404, Some("unknown_url")));
    assert_eq!(call(&at, "POST", post, &chat("", "fine")).0, 200);
    server.stop();
}

#[test]
fn only_the_token_opens_the_door_but_probes_need_none() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(service(dir.path(), 1));
    let at = server.endpoint();
    for token in [None, Some("wrong".to_owned()), at.token.clone().map(|t| t[..10].to_owned())] {
        let stranger = serve::Endpoint { token, ..at.clone() };
        assert_eq!(call(&stranger, "GET", "/v1/models", "").0, 401);
        assert_eq!(call(&stranger, "POST", "/v1/completions", "{}").0, 401);
        assert_eq!(call(&stranger, "GET", "/health", "").0, 200);
        assert_eq!(call(&stranger, "GET", "/metrics", "").0, 200);
    }
    assert_eq!(json(&call(&at, "GET", "/v1/models", "").1)["data"][0]["id"], "tiny");
    assert_eq!(call(&at, "GET", "/v1/models/tiny", "").0, 200);
    assert_eq!(call(&at, "GET", "/v1/models/other", "").0, 404);
    server.stop();
}

#[test]
fn a_full_queue_is_429_and_empties_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(service(dir.path(), 1));
    let at = server.endpoint();
    server.gate.set(true);
    let first = {
        let at = at.clone();
        std::thread::spawn(move || call(&at, "POST", "/v1/chat/completions", &chat(r#", "n": 4"#, "a")).0)
    };
    // the first request holds all four places as soon as it has been taken
    while !call(&at, "GET", "/metrics", "").1.contains("bessemer_requests_total 1") {
        std::thread::yield_now();
    }
    let (status, answer) = call(&at, "POST", "/v1/chat/completions", &chat("", "b"));
    assert_eq!((status, json(&answer)["error"]["code"].as_str()), (429, Some("queue_full")));
    server.gate.set(false);
    assert_eq!(first.join().unwrap(), 200);
    // the place is given back just after the answer
    while call(&at, "POST", "/v1/chat/completions", &chat("", "b")).0 == 429 {
        std::thread::yield_now();
    }
    server.stop();
}

#[test]
fn a_failed_step_is_500_for_those_it_hit_and_nothing_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(service(dir.path(), 1));
    let at = server.endpoint();
    let (status, answer) = call(&at, "POST", "/v1/chat/completions", &chat("", "break"));
    assert_eq!((status, json(&answer)["error"]["code"].as_str()), (500, Some("generation_failed")));
    assert_eq!(call(&at, "POST", "/v1/chat/completions", &chat("", "ok")).0, 200);
    server.stop();
}

#[test]
fn a_client_that_leaves_has_its_sequences_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(service(dir.path(), 1));
    let at = server.endpoint();
    let body = chat(r#", "stream": true, "max_tokens": 100000"#, "forever");
    let mut socket = std::net::TcpStream::connect(at.url.strip_prefix("http://").unwrap()).unwrap();
    write!(
        socket,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        at.token.clone().unwrap(),
        body.len()
    )
    .unwrap();
    let mut some = [0u8; 300];
    socket.read_exact(&mut some).unwrap();
    drop(socket);
    let gone =
        |text: &str| text.contains("bessemer_cancelled_total 1") && text.contains("bessemer_sequences 0");
    while !gone(&call(&at, "GET", "/metrics", "").1) {
        std::thread::yield_now();
    }
    server.stop();
}

#[test]
fn adapters_are_listed_and_chosen_by_name_in_one_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(service(dir.path(), 1));
    let at = server.endpoint();
    let list = json(&call(&at, "GET", "/v1/models", "").1);
    let names: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["tiny", "tiny-sft"]);
    assert_eq!(list["data"][1]["parent"], "tiny");
    assert_eq!(call(&at, "GET", "/v1/models/tiny-sft", "").0, 200);
    let ask = |model: &str| {
        let body = chat(r#", "seed": 1"#, "x").replace("tiny", model);
        json(&call(&at, "POST", "/v1/chat/completions", &body).1)
    };
    assert_eq!(ask("tiny")["choices"][0]["message"]["content"], "1:x");
    let tuned = ask("tiny-sft");
    assert_eq!(
        (tuned["model"].as_str(), tuned["choices"][0]["message"]["content"].as_str()),
        (Some("tiny-sft"), Some("tiny-sft/1:x"))
    );
    server.stop();
}

/// Lines of Prometheus' text format, checked as `promtool check metrics` does: HELP and TYPE before the samples of a
/// name, names and labels well formed, values numbers, counters named `_total`.
#[test]
fn metrics_are_valid_prometheus_text() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(service(dir.path(), 1));
    let at = server.endpoint();
    call(&at, "POST", "/v1/chat/completions", &chat("", "x"));
    call(&at, "POST", "/v1/chat/completions", "nonsense");
    let text = call(&at, "GET", "/metrics", "").1;
    assert!(text.ends_with('\n'));
    let word =
        |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
    let (mut kind, mut helped) = (String::new(), String::new());
    let mut seen = std::collections::HashSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            helped = rest.split(' ').next().unwrap().to_owned();
            assert!(seen.insert(helped.clone()), "{helped} twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, what) = rest.split_once(' ').unwrap();
            assert_eq!(name, helped);
            assert_eq!(what == "counter", name.ends_with("_total"), "{line}");
            kind = what.to_owned();
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = name.split_once('{').unwrap_or((name, "}"));
            assert!(word(name) && name == helped && ["counter", "gauge"].contains(&kind.as_str()), "{line}");
            for label in labels.strip_suffix('}').unwrap().split(',').filter(|l| !l.is_empty()) {
                let (key, value) = label.split_once('=').unwrap();
                assert!(
                    word(key) && value.len() >= 2 && value.starts_with('"') && value.ends_with('"'),
                    "{line}"
                );
            }
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    assert!(text.contains("bessemer_answers_total{code=\"400\"} 1"), "{text}");
    for row in [
        "kv_pages_limit 7",
        "kv_pages_kept 2",
        "kv_page_bytes 1024",
        "preemptions_total 3",
        "reused_tokens_total 48",
    ] {
        assert!(text.contains(&format!("\nbessemer_{row}\n")), "{row}: {text}");
    }
    server.stop();
}
