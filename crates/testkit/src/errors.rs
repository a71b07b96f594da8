//! What a call is refused with.

use std::fmt::Debug;

use alluvium::{Error, ErrorKind, Result};

/// Returns the error of `result`, which must be of `kind`.
#[track_caller]
pub fn refused<T: Debug>(result: Result<T>, kind: ErrorKind) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{}", error.chain());
    error
}

/// Checks that `error` contains each of `parts`.
#[track_caller]
pub fn says(error: &Error, parts: &[&str]) {
    for part in parts {
        assert!(error.chain().contains(part), "`{part}` is not in: {}", error.chain());
    }
}
