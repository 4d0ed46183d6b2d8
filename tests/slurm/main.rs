//! What a user does on a cluster, with the built program against a real Slurm, and what clusters do to users.

mod controller;
mod crash;
mod lab;
mod life;
mod limits;
mod nodes;
mod records;
mod sweeps;
