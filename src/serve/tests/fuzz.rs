//! Whatever a body says, the answer is the API's: 200, or a 4xx with OpenAI's error body; and the next request is served.

mod common;

use common::{Server, call, json, service};
use proptest::prelude::*;
use serde_json::{Value, json as doc};

/// Any JSON value, with an inclination to what the API's fields hold.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-3i64..300).prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop::sample::select(vec!["tiny", "user", "system", "text", "", "\u{0}"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        let key = prop::sample::select(vec!["role", "content", "type", "text", "include_usage", "x"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4)
                .prop_map(|m| Value::Object(m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

const FIELDS: [&str; 22] = [
    "model",
    "messages",
    "prompt",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "tools",
    "response_format",
    "user",
    "nonsense",
];

/// A request that would be served, with up to four fields replaced by anything.
fn body() -> impl Strategy<Value = (bool, Value)> {
    let changes = prop::collection::vec((prop::sample::select(FIELDS.to_vec()), value()), 0..5);
    (any::<bool>(), changes).prop_map(|(chat, changes)| {
        let mut body = doc!({"model": "tiny", "max_tokens": 5});
        if chat {
            body["messages"] = doc!([{"role": "user", "content": "hi"}]);
        } else {
            body["prompt"] = "hi".into();
        }
        for (field, value) in changes {
            body[field] = value;
        }
        (chat, body)
    })
}

#[test]
fn any_body_gets_an_answer_of_the_api_and_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(service(dir.path(), 1));
    let at = server.endpoint();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(400));
    let answered = runner.run(&body(), |(chat, body)| {
        let path = if chat { "/v1/chat/completions" } else { "/v1/completions" };
        let (status, text) = call(&at, "POST", path, &body.to_string());
        // 429: the answer before this one has not given its place back yet
        prop_assert!(matches!(status, 200 | 400 | 404 | 413 | 429), "{status} {text}");
        if status != 200 {
            let error = &json(&text)["error"];
            prop_assert!(error["message"].is_string() && error["type"].is_string(), "{text}");
        }
        Ok(())
    });
    answered.unwrap();
    for broken in ["", "{", "[]", "\"x\"", "{\"model\": \"tiny\", \"prompt\": \"\\ud800\"}", "\u{0}"] {
        let (status, text) = call(&at, "POST", "/v1/completions", broken);
        assert_eq!(
            (status, json(&text)["error"]["type"].as_str()),
            (400, Some("invalid_request_error")),
            "{broken:?}"
        );
    }
    let fine = r#"{"model": "tiny", "prompt": "hi", "seed": 1}"#;
    while call(&at, "POST", "/v1/completions", fine).0 == 429 {
        std::thread::yield_now();
    }
    assert_eq!(call(&at, "POST", "/v1/completions", fine).0, 200);
    server.stop();
}
