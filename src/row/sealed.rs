//! What a seal hands out.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::batch::RowBatch;
use super::fold::Fold;
use super::merge::FoldedGroup;
use super::rules::Rules;
use super::source::{RowSource, Stack};
use crate::codec::stored_enum;
use crate::error::Result;
use crate::id::{Epoch, Part};
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::time::Timestamp;

/// What a segment holds. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SegmentKind {
    /// All live rows of its key groups: older segments of these groups are not needed.
    Base = 1,
    /// What changed in its key groups since the segments before it.
    Delta = 2,
    /// Opaque content of another engine or of the embedder.
    Foreign = 3,
}

stored_enum!(SegmentKind { Base, Delta, Foreign });

/// The instant of a seal. Expiry at encode uses these times, never a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The epoch that the seal belongs to.
    pub epoch: Epoch,
    /// The seal within the epoch, from 0.
    pub part: Part,
    /// The watermark.
    pub event_time: Timestamp,
    /// The wall clock's time.
    pub processing_time: Timestamp,
}

/// What one seal froze: a promise of bytes that owns what it needs, so that encoding runs on another thread
/// while the backend moves on. It is handed out once; its holder carries it until a committed manifest lists it.
#[derive(Debug)]
pub struct Sealed {
    /// When it was sealed.
    pub cut: Cut,
    /// At most one `Base` and one `Delta`, with disjoint groups. Empty if nothing changed.
    pub parts: Vec<SealedPart>,
    /// Distinct rows that changed since the seal before; not those that came and went.
    pub dirty_rows: u64,
    /// The groups that have such rows, ascending.
    pub heat: Vec<GroupHeat>,
    /// What the engine below the backend says of itself, as of some time before; sums over subtasks mean something. Empty
    /// if there is none.
    pub statistics: Arc<[Statistic]>,
}

/// A number that an engine knows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statistic {
    /// Its name, with its unit at the end where it has one.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// How large and how busy a key group is, at a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupHeat {
    /// The group.
    pub group: KeyGroup,
    /// Live rows; rows that have expired may count until they are cleaned.
    pub rows: u64,
    /// Bytes of live rows: keys, namespaces, sub-keys, values.
    pub live_bytes: u64,
    /// Distinct rows that changed since the seal before; not those that came and went.
    pub dirty_rows: u64,
    /// Reads of late: a count of which each seal takes an eighth.
    pub reads: u64,
    /// Writes of late, the same way.
    pub writes: u64,
}

/// The rows of a seal for some groups.
#[derive(Debug, Clone)]
pub struct SealedPart {
    /// `Base` or `Delta`.
    pub kind: SegmentKind,
    /// The groups that it speaks for. A `Base` speaks for a group even where the group has no rows.
    pub groups: KeyGroupSet,
    /// Its rows, unsorted and unfolded.
    pub rows: Arc<dyn RowSource>,
    /// What its rows mean, at the instant of the seal; of each group, [`Rules::of`] it.
    pub rules: Rules,
}

impl SealedPart {
    /// Returns a part without groups.
    pub(crate) fn empty() -> Self {
        let (groups, rows) = (KeyGroupSet::empty(), Arc::new(Stack::default()));
        Self { kind: SegmentKind::Delta, groups, rows, rules: Rules::none() }
    }

    /// Returns its rows as a segment of them would hold them, in memory.
    ///
    /// # Errors
    /// What the source and the rules return.
    pub(crate) fn folded(&self) -> Result<FoldedRows> {
        let (mut rows, mut batch) = (BTreeMap::<_, RowBatch>::new(), RowBatch::new());
        for group in self.groups.intersection(self.rows.groups()).iter() {
            let mut folded = FoldedGroup::new(&*self.rows, group, Fold::of(self.kind), &self.rules);
            while folded.next_batch(&mut batch)? {
                let of_group = rows.entry(group).or_default();
                batch.iter().try_for_each(|row| of_group.push(&row))?;
            }
        }
        Ok(FoldedRows { groups: self.groups.clone(), rows })
    }
}

/// Rows of some groups, folded, in memory.
#[derive(Debug)]
pub(crate) struct FoldedRows {
    groups: KeyGroupSet,
    rows: BTreeMap<KeyGroup, RowBatch>,
}

impl RowSource for FoldedRows {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        self.rows.get(&group).into_iter().flat_map(RowBatch::iter).try_for_each(|row| batch.push(&row))
    }

    fn held_bytes(&self) -> u64 {
        self.rows.values().map(RowBatch::held_bytes).sum()
    }
}
