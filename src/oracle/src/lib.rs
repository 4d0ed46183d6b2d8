//! What scores an answer: tests, partial credit, format; reward as a declared combination.

pub mod analyzer;
pub mod format;
pub mod judge;
