//! `bessemer site`: probe, check, show.

use crate::cli::Site;
use crate::context::Context;
use crate::engine;
use crate::failure::{Failure, Result};
use cluster::render::{ScriptInput, Target, script};
use cluster::runner::Real;
use record::{ContentKey, Resources, Token, exit};
use std::path::{Path, PathBuf};

pub fn run(context: &mut Context, args: &Site) -> Result {
    match args {
        Site::Probe { output } => probe(context, output.as_deref()),
        Site::Check { file } => check(context, file),
        Site::Show { file } => show(context, file),
    }
}

fn probe(context: &mut Context, output: Option<&Path>) -> Result {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid())
        .ok()
        .flatten()
        .map_or_else(|| std::env::var("USER").unwrap_or_default(), |u| u.name);
    let found = cluster::probe::probe(&Real::default(), &user).map_err(|e| Failure::new(exit::FAILED, e))?;
    for note in &found.notes {
        context.note(format_args!("note: {note}"));
    }
    match output {
        None => context.out.text(found.text),
        Some(path) => {
            let new = record::atomic::publish_once(path, found.text.as_bytes())?;
            if !new {
                return Err(Failure::usage(format!(
                    "{} is there already: name another file",
                    path.display()
                )));
            }
            context.out.line(format_args!(
                "{}: a proposal. Read it, then: bessemer site check {}",
                path.display(),
                path.display()
            ));
        }
    }
    Ok(exit::DONE)
}

fn check(context: &mut Context, file: &Path) -> Result {
    let site = engine::site(Some(file))?.site;
    context.out.line(format_args!("{}: the file is right", file.display()));
    match engine::backend(&site).ping() {
        Ok(answer) => {
            if !answer.is_empty() {
                context.out.line(answer);
            }
            Ok(exit::DONE)
        }
        Err(why) => {
            Err(Failure::new(exit::TRY_AGAIN, format!("its scheduler does not answer from here: {why}")))
        }
    }
}

/// The script that a task of one core would get: every key of the site file that matters is in it.
fn show(context: &mut Context, file: &Path) -> Result {
    let site = engine::site(Some(file))?.site;
    let key = ContentKey("example".into());
    let dir = PathBuf::from("/path/to/runs/SWEEP/tasks/KEY/attempt-1");
    let input = ScriptInput {
        token: Token::new("example", "command", &key, 1),
        target: Target::One(dir.clone()),
        resources: Resources { cpus: 1, gpus: 1, memory_mb: 4000, walltime_s: 3600 },
        sched_dir: dir.join("sched"),
        margin_s: 300,
        bessemer: engine::options(&site)?.bessemer,
        worker: None,
        extra: vec![],
        title: "SWEEP: an example task with one core, one GPU, 4 GB and an hour".into(),
    };
    let text = script(&site, &input).map_err(Failure::input)?;
    context.out.text(text);
    Ok(exit::DONE)
}
