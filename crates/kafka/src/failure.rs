//! Why a transaction failed, and whether it may have taken effect.

use alluvium::{Error, ErrorKind};
use krafka::KrafkaError;

use crate::errors;
use crate::plan::Placed;

/// A transaction that failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A record cannot be sent, or something that was asked before the transaction failed. Nothing is or will be published.
    Refused(Error),
    /// The client failed.
    Client {
        error: KrafkaError,
        /// Whether the coordinator may have been asked to commit.
        is_in_doubt: bool,
        /// The publication's largest record.
        largest: Option<Placed>,
    },
}

impl Failure {
    /// Returns the failure of a transaction that was not asked to commit.
    pub(crate) fn staging(error: KrafkaError) -> Self {
        Self::Client { error, is_in_doubt: false, largest: None }
    }

    /// Returns the failure of a commit.
    pub(crate) fn committing(error: KrafkaError) -> Self {
        Self::Client { error, is_in_doubt: true, largest: None }
    }

    /// Returns the failure with the publication's largest record, to be named if a record was too large: Kafka does not say which.
    pub(crate) fn with_largest(mut self, found: Placed) -> Self {
        if let Self::Client { largest, .. } = &mut self {
            *largest = Some(found);
        }
        self
    }

    /// Returns whether the producer was stopped by another or by the coordinator.
    pub(crate) fn is_fenced(&self) -> bool {
        matches!(self, Self::Client { error, .. } if errors::is_fenced(error))
    }

    /// Returns `error`, which says what this failure means, with it as the source.
    pub(crate) fn note(self, error: Error) -> Error {
        match self {
            Self::Refused(source) => error.with_source(source),
            Self::Client { error: source, is_in_doubt, .. } => {
                // A source that was there says more.
                let has_source = std::error::Error::source(&error).is_some();
                let error = if has_source { error } else { error.with_source(source.to_string()) };
                if is_in_doubt { error.unknown() } else { error }
            }
        }
    }

    /// Returns the error of a publication to `topic`.
    pub(crate) fn into_error(self, topic: &str) -> Error {
        let (error, is_in_doubt, largest) = match self {
            Self::Refused(error) => return error,
            Self::Client { error, is_in_doubt, largest } => (error, is_in_doubt, largest),
        };
        if is_in_doubt {
            let kind = match errors::kind(&error) {
                // An answer that refuses: the outcome is in doubt, but another try would get it again.
                kind @ ErrorKind::Denied => kind,
                _ => ErrorKind::Unavailable,
            };
            let doubt = Error::new(kind, "the outcome of a transaction is unknown").with("topic", topic);
            return doubt.with_source(error.to_string()).unknown();
        }
        let failed = errors::failed("records cannot be published", &error).with("topic", topic);
        match largest.filter(|_| failed.kind() == ErrorKind::Limit) {
            Some(Placed { place, bytes }) => failed.with("largest_record", place).with("its_bytes", bytes),
            None => failed,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}
