//! Kind `serve`: a model of the sweep behind an OpenAI-compatible API, for as long as somebody needs it.

use crate::context::{Context, Ending, Failure, Report};
use crate::kinds::load;
use crate::kinds::training::ADAPTER;
use anyhow::Result;
use model::Options;
use record::layout;
use record::params::{KvPrecision, ServeParams};
use record::source::is_commit;
use serde_json::json;
use serve::{Left, Limits, Service};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub fn run(cx: &mut Context, params: &ServeParams) -> Result<Ending> {
    if [params.max_batch, params.max_new_tokens, params.prefill_chunk].contains(&0) {
        return Err(Failure::user("max_batch, max_new_tokens and prefill_chunk must be at least 1").into());
    }
    let (model, dir) = load(cx, "model", params.precision, params.quantization)?;
    let options = options(params);
    let mut engine = model.engine(options);
    // a prompt has a token at least
    engine.check_limit(1, params.max_new_tokens as usize)?;
    let adapters = adapters(cx, &dir)?;
    for (name, dir) in &adapters {
        engine.add_adapter(name, dir, &model)?;
    }
    // the engine has its own merged weights
    drop(model);
    let service = Service {
        task_dir: cx.spec.task_dir.clone(),
        attempt: cx.spec.attempt,
        model: cx.spec.phase.clone(),
        adapters: adapters.iter().map(|a| a.0.clone()).collect(),
        bind: serve::bind_address(|name| std::env::var(name).ok()).map_err(Failure::user)?,
        limits: Limits {
            sequences: options.max_batch + params.queue as usize,
            max_new_tokens: params.max_new_tokens,
            ..Limits::default()
        },
        consumers: cx.spec.consumers.clone(),
        idle_timeout: Duration::from_secs(params.idle_timeout_s),
        // half of what the scheduler leaves us: the record has to be written too
        drain_limit: Duration::from_secs((cx.spec.margin_s / 2).max(1)),
        poll: Duration::from_secs(2),
    };
    cx.note(format!("serving {} from {}", service.model, dir.display()))?;
    for (name, dir) in &adapters {
        cx.note(format!("with adapter {name} from {}", dir.display()))?;
    }
    let stopped_by = RefCell::new(None);
    let mut last = None;
    let mut lost = Ok(());
    let (left, report) = {
        let shared = RefCell::new(&mut *cx);
        let stop = || {
            let why = shared.borrow().stop();
            if why.is_some() {
                *stopped_by.borrow_mut() = why;
            }
            why.is_some()
        };
        let mut progress = |now: &serve::Report| {
            // an idle server says nothing
            if last.replace(*now) != Some(*now) && lost.is_ok() {
                let values = [
                    ("requests", now.requests as f64),
                    ("generated_tokens", now.generated_tokens as f64),
                    ("sequences", now.sequences as f64),
                ];
                lost = shared.borrow_mut().step(now.requests, None, values);
            }
        };
        serve::run_service(&mut engine, &service, &stop, &mut progress)?
    };
    lost?;
    let did = format!("{} requests, {} tokens generated", report.requests, report.generated_tokens);
    Ok(match left {
        Left::ConsumersDone => Ending::Done(Report {
            message: format!("every consumer is done; {did}"),
            metrics: Vec::new(),
            facts: [
                ("requests".to_owned(), json!(report.requests)),
                ("prompt_tokens".to_owned(), json!(report.prompt_tokens)),
                ("generated_tokens".to_owned(), json!(report.generated_tokens)),
            ]
            .into(),
        }),
        Left::Idle => Ending::Checkpointed(format!("no request for {} s; {did}", params.idle_timeout_s)),
        Left::Superseded => Ending::Checkpointed(format!("a later attempt of this service is up; {did}")),
        Left::Stopped => {
            let why = stopped_by.into_inner().map_or_else(|| "stopped".to_owned(), |s| s.to_string());
            Ending::Checkpointed(format!("{why}; {did}"))
        }
    })
}

fn options(params: &ServeParams) -> Options {
    let options = Options::new(params.max_batch, params.kv_bytes);
    let piece_tokens = params.prefill_chunk as usize;
    Options {
        // with nobody to wait for a prompt's pieces they are no smaller
        prefill_tokens: options.prefill_tokens.max(piece_tokens),
        piece_tokens,
        half_pages: params.kv_precision == KvPrecision::Bf16,
        ..options
    }
}

/// Adapters of the phases under role `adapters`, each under the name of its phase (`sft.2` for the second task of one).
/// Over other weights than those at `model` an adapter of the same shape would answer, and wrongly: it is refused.
fn adapters(cx: &Context, model: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut out: Vec<(String, PathBuf)> = Vec::new();
    for input in cx.spec.inputs.get("adapters").into_iter().flatten() {
        let dir = crate::context::outputs_of(input)?.join(ADAPTER);
        if !dir.join("adapter_config.json").exists() {
            let what =
                format!("phase {} has no adapter: train it with `lora`, or serve it as `model`", input.phase);
            return Err(Failure::user(what).into());
        }
        let config: serde_json::Value =
            record::atomic::read_json(&dir.join("adapter_config.json"))?.unwrap_or_default();
        let base = Path::new(config["base_model_name_or_path"].as_str().unwrap_or_default());
        if identity(base) != identity(model) {
            let what = format!(
                "the adapter of phase {} was trained over {}, and this phase serves {}: name under `model` what was \
                 its `model`, or serve the phase itself as `model`",
                input.phase,
                base.display(),
                model.display()
            );
            return Err(Failure::user(what).into());
        }
        let taken = |name: &str| name == cx.spec.phase || out.iter().any(|a| a.0 == name);
        let name = std::iter::once(input.phase.clone())
            .chain((2..).map(|n| format!("{}.{n}", input.phase)))
            .find(|name| !taken(name))
            .expect("numbers do not end");
        out.push((name, dir));
    }
    Ok(out)
}

/// What says which weights a directory holds: the task's directory for a task of any attempt, a snapshot of the Hub's own
/// name (its commit), else where it is.
fn identity(dir: &Path) -> Option<&OsStr> {
    let attempt = dir.parent().and_then(Path::file_name).and_then(OsStr::to_str);
    if dir.ends_with(layout::OUT) && attempt.is_some_and(|a| a.starts_with("attempt-")) {
        return dir.ancestors().nth(2).and_then(Path::file_name);
    }
    let name = dir.file_name()?;
    Some(if name.to_str().is_some_and(is_commit) { name } else { dir.as_os_str() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_gets_what_the_parameters_say() {
        let usual = options(&ServeParams::default());
        assert_eq!(usual, Options { max_batch: 32, ..Options::default() });
        let all = options(&ServeParams {
            max_batch: 3,
            kv_bytes: 5000,
            kv_precision: KvPrecision::Bf16,
            prefill_chunk: 64,
            ..ServeParams::default()
        });
        assert_eq!((all.max_batch, all.kv_bytes, all.half_pages), (3, Some(5000), true));
        assert_eq!((all.piece_tokens, all.prefill_tokens), (64, usual.prefill_tokens));
        let large = options(&ServeParams { prefill_chunk: 20_000, ..ServeParams::default() });
        assert_eq!((large.piece_tokens, large.prefill_tokens), (20_000, 20_000));
        // and nobody reads along with what is measured or learnt from
        let offline = Options::new(7, 0).offline();
        assert_eq!((offline.max_batch, offline.piece_tokens), (7, offline.prefill_tokens));
    }

    #[test]
    fn the_same_weights_are_known_by_task_by_commit_or_by_place() {
        let same = |a: &str, b: &str| identity(Path::new(a)) == identity(Path::new(b));
        assert!(same("/r/tasks/k/attempt-1/out", "/elsewhere/tasks/k/attempt-2/out"));
        assert!(!same("/r/tasks/k/attempt-1/out", "/r/tasks/l/attempt-1/out"));
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert!(same(&format!("/a/snapshots/{commit}"), &format!("/b/snapshots/{commit}")));
        // directories of the user's, whatever their names
        assert!(same("/models/a", "/models/a"));
        assert!(!same("/models/a/final", "/models/b/final") && !same("/models/a/out", "/models/b/out"));
    }
}
