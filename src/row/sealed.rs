//! The result of a seal: frozen rows by key groups, with sizes and statistics.

use std::sync::Arc;

use super::rules::Rules;
use super::source::RowSource;
use crate::codec::stored_enum;
use crate::id::{Epoch, Part};
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::time::Timestamp;

/// The content of a segment. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SegmentKind {
    /// All live rows of its key groups; replaces every older segment of these groups.
    Base = 1,
    /// The changes in its key groups since the previous segment.
    Delta = 2,
    /// Opaque bytes of another engine or of the embedder.
    Foreign = 3,
}

stored_enum!(SegmentKind { Base, Delta, Foreign });

/// The instant of a seal. Encoding expires rows by these times, never by a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The epoch of the seal.
    pub epoch: Epoch,
    /// The seal's number within the epoch, from 0.
    pub part: Part,
    /// The watermark.
    pub event_time: Timestamp,
    /// The wall-clock time.
    pub processing_time: Timestamp,
}

/// The rows frozen by one seal. Owns its data, so encoding runs on another thread while the backend continues.
///
/// A backend hands each one out once; the holder keeps it until a committed manifest lists it.
#[derive(Debug)]
pub struct Sealed {
    /// The instant of the seal.
    pub cut: Cut,
    /// At most one `Base` and one `Delta`, with disjoint groups. Empty if nothing changed.
    pub parts: Vec<SealedPart>,
    /// Distinct rows changed since the previous seal, without rows both created and deleted since.
    pub dirty_rows: u64,
    /// The groups with dirty rows, ascending, and a few of the others, in turn from seal to seal.
    pub heat: Vec<GroupHeat>,
    /// Numbers reported by the engine below the backend, possibly slightly old; each can be summed over subtasks. Empty
    /// without such an engine.
    pub statistics: Arc<[Statistic]>,
}

/// A number reported by the engine below a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statistic {
    /// Its name, ending with the unit, if any.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// Size and load of a key group at a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupHeat {
    /// The group.
    pub group: KeyGroup,
    /// Live rows; may include expired rows not yet cleaned.
    pub rows: u64,
    /// Bytes of the live rows' keys, namespaces, sub-keys and values.
    pub live_bytes: u64,
    /// Distinct rows changed since the previous seal, without rows both created and deleted since.
    pub dirty_rows: u64,
    /// Recent reads: a count that decays by an eighth at each seal.
    pub reads: u64,
    /// Recent writes, with the same decay.
    pub writes: u64,
}

/// The rows of a seal for some groups.
#[derive(Debug, Clone)]
pub struct SealedPart {
    /// `Base` or `Delta`.
    pub kind: SegmentKind,
    /// The groups covered. A `Base` also covers groups without rows.
    pub groups: KeyGroupSet,
    /// The rows, neither sorted nor folded.
    pub rows: Arc<dyn RowSource>,
    /// The rules of the rows at the instant of the seal; [`Rules::of`] returns a group's.
    pub rules: Rules,
}
