//! Requests and answers of the OpenAI API: validation in, JSON out.

use crate::Limits;
use crate::fields::{ApiError, Fields};
use crate::prompt::{Prompt, messages, prompts, stops};
use generate::{Finish, Sampling};
use serde_json::{Value, json};

/// The two generating endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completions,
}

/// A request that has passed validation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub endpoint: Endpoint,
    /// As the request named it.
    pub model: String,
    /// The adapter of that name; `None`: the engine's own weights.
    pub adapter: Option<String>,
    pub prompts: Vec<Prompt>,
    /// Choices per prompt.
    pub n: u32,
    pub sampling: Sampling,
    pub stream: bool,
    /// Whether a stream ends with a chunk about the tokens used.
    pub stream_usage: bool,
    pub logprobs: bool,
}

/// Names that requests may give as `model`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Models {
    pub base: String,
    pub adapters: Vec<String>,
}

impl Models {
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.base.as_str()).chain(self.adapters.iter().map(String::as_str))
    }

    fn adapter(&self, asked: &str) -> Result<Option<String>, ApiError> {
        if asked == self.base {
            return Ok(None);
        }
        if let Some(name) = self.adapters.iter().find(|a| *a == asked) {
            return Ok(Some(name.clone()));
        }
        let known: Vec<&str> = self.names().collect();
        let message =
            format!("the model {asked:?} does not exist here; this server has {}", known.join(", "));
        Err(ApiError {
            param: Some("model".into()),
            ..ApiError::new(404, "invalid_request_error", "model_not_found", message)
        })
    }
}

impl Call {
    /// Choices in all.
    pub fn choices(&self) -> usize {
        self.prompts.len() * self.n as usize
    }
}

/// Validates a request body.
pub(crate) fn parse(
    endpoint: Endpoint,
    body: &[u8],
    models: &Models,
    limits: &Limits,
) -> Result<Call, ApiError> {
    let mut f = Fields::parse(body)?;
    let model =
        f.text("model")?.ok_or_else(|| ApiError::bad("model", "you must provide a model parameter"))?;
    let adapter = models.adapter(&model)?;
    let prompts = match endpoint {
        Endpoint::Chat => vec![messages(f.take("messages"))?],
        Endpoint::Completions => prompts(f.take("prompt"))?,
    };
    // more than the whole queue would be "try again" for ever
    let most = limits.sequences.min(limits.choices as usize);
    let n = f.integer("n", 1..=most as u64)?.unwrap_or(1);
    let n = u32::try_from(n).map_err(|_| ApiError::bad("n", "n is too large"))?;
    if prompts.len().saturating_mul(n as usize) > most {
        let message = format!("prompts times n must be at most {most}");
        return Err(ApiError::bad("n", message));
    }
    let stream = f.flag("stream")?.unwrap_or(false);
    let stream_usage = match f.take("stream_options") {
        None => false,
        Some(_) if !stream => {
            return Err(ApiError::bad(
                "stream_options",
                "stream_options is only allowed when stream is true",
            ));
        }
        Some(o) => o.get("include_usage").and_then(Value::as_bool).unwrap_or(false),
    };
    let logprobs = match endpoint {
        Endpoint::Chat => {
            f.only("top_logprobs", &[json!(0)])?;
            f.flag("logprobs")?.unwrap_or(false)
        }
        // 1 is how most clients ask for the log-probabilities of the sampled tokens; alternatives are not kept
        Endpoint::Completions => f.integer("logprobs", 0..=1)?.is_some(),
    };
    let sampling = sampling(&mut f, limits)?;
    unsupported(&mut f)?;
    f.finish()?;
    Ok(Call { endpoint, model, adapter, prompts, n, sampling, stream, stream_usage, logprobs })
}

fn sampling(f: &mut Fields, limits: &Limits) -> Result<Sampling, ApiError> {
    let newer = f.integer("max_completion_tokens", 1..=u64::from(u32::MAX))?;
    let older = f.integer("max_tokens", 1..=u64::from(u32::MAX))?;
    let asked = newer.or(older).and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX);
    let seed = match f.take("seed") {
        None => random_seed(),
        // OpenAI's seeds are signed 64-bit
        Some(v) => v
            .as_u64()
            .or_else(|| v.as_i64().map(|n| n as u64))
            .ok_or_else(|| ApiError::bad("seed", "seed must be a 64-bit integer"))?,
    };
    Ok(Sampling {
        temperature: f.number("temperature", 0.0..=2.0)?.unwrap_or(1.0),
        top_p: f.number("top_p", 0.0..=1.0)?.unwrap_or(1.0),
        top_k: f.integer("top_k", 0..=1_000_000)?.and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        min_p: f.number("min_p", 0.0..=1.0)?.unwrap_or(0.0),
        repetition_penalty: f.number("repetition_penalty", 0.01..=10.0)?.unwrap_or(1.0),
        seed,
        max_new_tokens: asked.min(limits.max_new_tokens),
        stop: stops(f.take("stop"))?,
    })
}

/// Parameters of OpenAI's API whose effect this server does not have: refused unless neutral.
fn unsupported(f: &mut Fields) -> Result<(), ApiError> {
    for name in ["presence_penalty", "frequency_penalty"] {
        f.only(name, &[json!(0), json!(0.0)])?;
    }
    f.only("logit_bias", &[json!({})])?;
    f.only("best_of", &[json!(1)])?;
    f.only("echo", &[json!(false)])?;
    f.only("suffix", &[json!("")])?;
    f.only("tools", &[json!([])])?;
    f.only("tool_choice", &[json!("none"), json!("auto")])?;
    f.only("parallel_tool_calls", &[json!(true), json!(false)])?;
    f.only("response_format", &[json!({"type": "text"})])
}

fn random_seed() -> u64 {
    getrandom::u64().unwrap_or_else(|_| u64::try_from(record::now_ms()).unwrap_or(0))
}

/// A token as it is reported.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TokenText {
    pub text: String,
    pub logprob: f32,
}

/// Text and log-probabilities of a choice, or of the part of it that a chunk brings.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Piece {
    pub text: String,
    pub tokens: Vec<TokenText>,
    pub finish: Option<Finish>,
}

/// Facts that every answer repeats.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub id: String,
    pub created: i64,
    pub model: String,
    pub endpoint: Endpoint,
    pub logprobs: bool,
}

impl Head {
    pub fn new(call: &Call) -> Self {
        let prefix = if call.endpoint == Endpoint::Chat { "chatcmpl" } else { "cmpl" };
        Self {
            id: format!("{prefix}-{:016x}", random_seed()),
            created: record::now_ms() / 1000,
            model: call.model.clone(),
            endpoint: call.endpoint,
            logprobs: call.logprobs,
        }
    }

    fn wrap(&self, object: &str, choices: Vec<Value>, usage: Option<Value>) -> Value {
        let mut doc = json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices,
        });
        if let Some(usage) = usage {
            doc["usage"] = usage;
        }
        doc
    }

    /// The whole answer.
    pub fn answer(&self, choices: &[Piece], usage: Value) -> Value {
        let list = choices.iter().enumerate().map(|(index, piece)| {
            let mut choice = match self.endpoint {
                Endpoint::Chat => json!({
                    "index": index,
                    "message": {"role": "assistant", "content": piece.text, "refusal": null},
                }),
                Endpoint::Completions => json!({"index": index, "text": piece.text}),
            };
            self.finish(&mut choice, piece);
            choice
        });
        let object = match self.endpoint {
            Endpoint::Chat => "chat.completion",
            Endpoint::Completions => "text_completion",
        };
        self.wrap(object, list.collect(), Some(usage))
    }

    /// One chunk of a stream.
    pub fn chunk(&self, index: usize, piece: &Piece, first: bool) -> Value {
        let mut choice = match self.endpoint {
            Endpoint::Chat if first => {
                json!({"index": index, "delta": {"role": "assistant", "content": piece.text}})
            }
            Endpoint::Chat if piece.text.is_empty() => json!({"index": index, "delta": {}}),
            Endpoint::Chat => json!({"index": index, "delta": {"content": piece.text}}),
            Endpoint::Completions => json!({"index": index, "text": piece.text}),
        };
        self.finish(&mut choice, piece);
        self.wrap(self.chunk_object(), vec![choice], None)
    }

    /// The last chunk of a stream that asked for the tokens used.
    pub fn usage_chunk(&self, usage: Value) -> Value {
        self.wrap(self.chunk_object(), vec![], Some(usage))
    }

    fn chunk_object(&self) -> &'static str {
        match self.endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            Endpoint::Completions => "text_completion",
        }
    }

    fn finish(&self, choice: &mut Value, piece: &Piece) {
        choice["logprobs"] = match (self.logprobs, self.endpoint) {
            (false, _) => Value::Null,
            (true, Endpoint::Chat) => {
                let content: Vec<Value> = piece
                    .tokens
                    .iter()
                    .map(|t| {
                        json!({"token": t.text, "logprob": t.logprob, "bytes": t.text.as_bytes(), "top_logprobs": []})
                    })
                    .collect();
                json!({"content": content, "refusal": null})
            }
            (true, Endpoint::Completions) => {
                let mut at = 0;
                let offsets: Vec<usize> = piece
                    .tokens
                    .iter()
                    .map(|t| {
                        at += t.text.chars().count();
                        at - t.text.chars().count()
                    })
                    .collect();
                json!({
                    "tokens": piece.tokens.iter().map(|t| &t.text).collect::<Vec<_>>(),
                    "token_logprobs": piece.tokens.iter().map(|t| t.logprob).collect::<Vec<_>>(),
                    "top_logprobs": null,
                    "text_offset": offsets,
                })
            }
        };
        choice["finish_reason"] = match piece.finish {
            None => Value::Null,
            Some(Finish::Stop | Finish::Cancelled) => "stop".into(),
            Some(Finish::Length) => "length".into(),
        };
    }
}

/// The `usage` object.
pub(crate) fn usage(prompt: usize, completion: usize) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models() -> Models {
        Models { base: "m".into(), adapters: vec!["m-sft".into()] }
    }

    fn chat(extra: &str) -> Result<Call, ApiError> {
        let body = format!(r#"{{"model": "m", "messages": [{{"role": "user", "content": "hi"}}]{extra}}}"#);
        parse(Endpoint::Chat, body.as_bytes(), &models(), &Limits::default())
    }

    fn param(extra: &str) -> String {
        chat(extra).unwrap_err().param.unwrap()
    }

    #[test]
    fn defaults_are_openai_s() {
        let call = chat("").unwrap();
        assert_eq!((call.n, call.stream, call.logprobs, call.sampling.temperature), (1, false, false, 1.0));
        assert_eq!(call.sampling.max_new_tokens, Limits::default().max_new_tokens);
        assert_eq!(chat(r#", "max_tokens": 5, "seed": -1"#).unwrap().sampling.seed, u64::MAX);
        assert_eq!(chat(r#", "max_tokens": 99999"#).unwrap().sampling.max_new_tokens, 1024);
    }

    #[test]
    fn every_refusal_names_its_parameter() {
        assert_eq!(param(r#", "temperature": 3"#), "temperature");
        assert_eq!(param(r#", "temperature": "hot""#), "temperature");
        assert_eq!(param(r#", "n": 0"#), "n");
        assert_eq!(param(r#", "max_tokens": -4"#), "max_tokens");
        assert_eq!(param(r#", "stop": ["a", 3]"#), "stop");
        assert_eq!(param(r#", "tools": [{"type": "function"}]"#), "tools");
        assert_eq!(param(r#", "presence_penalty": 0.5"#), "presence_penalty");
        assert_eq!(param(r#", "temprature": 1"#), "temprature");
        assert_eq!(param(r#", "stream_options": {"include_usage": true}"#), "stream_options");
        assert_eq!(param(r#", "top_logprobs": 5, "logprobs": true"#), "top_logprobs");
        assert!(chat(r#", "user": "me", "presence_penalty": 0, "tools": null"#).is_ok());
    }

    #[test]
    fn another_model_is_404() {
        let body = br#"{"model": "gpt", "messages": [{"role": "user", "content": "hi"}]}"#;
        let error = parse(Endpoint::Chat, body, &models(), &Limits::default()).unwrap_err();
        assert_eq!((error.status, error.code), (404, Some("model_not_found")));
    }

    #[test]
    fn an_adapter_is_chosen_by_its_name() {
        let ask = |model: &str| {
            let body = format!(r#"{{"model": "{model}", "prompt": "x"}}"#);
            parse(Endpoint::Completions, body.as_bytes(), &models(), &Limits::default())
                .map(|c| (c.model, c.adapter))
        };
        assert_eq!(ask("m").unwrap(), ("m".into(), None));
        assert_eq!(ask("m-sft").unwrap(), ("m-sft".into(), Some("m-sft".into())));
        assert!(ask("m-rl").unwrap_err().message.contains("m, m-sft"));
    }

    #[test]
    fn contents_may_be_lists_of_text_parts() {
        let body = br#"{"model": "m", "messages": [{"role": "developer", "content": [
            {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}"#;
        let call = parse(Endpoint::Chat, body, &models(), &Limits::default()).unwrap();
        let Prompt::Chat(messages) = &call.prompts[0] else { panic!() };
        assert_eq!((messages[0].role.as_str(), messages[0].content.as_str()), ("system", "ab"));
        let image = br#"{"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#;
        assert_eq!(
            parse(Endpoint::Chat, image, &models(), &Limits::default()).unwrap_err().param.unwrap(),
            "messages"
        );
    }

    #[test]
    fn completion_prompts_come_in_four_forms() {
        let prompts = |p: &str| {
            let body = format!(r#"{{"model": "m", "prompt": {p}, "n": 2, "logprobs": 1}}"#);
            parse(Endpoint::Completions, body.as_bytes(), &models(), &Limits::default())
                .map(|c| (c.choices(), c.prompts))
        };
        assert_eq!(prompts(r#""x""#).unwrap(), (2, vec![Prompt::Text("x".into())]));
        assert_eq!(prompts(r#"["x", "y"]"#).unwrap().0, 4);
        assert_eq!(prompts("[1, 2]").unwrap().1, [Prompt::Tokens(vec![1, 2])]);
        assert_eq!(prompts("[[1], [2]]").unwrap().0, 4);
        for wrong in ["[]", "[1, \"x\"]", "{}", "[-1]", "null"] {
            assert_eq!(prompts(wrong).unwrap_err().param.unwrap(), "prompt", "{wrong}");
        }
    }
}
