//! Reading the rows of a checkpoint: ranged reads of the needed blocks, verified before use.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tracing::Instrument as _;

use super::slices;
use crate::error::{Error, ErrorKind, Result, broken};
use crate::id::{ObjectId, TableId};
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::manifest::{
    Manifest, ObjectRef, ObjectSlice, Opaque, OpaqueContent, SubtaskEntry, SubtaskManifest, SubtaskSlice,
};
use crate::place::{READ_BYTES_MAX, Store};
use crate::row::{Narrowed, RowSource, SegmentKind, Stack};
use crate::segment::{BlockEntry, SegmentIndex, SegmentRef, SegmentRows, sum, touching};
use crate::time::Timestamp;

/// Segments up to this length are read in one request, index and all.
const WHOLE_SEGMENT_BYTES: u64 = 32 * 1024;

/// Segments fetched at a time.
const CONCURRENT_SEGMENTS: usize = 16;

/// Segments whose indexes were read and verified. Their rows can be read part by part.
#[derive(Debug)]
pub struct SegmentReader {
    pub(super) store: Store,
    pub(super) segments: Vec<Opened>,
    sizes: BTreeMap<KeyGroup, u64>,
}

/// A segment whose index, or whose whole, was read.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) segment: SegmentRef,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// The whole of a short segment.
    Rows(Arc<SegmentRows>, SegmentIndex),
    Index(SegmentIndex),
}

/// Returns the rows of `segments`, oldest first, each for its own groups.
///
/// # Errors
/// As [`SegmentReader::open`].
///
/// # Cost
/// At most two rounds of requests per segment: its index, then the blocks of its groups, neighbours in one range.
#[cfg(any(test, feature = "internals"))]
pub async fn fetch(store: &Store, segments: &[SegmentRef]) -> Result<Arc<dyn RowSource>> {
    SegmentReader::open(store, segments).await?.fetch(&groups_of(segments)).await
}

impl Content {
    fn whole(bytes: Bytes, segment: &SegmentRef) -> Result<Self> {
        let index = SegmentIndex::find(&bytes, Some(&segment.index_hash))?;
        let rows = SegmentRows::new(&index, index.groups(), vec![(0, bytes)])?;
        Ok(Self::Rows(Arc::new(rows), index))
    }

    const fn index(&self) -> &SegmentIndex {
        match self {
            Self::Rows(_, index) | Self::Index(index) => index,
        }
    }
}

impl SegmentReader {
    /// Reads the indexes of `segments`, oldest first; short segments are read whole.
    ///
    /// # Errors
    /// `Corrupt` or `Version`, naming the object; `Unavailable` if the store does not answer.
    pub async fn open(store: &Store, segments: &[SegmentRef]) -> Result<Self> {
        let span = tracing::info_span!("open segments", segments = segments.len());
        let opened = stream::iter(segments.iter().cloned()).map(|segment| Opened::read(store, segment));
        let segments: Vec<_> = opened.buffered(CONCURRENT_SEGMENTS).try_collect().instrument(span).await?;
        Ok(Self { store: store.clone(), sizes: sizes_of(&segments), segments })
    }

    /// Divides `groups` into parts of at least one group whose stored rows take about `bytes` or less.
    #[must_use]
    pub fn parts(&self, groups: &KeyGroupSet, bytes: u64) -> Vec<KeyGroupSet> {
        groups.divide(bytes, |group| self.sizes.get(&group).copied().unwrap_or(0))
    }

    /// Returns the stored bytes of each group's rows. A block of several groups counts for its first group; short
    /// segments, already in memory, count for none.
    pub(crate) const fn sizes(&self) -> &BTreeMap<KeyGroup, u64> {
        &self.sizes
    }

    /// Returns the stored bytes of the rows that each segment has of its groups.
    pub(crate) fn live_bytes(&self) -> Vec<u64> {
        let bytes = |opened: &Opened| {
            let blocks = opened.content.index().blocks_of(&opened.segment.groups);
            sum(blocks.into_iter().map(|block| u64::from(block.length)))
        };
        self.segments.iter().map(bytes).collect()
    }

    /// Returns a lower bound of the times of the group's timers in `table`; `None` if it has none there.
    pub(super) fn earliest_timer(&self, table: TableId, group: KeyGroup) -> Option<Timestamp> {
        let having = self.segments.iter().filter(|opened| opened.segment.groups.contains(group));
        having.filter_map(|opened| opened.content.index().earliest_of(table, group)).min()
    }

    /// Returns the rows of `groups`, oldest first; each segment contributes only the groups that it is needed for.
    ///
    /// # Errors
    /// `Corrupt`, naming the object; `Unavailable` if the store does not answer.
    pub async fn fetch(&self, groups: &KeyGroupSet) -> Result<Arc<dyn RowSource>> {
        let span = tracing::info_span!("fetch", segments = self.segments.len());
        let mut fetches = Vec::new();
        for opened in &self.segments {
            let groups = opened.segment.groups.intersection(groups);
            if !groups.is_empty() {
                fetches.push(opened.fetch(&self.store, groups));
            }
        }
        let sources: Vec<_> =
            stream::iter(fetches).buffered(CONCURRENT_SEGMENTS).try_collect().instrument(span).await?;
        Ok(Arc::new(Stack::new(sources)))
    }
}

impl Opened {
    async fn read(store: &Store, segment: SegmentRef) -> Result<Self> {
        if segment.kind == SegmentKind::Foreign {
            return Err(Error::version("segment is of another engine").with("segment", segment.id));
        }
        let content = if segment.length <= WHOLE_SEGMENT_BYTES {
            read(store, &segment, 0..segment.length, |bytes| Content::whole(bytes, &segment)).await
        } else {
            read_index(store, &segment).await.map(Content::Index)
        };
        match content {
            Ok(content) => Ok(Self { segment, content }),
            Err(error) => Err(of_segment(error, &segment)),
        }
    }

    /// Returns the rows of `groups`, a subset of the groups that the segment is needed for.
    async fn fetch(&self, store: &Store, groups: KeyGroupSet) -> Result<Arc<dyn RowSource>> {
        let rows = match &self.content {
            Content::Rows(rows, _) => Arc::clone(rows),
            Content::Index(index) => {
                let rows = self.fetch_blocks(store, index, &groups).await;
                Arc::new(rows.map_err(|error| of_segment(error, &self.segment))?)
            }
        };
        Ok(Arc::new(Narrowed { groups, rows }))
    }

    async fn fetch_blocks(&self, store: &Store, index: &SegmentIndex, groups: &KeyGroupSet) -> Result<SegmentRows> {
        let rows = |ranges| SegmentRows::new(index, groups, ranges);
        self.read_blocks(store, index.blocks_of(groups), rows).await
    }

    /// Reads blocks, neighbours in one request. Returns what `check`, which verifies them, makes of the bytes read, each
    /// with its offset in the segment, ascending.
    pub(super) async fn read_blocks<'a, T>(
        &self,
        store: &Store,
        blocks: impl IntoIterator<Item = &'a BlockEntry>,
        check: impl Fn(Vec<(u64, Bytes)>) -> Result<T>,
    ) -> Result<T> {
        let ranges = touching(blocks, READ_BYTES_MAX);
        let check = |read: Vec<Bytes>| check(ranges.iter().map(|range| range.start).zip(read).collect());
        read_checked(store, self.segment.object, self.segment.offset, &ranges, check).await
    }
}

/// Returns what [`SegmentReader::sizes`] returns of these segments.
fn sizes_of(segments: &[Opened]) -> BTreeMap<KeyGroup, u64> {
    let mut sizes: Vec<u64> = Vec::new();
    for opened in segments {
        // Short segments are in memory already.
        let Content::Index(index) = &opened.content else { continue };
        for block in index.blocks_of(&opened.segment.groups) {
            let at = usize::from(block.first.0);
            if sizes.len() <= at {
                sizes.resize(at + 1, 0);
            }
            sizes.get_mut(at).into_iter().for_each(|size| *size = size.saturating_add(u64::from(block.length)));
        }
    }
    (0..).map(KeyGroup).zip(sizes).filter(|(_, size)| *size > 0).collect()
}

pub(super) fn of_segment(error: Error, segment: &SegmentRef) -> Error {
    error.with("object", segment.object).with("segment", segment.id).with("groups", &segment.groups)
}

async fn read_index(store: &Store, segment: &SegmentRef) -> Result<SegmentIndex> {
    read(store, segment, index_range(segment), |index| SegmentIndex::decode(&index, &segment.index_hash)).await
}

/// Returns the range of the index, from the segment's start.
fn index_range(segment: &SegmentRef) -> Range<u64> {
    segment.index_offset..segment.index_offset.saturating_add(u64::from(segment.index_length))
}

/// Reads `range` of `segment` and returns what `check`, which verifies it, makes of it.
async fn read<T>(
    store: &Store,
    segment: &SegmentRef,
    range: Range<u64>,
    check: impl Fn(Bytes) -> Result<T>,
) -> Result<T> {
    let check = |read: Vec<Bytes>| check(read.into_iter().next().unwrap_or_default());
    read_checked(store, segment.object, segment.offset, &[range], check).await
}

/// Reads `ranges` of the slice of `object` that starts at `offset`, and returns what `check`, which verifies them, makes
/// of them.
pub(super) async fn read_checked<T>(
    store: &Store,
    object: ObjectId,
    offset: u64,
    ranges: &[Range<u64>],
    check: impl Fn(Vec<Bytes>) -> Result<T>,
) -> Result<T> {
    let exceeds = || Error::corrupt("slice exceeds its object");
    let shifted = ranges.iter().map(|range| {
        let end = range.end.checked_add(offset).ok_or_else(exceeds)?;
        Ok(range.start.saturating_add(offset)..end)
    });
    let ranges = shifted.collect::<Result<Vec<_>>>()?;
    store.data().read_checked(object, &ranges, check).await.map_err(missing)
}

/// Returns the error of a read of a manifest's object. Objects are durable before their manifest: a missing one was
/// lost, or deleted after the manifest was dropped. [`under`](super::reading::under) finds out which.
#[must_use]
pub fn missing(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::corrupt("object of a committed manifest is missing").with_source(error),
        _ => error,
    }
}

/// Returns the manifest with all its subtask manifests and opaques inline.
///
/// # Errors
/// As [`fetch`].
///
/// # Cost
/// A request per 64 MiB of neighbouring subtask manifests or opaques that are not inline, 16 at a time, and memory for
/// all.
pub async fn resolve(store: &Store, mut manifest: Manifest) -> Result<Manifest> {
    let counts: Vec<_> = manifest.operators.iter().map(|operator| operator.subtasks.len()).collect();
    let entries = manifest.operators.iter_mut().flat_map(|operator| operator.subtasks.drain(..)).collect();
    let mut subtasks = read_subtasks(store, entries, manifest.max_parallelism).await?;
    check_listed(&manifest.objects, &subtasks)?;
    inline_opaques(store, &mut subtasks).await?;
    let mut entries = subtasks.into_iter().map(SubtaskEntry::Inline);
    for (operator, count) in manifest.operators.iter_mut().zip(counts) {
        operator.subtasks = entries.by_ref().take(count).collect();
    }
    Ok(manifest)
}

/// Returns the subtask manifests of `entries`, in order, with opaques inline.
///
/// # Errors
/// As [`fetch`].
///
/// # Cost
/// As [`resolve`].
pub(crate) async fn read_entries(
    store: &Store,
    entries: Vec<SubtaskEntry>,
    max_parallelism: u16,
) -> Result<Vec<SubtaskManifest>> {
    let mut subtasks = read_subtasks(store, entries, max_parallelism).await?;
    inline_opaques(store, &mut subtasks).await?;
    Ok(subtasks)
}

/// Refuses subtask manifests that refer to objects which the job's manifest does not list. Decoding the manifest cannot
/// check this for subtask manifests in slices.
///
/// # Errors
/// `Corrupt`, naming the object.
pub(crate) fn check_listed<'a>(
    objects: &[ObjectRef],
    subtasks: impl IntoIterator<Item = &'a SubtaskManifest>,
) -> Result<()> {
    let listed: BTreeSet<_> = objects.iter().map(|object| object.id).collect();
    match subtasks.into_iter().flat_map(SubtaskManifest::objects).find(|id| !listed.contains(id)) {
        Some(id) => Err(Error::corrupt("object is not listed").with("object", id)),
        None => Ok(()),
    }
}

/// Returns the subtask manifests of `entries`, in order. Their opaques stay where they are.
///
/// # Errors
/// As [`fetch`].
pub(crate) async fn read_subtasks(
    store: &Store,
    entries: Vec<SubtaskEntry>,
    max_parallelism: u16,
) -> Result<Vec<SubtaskManifest>> {
    let stored: Vec<_> = entries.iter().filter_map(SubtaskEntry::slice).copied().collect();
    let decode = |_: &ObjectSlice, bytes: Bytes| SubtaskManifest::decode(&bytes, max_parallelism);
    let mut read = slices::read(store, &stored, decode).await?.into_iter();
    let mut subtasks = Vec::with_capacity(entries.len());
    for entry in entries {
        subtasks.push(match entry {
            SubtaskEntry::Inline(subtask) => subtask,
            SubtaskEntry::Slice(SubtaskSlice { slice, summary }) => {
                let subtask = read.next().unwrap_or_else(|| broken("a slice was not read"));
                subtask.check_summary(&summary).map_err(|error| error.with("object", slice.object))?;
                subtask
            }
        });
    }
    Ok(subtasks)
}

async fn inline_opaques(store: &Store, subtasks: &mut [SubtaskManifest]) -> Result<()> {
    let slice = |opaque: &Opaque| {
        let &SegmentRef { object, offset, length, index_hash: hash, .. } = opaque.segment()?;
        Some(ObjectSlice { object, offset, length, hash })
    };
    let stored: Vec<_> = subtasks.iter().flat_map(|subtask| &subtask.opaques).filter_map(slice).collect();
    let read = slices::read(store, &stored, |_, bytes| Ok(bytes)).await?;
    let opaques = subtasks.iter_mut().flat_map(|subtask| &mut subtask.opaques);
    let opaques = opaques.filter(|opaque| opaque.segment().is_some());
    opaques.zip(read).for_each(|(opaque, bytes)| opaque.content = OpaqueContent::Inline(bytes));
    Ok(())
}

/// Returns the byte ranges of the segment's object that a restore of its groups reads, the index last.
///
/// # Errors
/// As [`fetch`].
pub async fn ranges(store: &Store, segment: &SegmentRef) -> Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    if segment.length <= WHOLE_SEGMENT_BYTES {
        ranges.push(0..segment.length);
    } else {
        let index = read_index(store, segment).await.map_err(|error| of_segment(error, segment))?;
        ranges.extend(touching(index.blocks_of(&segment.groups), READ_BYTES_MAX));
        ranges.push(index_range(segment));
    }
    let shift = |at: u64| at.saturating_add(segment.offset);
    Ok(ranges.into_iter().map(|range| shift(range.start)..shift(range.end)).collect())
}

/// Returns the groups of all `segments`.
#[must_use]
#[cfg(any(test, feature = "internals"))]
pub fn groups_of(segments: &[SegmentRef]) -> KeyGroupSet {
    KeyGroupSet::from_ranges(segments.iter().flat_map(|segment| segment.groups.ranges().iter().copied()))
}
