//! What may be typed: the raw command line. Checked and completed by each command (`commands/`), never here.

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

const AFTER: &str = "\
Start here:
  bessemer doctor                              what this machine can do
  bessemer plan jobs/quickstart.yaml           what a job file means, before anything runs
  bessemer run jobs/quickstart.yaml            run it on this machine
  bessemer submit JOB --site slurm/NAME.yaml   hand it to a cluster; then: status, watch, resume, report

Exit codes and environment variables: bessemer help exit-codes, bessemer help environment";

/// Post-training sweeps of safe and useful code models on university clusters.
#[derive(Debug, Parser)]
#[command(name = "bessemer", version, after_help = AFTER, disable_help_subcommand = true, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// Where sweeps write: one directory each
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "runs",
        env = "BESSEMER_RUNS",
        hide_env_values = true
    )]
    pub runs_dir: PathBuf,
    /// Where the ledger lies (one SQLite file); on a network file system it is slower but safe
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "state",
        env = "BESSEMER_STATE",
        hide_env_values = true
    )]
    pub state_dir: PathBuf,
    /// Say more: scheduler commands that were run, sources of states
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Colours: auto is on for terminals unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what a job file means: graph, matrix, shared tasks, resources, hours, what is new and why
    Plan(Plan),
    /// Bring models and data sets of the Hugging Face Hub into its cache: on a login node, for jobs without a network
    Fetch(Fetch),
    /// Run a job file here with its `rehearse` profile: does everything fit together?
    Rehearse(Rehearse),
    /// Hand a job file's tasks to a site's scheduler and return
    Submit(Submit),
    /// Run a job file on this machine and show its progress; Ctrl-C stops with checkpoints
    Run(Run),
    /// Where a sweep's tasks stand: one look at the scheduler
    Status(Status),
    /// A live view of a sweep
    Watch(Watch),
    /// What a task wrote
    Logs(Logs),
    /// Stop a sweep, or parts of it
    Cancel(Cancel),
    /// Go on with a sweep: whatever failed, was lost or checkpointed gets a new attempt
    Resume(Resume),
    /// Results, curves, cost: a table here and one HTML file
    Report(Report),
    /// JSON Schema of job files, for editors
    Schema,
    /// Site files: how a cluster wants its jobs
    #[command(subcommand)]
    Site(Site),
    /// What this machine can do, and what to do about what it cannot
    Doctor(Doctor),
    /// Write the ledger anew from run directories
    Rebuild(Rebuild),
    /// Remove what no result needs: checkpoints of finished tasks, outputs of failed attempts
    Gc(Gc),
    /// Check that results are what was recorded, by hash
    Verify(Verify),
    /// Run programs that nobody trusts: one, a batch, or as a service
    #[command(subcommand)]
    Sandbox(crate::commands::sandbox::SandboxCommand),
    /// Score answers with oracles: tests, partial credit, analyzers, judges, format, and combinations of them
    Score(crate::commands::score::Score),
    /// Write a shell's completions to standard output
    Completions(Completions),
    /// Help on a command, or: exit-codes, environment
    Help(Help),
    /// What job scripts call
    #[command(subcommand, hide = true)]
    Task(Task),
}

/// What changes a job file's meaning.
#[derive(Debug, Clone, Default, Args)]
pub struct Changes {
    /// An overlay from the job file's `profiles:`
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Replace a value: `--set phases.rl.params.episodes=5` (the value is YAML); may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Only these phases and what they need; may be repeated
    #[arg(long, value_name = "PHASE")]
    pub only: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Plan {
    /// The job file
    pub job: PathBuf,
    #[command(flatten)]
    pub changes: Changes,
    /// The cluster it would run on; without one: this machine
    #[arg(long, value_name = "FILE")]
    pub site: Option<PathBuf>,
    /// Write every file that `submit` would write, and touch no scheduler
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run: where to write (must be empty or absent)
    #[arg(long, value_name = "DIR", requires = "dry_run")]
    pub out: Option<PathBuf>,
    /// For programs: the graph as JSON (docs/CLI.md)
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Fetch {
    /// Repositories: ORG/NAME, datasets/ORG/NAME, hf://ORG/NAME@REVISION
    #[arg(value_name = "WHAT")]
    pub what: Vec<String>,
    /// Everything that a job file names, pinned to commits in JOB.lock.json
    #[arg(long, value_name = "JOB")]
    pub job: Option<PathBuf>,
    #[command(flatten)]
    pub changes: Changes,
    /// With --job: let branches and tags move to what they point to now
    #[arg(long, requires = "job")]
    pub update: bool,
    /// The names are those of data sets
    #[arg(long)]
    pub dataset: bool,
    /// Branch, tag or commit (main if left out)
    #[arg(long, value_name = "REV")]
    pub revision: Option<String>,
    /// Only these files instead of what is usually needed; `*` also passes over slashes; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// Not these files; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Also read what is in the cache already and compare it with its hash
    #[arg(long)]
    pub check: bool,
    /// Files at a time
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub parallel: usize,
    /// For programs (docs/FETCH.md)
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Rehearse {
    /// The job file
    pub job: PathBuf,
    /// Replace a value: `--set phases.rl.params.episodes=5`; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// A local site file, e.g. with fewer cores
    #[arg(long, value_name = "FILE")]
    pub site: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Submit {
    /// The job file
    pub job: PathBuf,
    /// The cluster
    #[arg(long, value_name = "FILE")]
    pub site: PathBuf,
    #[command(flatten)]
    pub changes: Changes,
    /// Do not ask first whether the site can ever run such tasks
    #[arg(long)]
    pub no_check: bool,
}

#[derive(Debug, Args)]
pub struct Run {
    /// The job file
    pub job: PathBuf,
    #[command(flatten)]
    pub changes: Changes,
    /// A local site file, e.g. with fewer cores
    #[arg(long, value_name = "FILE")]
    pub site: Option<PathBuf>,
    /// Do not draw; one line per change
    #[arg(long)]
    pub plain: bool,
}

#[derive(Debug, Args)]
pub struct Status {
    /// The sweep: its name, or its run directory; the only or newest one if left out
    pub sweep: Option<String>,
    /// For programs (docs/REPORT.md)
    #[arg(long)]
    pub json: bool,
    /// Every task, not only those that run or need a look
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask the scheduler: what files and ledger say
    #[arg(long)]
    pub offline: bool,
}

#[derive(Debug, Args)]
pub struct Watch {
    /// The sweep: its name, or its run directory; the only or newest one if left out
    pub sweep: Option<String>,
    /// Seconds between looks at the scheduler; the site's minimum and 60 are the floor
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub interval: u64,
    /// Do not draw; one line per change
    #[arg(long)]
    pub plain: bool,
}

#[derive(Debug, Args)]
pub struct Logs {
    /// The sweep: its name, or its run directory
    pub sweep: String,
    /// A phase with labels (`rl variant=binary seed=1`), or the beginning of a task's key
    #[arg(required = true)]
    pub task: Vec<String>,
    /// Go on showing what is added
    #[arg(short, long)]
    pub follow: bool,
    /// Which attempt; the newest if left out
    #[arg(long, value_name = "N")]
    pub attempt: Option<u32>,
    /// Only the last so many lines
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
    /// The scheduler's own output instead of the worker's
    #[arg(long)]
    pub scheduler: bool,
}

#[derive(Debug, Args)]
pub struct Cancel {
    /// The sweep: its name, or its run directory
    pub sweep: String,
    /// Phases, task keys or tokens; everything if left out
    pub what: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Resume {
    /// The sweep: its name, or its run directory; the only or newest one if left out
    pub sweep: Option<String>,
    /// Give failed tasks a new attempt even where the retry policy has given up
    #[arg(long)]
    pub force: bool,
    /// Do not draw; one line per change (local sweeps)
    #[arg(long)]
    pub plain: bool,
}

#[derive(Debug, Args)]
pub struct Report {
    /// The sweep: its name, or its run directory; the only or newest one if left out
    pub sweep: Option<String>,
    /// For programs, to standard output (docs/REPORT.md)
    #[arg(long)]
    pub json: bool,
    /// With --json: only the result rows, a plain array for pandas.read_json
    #[arg(long, requires = "json")]
    pub rows: bool,
    /// Where the HTML file goes; `report.html` in the run directory if left out
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Site {
    /// Read the limits of the scheduler here and propose a site file
    Probe {
        /// Write the proposal here (must not exist) instead of standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Is this site file right, and does its scheduler answer?
    Check { file: PathBuf },
    /// A site file with every default filled in
    Show { file: PathBuf },
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// For programs (docs/CLI.md)
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Rebuild {
    /// Run directories; every one in the runs directory if left out
    pub run_dirs: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Gc {
    /// The sweep: its name, or its run directory
    pub sweep: String,
    /// Say what would go, remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// The sweep: its name, or its run directory; the only or newest one if left out
    pub sweep: Option<String>,
    /// Compare sizes only, do not read every output
    #[arg(long)]
    pub quick: bool,
}

#[derive(Debug, Args)]
pub struct Completions {
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct Help {
    /// A command, `exit-codes` or `environment`
    pub topic: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum Task {
    /// Supervise the attempt that a task.json describes
    Run { task: PathBuf },
}
