//! Sites, job scripts, and one backend per batch system.

pub mod backend;
pub mod render;
pub mod site;
