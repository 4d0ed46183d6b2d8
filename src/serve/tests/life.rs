//! The life of a service: found, lost, found again; leaves when nobody needs it.

mod common;

use common::{Server, lease, service};
use generate::Message;
use serve::client::{Client, ClientError, Patience};
use serve::{Chat, Left, Service};
use std::time::Duration;

fn patience() -> Patience {
    Patience {
        pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(5),
        ..Patience::default()
    }
}

fn hello(seed: u64) -> Chat {
    Chat {
        messages: vec![Message { role: "user".into(), content: "hello".into() }],
        n: 2,
        temperature: 1.0,
        top_p: 1.0,
        max_tokens: 50,
        seed: Some(seed),
        stop: vec![],
    }
}

fn texts(reply: &serve::Reply) -> Vec<&str> {
    reply.choices.iter().map(|c| c.text.as_str()).collect()
}

#[test]
fn it_leaves_when_every_consumer_has_its_result() {
    let dir = tempfile::tempdir().unwrap();
    let consumers: Vec<_> = ["a", "b"].iter().map(|n| dir.path().join(n)).collect();
    for c in &consumers {
        std::fs::create_dir(c).unwrap();
    }
    let server = Server::start(Service { consumers: consumers.clone(), ..service(dir.path(), 1) });
    server.endpoint();
    std::fs::write(consumers[0].join(record::layout::RESULT), "{}").unwrap();
    // one is not enough: it still answers
    Client::of_service(dir.path(), patience()).chat(&hello(1)).unwrap();
    std::fs::write(consumers[1].join(record::layout::RESULT), "{}").unwrap();
    let (left, report) = server.join();
    assert_eq!((left, report.requests), (Left::ConsumersDone, 1));
    assert!(lease(dir.path()).draining);
}

#[test]
fn it_leaves_when_it_is_idle() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Service { idle_timeout: Duration::ZERO, ..service(dir.path(), 1) });
    assert_eq!(server.join().0, Left::Idle);
}

#[test]
fn a_client_finds_a_restarted_service_elsewhere_with_another_token() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::of_service(dir.path(), patience());
    let first = Server::start(service(dir.path(), 1));
    assert_eq!(texts(&client.chat(&hello(1)).unwrap()), ["1:hello", "2:hello"]);
    let old = first.endpoint();
    assert_eq!(first.stop().0, Left::Stopped);
    let second = Server::start(service(dir.path(), 2));
    assert_eq!(texts(&client.chat(&hello(5)).unwrap()), ["5:hello", "6:hello"]);
    let new = second.endpoint();
    assert_ne!((old.url, old.token), (new.url, new.token));
    second.stop();
}

#[test]
fn running_answers_are_finished_before_it_leaves_and_new_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(service(dir.path(), 1));
    let at = server.endpoint();
    server.gate.set(true);
    let running = {
        let dir = dir.path().to_owned();
        std::thread::spawn(move || Client::of_service(&dir, patience()).chat(&hello(3)).unwrap())
    };
    while !common::call(&at, "GET", "/metrics", "").1.contains("bessemer_requests_total 1") {
        std::thread::yield_now();
    }
    server.ask_to_stop();
    server.gate.set(false);
    assert_eq!(texts(&running.join().unwrap()), ["3:hello", "4:hello"]);
    let (left, report) = server.join();
    assert_eq!((left, report.requests), (Left::Stopped, 1));
}

#[test]
fn an_answer_that_takes_too_long_does_not_keep_it_from_leaving() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Service { drain_limit: Duration::ZERO, ..service(dir.path(), 1) });
    let at = server.endpoint();
    let asked = {
        let at = at.clone();
        std::thread::spawn(move || {
            let body = r#"{"model": "tiny", "messages": [{"role": "user", "content": "forever"}], "max_tokens": 100000}"#;
            common::call(&at, "POST", "/v1/chat/completions", body).0
        })
    };
    while !common::call(&at, "GET", "/metrics", "").1.contains("bessemer_requests_total 1") {
        std::thread::yield_now();
    }
    server.stop();
    assert!(matches!(asked.join().unwrap(), 200 | 503));
}

#[test]
fn waiting_for_a_service_that_never_comes_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let short = Patience { ready: Duration::ZERO, ..patience() };
    let wait = || Client::of_service(dir.path(), short.clone()).wait_ready().unwrap_err();
    assert!(wait().to_string().contains("no lease"), "{}", wait());
    let server = Server::start(service(dir.path(), 1));
    server.endpoint();
    server.stop();
    assert!(wait().to_string().contains("leaving"), "{}", wait());
    let mut old = lease(dir.path());
    (old.draining, old.heartbeat_ms) = (false, 1);
    record::atomic::write_json(&dir.path().join(record::layout::SERVICE), &old).unwrap();
    assert!(wait().to_string().contains("heartbeat"), "{}", wait());
    let stopped = Client::of_service(dir.path(), patience()).stopping_when(|| true);
    assert!(matches!(stopped.wait_ready(), Err(ClientError::Stopped)));
}

#[test]
fn a_refused_request_is_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(service(dir.path(), 1));
    let client = Client::of_service(dir.path(), patience());
    let error = client.chat(&Chat { temperature: 9.0, ..hello(1) }).unwrap_err();
    assert!(matches!(error, ClientError::Refused { status: 400, .. }), "{error}");
    assert!(error.to_string().contains("temperature"), "{error}");
    let fixed = Client::of_url(serve::Endpoint { token: None, ..server.endpoint() }, patience());
    assert!(matches!(fixed.chat(&hello(1)), Err(ClientError::Refused { status: 401, .. })));
    server.stop();
}
