//! One parser per PBS command.

pub mod qselect;
pub mod qstat;
pub mod qsub;
