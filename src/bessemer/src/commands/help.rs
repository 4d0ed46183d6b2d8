//! `bessemer help`: commands, and the topics that belong to none of them.

use crate::cli::{Cli, Help};
use crate::context::Context;
use crate::failure::{Failure, Result};
use clap::CommandFactory;
use record::exit;

/// The exit codes, in the order of their numbers, with what they ask of whoever called.
const CODES: [i32; 10] = [
    exit::DONE,
    exit::FAILED,
    exit::USAGE,
    exit::USER_ERROR,
    exit::OUT_OF_MEMORY,
    exit::TRY_AGAIN,
    exit::UPSTREAM_MISSING,
    exit::SETUP_FAILED,
    exit::NODE_UNFIT,
    exit::CHECKPOINTED,
];

const ENVIRONMENT: &str = "\
Read by every command:
  BESSEMER_RUNS, BESSEMER_STATE   defaults of --runs-dir and --state-dir
  BESSEMER_WORKER                 the worker program, where it is not beside bessemer
  NO_COLOR                        no colours, unless --color=always
  COLUMNS                         width of tables where there is no terminal

Read by the supervisor in a job (set by the job script):
  BESSEMER_JOB_ID, BESSEMER_RESTART   who the scheduler says this is
  BESSEMER_TERM_GRACE_S               seconds from TERM to KILL (20; 4 on PBS)
  BESSEMER_FENCE_S                    seconds between two looks whether a requeued copy has taken over (15)
  CUDA_VISIBLE_DEVICES, PBS_GPUFILE   the GPUs that were granted

Given to a `command` task's program, which runs in its output directory:
  BESSEMER_INPUT_<ROLE>           directory of an input's outputs; _1, _2, ... where a role has several
  BESSEMER_TASK_DIR, BESSEMER_ATTEMPT_DIR, BESSEMER_ATTEMPT
  BESSEMER_EVENTS                 append {\"at\": MS, \"step\": 3, \"of\": 10, \"values\": {\"loss\": 0.5}} lines for progress
  OMP_NUM_THREADS, ...            as many as the task has cores, unless set";

pub fn run(context: &mut Context, args: &Help) -> Result {
    match args.topic.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["exit-codes" | "exit-code"] => {
            for code in CODES {
                context.out.line(format_args!("{code:>4}  {}", exit::meaning(code)));
            }
        }
        ["environment" | "env"] => context.out.line(ENVIRONMENT),
        path => {
            let mut command = Cli::command();
            command.build();
            let mut here = &mut command;
            for name in path {
                here = here.find_subcommand_mut(name).ok_or_else(|| {
                    Failure::usage(format!(
                        "there is no command or topic {name:?}; topics: exit-codes, environment; commands: bessemer --help"
                    ))
                })?;
            }
            let help = here.render_long_help();
            if context.color {
                context.out.text(help.ansi());
            } else {
                context.out.text(help);
            }
        }
    }
    Ok(exit::DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_that_is_defined_is_in_the_table_and_has_a_meaning() {
        let defined: Vec<i32> = include_str!("../../../record/src/exit.rs")
            .lines()
            .filter_map(|l| {
                l.strip_prefix("pub const ")?.split_once("i32 = ")?.1.trim_end_matches(';').parse().ok()
            })
            .collect();
        assert_eq!(defined, CODES, "in the order of src/record/src/exit.rs");
        assert!(CODES.iter().all(|c| exit::meaning(*c) != exit::meaning(999)));
    }
}
