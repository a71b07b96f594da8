//! The crate's one error type: coarse kinds, each an instruction to the caller.
//!
//! Expected outcomes (a lost race, a missing key, an aborted epoch) are values, not errors.

use std::fmt;
use std::sync::Arc;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Kind of an [`Error`]: the caller's remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Fix the settings; the call had no effect.
    Config,
    /// Fix the call: its order, handle or range.
    Usage,
    /// Fix the input record or file named in the message.
    Input,
    /// Choose one that exists.
    NotFound,
    /// Choose another checkpoint: stored bytes are damaged or misplaced. The message names the object.
    Corrupt,
    /// Upgrade: a newer version wrote the data, or a build with more features.
    Version,
    /// Stop this attempt at once: a newer one owns the job.
    Fenced,
    /// Slow down, or raise the limit named in the message.
    Limit,
    /// Fix credentials or permissions: the store refused access.
    Denied,
    /// Back off and retry; check [`Error::applied`] first.
    Unavailable,
    /// Open the job again: an earlier failure or a request to stop ended it.
    Stopped,
}

impl ErrorKind {
    /// Returns the kind with the stable name `name`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let all = [
            Self::Config,
            Self::Usage,
            Self::Input,
            Self::NotFound,
            Self::Corrupt,
            Self::Version,
            Self::Fenced,
            Self::Limit,
            Self::Denied,
            Self::Unavailable,
            Self::Stopped,
        ];
        all.into_iter().find(|kind| kind.name() == name)
    }

    /// Returns the kind's stable name, as printed by the tool.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Usage => "usage",
            Self::Input => "input",
            Self::NotFound => "not_found",
            Self::Corrupt => "corrupt",
            Self::Version => "version",
            Self::Fenced => "fenced",
            Self::Limit => "limit",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a failed call may have taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Applied {
    /// It had no effect.
    No,
    /// It may have taken effect, or may still do so.
    Unknown,
}

/// An error: its [`ErrorKind`], whether the call may have been [`Applied`], a message and a source.
///
/// Messages are lower case, without a full stop, with variables last as ``name=`value` ``; they never repeat the source.
/// Clones share the source, so every caller of a failed job gets the complete error.
#[derive(Clone)]
pub struct Error {
    repr: Arc<Repr>,
}

#[derive(Clone)]
struct Repr {
    kind: ErrorKind,
    applied: Applied,
    message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Returns an error of `kind`, not applied.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let repr = Repr { kind, applied: Applied::No, message: message.into(), source: None };
        Self { repr: Arc::new(repr) }
    }

    /// Returns the error with a source. If the source is a possibly applied [`Error`], so is this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let source = source.into();
        let cause = source.downcast_ref::<Self>().map(Self::applied);
        let repr = Arc::make_mut(&mut self.repr);
        if cause == Some(Applied::Unknown) {
            repr.applied = Applied::Unknown;
        }
        repr.source = Some(source.into());
        self
    }

    /// Returns the error, marked as possibly applied.
    #[must_use]
    pub fn unknown(mut self) -> Self {
        Arc::make_mut(&mut self.repr).applied = Applied::Unknown;
        self
    }

    /// Returns the error with ``name=`value` `` appended to its message.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        Arc::make_mut(&mut self.repr).message.push_str(&format!(" {name}=`{value}`"));
        self
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.repr.kind
    }

    /// Returns whether the call may have taken effect.
    #[must_use]
    pub fn applied(&self) -> Applied {
        self.repr.applied
    }

    /// Returns the message without those of its sources.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.repr.message
    }

    /// Returns the message followed by those of its sources, for a log line or a terminal.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.repr.message.clone();
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            text.push_str(": ");
            text.push_str(&source.to_string());
            next = source.source();
        }
        text
    }
}

/// Panics: an invariant of this process's own memory is broken. Never for bytes from outside, which get typed errors.
#[cold]
#[track_caller]
pub(crate) fn broken(invariant: &str) -> ! {
    panic!("broken invariant: {invariant}")
}

/// Declares a constructor for each kind, named after it.
macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),+ $(,)?) => {
        impl Error {
            $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self {
                Self::new(ErrorKind::$kind, message)
            })+
        }
    };
}

constructors! {
    /// Returns an error of kind [`ErrorKind::Config`].
    config => Config,
    /// Returns an error of kind [`ErrorKind::Usage`].
    usage => Usage,
    /// Returns an error of kind [`ErrorKind::Input`].
    input => Input,
    /// Returns an error of kind [`ErrorKind::NotFound`].
    not_found => NotFound,
    /// Returns an error of kind [`ErrorKind::Corrupt`].
    corrupt => Corrupt,
    /// Returns an error of kind [`ErrorKind::Version`].
    version => Version,
    /// Returns an error of kind [`ErrorKind::Fenced`].
    fenced => Fenced,
    /// Returns an error of kind [`ErrorKind::Limit`].
    limit => Limit,
    /// Returns an error of kind [`ErrorKind::Denied`].
    denied => Denied,
    /// Returns an error of kind [`ErrorKind::Unavailable`].
    unavailable => Unavailable,
    /// Returns an error of kind [`ErrorKind::Stopped`].
    stopped => Stopped,
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.repr.kind, self.chain())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repr.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.repr.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_variables_and_sources_once() {
        let error =
            Error::corrupt("block checksum mismatch").with("object", "data/1-2").with_source(Error::input("inner"));
        assert_eq!(error.to_string(), "block checksum mismatch object=`data/1-2`");
        assert_eq!(error.chain(), "block checksum mismatch object=`data/1-2`: inner");
        assert_eq!(error.kind().name(), "corrupt");
        assert_eq!(error.applied(), Applied::No);
        assert_eq!(error.unknown().applied(), Applied::Unknown);
    }

    #[test]
    fn clones_and_wrappers_keep_source_and_applied() {
        let error = Error::unavailable("no answer").with_source(Error::denied("403")).unknown();
        assert_eq!(error.clone().chain(), "no answer: 403");
        let wrapped = Error::stopped("job failed").with_source(error.clone());
        assert_eq!((wrapped.chain().as_str(), wrapped.applied()), ("job failed: no answer: 403", Applied::Unknown));
        assert_eq!(error.with("object", "x").message(), "no answer object=`x`");
        assert_eq!(Error::stopped("x").with_source(Error::denied("403")).applied(), Applied::No);
    }
}
