//! Identities: newtypes whose printed form parses back, and none of which can contain a path.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Declares a number with a type of its own.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                text.parse().map(Self).map_err(|source| {
                    Error::usage(concat!("not a valid ", stringify!($name))).with("text", text).with_source(source)
                })
            }
        }
    };
}

number! {
    /// Fencing number of one incarnation of a job: 1, 2, 3, ... without gaps.
    Attempt(u64)
}
number! {
    /// The part of the stream between two barriers. A checkpoint at epoch `e` includes all effects of epochs `<= e`.
    Epoch(u64)
}
number! {
    /// One seal within an epoch.
    Part(u32)
}
number! {
    /// Number of a manifest in the job's chain: 1, 2, 3, ... without gaps. A checkpoint's id is its seq.
    Seq(u64)
}
number! {
    /// A logical vertex of the job.
    OperatorId(u32)
}
number! {
    /// One parallel instance of an operator, counted from 0.
    Subtask(u32)
}
number! {
    /// A named state of an operator.
    TableId(u32)
}

impl Epoch {
    /// Returns the next epoch.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The end of an epoch: the engine sends the barrier through the stream and passes it to every task.
///
/// Epoch numbers repeat after a restart, so a barrier also has the attempt that triggered it: a task refuses a barrier left in
/// a channel by an earlier attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Barrier {
    /// The attempt that triggered it.
    pub attempt: Attempt,
    /// The epoch ended by it.
    pub epoch: Epoch,
}

impl fmt::Display for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.epoch.fmt(f)
    }
}

/// An epoch to wait for: that of a [`Barrier`], or one of any attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Awaited {
    /// The attempt that triggered it, if known.
    pub attempt: Option<Attempt>,
    /// The epoch.
    pub epoch: Epoch,
}

impl From<Barrier> for Awaited {
    fn from(barrier: Barrier) -> Self {
        Self { attempt: Some(barrier.attempt), epoch: barrier.epoch }
    }
}

impl From<Epoch> for Awaited {
    fn from(epoch: Epoch) -> Self {
        Self { attempt: None, epoch }
    }
}

/// Declares an identity of 128 bits, printed as 32 hexadecimal digits.
macro_rules! bits128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                parse_hex(text)
                    .map(Self)
                    .ok_or_else(|| Error::usage(concat!("not a valid ", stringify!($name))).with("text", text))
            }
        }
    };
}

bits128! {
    /// Identity of one write: distinguishes our own object from another writer's under the same key.
    PutId
}
bits128! {
    /// Identity of a job, drawn at its first claim and never changed.
    JobId
}
bits128! {
    /// Identity of a history of checkpoints. It starts as the job's id, and is drawn anew where a job starts from nothing, from
    /// a checkpoint that is not its newest, or from a copy. Epochs of two lineages are not comparable.
    Lineage
}
bits128! {
    /// Identity of one connection of a worker to an owner, drawn by the worker for each connection.
    SessionId
}
bits128! {
    /// The first 128 bits of a BLAKE3 hash.
    Hash
}

impl Hash {
    /// Returns the hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::truncated(&blake3::hash(bytes))
    }

    /// Returns the first 128 bits of a full hash.
    #[must_use]
    pub fn truncated(full: &blake3::Hash) -> Self {
        let mut first = [0; 16];
        first.copy_from_slice(full.as_bytes().split_at(16).0);
        Self(first)
    }
}

/// Parses exactly 32 lower-case hexadecimal digits.
fn parse_hex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

/// Identity of a data object: the attempt that wrote it and 128 random bits. Prints as `<attempt>-<hex>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// The attempt that wrote it; decides which attempts may delete it.
    pub attempt: Attempt,
    /// Random bits: names are never reused.
    pub random: [u8; 16],
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.attempt, PutId(self.random))
    }
}

impl FromStr for ObjectId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once('-').and_then(|(attempt, random)| {
            let attempt = attempt.parse().ok().map(Attempt)?;
            Some(Self { attempt, random: parse_hex(random)? })
        });
        // One object, one name: `007-…` is not `7-…`.
        parsed
            .filter(|id| id.to_string() == text)
            .ok_or_else(|| Error::usage("not a valid object id").with("text", text))
    }
}

/// Identity of a segment: the subtask and the seal that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SegmentId {
    /// The attempt that sealed it.
    pub attempt: Attempt,
    /// The operator whose state it holds.
    pub operator: OperatorId,
    /// The subtask that sealed it.
    pub subtask: Subtask,
    /// The last epoch covered.
    pub epoch: Epoch,
    /// The seal's number within that epoch.
    pub part: Part,
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a{}.o{}.s{}.e{}.p{}", self.attempt, self.operator, self.subtask, self.epoch, self.part)
    }
}

/// Identity of a manifest: its number in the chain and its put-id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManifestId {
    /// Its number.
    pub seq: Seq,
    /// The write that created it.
    pub put_id: PutId,
}

/// A job's name: 1 to 128 ASCII letters, digits, `_`, `-` or `.`, not starting with `.`. Such a name is a path segment on
/// every store, and never a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobName(String);

impl JobName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for JobName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let valid = (1..=128).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        if !valid {
            let rule = "a job name is 1 to 128 of A-Z a-z 0-9 _ - . and does not start with a dot";
            return Err(Error::config(rule).with("name", text.escape_debug()));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g01_job_names_are_never_paths() {
        for bad in ["", ".", "..", "a/b", "../x", "a\\b", "a\0", "a b", "%2e", ".hidden", "ü", &"x".repeat(129)] {
            assert!(bad.parse::<JobName>().is_err(), "{bad:?}");
        }
        assert_eq!("nexmark-q5.v2_x".parse::<JobName>().unwrap().as_str(), "nexmark-q5.v2_x");
    }

    #[test]
    fn object_ids_print_as_they_parse_and_have_one_spelling() {
        let id = ObjectId { attempt: Attempt(7), random: [0xab; 16] };
        assert_eq!(id.to_string(), format!("7-{}", "ab".repeat(16)));
        assert_eq!(id.to_string().parse::<ObjectId>().unwrap(), id);
        for bad in ["07-", "7", "7-ab", "-1-", "7-ABABABABABABABABABABABABABABABAB", "7-..", "+7-"] {
            assert!(bad.parse::<ObjectId>().is_err(), "{bad:?}");
        }
        assert!(format!("07-{}", "ab".repeat(16)).parse::<ObjectId>().is_err());
    }
}
