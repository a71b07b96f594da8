//! Checking one data object as a whole, and the slices of it that checkpoints need.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::hash::check_hash;
use super::reach::{Part, Reached};
use super::{Damage, DamageKind, VerifyLevel, detail};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ObjectId, Seq};
use crate::key_group::{KeyGroup, KeyGroupSet, Partitioner};
use crate::manifest::ObjectRef;
use crate::place::pack::Pack;
use crate::place::{DataObjects, Store, check_layout};
use crate::row::{RowBatch, SortedBlocks as _};
use crate::segment::{SectionCheck, SegmentIndex, SegmentRef, SegmentRows};

/// The known lengths of data objects.
pub(super) enum Stored {
    /// The listed lengths.
    Listed(BTreeMap<ObjectId, u64>),
    /// Not listed, since every object is read.
    ToBeRead,
}

impl Stored {
    pub(super) async fn list(store: &Store) -> Result<Self> {
        Ok(Self::Listed(store.data().lengths().await?))
    }
}

/// Checks data objects.
pub(super) struct Inspector<'a> {
    pub(super) store: &'a Store,
    pub(super) level: VerifyLevel,
    pub(super) stored: Stored,
}

/// Damage to a slice, with its offset from the object's start.
struct Fault {
    offset: u64,
    kind: DamageKind,
    error: Error,
}

/// An object's bytes, or the store to read them from.
struct Source<'a> {
    store: &'a Store,
    id: ObjectId,
    whole: Option<Bytes>,
}

impl Source<'_> {
    async fn read(&self, offset: u64, range: Range<u64>) -> Result<Bytes> {
        let beyond = || Error::corrupt("slice reaches beyond its object").with("offset", offset);
        let start = range.start.checked_add(offset).ok_or_else(beyond)?;
        let end = range.end.checked_add(offset).ok_or_else(beyond)?;
        let Some(whole) = &self.whole else { return self.store.data().read(self.id, start..end).await };
        let bounds = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        match bounds {
            Some((start, end)) if start <= end && end <= whole.len() => Ok(whole.slice(start..end)),
            _ => Err(beyond()),
        }
    }
}

impl Inspector<'_> {
    /// Returns the damage to an object.
    ///
    /// # Errors
    /// `Version`, `Denied` or `Unavailable` if the object cannot be checked.
    pub(super) async fn check(&self, id: ObjectId, reached: &Reached) -> Result<Vec<Damage>> {
        let name = DataObjects::name(id);
        let damage = |offset, kind, checkpoints: BTreeSet<Seq>, error| -> Result<Damage> {
            Ok(Damage { object: name.clone(), offset, kind, checkpoints, detail: detail(error)? })
        };
        for (object, _) in &reached.refs {
            check_layout(object)?;
        }
        let mut source = Source { store: self.store, id, whole: None };
        let whole = self.check_whole(id, reached, &mut source).await;
        if let Err((DamageKind::Missing, error)) = whole {
            return Ok(vec![damage(0, DamageKind::Missing, reached.checkpoints(), error)?]);
        }
        let mut damaged = Vec::new();
        if self.level != VerifyLevel::Manifest {
            for (offset, parts) in &reached.parts {
                for (part, checkpoints) in parts {
                    if let Err(fault) = self.check_part(&source, *offset, part).await {
                        damaged.push(damage(fault.offset, fault.kind, checkpoints.clone(), fault.error)?);
                    }
                }
            }
        }
        // If every needed slice is intact, the damage lies elsewhere in the object, where no restore reads.
        if let (true, Err((kind, error))) = (damaged.is_empty(), whole) {
            let unseen = if self.level == VerifyLevel::Full { BTreeSet::new() } else { reached.checkpoints() };
            damaged.push(damage(0, kind, unseen, error)?);
        }
        Ok(damaged)
    }

    /// Checks the object as a whole. At [`VerifyLevel::Full`] reads it into `source`.
    async fn check_whole(
        &self,
        id: ObjectId,
        reached: &Reached,
        source: &mut Source<'_>,
    ) -> Result<(), (DamageKind, Error)> {
        let missing = || (DamageKind::Missing, Error::corrupt("object of a live manifest is missing"));
        let length = match &self.stored {
            Stored::Listed(lengths) => match lengths.get(&id) {
                Some(length) => *length,
                // The listing may lag: check that the object has its last byte instead.
                None => {
                    let length = reached.length();
                    match self.store.data().read(id, length.saturating_sub(1)..length).await {
                        Ok(_) => length,
                        Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing()),
                        Err(error) => return Err((DamageKind::Length, error)),
                    }
                }
            },
            Stored::ToBeRead => {
                let read = self.store.data().read_whole(id, reached.length()).await;
                let object = read.map_err(|error| (DamageKind::Length, error))?.ok_or_else(missing)?;
                source.whole.insert(object).len() as u64
            }
        };
        for (object, _) in &reached.refs {
            if object.bytes != length {
                let error = Error::corrupt("object has another length").with("expected", object.bytes);
                return Err((DamageKind::Length, error.with("found", length)));
            }
            if let Some(whole) = &source.whole {
                check_bytes(object, whole, reached).map_err(|error| (DamageKind::Object, error))?;
            }
        }
        Ok(())
    }

    async fn check_part(&self, source: &Source<'_>, offset: u64, part: &Part) -> Result<(), Fault> {
        match part {
            Part::Bytes { length, hash } => {
                let fault = |error| Fault { offset, kind: DamageKind::Slice, error };
                let bytes = source.read(offset, 0..*length).await.map_err(fault)?;
                check_hash("slice", &bytes, hash).map_err(fault)
            }
            Part::Segment(segment, partitioner, max_parallelism) => {
                let rules = Rules { segment, partitioner: *partitioner, max_parallelism: *max_parallelism };
                match self.level {
                    VerifyLevel::Manifest => Ok(()),
                    VerifyLevel::Sampled { seed } => rules.check_sample(source, seed).await,
                    VerifyLevel::Full => rules.check_all(source).await,
                }
            }
        }
    }
}

/// Compares a whole object with its description, and its directory with the segments that manifests list.
fn check_bytes(object: &ObjectRef, whole: &Bytes, reached: &Reached) -> Result<()> {
    let pack = Pack::decode(object.id, whole)?;
    check_hash("object", whole, &object.hash)?;
    if pack.put_id != object.put_id {
        let error = Error::corrupt("object is of another write").with("expected", object.put_id);
        return Err(error.with("found", pack.put_id));
    }
    let extents: BTreeSet<_> = pack.slices.iter().map(|slice| (slice.offset, slice.length)).collect();
    for (offset, parts) in &reached.parts {
        for (part, _) in parts {
            let length = match part {
                Part::Segment(segment, ..) => segment.length,
                Part::Bytes { length, .. } => *length,
            };
            if !extents.contains(&(*offset, length)) {
                return Err(Error::corrupt("directory of the pack lacks a slice").with("offset", *offset));
            }
        }
    }
    Ok(())
}

/// A segment, with the rules for its rows.
struct Rules<'a> {
    segment: &'a SegmentRef,
    partitioner: Partitioner,
    max_parallelism: u16,
}

impl Rules<'_> {
    fn fault(&self, offset: u64, kind: DamageKind) -> impl Fn(Error) -> Fault {
        let (offset, id) = (self.segment.offset.saturating_add(offset), self.segment.id);
        move |error| Fault { offset, kind, error: error.with("segment", id) }
    }

    async fn index(&self, source: &Source<'_>) -> Result<SegmentIndex, Fault> {
        let segment = self.segment;
        let fault = self.fault(segment.index_offset, DamageKind::Index);
        let end = segment.index_offset.saturating_add(u64::from(segment.index_length));
        let bytes = source.read(segment.offset, segment.index_offset..end).await.map_err(&fault)?;
        let index = SegmentIndex::decode(&bytes, &segment.index_hash).map_err(&fault)?;
        index.check_ref(segment).map_err(&fault)?;
        Ok(index)
    }

    /// Reads one block and checks the rows of its groups.
    async fn check_sample(&self, source: &Source<'_>, seed: u64) -> Result<(), Fault> {
        let index = self.index(source).await?;
        let count = index.blocks().len() as u64;
        let draw = xxh3_64_with_seed(&self.segment.object.random, seed ^ self.segment.offset);
        let chosen = draw.checked_rem(count).and_then(|at| index.blocks().get(usize::try_from(at).ok()?));
        let Some(block) = chosen else { return Ok(()) };
        let groups: KeyGroupSet =
            [block.first, block.last].into_iter().filter(|group| index.groups().contains(*group)).collect();
        let fault = self.fault(block.offset, DamageKind::Block);
        let mut ranges = Vec::new();
        for range in index.blocks_for(&groups) {
            ranges.push((range.start, source.read(self.segment.offset, range).await.map_err(&fault)?));
        }
        let rows = SegmentRows::new(&index, &groups, ranges).map_err(&fault)?;
        self.check_rows(&rows, &groups, None)
    }

    /// Reads the whole segment.
    async fn check_all(&self, source: &Source<'_>) -> Result<(), Fault> {
        let index = self.index(source).await?;
        let fault = self.fault(0, DamageKind::Index);
        let bytes = source.read(self.segment.offset, 0..self.segment.length).await.map_err(&fault)?;
        for block in index.blocks() {
            let fault = self.fault(block.offset, DamageKind::Block);
            let end = block.offset.saturating_add(u64::from(block.length));
            let stored = source.read(self.segment.offset, block.offset..end).await.map_err(&fault)?;
            check_hash("block", &stored, &block.hash).map_err(&fault)?;
        }
        // No hash covers the header and the trailer.
        let rows = SegmentRows::open(bytes, &self.segment.index_hash).map_err(&fault)?;
        self.check_rows(&rows, index.groups(), Some(SectionCheck::new(&index)))
    }

    /// Checks the blocks' checksums, decodes the rows of `groups`, which checks their order and groups, and locates their keys.
    ///
    /// * `sections`: compares the index with them, where these are all rows of the segment.
    fn check_rows(
        &self,
        rows: &SegmentRows,
        groups: &KeyGroupSet,
        mut sections: Option<SectionCheck<'_>>,
    ) -> Result<(), Fault> {
        rows.check_sums().map_err(self.fault(0, DamageKind::Block))?;
        let mut batch = RowBatch::new();
        for group in groups.iter() {
            // Block by block: a group may have any number of rows.
            let visited = rows.visit(group, &mut |of_block| {
                batch.clear();
                batch.append(&of_block)?;
                self.check_keys(group, &batch)?;
                sections.as_mut().map_or(Ok(()), |sections| sections.check(group, &batch))?;
                Ok(true)
            });
            visited.map_err(self.fault(0, DamageKind::Rows))?;
        }
        Ok(())
    }

    fn check_keys(&self, group: KeyGroup, batch: &RowBatch) -> Result<()> {
        for row in batch.iter() {
            // Other partitioners need the engine's hash of the key, which is stored only if the engine supplied one.
            let routing = match (self.partitioner, row.columns.routing) {
                (_, Some(routing)) => routing,
                (Partitioner::Range { .. }, None) => 0,
                (_, None) => continue,
            };
            let Some(key) = row.key.key else { continue };
            let found = self.partitioner.locate(key, routing, self.max_parallelism).group;
            if found != group {
                let error = Error::corrupt("row is of another key group than its key").with("expected", found);
                return Err(error.with("found", group).with("table", row.key.table));
            }
        }
        Ok(())
    }
}
