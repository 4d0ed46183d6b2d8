//! `bessemer score`: any combination of oracles over a file of answers (docs/ORACLES.md).

mod declaration;
mod show;

use crate::commands::sandbox::Slots;
use crate::context::{Context, read_text};
use crate::failure::{Failure, Result};
use clap::Args;
use oracle::Runner;
use oracle::judge::remote::Remote;
use oracle::panel::{Asker, Panel, PanelError, Toolbox};
use oracle::score::{Bounds, Output, Problems, Row, ScoreError, run as score};
use record::exit;
use record::params::OracleParams;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

/// What may be typed behind `bessemer score`.
#[derive(Debug, Args)]
pub struct Score {
    /// Rows as JSON lines: `id`, one of `code`, `completion`, `response`, and `problem`; `-` is standard input
    file: PathBuf,
    /// An oracle: `[NAME=]KIND[:WORD][,KEY=VALUE...]`, e.g. `tests`, `partial-credit:as-published`, `bandit`,
    /// `judge:malice,url=http://localhost:8000`; may be repeated
    #[arg(long = "oracle", value_name = "SPEC")]
    oracles: Vec<String>,
    /// How several become one reward: `0.6*tests+0.4*security`, `min(a,b)`, `all(a,b)`; or a YAML file with `oracles` and
    /// `combine`, as under `reward:` in job files
    #[arg(long, value_name = "RULE|FILE.yaml")]
    combine: Option<String>,
    /// An oracle that is asked first: who fails it earns 0, and the others are not asked; may be repeated
    #[arg(long = "gate", value_name = "NAME")]
    gates: Vec<String>,
    /// Append rows to this file, and skip the ids that it holds already [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// JSON lines of problems with `id`, which rows name instead of repeating them
    #[arg(long, value_name = "FILE")]
    problems: Option<PathBuf>,
    /// Score rows again that the output file holds as unscored
    #[arg(long, requires = "out")]
    again_unscored: bool,
    /// Write every program as DIR/<SHA-256>.py for an analyzer elsewhere, and score nothing
    #[arg(long, value_name = "DIR", conflicts_with_all = ["oracles", "combine", "out"])]
    export: Option<PathBuf>,
    /// Keep verdicts of analyzers and judges here, by content and version
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Python of the Bandit environment that scripts/bandit.sh makes
    #[arg(
        long,
        value_name = "PYTHON",
        env = "BESSEMER_BANDIT_PYTHON",
        hide_env_values = true,
        default_value = ".venv-bandit/bin/python"
    )]
    bandit_python: PathBuf,
    /// Rows in memory at a time
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    #[command(flatten)]
    slots: Slots,
}

pub fn run(context: &mut Context, args: &Score) -> Result {
    let problems = match &args.problems {
        None => Problems::default(),
        Some(path) => {
            let file = File::open(path).map_err(|e| unreadable("problems", path, &e))?;
            Problems::read(&path.display().to_string(), BufReader::new(file)).map_err(Failure::input)?
        }
    };
    if let Some(dir) = &args.export {
        return export(context, args, dir, &problems);
    }
    let declared = declaration::read(args)?;
    let mut asker = |_: &str, params: &OracleParams| -> std::result::Result<Box<dyn Asker>, String> {
        Ok(Box::new(Remote::of_url(params)?))
    };
    let mut tools =
        Toolbox { bandit_python: args.bandit_python.clone(), cache: args.cache.clone(), asker: &mut asker };
    let mut panel = Panel::new(&declared, &mut tools).map_err(|e| match e {
        PanelError::Declaration(why) => Failure::input(why),
        e @ PanelError::Oracle { .. } => Failure::new(exit::SETUP_FAILED, e),
    })?;
    let sandbox = if panel.executes() { Some(args.slots.start()?) } else { None };
    let mut identity = panel.identity();
    if let Some(sandbox) = &sandbox {
        identity.push_str("; ");
        identity.push_str(&sandbox.identity());
    }
    let scorer = record::key::sha256_hex(identity.as_bytes())[..16].to_owned();
    context.note(format_args!("scorer {scorer}: {identity}"));
    let mut out = match &args.out {
        None => Output::stream(Box::new(io::stdout())),
        Some(path) => Output::append(path, &scorer, args.again_unscored).map_err(Failure::input)?,
    };
    if out.resumed() > 0 {
        context.note(format_args!("{} rows are done already", out.resumed()));
    }
    let (input, size) = open(&args.file)?;
    let mut meter = show::Meter::new(size);
    let bounds = Bounds { rows: args.batch as usize, ..Bounds::default() };
    let runner = sandbox.as_ref().map(|s| s as &dyn Runner);
    let name = args.file.display().to_string();
    let ended = score(&name, input, &mut out, &mut panel, runner, &problems, &scorer, &bounds, &mut |p| {
        meter.tick(p)
    });
    meter.end();
    let summary = ended.map_err(|e| match e {
        ScoreError::Away(..) => Failure::new(exit::TRY_AGAIN, e),
        ScoreError::Output(oracle::score::OutputError::Io { ref source, .. })
            if source.kind() == io::ErrorKind::BrokenPipe =>
        {
            Failure { code: exit::DONE, lines: Vec::new() } // the reader has seen enough
        }
        e => Failure::new(exit::FAILED, e),
    })?;
    eprint!("{}", show::summary(&summary));
    Ok(if summary.bad_total > 0 { exit::USER_ERROR } else { exit::DONE })
}

/// Every program of the file, by content; rows without one are passed over.
fn export(context: &Context, args: &Score, dir: &Path, problems: &Problems) -> Result {
    std::fs::create_dir_all(dir)?;
    let (input, _) = open(&args.file)?;
    let (mut written, mut bad) = (0usize, 0usize);
    for (number, line) in (1..).zip(input.split(b'\n')) {
        let line = line?;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match Row::read(&line, problems, false) {
            Err(why) => {
                bad += 1;
                context.note(format_args!("{}:{number}: {why}", args.file.display()));
            }
            Ok(row) => {
                let blocks = row.response.as_deref().map(corpus::extract::python_blocks).unwrap_or_default();
                let codes = row.program.into_iter().map(|p| p.code).chain(blocks);
                for code in codes.filter(|c| !c.trim().is_empty()) {
                    let path = dir.join(oracle::analyzer::report::file_name(&code));
                    if !path.exists() {
                        record::atomic::write(&path, code.as_bytes())?;
                        written += 1;
                    }
                }
            }
        }
    }
    context.note(format_args!("{written} new programs in {}", dir.display()));
    Ok(if bad > 0 { exit::USER_ERROR } else { exit::DONE })
}

/// The rows, and their size in bytes where it is known.
fn open(path: &Path) -> std::result::Result<(Box<dyn BufRead>, Option<u64>), Failure> {
    if path == Path::new("-") {
        return Ok((Box::new(BufReader::new(io::stdin())), None));
    }
    let file = File::open(path).map_err(|e| unreadable("rows", path, &e))?;
    let size = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
    Ok((Box::new(BufReader::with_capacity(1 << 20, file)), size))
}

fn unreadable(what: &str, path: &Path, e: &io::Error) -> Failure {
    Failure::input(format!("cannot read the {what} {}: {e}", path.display()))
}

/// The text of a declaration's file.
fn declaration_text(path: &Path) -> std::result::Result<String, Failure> {
    read_text(path, "declaration")
}
