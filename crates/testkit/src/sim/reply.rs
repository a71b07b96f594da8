//! What a caller of the simulated store receives.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use object_store::Result;

use super::Answer;

/// A call's outcome.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Done,
    Read {
        bytes: Bytes,
        range: Range<u64>,
        size: u64,
        /// Whether the connection breaks after these bytes.
        reset: bool,
    },
    /// Keys with lengths; the flag says whether the listing ends in an error.
    Listed(Vec<(String, u64)>, bool),
    Exists,
    Missing,
    BadRange,
    ServerError,
    Throttled,
    Denied,
}

/// Returns the reply of an answer that does not depend on the effect.
pub(super) fn refusal(answer: Answer) -> Option<Reply> {
    match answer {
        Answer::ServerError => Some(Reply::ServerError),
        Answer::Throttled => Some(Reply::Throttled),
        Answer::Conflict => Some(Reply::Exists),
        Answer::Denied => Some(Reply::Denied),
        _ => None,
    }
}

/// Returns the reply as an object store does: refusals are errors.
pub(super) fn into_result(path: String, reply: Reply) -> Result<Reply> {
    let source = |text: &str| text.to_owned().into();
    let generic = |text: &str| object_store::Error::Generic { store: "sim", source: source(text) };
    match reply {
        Reply::Exists => Err(object_store::Error::AlreadyExists { path, source: source("409") }),
        Reply::Missing => Err(object_store::Error::NotFound { path, source: source("404") }),
        Reply::Denied => Err(object_store::Error::PermissionDenied { path, source: source("403") }),
        Reply::BadRange => Err(generic("416")),
        Reply::ServerError => Err(generic("500")),
        Reply::Throttled => Err(generic("503 slow down")),
        done => Ok(done),
    }
}

/// Returns the error for a reply that does not fit its call.
pub(super) fn wrong_reply() -> object_store::Error {
    object_store::Error::Generic { store: "sim", source: "reply to another call".into() }
}

/// A reply, shown without its bytes.
pub(super) struct Shown<'a>(pub(super) &'a Reply);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Reply::Read { range, .. } => write!(f, "{range:?}"),
            Reply::Listed(keys, broken) => write!(f, "{} keys, broken off: {broken}", keys.len()),
            other => write!(f, "{other:?}"),
        }
    }
}
