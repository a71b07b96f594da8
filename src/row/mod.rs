//! The row model: what every kind of state is made of, wherever it lies.
//!
//! Backends hand rows out at a seal and take them back at a load; segments store them. A row has a key, an operation and
//! a few optional columns. Rules say how operands merge and what expires; the fold applies them to a batch of rows.
//!
//! Invariants: nothing here knows how rows are stored, or reads a clock.

mod batch;
mod fold;
mod key;
mod merge;
mod op;
mod piece;
mod rules;
mod run;
mod sealed;
pub(crate) mod shape;
mod source;
pub(crate) mod span;
mod times;

pub use batch::RowBatch;
pub use fold::Fold;
pub use key::RowKey;
pub(crate) use key::RowKeyBuf;
#[cfg(test)]
pub(crate) use merge::Bounds;
pub use merge::FoldedGroup;
pub(crate) use merge::{Merge, Step};
pub use op::{Columns, Op, Row};
pub use piece::{FIRST_VERSION, Piece};
pub(crate) use piece::{OwnedPiece, check_value_length};
pub(crate) use rules::Below;
pub use rules::{Append, MergeOperator, Rules, TableRules, Ttl, Upgrade};
pub use run::Run;
pub(crate) use run::{SortedRun, Spare};
pub use sealed::{Cut, GroupHeat, Sealed, SealedPart, SegmentKind, Statistic};
pub use source::{RowSource, Stack};
pub use times::{GroupTimes, Life};
pub(crate) use times::{narrowed as times_of, united as later_times};

/// Longest key, namespace or sub-key.
pub const MAX_PART_BYTES: usize = 65_535;
/// Longest value or merge operand.
pub const MAX_VALUE_BYTES: usize = 64 << 20;
