//! `bessemer rebuild`: the ledger is a cache of files.

use crate::cli::Rebuild;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::{engine, sweeps};
use cluster::site::Site;
use ledger::{Db, Engine};
use record::{exit, layout};

pub fn run(context: &mut Context, args: &Rebuild) -> Result {
    let dirs = if args.run_dirs.is_empty() { sweeps::known(context) } else { args.run_dirs.clone() };
    if dirs.is_empty() {
        return Err(Failure::usage(format!(
            "{} holds no run directory: name one, or the directory of them with --runs-dir",
            context.runs_dir.display()
        )));
    }
    for dir in dirs {
        let site = Site::read(&dir.join(layout::SITE)).map_err(Failure::input)?;
        let backend = engine::backend(&site);
        let options = engine::options(&site)?;
        let (engine, report) = Engine::rebuild(Db::open(&context.state_dir)?, &dir, site, backend, options)?;
        for w in &report.warnings {
            context.note(format_args!("warning: {w}"));
        }
        let attempts: Vec<String> = report.attempts.iter().map(|(s, n)| format!("{n} {s}")).collect();
        context.out.line(format_args!(
            "{}: {} tasks, attempts: {}",
            engine.sweep().name,
            report.tasks,
            if attempts.is_empty() { "none".into() } else { attempts.join(", ") }
        ));
    }
    Ok(exit::DONE)
}
