//! `bessemer sandbox`: the executor of untrusted programs, for people, scripts and other projects' clients.

mod batch;
mod queue;
mod run;
mod serve;

use crate::context::Context;
use crate::failure::{Failure, Result};
use clap::{Args, Subcommand};
use record::exit;
use sandbox::{CacheConfig, Config, Sandbox, Tier};
use std::path::PathBuf;

/// What may be typed behind `bessemer sandbox`.
#[derive(Debug, Subcommand)]
pub enum SandboxCommand {
    /// Run one program: its input is our standard input, its output ours, its exit status ours
    Run(Run),
    /// Jobs as JSON lines on standard input, results as JSON lines on standard output, in the same order
    Batch(Batch),
    /// An HTTP service that speaks SandboxFusion's /run_code, and batches
    Serve(Serve),
}

/// What the sandbox is to be.
#[derive(Debug, Clone, Args)]
pub struct Slots {
    /// Programs at the same time [default: the CPUs of this process]
    #[arg(long, value_name = "N")]
    slots: Option<usize>,
    /// Refuse to run anything below this isolation: A, B, B-, C or D
    #[arg(long, value_name = "TIER", default_value = "B-", env = "BESSEMER_TIER_MIN")]
    tier_min: Tier,
    /// Use no more than this, to see what a machine that allows less would do
    #[arg(long, value_name = "TIER", default_value = "A", env = "BESSEMER_TIER_MAX")]
    tier_max: Tier,
    /// Python interpreter: a name on PATH or a path
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: PathBuf,
    /// Where compiled programs are kept, or `off` [default: bessemer/compiled in the user's cache directory]
    #[arg(long, value_name = "DIR", env = "BESSEMER_COMPILE_CACHE")]
    compile_cache: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Run {
    /// The program
    file: PathBuf,
    /// Its language [default: by the file's ending]
    #[arg(long, value_name = "NAME")]
    language: Option<String>,
    /// Seconds, wall-clock and CPU
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    time: f64,
    /// MiB
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    memory: u64,
    #[command(flatten)]
    slots: Slots,
}

#[derive(Debug, Args)]
pub struct Batch {
    #[command(flatten)]
    slots: Slots,
}

#[derive(Debug, Args)]
pub struct Serve {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port; 0: one that the kernel chooses
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// File with the bearer token that clients must send; made, mode 0600, when it is not there
    #[arg(long, value_name = "FILE", conflicts_with = "no_token")]
    token_file: Option<PathBuf>,
    /// Serve without a token: whoever reaches the port may run programs
    #[arg(long)]
    no_token: bool,
    /// Requests that may wait; more are answered with 429
    #[arg(long, value_name = "N", default_value_t = 256)]
    queue: usize,
    /// Seconds that a request may wait for a slot before it is answered with 504
    #[arg(long, value_name = "S", default_value_t = 600.0)]
    queue_wait: f64,
    #[command(flatten)]
    slots: Slots,
}

pub fn run(context: &mut Context, command: &SandboxCommand) -> Result {
    match command {
        SandboxCommand::Run(a) => run::run(context, a),
        SandboxCommand::Batch(a) => batch::run(context, a),
        SandboxCommand::Serve(a) => serve::run(context, a),
    }
}

impl Slots {
    /// Starts it.
    pub fn start(&self) -> std::result::Result<Sandbox, Failure> {
        let default = Config::default();
        let config = Config {
            slots: self.slots.unwrap_or(default.slots).max(1),
            tier_min: self.tier_min,
            tier_max: self.tier_max,
            python: self.python.clone(),
            compile_cache: match &self.compile_cache {
                Some(off) if off.as_os_str() == "off" => None,
                Some(dir) => Some(CacheConfig { dir: dir.clone(), max_mb: 512 }),
                None => default.compile_cache.clone(),
            },
            ..default
        };
        let sandbox = Sandbox::start(config).map_err(|e| Failure::new(exit::SETUP_FAILED, e))?;
        match (&self.compile_cache, sandbox.compile_cache()) {
            (Some(dir), Err(why)) if dir.as_os_str() != "off" => Err(Failure::new(exit::USER_ERROR, why)),
            _ => Ok(sandbox),
        }
    }
}
