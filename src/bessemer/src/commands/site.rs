//! `bessemer site`: probe, check, show.

use crate::cli::Site;
use crate::context::Context;
use crate::engine;
use crate::failure::{Failure, Result};
use cluster::render::{ScriptInput, Target, script};
use record::{ContentKey, Resources, Token, exit};
use std::path::{Path, PathBuf};

pub fn run(context: &mut Context, args: &Site) -> Result {
    match args {
        Site::Probe { output } => probe(context, output.as_deref()),
        Site::Check { file } => check(context, file),
        Site::Show { file } => show(context, file),
    }
}

fn probe(_context: &mut Context, _output: Option<&Path>) -> Result {
    Err(Failure::new(exit::FAILED, "site probe is not on this branch yet"))
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
