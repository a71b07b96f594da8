//! The measuring half of the tool: the suites behind `alluvium bench` and the simulator behind `alluvium interval`.
//!
//! Beside them is what these verbs share with the others: the flags of backends and goals, the clock, decisions as JSON.
//! Each verb writes its text through a function that the caller gives.

pub mod backend;
pub mod clock;
pub mod decision;
pub mod goal;
pub mod interval;
mod random;
pub mod suite;

use alluvium::Job;
use alluvium::{Error, Result};

/// Writes text where the caller wants it.
pub type Print<'a> = &'a dyn Fn(&str) -> Result<()>;

/// Returns the error of work that needed a checkpoint which was given up: of the kind of the reason, its source.
#[must_use]
pub fn given_up(message: &str, job: &Job) -> Error {
    match job.progress().last_aborted {
        Some(aborted) => Error::new(aborted.reason.kind(), message).with_source(aborted.reason),
        None => Error::unavailable(message),
    }
}
