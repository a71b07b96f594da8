//! From a manifest's list back to rows: ranged reads of what is needed, verified before use.

use std::ops::Range;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use tracing::Instrument as _;

use super::links::Narrowed;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Hash, ObjectId};
use crate::key_group::KeyGroupSet;
use crate::manifest::{Manifest, ObjectSlice, Opaque, OpaqueContent, SubtaskEntry, SubtaskManifest};
use crate::segment::{RowSource, SegmentIndex, SegmentKind, SegmentRef, SegmentRows, Stack};
use crate::store::{Key, Store};

/// Segments up to this length are read in one request, index and all.
const WHOLE_SEGMENT_BYTES: u64 = 32 * 1024;

/// How many segments are fetched at a time.
const CONCURRENT_SEGMENTS: usize = 8;

/// Returns the rows of `segments`, each for its own groups, oldest first.
///
/// # Errors
/// `Corrupt` or `NotFound`, naming the object; `Unavailable` if the store does not answer.
///
/// # Cost
/// At most two rounds of requests a segment: its index, then the blocks of its groups, neighbours in one range.
pub async fn fetch(store: &Store, segments: &[SegmentRef]) -> Result<Arc<dyn RowSource>> {
    let span = tracing::info_span!("fetch", segments = segments.len());
    let fetched = stream::iter(segments.iter().cloned()).map(|segment| fetch_segment(store, segment));
    let sources: Vec<_> = fetched.buffered(CONCURRENT_SEGMENTS).try_collect().instrument(span).await?;
    Ok(Arc::new(Stack::new(sources)))
}

async fn fetch_segment(store: &Store, segment: SegmentRef) -> Result<Arc<dyn RowSource>> {
    if segment.kind == SegmentKind::Foreign {
        return Err(Error::version("segment is of another engine").with("segment", segment.id));
    }
    let rows = if segment.length <= WHOLE_SEGMENT_BYTES {
        let bytes = read(store, segment.object, segment.offset, 0..segment.length).await;
        bytes.and_then(|bytes| SegmentRows::open(bytes, &segment.index_hash))
    } else {
        fetch_blocks(store, &segment).await
    };
    let rows = rows.map_err(|error| {
        error.with("object", segment.object).with("segment", segment.id).with("groups", &segment.groups)
    })?;
    Ok(Arc::new(Narrowed { groups: segment.groups, rows: Arc::new(rows) }))
}

async fn fetch_blocks(store: &Store, segment: &SegmentRef) -> Result<SegmentRows> {
    let index = segment.index_offset..segment.index_offset.saturating_add(u64::from(segment.index_length));
    let index = read(store, segment.object, segment.offset, index).await?;
    let index = SegmentIndex::decode(&index, &segment.index_hash)?;
    let ranges = index.blocks_for(&segment.groups);
    let blocks = stream::iter(ranges).map(async |range: Range<u64>| {
        let bytes = read(store, segment.object, segment.offset, range.clone()).await?;
        Ok::<_, Error>((range.start, bytes))
    });
    let blocks = blocks.buffered(CONCURRENT_SEGMENTS).try_collect().await?;
    SegmentRows::new(&index, &segment.groups, blocks)
}

/// Reads `range` of the slice of `object` that starts at `offset`.
async fn read(store: &Store, object: ObjectId, offset: u64, range: Range<u64>) -> Result<bytes::Bytes> {
    let end = range.end.checked_add(offset).ok_or_else(|| Error::corrupt("slice exceeds its object"))?;
    let missing = |error: Error| match error.kind() {
        // The manifest was committed after its objects: one that is missing was lost.
        ErrorKind::NotFound => Error::corrupt("object of a committed manifest is missing").with_source(error),
        _ => error,
    };
    let range = range.start.saturating_add(offset)..end;
    store.read_range(&Key::Data(object), range).await.map_err(missing)
}

/// Returns the manifest with all its subtask manifests and opaques inline.
///
/// # Errors
/// As [`fetch`].
pub async fn resolve(store: &Store, mut manifest: Manifest) -> Result<Manifest> {
    for operator in &mut manifest.operators {
        for entry in &mut operator.subtasks {
            let mut subtask = match entry {
                SubtaskEntry::Inline(subtask) => subtask.clone(),
                SubtaskEntry::Slice(slice) => {
                    let bytes = read_slice(store, slice).await?;
                    SubtaskManifest::decode(&bytes, manifest.max_parallelism)
                        .map_err(|error| error.with("object", slice.object))?
                }
            };
            for opaque in &mut subtask.opaques {
                inline(store, opaque).await?;
            }
            *entry = SubtaskEntry::Inline(subtask);
        }
    }
    Ok(manifest)
}

async fn inline(store: &Store, opaque: &mut Opaque) -> Result<()> {
    if let OpaqueContent::Stored(segment) = &opaque.content {
        let (object, offset, length) = (segment.object, segment.offset, segment.length);
        let bytes = read_slice(store, &ObjectSlice { object, offset, length, hash: segment.index_hash }).await?;
        opaque.content = OpaqueContent::Inline(bytes);
    }
    Ok(())
}

async fn read_slice(store: &Store, slice: &ObjectSlice) -> Result<bytes::Bytes> {
    let bytes = read(store, slice.object, slice.offset, 0..slice.length).await;
    let bytes = bytes.map_err(|error| error.with("object", slice.object))?;
    if Hash::of(&bytes) != slice.hash {
        return Err(Error::corrupt("hash of a slice differs")
            .with("object", slice.object)
            .with("offset", slice.offset));
    }
    Ok(bytes)
}

/// Returns the byte ranges of the segment's object that a restore of its groups reads, its index last.
///
/// # Errors
/// As [`fetch`].
pub async fn ranges(store: &Store, segment: &SegmentRef) -> Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    if segment.length <= WHOLE_SEGMENT_BYTES {
        ranges.push(0..segment.length);
    } else {
        let end = segment.index_offset.saturating_add(u64::from(segment.index_length));
        let index = segment.index_offset..end;
        let bytes = read(store, segment.object, segment.offset, index.clone()).await;
        let decoded = bytes.and_then(|bytes| SegmentIndex::decode(&bytes, &segment.index_hash));
        ranges.extend(decoded.map_err(|error| error.with("object", segment.object))?.blocks_for(&segment.groups));
        ranges.push(index);
    }
    let shift = |at: u64| at.saturating_add(segment.offset);
    Ok(ranges.into_iter().map(|range| shift(range.start)..shift(range.end)).collect())
}

/// Returns the groups that the segments speak for.
#[must_use]
pub fn groups_of(segments: &[SegmentRef]) -> KeyGroupSet {
    KeyGroupSet::from_ranges(segments.iter().flat_map(|segment| segment.groups.ranges().iter().copied()))
}
