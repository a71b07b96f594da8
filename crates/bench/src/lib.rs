//! The measuring half of the tool: the suites of `alluvium bench` and the simulator of `alluvium interval`.
//!
//! Also holds what these verbs share with the others: backend and goal flags, the clock, decisions as JSON. Each verb
//! prints through a function supplied by the caller.

pub mod backend;
pub mod clock;
pub mod decision;
pub mod goal;
pub mod interval;
mod random;
pub mod suite;

use alluvium::{Error, Job, Result};

/// Prints text.
pub type Print<'a> = &'a dyn Fn(&str) -> Result<()>;

/// Returns the error for an aborted checkpoint: `message`, with the kind and source of the abort reason.
#[must_use]
pub fn given_up(message: &str, job: &Job) -> Error {
    match job.progress().last_aborted {
        Some(aborted) => Error::new(aborted.reason.kind(), message).with_source(aborted.reason),
        None => Error::unavailable(message),
    }
}
