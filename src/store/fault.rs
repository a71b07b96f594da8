//! What an error of the object store's library means for a call: whether it took effect, and the error's kind.

use std::fmt::Display;
use std::io;

use crate::error::Error;

/// Most characters kept of a store's error: an endpoint's response can be of any length.
const SOURCE_CHARS_MAX: usize = 1024;

const DENIED: &str = "store refuses access";
pub(super) const NO_BUCKET: &str = "bucket or container of the store does not exist";
const LACKS_CREATE: &str = "store lacks create-if-absent, on which every commit rests";

/// A failed request, by what is known of its effect.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The object does not exist. For a create: the bucket or container does not exist.
    Missing(Error),
    /// A create was refused because the key is, or is about to be, taken, perhaps by an earlier try of the same call.
    Exists(Error),
    /// The store refused, and did nothing.
    Refused(Error),
    /// The effect may have happened, or may happen later.
    Unclear(Error),
}

impl Fault {
    /// Classifies the error of a request on `object`.
    pub(crate) fn classify(error: &object_store::Error, object: impl Display) -> Self {
        use object_store::Error as E;
        let fault = |error: Error, source: &E| error.with("object", &object).with_source(shorten(source));
        match error {
            E::NotFound { .. } => Self::Missing(fault(Error::not_found("object is not in the store"), error)),
            E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => {
                Self::Exists(fault(Error::unavailable("store refuses to create the object"), error))
            }
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                Self::Refused(fault(Error::denied(DENIED), error))
            }
            E::NotSupported { .. } | E::NotImplemented { .. } => {
                Self::Refused(fault(Error::config(LACKS_CREATE), error))
            }
            E::InvalidPath { .. } | E::UnknownConfigurationKey { .. } => {
                Self::Refused(fault(Error::config("store does not accept its settings"), error))
            }
            _ => match behind(error, io::Error::kind) {
                Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                    Self::Refused(fault(Error::denied(DENIED), error))
                }
                Some(io::ErrorKind::IsADirectory) => {
                    Self::Refused(fault(Error::corrupt("a folder stands where an object belongs"), error))
                }
                _ => match refusal(error) {
                    Some(refusal) => Self::Refused(fault(refusal, error)),
                    None => Self::Unclear(fault(Error::unavailable("store call failed"), error)),
                },
            },
        }
    }

    /// Returns the contained error.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Missing(error) | Self::Exists(error) | Self::Refused(error) | Self::Unclear(error) => error,
        }
    }
}

/// Finds an error of type `E` among the sources of `error`, and returns the result of `of` for it.
pub(super) fn behind<E: std::error::Error + 'static, T>(
    error: &object_store::Error,
    of: impl Fn(&E) -> T,
) -> Option<T> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(of(found));
        }
        next = error.source();
    }
    None
}

/// Returns the error for a store's [`Refusal`](super::http::Refusal), if one is among the sources of `error`.
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
fn refusal(error: &object_store::Error) -> Option<Error> {
    use super::http::{Refusal, Why};
    behind(error, |refusal: &Refusal| match refusal.reason {
        Why::Denied => Error::denied(DENIED),
        Why::NoBucket => Error::config(NO_BUCKET),
        Why::LacksCreate => Error::config(LACKS_CREATE),
        Why::Lacks => Error::config("store does not support a request that every job needs"),
        Why::Elsewhere => {
            Error::config("store sends requests elsewhere: its region or endpoint is not the one that is set")
        }
        Why::Nowhere | Why::NoCredentials => {
            Error::config(refusal.advice.as_deref().unwrap_or("store's settings are incomplete"))
        }
    })
}

#[cfg(not(any(feature = "aws", feature = "azure", feature = "gcp")))]
fn refusal(_error: &object_store::Error) -> Option<Error> {
    None
}

/// Returns the error's text, truncated: a hostile endpoint chooses its length. The text includes the error's sources.
fn shorten(error: &object_store::Error) -> String {
    let text = error.to_string();
    match text.char_indices().nth(SOURCE_CHARS_MAX) {
        Some((end, _)) => text.split_at(end).0.to_owned() + "...",
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> object_store::Error {
        object_store::Error::Generic { store: "test", source: source.into() }
    }

    #[test]
    fn only_a_refusal_proves_that_nothing_happened() {
        let path = || "k".to_owned();
        let refused = [
            (object_store::Error::PermissionDenied { path: path(), source: "x".into() }, ErrorKind::Denied),
            (object_store::Error::Unauthenticated { path: path(), source: "x".into() }, ErrorKind::Denied),
            (object_store::Error::NotSupported { source: "x".into() }, ErrorKind::Config),
            (generic(io::Error::from(io::ErrorKind::ReadOnlyFilesystem)), ErrorKind::Denied),
        ];
        for (error, kind) in refused {
            let Fault::Refused(found) = Fault::classify(&error, "k") else { panic!("{error} is a refusal") };
            assert_eq!(found.kind(), kind, "{error}");
        }
        for error in [generic("503 slow down"), generic(io::Error::from(io::ErrorKind::StorageFull))] {
            let Fault::Unclear(found) = Fault::classify(&error, "k") else { panic!("{error} is unclear") };
            assert_eq!(found.kind(), ErrorKind::Unavailable);
        }
    }

    #[test]
    fn a27_an_endpoint_does_not_choose_how_long_errors_are() {
        let error = Fault::classify(&generic("ü".repeat(100_000)), "k").into_error();
        assert!(error.chain().len() < 3 * SOURCE_CHARS_MAX);
    }
}
