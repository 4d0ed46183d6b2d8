//! What the kinds that train share: the host of a training, saving, and the facts of an outcome.

use crate::context::{Context, Ending, Report};
use crate::kinds::device;
use anyhow::Result;
use model::Model;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use train::{End, Error, Host};

/// Subdirectory of `out/` with the adapter in PEFT's layout.
pub const ADAPTER: &str = "adapter";

/// The attempt as a training sees it.
pub struct Attempt<'a>(pub &'a mut Context);

fn said(e: &anyhow::Error) -> Error {
    Error::Invalid(format!("{e:#}"))
}

impl Host for Attempt<'_> {
    fn step(&mut self, step: u64, of: u64, values: &[(&str, f64)]) -> train::Result<()> {
        self.0.count_step();
        self.0.step(step, Some(of), values.iter().copied()).map_err(|e| said(&e))
    }

    fn note(&mut self, text: &str) -> train::Result<()> {
        self.0.note(text).map_err(|e| said(&e))
    }

    fn stop(&mut self) -> Option<String> {
        self.0.stop().map(|s| s.to_string())
    }
}

/// Writes the (merged) model and, where there is one, the adapter.
///
/// # Errors
/// I/O errors.
pub fn save(cx: &Context, model: &Model, base: Option<&Path>) -> Result<()> {
    let out = cx.out();
    if let Some(base) = base {
        model.save_adapter(&out.join(ADAPTER), &base.display().to_string())?;
    }
    Ok(model.save(&out)?)
}

/// Turns the end of a training into the end of a task; `finish` saves and reports.
///
/// # Errors
/// What `finish` says.
pub fn ending<T>(end: End<T>, finish: impl FnOnce(T) -> Result<(String, Value)>) -> Result<Ending> {
    match end {
        End::Stopped { step, reason } => {
            Ok(Ending::Checkpointed(format!("{reason}: checkpoint at step {step}")))
        }
        End::Finished(summary) => {
            let (message, facts) = finish(summary)?;
            let mut all = BTreeMap::from([
                ("libtorch".to_owned(), json!(model::runtime::LIBTORCH)),
                ("threads".to_owned(), json!(tch::get_num_threads())),
                ("device".to_owned(), json!(format!("{:?}", device()))),
            ]);
            all.extend(facts.as_object().cloned().unwrap_or_default());
            Ok(Ending::Done(Report { message, metrics: Vec::new(), facts: all }))
        }
    }
}
