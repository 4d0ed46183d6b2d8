//! What `hf://...` and paths under a job file's `inputs:` mean on this machine: pins, the Hub's cache, the user's files.

mod digests;

use digests::Digests;
use hub::pins::Pins;
use hub::{Settings, locate};
use plan::{Found, Missing, Outside};
use record::Source;
use record::source::{HubRef, Repo, is_path};
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// A variable of the environment.
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// For a job file whose references were fetched.
pub struct Here<'a> {
    job: &'a Path,
    pins: Pins,
    cache: PathBuf,
    digests: Digests,
}

impl<'a> Here<'a> {
    /// # Errors
    /// Pins that cannot be read.
    pub fn new(job: &'a Path) -> Result<Self, hub::HubError> {
        let pins = Pins::read(&Pins::path(job))?;
        let digests = Digests::new(Digests::store(env));
        Ok(Self { job, pins, cache: Settings::from_env(env).cache, digests })
    }

    fn hub(&self, text: &str) -> Result<Found, Missing> {
        let of: HubRef = text.parse().map_err(|message| Missing { message, help: String::new() })?;
        let fetch = format!("on a machine with a network: bessemer fetch --job {}", self.job.display());
        let Some(pin) = self.pins.sources.get(&of.to_string()) else {
            let message =
                format!("`{text}` was not fetched for this job file, so that its commit is unknown");
            return Err(Missing { message, help: fetch });
        };
        let path = locate::snapshot(&self.cache, &of, pin)
            .map_err(|why| Missing { message: format!("`{text}` is not here: {why}"), help: fetch })?;
        let is_model = of.repo == Repo::Model;
        let config = is_model.then(|| config(&path)).flatten();
        let identity = of.at(&pin.commit).to_string();
        Ok(Found { source: Source { reference: text.to_owned(), identity, path }, config, is_model })
    }

    /// A file or directory of the user's, relative to the job file. Its content decides the content key.
    fn path(&self, text: &str) -> Result<Found, Missing> {
        let base = self.job.parent().unwrap_or(Path::new(""));
        let path = match (text.strip_prefix("~/"), env("HOME")) {
            (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
            _ => base.join(text),
        };
        let missing = |why: String| Missing {
            message: format!("`{text}` cannot be read: {}: {why}", path.display()),
            help: "paths are relative to the job file".into(),
        };
        let path = std::path::absolute(&path).map_err(|e| missing(e.to_string()))?;
        let is_dir = path.is_dir();
        let hash = if is_dir { self.digests.directory(&path) } else { self.digests.file(&path) };
        let identity = format!("sha256:{}", hash.map_err(|e| missing(e.to_string()))?);
        let config = is_dir.then(|| config(&path)).flatten();
        let is_model = config.is_some();
        Ok(Found { source: Source { reference: text.to_owned(), identity, path }, config, is_model })
    }
}

/// A model's configuration.
fn config(dir: &Path) -> Option<serde_json::Value> {
    record::atomic::read_json(&dir.join("config.json")).ok().flatten()
}

impl Outside for Here<'_> {
    fn find(&self, text: &str) -> Result<Found, Missing> {
        if is_path(text) { self.path(text) } else { self.hub(text) }
    }
}

/// Collects the references to the Hub, for `bessemer fetch --job`.
#[derive(Default)]
pub struct Collect(pub RefCell<Vec<HubRef>>);

impl Outside for Collect {
    fn find(&self, text: &str) -> Result<Found, Missing> {
        if let Ok(of) = text.parse::<HubRef>() {
            self.0.borrow_mut().push(of);
        }
        plan::outside::AsWritten.find(text)
    }
}
