//! The row model: every kind of state is rows.
//!
//! Backends hand rows out at a seal and take rows back at a load; segments store rows. A row has a place, an operation
//! and a few optional columns. Rules define how operands merge and which rows expire; the fold applies the rules to a
//! batch of rows.
//!
//! Invariants: no code here knows the segment format or reads a clock.

mod batch;
mod fold;
#[cfg(any(test, feature = "conformance"))]
mod folded;
mod key;
mod merge;
mod op;
mod piece;
mod rules;
mod run;
mod sealed;
pub(crate) mod shape;
mod sortable;
mod source;
pub(crate) mod span;
mod times;
mod warmth;

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
pub(crate) use sortable::{MAX_SORTABLE_BYTES, sortable, sortable_prefix};
pub(crate) use source::{Narrowed, SortedBlocks};
pub use source::{RowSource, SortedRows, Stack};
pub use times::{GroupTimes, Life};
pub(crate) use times::{agreed, later_times, times_of};
pub use warmth::Warmth;

/// Maximum length of a key, a namespace or a sub-key.
pub const MAX_PART_BYTES: usize = 65_535;
/// Maximum length of a value or a merge operand.
pub const MAX_VALUE_BYTES: usize = 64 << 20;
