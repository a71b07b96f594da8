//! Input that can be read again: splits with positions, shared out to subtasks, and the watermark of what was read.
//!
//! ```text
//! Source::splits --> owner of each split --> SplitReader::advance --> records --event times--> SourceReader::watermark
//!                                                   |
//!                           SourceReader::opaque at each barrier: the position of each split
//! ```
//!
//! Invariants:
//! - every split has one owner among the subtasks, which follows from its id and the parallelism alone;
//! - at any parallelism, a restored job reads each split from its position in the checkpoint: no record is skipped or read twice;
//! - the watermark of a subtask never goes back, nor does the least one of a job over a restart;
//! - a split that may still have earlier records holds the watermark back: only one that is at its last end does not, or one that is
//!   known to have had no more for as long as the settings say.

#[cfg(feature = "conformance")]
pub mod conformance;
mod reader;
mod recount;
mod split;
mod state;
mod watermark;

use std::time::Duration;

pub use reader::{SourceReader, SplitProgress};
pub use recount::{Recounted, recount};
pub use split::{Advance, Position, Source, SplitId, SplitReader, StartAt, hash_of, next_record};
pub use state::StoredSplit;
pub(crate) use state::stored_splits;

/// Settings of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceSettings {
    /// How much earlier than the latest event time of its split a record may be without being late. Default: 0.
    pub delay: Duration,
    /// Most that one record moves the event time of its split ahead. Without a bound, one record with a wrong clock, far in the
    /// future, makes all that follow late. With it, such a record moves the watermark by no more than this; after a real gap, a few
    /// records bring it to their time. The first record alone sets no time then: the earlier of the first two does. Default: no
    /// bound.
    pub max_ahead: Option<Duration>,
    /// How long a split must have had no more records until it does not hold the watermark back. Records that it gets later may be
    /// late. A split whose system does not answer is not idle. Default: never.
    pub idle_after: Option<Duration>,
    /// Whether a split at its end does not get more records in later runs either, so that it does not hold the watermark back. Else
    /// the next run of a job whose splits end at different times would find new records of the earlier ones late. Default: yes.
    pub end_is_final: bool,
    /// Whether the source may start from nothing although the restored checkpoint has positions of other sources in its operator.
    /// Default: no, because that is what a renamed source looks like.
    pub is_new: bool,
}

impl Default for SourceSettings {
    fn default() -> Self {
        Self { delay: Duration::ZERO, max_ahead: None, idle_after: None, end_is_final: true, is_new: false }
    }
}
