//! Decisions as pure code: no clock, no randomness, no I/O, no async. Time is an argument.

pub mod chain;
pub mod coordinator;
pub mod estimate;
pub mod formula;
pub mod interval;
pub mod retention;
pub mod rewrite;
