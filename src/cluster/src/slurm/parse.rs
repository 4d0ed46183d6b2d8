//! One parser per Slurm command.

pub mod config;
pub mod partition;
pub mod ping;
pub mod sacct;
pub mod sacctmgr;
pub mod sbatch;
pub mod sinfo;
pub mod squeue;
