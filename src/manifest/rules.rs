//! Rules across the fields of a manifest, checked before writing and after reading.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    GroupTimes, INLINE_OPAQUE_BYTES, Layout, Manifest, ManifestKind, ObjectRef, Opaque, OpaqueContent, OpaqueRole,
    OperatorManifest, Program, Schema, SubtaskEntry, SubtaskManifest, SubtaskSlice,
};
use crate::error::{Error, Result};
use crate::id::{Epoch, ObjectId, Subtask};
use crate::key_group::{KeyGroupRange, KeyGroupSet, MAX_KEY_GROUPS, check_parallelism};
use crate::row::SegmentKind;
use crate::segment::SegmentRef;

/// Maximum length of any name.
pub const MAX_NAME_BYTES: usize = 4096;

/// The lengths of the objects listed in a manifest.
pub(crate) type Objects = BTreeMap<ObjectId, u64>;

impl Manifest {
    /// Checks every rule that depends on the manifest alone.
    pub(super) fn check(&self) -> Result<()> {
        self.check_chain()?;
        if !(1..=MAX_KEY_GROUPS).contains(&self.max_parallelism) {
            return Err(Error::corrupt("max parallelism out of range").with("found", self.max_parallelism));
        }
        if self.program != Program::new(self.program.bytes.clone()) {
            return Err(Error::corrupt("program has another hash").with("expected", self.program.hash));
        }
        name("writer", &self.writer)?;
        unique("extension", self.extensions.iter().map(|extension| &extension.tag))?;
        self.extensions.iter().try_for_each(|extension| name("extension", &extension.tag))?;
        let objects = check_objects(&self.objects)?;
        unique("operator id", self.operators.iter().map(|operator| operator.id))?;
        unique("operator name", self.operators.iter().map(|operator| &operator.name))?;
        let check = |operator: &OperatorManifest| self.check_operator(operator, &objects);
        self.operators.iter().try_for_each(|operator| check(operator).map_err(|e| e.with("operator", operator.id)))
    }

    fn check_chain(&self) -> Result<()> {
        if self.seq.0 == 0 || self.attempt.0 == 0 {
            return Err(Error::corrupt("seq and attempt count from 1"));
        }
        if let Some(parent) = self.parent
            && parent.seq >= self.seq
        {
            return Err(Error::corrupt("parent is not older").with("seq", self.seq).with("parent", parent.seq));
        }
        let seqs = self.retained.iter().map(|retained| retained.id.seq).chain([self.seq]);
        if !seqs.is_sorted_by(|a, b| a < b) {
            return Err(Error::corrupt("retained manifests are not in order and older").with("seq", self.seq));
        }
        Ok(())
    }

    fn check_operator(&self, operator: &OperatorManifest, objects: &Objects) -> Result<()> {
        name("operator", &operator.name)?;
        unique("table id", operator.tables.iter().map(|table| table.id))?;
        unique("table name", operator.tables.iter().map(|table| &table.name))?;
        for table in &operator.tables {
            name("table", &table.name)?;
            name("merge operator", table.merge_operator.as_deref().unwrap_or_default())?;
            let schemas = [&table.key, &table.namespace, &table.sub, &table.value];
            schemas.into_iter().try_for_each(|Schema { name: text, .. }| name("schema", text))?;
        }
        check_parallelism(operator.parallelism, self.max_parallelism)
            .map_err(|_| Error::corrupt("parallelism out of range").with("found", operator.parallelism))?;
        for (at, entry) in (0..).zip(&operator.subtasks) {
            let checked = entry.check(Subtask(at), (self.epoch, self.max_parallelism), objects);
            checked.map_err(|error| error.with("subtask", at))?;
        }
        if self.kind == ManifestKind::Claim { Ok(()) } else { operator.check_owners(self.max_parallelism) }
    }
}

impl SubtaskEntry {
    /// Checks what is known of subtask `at` against the job's groups, the epoch and the objects.
    pub(crate) fn check(&self, at: Subtask, (epoch, max_parallelism): (Epoch, u16), objects: &Objects) -> Result<()> {
        let subtask = match self {
            Self::Slice(SubtaskSlice { slice, summary }) => {
                within_object(objects, slice.object, slice.offset, slice.length)?;
                return check_groups(&summary.groups, max_parallelism);
            }
            Self::Inline(subtask) => subtask,
        };
        if subtask.subtask != at {
            return Err(Error::corrupt("subtask manifest is another subtask's").with("found", subtask.subtask));
        }
        subtask.check(max_parallelism)?;
        for segment in subtask.segments.iter().chain(subtask.opaques.iter().filter_map(Opaque::segment)) {
            within_object(objects, segment.object, segment.offset, segment.length)
                .and_then(|()| not_after(segment.id.epoch, epoch))
                .map_err(|error| error.with("segment", segment.id))?;
        }
        Ok(())
    }
}

impl OperatorManifest {
    /// Checks that each key group has exactly one owner.
    pub(crate) fn check_owners(&self, max_parallelism: u16) -> Result<()> {
        if self.parallelism as usize != self.subtasks.len() {
            let error = Error::corrupt("operator does not have as many subtasks as its parallelism");
            return Err(error.with("expected", self.parallelism).with("found", self.subtasks.len()));
        }
        let groups = || self.subtasks.iter().map(SubtaskEntry::groups);
        let owned = KeyGroupSet::from_ranges(groups().flat_map(KeyGroupSet::ranges).copied());
        if owned.len() != groups().map(KeyGroupSet::len).sum::<usize>() {
            return Err(Error::corrupt("key groups have two owners"));
        }
        let unowned = KeyGroupSet::all(max_parallelism).difference(&owned);
        if !unowned.is_empty() {
            return Err(Error::corrupt("key groups have no owner").with("groups", unowned));
        }
        Ok(())
    }
}

impl SubtaskManifest {
    /// Checks every rule that depends only on the subtask manifest and the number of key groups.
    pub(crate) fn check(&self, max_parallelism: u16) -> Result<()> {
        check_groups(&self.groups, max_parallelism)?;
        for segment in &self.segments {
            let foreign = segment.groups.difference(&self.groups);
            let owned = if foreign.is_empty() {
                Ok(())
            } else {
                Err(Error::corrupt("segment is listed for groups that its subtask does not own")
                    .with("groups", foreign))
            };
            owned.and_then(|()| check_segment(segment)).map_err(|error| error.with("segment", segment.id))?;
        }
        self.check_times()?;
        self.check_heat()?;
        // Prepared output of several epochs shares one name.
        let single = self.opaques.iter().filter(|opaque| opaque.role != OpaqueRole::SinkPrepared);
        unique("opaque", single.map(|opaque| (opaque.role, &opaque.name)))?;
        let check = |opaque: &Opaque| check_opaque(opaque).map_err(|error| error.with("opaque", &opaque.name));
        self.opaques.iter().try_for_each(check)
    }

    /// Checks that the times are sorted, disjoint and of the subtask's groups.
    fn check_times(&self) -> Result<()> {
        let ranges = self.times.iter().map(|times| times.groups);
        let apart = self.times.iter().zip(self.times.iter().skip(1)).all(|(a, b)| a.groups.end <= b.groups.start);
        let foreign = KeyGroupSet::from_ranges(ranges.clone()).difference(&self.groups);
        if ranges.into_iter().any(KeyGroupRange::is_empty) || !apart || !foreign.is_empty() {
            return Err(Error::corrupt("times are not those of the subtask's groups").with("foreign", foreign));
        }
        let lives = |times: &GroupTimes| times.lives.is_sorted_by(|a, b| a.table < b.table);
        if self.times.iter().all(lives) { Ok(()) } else { Err(Error::corrupt("lives are not sorted by table")) }
    }

    /// Checks that the heat is that of every group, or unknown.
    fn check_heat(&self) -> Result<()> {
        if self.heat.is_empty() || self.heat.len() == self.groups.len() {
            return Ok(());
        }
        let error = Error::corrupt("heat is not that of the subtask's groups");
        Err(error.with("groups", self.groups.len()).with("found", self.heat.len()))
    }
}

/// Checks that a subtask owns only groups that the job has.
pub(crate) fn check_groups(groups: &KeyGroupSet, max_parallelism: u16) -> Result<()> {
    let foreign = groups.difference(&KeyGroupSet::all(max_parallelism));
    if foreign.is_empty() {
        return Ok(());
    }
    let error = Error::corrupt("subtask owns groups that the job does not have").with("groups", foreign);
    Err(error.with("max_parallelism", max_parallelism))
}

/// Checks the objects of a list, and returns their lengths.
pub(crate) fn check_objects(objects: &[ObjectRef]) -> Result<Objects> {
    for object in objects {
        name("key id", &object.key_id)?;
        let wrong = match object.layout {
            Layout::Whole => false,
            Layout::Shards { k, m: _, shard_bytes } => {
                k == 0 || u64::from(k).checked_mul(shard_bytes).is_none_or(|room| room < object.bytes)
            }
        };
        if wrong {
            return Err(Error::corrupt("shards do not hold their object").with("object", object.id));
        }
    }
    unique("object", objects.iter().map(|object| object.id))?;
    Ok(objects.iter().map(|object| (object.id, object.bytes)).collect())
}

fn check_segment(segment: &SegmentRef) -> Result<()> {
    not_after(segment.first_epoch, segment.id.epoch)?;
    let index_end = segment.index_offset.checked_add(u64::from(segment.index_length));
    let index_fits = match segment.kind {
        SegmentKind::Foreign => segment.index_length == 0 && segment.index_offset == segment.length,
        SegmentKind::Base | SegmentKind::Delta => {
            segment.index_length > 0 && index_end.is_some_and(|end| end <= segment.length)
        }
    };
    if index_fits { Ok(()) } else { Err(Error::corrupt("index does not lie in its segment")) }
}

fn check_opaque(opaque: &Opaque) -> Result<()> {
    name("opaque", &opaque.name)?;
    let length = match &opaque.content {
        OpaqueContent::Inline(bytes) if bytes.len() > INLINE_OPAQUE_BYTES => {
            let error = Error::corrupt("inline opaque is too long").with("found", bytes.len());
            return Err(error.with("limit", INLINE_OPAQUE_BYTES));
        }
        OpaqueContent::Inline(bytes) => bytes.len() as u64,
        OpaqueContent::Stored(segment) if segment.kind != SegmentKind::Foreign => {
            return Err(Error::corrupt("opaque is stored in a segment of rows"));
        }
        OpaqueContent::Stored(segment) => check_segment(segment).map(|()| segment.length)?,
    };
    check_items(opaque, length)
}

fn check_items(opaque: &Opaque, length: u64) -> Result<()> {
    if opaque.item_offsets.iter().copied().chain([length]).is_sorted() {
        return Ok(());
    }
    Err(Error::corrupt("items of the opaque are out of order"))
}

/// Checks the opaques of an embedder at a barrier: of any length, inline, with unique names, and items of its own key groups alone.
///
/// # Errors
/// `Usage`, naming the opaque.
pub(crate) fn check_handed_in(opaques: &[Opaque], owned: &KeyGroupSet) -> Result<()> {
    let check = |opaque: &Opaque| {
        let OpaqueContent::Inline(bytes) = &opaque.content else {
            return Err(Error::corrupt("content is not inline"));
        };
        name("opaque", &opaque.name)?;
        check_items(opaque, bytes.len() as u64)?;
        opaque.check_in_flight(owned)
    };
    let refused = |error: Error| Error::usage("opaque cannot be part of a checkpoint").with_source(error);
    for opaque in opaques {
        check(opaque).map_err(|error| refused(error).with("opaque", &opaque.name))?;
    }
    unique("opaque", opaques.iter().map(|opaque| (opaque.role, &opaque.name))).map_err(refused)
}

fn not_after(epoch: Epoch, last: Epoch) -> Result<()> {
    if epoch <= last {
        return Ok(());
    }
    Err(Error::corrupt("segment holds a later epoch than it may").with("found", epoch).with("limit", last))
}

fn within_object(objects: &Objects, object: ObjectId, offset: u64, length: u64) -> Result<()> {
    let Some(&bytes) = objects.get(&object) else {
        return Err(Error::corrupt("object is not listed").with("object", object));
    };
    if offset.checked_add(length).is_some_and(|end| end <= bytes) {
        return Ok(());
    }
    let error = Error::corrupt("bytes lie beyond the end of their object").with("object", object);
    Err(error.with("offset", offset).with("length", length).with("object_bytes", bytes))
}

fn name(of: &str, text: &str) -> Result<()> {
    if text.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    Err(Error::corrupt("name is too long").with("of", of).with("bytes", text.len()).with("limit", MAX_NAME_BYTES))
}

fn unique<T: Ord>(what: &str, mut items: impl Iterator<Item = T>) -> Result<()> {
    let mut seen = BTreeSet::new();
    if items.all(|item| seen.insert(item)) {
        return Ok(());
    }
    Err(Error::corrupt("two of a kind that must be unique").with("of", what))
}
