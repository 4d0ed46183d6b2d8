//! `bessemer fetch`: models and data sets of the Hub into its cache, on a machine with a network.

use crate::cli::Fetch as Args;
use crate::context::{Context, read_text};
use crate::failure::{Failure, Result};
use crate::outside::{Collect, env};
use hub::pins::Pins;
use hub::{Client, Fetch, Fetched, HubError, Patterns, Progress, Settings, fetch};
use record::exit;
use record::source::{HUB, HubRef};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub fn run(context: &mut Context, args: &Args) -> Result {
    let client = Client::new(Settings::from_env(env));
    let patterns = Patterns::new(&args.include, &args.exclude).map_err(failure)?;
    match &args.job {
        Some(job) => of_job(context, args, &client, &patterns, job),
        None => named(context, args, &client, &patterns),
    }
}

/// What stands on the command line.
fn named(context: &mut Context, args: &Args, client: &Client, patterns: &Patterns) -> Result {
    if args.what.is_empty() {
        return Err(Failure::usage(
            "name what to fetch: bessemer fetch ORG/NAME, or bessemer fetch --job JOB.yaml",
        ));
    }
    let wanted = args.what.iter().map(|w| reference(w, args)).collect::<Result<Vec<_>>>()?;
    let mut done = Vec::new();
    for of in &wanted {
        let got = bring(context, args, client, patterns, of)?;
        if !args.json {
            context.out.line(format_args!("{}", got.of));
            context.out.line(format_args!("  {}", got.snapshot.display()));
        }
        done.push(got);
    }
    if args.json {
        say_json(context, &done)?;
    }
    Ok(exit::DONE)
}

/// Everything that a job file names; what each name means is written beside it.
fn of_job(context: &mut Context, args: &Args, client: &Client, patterns: &Patterns, job: &Path) -> Result {
    if !args.what.is_empty() || args.revision.is_some() || args.dataset {
        return Err(Failure::usage(
            "--job takes everything from the job file: name nothing else, no --revision, no --dataset",
        ));
    }
    let text = read_text(job, "job file")?;
    let collect = Collect::default();
    let options = crate::job::options(&args.changes)?;
    if let Err(mistakes) = plan::load_with(&job.to_string_lossy(), &text, &options, &collect) {
        return Err(Failure::many(exit::USER_ERROR, mistakes.iter().map(ToString::to_string)));
    }
    let mut wanted = collect.0.into_inner();
    wanted.sort();
    wanted.dedup();
    if wanted.is_empty() {
        context
            .out
            .line(format_args!("{} names nothing of the hub (hf://...): nothing to fetch", job.display()));
        return Ok(exit::DONE);
    }
    let path = Pins::path(job);
    let mut pins = Pins::read(&path).map_err(failure)?;
    let mut done = Vec::new();
    for of in &wanted {
        let name = of.to_string();
        // a branch stays where it was when this job was first fetched, until --update
        let pinned = pins.sources.get(&name).filter(|_| !args.update).map(|pin| of.at(&pin.commit));
        let mut got = match &of.path {
            // the job file's own choice of files
            Some(only) if !patterns.chooses() => {
                let mut include = vec![only.clone(), format!("{only}/*")];
                include.push("README.md".into());
                let patterns = Patterns::new(&include, &args.exclude).map_err(failure)?;
                bring(context, args, client, &patterns, pinned.as_ref().unwrap_or(of))?
            }
            _ => bring(context, args, client, patterns, pinned.as_ref().unwrap_or(of))?,
        };
        // a fetch with patterns adds to what is pinned; it takes nothing away
        if let Some(old) = pins.sources.get(&name).filter(|old| old.commit == got.pin.commit) {
            for (file, pinned) in &old.files {
                got.pin.files.entry(file.clone()).or_insert_with(|| pinned.clone());
            }
        }
        if !args.json {
            let moved = match pins.sources.get(&name) {
                Some(old) if old.commit != got.pin.commit => format!(" (was {})", &old.commit[..12]),
                _ => String::new(),
            };
            context.out.line(format_args!("{name}: {}{moved}", &got.pin.commit[..12]));
        }
        pins.sources.insert(name, got.pin.clone());
        // after each: what was fetched stays pinned if the next one fails
        pins.write(&path).map_err(failure)?;
        done.push(got);
    }
    if args.json {
        return say_json(context, &done);
    }
    context.out.line(format_args!("pinned in {}: keep it with the job file", path.display()));
    Ok(exit::DONE)
}

fn reference(text: &str, args: &Args) -> Result<HubRef> {
    let kind = if args.dataset && !text.starts_with("datasets/") { "datasets/" } else { "" };
    let full = if text.starts_with(HUB) { text.to_owned() } else { format!("{HUB}{kind}{text}") };
    let of: HubRef = full.parse().map_err(Failure::usage)?;
    if of.path.is_some() {
        return Err(Failure::usage(format!("{text}: choose files with --include")));
    }
    Ok(match &args.revision {
        Some(revision) => of.at(revision),
        None => of,
    })
}

fn bring(
    context: &Context,
    args: &Args,
    client: &Client,
    patterns: &Patterns,
    of: &HubRef,
) -> Result<Fetched> {
    let bar = Bar::new(std::io::stderr().is_terminal() && !args.json);
    let want = Fetch { of, patterns, check: args.check, workers: args.parallel };
    let result = fetch(client, &want, &bar);
    bar.leave();
    let got = result.map_err(failure)?;
    if got.brought == 0 && !args.json {
        context.note(format_args!("{of}: everything was here ({} files)", got.pin.files.len()));
    }
    Ok(got)
}

/// docs/FETCH.md, "--json".
fn say_json(context: &mut Context, done: &[Fetched]) -> Result {
    let sources: Vec<_> = done
        .iter()
        .map(|f| {
            serde_json::json!({
                "source": f.of.to_string(), "commit": f.pin.commit, "path": f.snapshot, "files": f.pin.files,
                "brought_bytes": f.brought,
            })
        })
        .collect();
    let doc = serde_json::json!({"format": record::FORMAT, "kind": "fetch", "sources": sources});
    context.out.line(serde_json::to_string_pretty(&doc).map_err(std::io::Error::other)?);
    Ok(exit::DONE)
}

/// Which exit code says the same: the user's mistake, a moment later, or trouble here.
fn failure(e: HubError) -> Failure {
    let code = match &e {
        HubError::Network { .. } | HubError::TooMany { .. } | HubError::Status { .. } => exit::TRY_AGAIN,
        HubError::Io { .. }
        | HubError::Disk { .. }
        | HubError::Checksum { .. }
        | HubError::Protocol { .. } => exit::FAILED,
        HubError::Pattern { .. } | HubError::Reference(_) => exit::USAGE,
        _ => exit::USER_ERROR,
    };
    Failure::new(code, e)
}

/// One line of progress on a terminal; one line per file elsewhere.
struct Bar {
    draws: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    what: String,
    total: u64,
    have: u64,
    files: usize,
    done: usize,
    began: Option<Instant>,
    drawn: Option<Instant>,
}

impl Bar {
    fn new(draws: bool) -> Self {
        Self { draws, state: Mutex::new(State::default()) }
    }

    fn with(&self, change: impl FnOnce(&mut State), always: bool) {
        // a thread that panicked has left a whole state: it is numbers only
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut state);
        let due = state.drawn.is_none_or(|d| d.elapsed() > Duration::from_millis(200));
        if self.draws && state.total > 0 && (due || always) {
            state.drawn = Some(Instant::now());
            let line = state.line();
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K{line}");
        }
    }

    fn leave(&self) {
        if self.draws {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

impl State {
    #[allow(clippy::cast_precision_loss)]
    fn line(&self) -> String {
        let seconds = self.began.map_or(0.0, |b| b.elapsed().as_secs_f64());
        let rate = if seconds > 0.5 { self.have as f64 / seconds } else { 0.0 };
        let left = self.total.saturating_sub(self.have) as f64;
        let eta = if rate > 0.0 { format!(", {:.0} s left", left / rate) } else { String::new() };
        format!(
            "{}: {}/{} files, {:.1} of {:.1} MB, {:.1} MB/s{eta}",
            self.what,
            self.done,
            self.files,
            self.have as f64 / 1e6,
            self.total as f64 / 1e6,
            rate / 1e6
        )
    }
}

impl Progress for Bar {
    fn begin(&self, what: &str, files: usize, bytes: u64) {
        let change = |s: &mut State| {
            *s = State {
                what: what.into(),
                total: bytes,
                files,
                began: Some(Instant::now()),
                ..State::default()
            };
        };
        self.with(change, true);
    }

    fn add(&self, bytes: u64) {
        self.with(|s| s.have += bytes, false);
    }

    fn take_back(&self, bytes: u64) {
        self.with(|s| s.have = s.have.saturating_sub(bytes), false);
    }

    fn note(&self, text: &str) {
        self.leave();
        eprintln!("{text}");
    }

    #[allow(clippy::cast_precision_loss)]
    fn done(&self, file: &str, bytes: u64) {
        self.with(|s| s.done += 1, true);
        if !self.draws {
            eprintln!("{file}: {:.1} MB", bytes as f64 / 1e6);
        }
    }
}
