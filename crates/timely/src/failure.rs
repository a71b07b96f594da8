//! Why this process ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use alluvium::{Error, Result};

/// The first error of a process, shared by its threads.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failure(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    error: OnceLock<Error>,
    is_complete: AtomicBool,
}

impl Failure {
    /// Ends the job in this process. Later errors follow from the first, and are dropped.
    pub(crate) fn set(&self, error: Error) {
        if !self.0.is_complete.load(Ordering::Acquire) {
            let _follows_from_the_first = self.0.error.set(error);
        }
    }

    /// Notes that the job is complete: that links end is no error from now on.
    pub(crate) fn complete(&self) {
        self.0.is_complete.store(true, Ordering::Release);
    }

    /// Runs a step of an operator, and returns whether the operator is to be kept for more. Does nothing once the job has ended.
    pub(crate) fn catch(&self, step: impl FnOnce() -> Result<bool>) -> bool {
        self.0.error.get().is_none()
            && step().unwrap_or_else(|error| {
                self.set(error);
                false
            })
    }

    pub(crate) fn get(&self) -> Option<Error> {
        self.0.error.get().cloned()
    }
}
