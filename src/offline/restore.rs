//! A checkpoint restored into another place, at another parallelism or in part: read, folded, written anew.

use std::sync::Arc;

use super::Progress;
use super::copy::refuse_occupied;
use super::fold::narrowed;
use super::opaques::joined;
use super::rescale::scaled;
use crate::checkpoint::found::found;
use crate::checkpoint::restore as read;
use crate::error::{Error, Result};
use crate::id::{ManifestId, ObjectId, OperatorId, Part, SegmentId};
use crate::job::WRITER;
use crate::key_group::KeyGroupSet;
use crate::manifest::rescale::{OperatorPlan, Share};
use crate::manifest::{
    DurabilityLevel, INLINE_OPAQUE_BYTES, Layout, Manifest, ManifestKind, ObjectRef, Opaque, OpaqueContent,
    OperatorManifest, Redistribution, SubtaskEntry, SubtaskManifest,
};
use crate::place::pack::{PACK_BYTES, PackBuilder, Packed};
use crate::runtime::run_blocking;
use crate::segment::{self, EncodeOptions, Encoded, Rules, SealedPart, SegmentKind, SegmentRef, sum};
use crate::store::{Key, Put, Store};

/// What to restore.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestoreOptions {
    /// Subtasks of each operator that has keyed state; as many as it had if not set.
    pub parallelism: Option<u32>,
    /// Key groups whose rows are taken, all if not set; the others are there and empty.
    pub groups: Option<KeyGroupSet>,
}

/// Restores a checkpoint into `to`, one new base per subtask, and commits it there.
///
/// * `manifest`: the checkpoint, resolved.
///
/// # Errors
/// `Config` if anything stands at `to` or the parallelism is out of range; `Corrupt` or `Version` from what is read;
/// `Denied` or `Unavailable` from the stores.
///
/// # Cost
/// Memory for the state of one subtask as it is stored, twice, and of a pack.
pub async fn restore(
    from: &Store,
    manifest: &Manifest,
    to: &Store,
    options: &RestoreOptions,
    progress: Progress<'_>,
) -> Result<ManifestId> {
    refuse_occupied(to).await?;
    let wanted = options.groups.clone().unwrap_or_else(|| KeyGroupSet::all(manifest.max_parallelism));
    let parallelism =
        |old: &OperatorManifest| options.parallelism.map_or(old.parallelism, |wanted| scaled(old, wanted));
    let plan = |old: &OperatorManifest| OperatorPlan::new(manifest, old.id, parallelism(old));
    let plans: Vec<_> = manifest.operators.iter().map(plan).collect::<Result<_>>()?;
    let total = sum(plans.iter().flat_map(|plan| &plan.shares).map(stored_bytes));
    let mut packs = Packs::new(to, manifest);
    let mut done = 0u64;
    let mut operators = Vec::new();
    for (plan, old) in plans.into_iter().zip(&manifest.operators) {
        let mut subtasks = Vec::new();
        for share in plan.shares {
            progress(done, total);
            done = done.saturating_add(stored_bytes(&share));
            subtasks.push(SubtaskEntry::Inline(packs.rebuild(from, old.id, share, &wanted).await?));
        }
        operators.push(OperatorManifest { parallelism: parallelism(old), subtasks, ..old.clone() });
    }
    progress(done, total);
    packs.upload().await?;
    let manifest = Manifest {
        kind: ManifestKind::Checkpoint,
        created_at: to.runtime().now(),
        writer: WRITER.to_owned(),
        objects: packs.objects,
        level: DurabilityLevel::ObjectStore,
        operators,
        ..manifest.clone()
    };
    found(to, manifest).await
}

fn stored_bytes(share: &Share) -> u64 {
    sum(share.segments.iter().map(|segment| segment.length))
}

/// New objects at the target: one being filled, and those that are there.
struct Packs<'a> {
    to: &'a Store,
    manifest: &'a Manifest,
    open: Option<(ObjectId, PackBuilder)>,
    objects: Vec<ObjectRef>,
}

impl<'a> Packs<'a> {
    fn new(to: &'a Store, manifest: &'a Manifest) -> Self {
        Self { to, manifest, open: None, objects: Vec::new() }
    }

    /// Writes what a subtask will own.
    async fn rebuild(
        &mut self,
        from: &Store,
        operator: OperatorId,
        share: Share,
        wanted: &KeyGroupSet,
    ) -> Result<SubtaskManifest> {
        let Share { subtask, groups, watermark, times, segments, mut opaques } = share;
        let rows = read::fetch(from, &narrowed(&segments, wanted)).await?;
        let part = SealedPart { kind: SegmentKind::Base, groups: groups.clone(), rows, rules: Rules::none() };
        let runtime = Arc::clone(self.to.runtime());
        let encoded = run_blocking(&*runtime, move || segment::encode(&part, EncodeOptions::default())).await?;
        let (attempt, epoch) = (self.manifest.attempt, self.manifest.epoch);
        let id = SegmentId { attempt, operator, subtask, epoch, part: Part(0) };
        let mut segments = Vec::new();
        if encoded.records > 0 {
            segments.push(self.add(id, &encoded).await?);
        }
        if subtask.0 > 0 {
            // Every subtask was dealt all items: a copy in each would multiply them at the next restore.
            opaques.retain(|opaque| opaque.redistribution != Redistribution::Union);
        }
        let mut opaques = joined(opaques)?;
        for opaque in &mut opaques {
            self.store_large(id, opaque).await?;
        }
        Ok(SubtaskManifest { subtask, groups, watermark, segments, opaques, times })
    }

    /// Moves an opaque that is too large for a manifest into a pack.
    async fn store_large(&mut self, id: SegmentId, opaque: &mut Opaque) -> Result<()> {
        if let OpaqueContent::Inline(bytes) = &opaque.content
            && bytes.len() > INLINE_OPAQUE_BYTES
        {
            let foreign = Encoded::foreign(KeyGroupSet::empty(), bytes.clone());
            opaque.content = OpaqueContent::Stored(self.add(id, &foreign).await?);
        }
        Ok(())
    }

    async fn add(&mut self, id: SegmentId, encoded: &Encoded) -> Result<SegmentRef> {
        let (object, pack) = self.open.get_or_insert_with(|| {
            let random = self.to.draw_put_id().0;
            let object = ObjectId { attempt: self.manifest.attempt, random };
            (object, PackBuilder::new(object, self.to.draw_put_id()))
        });
        let offset = match encoded.kind {
            SegmentKind::Foreign => pack.add_opaque(&encoded.bytes),
            SegmentKind::Base | SegmentKind::Delta => pack.add_segment(id, encoded),
        };
        let (object, full) = (*object, pack.len() >= PACK_BYTES);
        if full {
            self.upload().await?;
        }
        Ok(encoded.at(id, self.manifest.epoch, object, offset))
    }

    /// Ends the open pack and writes it.
    async fn upload(&mut self) -> Result<()> {
        let Some((_, pack)) = self.open.take() else { return Ok(()) };
        let Packed { id, put_id, bytes, hash } = pack.finish()?;
        let (length, key) = (bytes.len() as u64, Key::Data(id));
        if self.to.put_new(&key, put_id, bytes).await? == Put::Taken {
            return Err(Error::config("somebody else writes to the target").with("object", key));
        }
        self.objects.push(ObjectRef {
            id,
            put_id,
            bytes: length,
            hash,
            layout: Layout::Whole,
            cipher: 0,
            key_id: String::new(),
        });
        Ok(())
    }
}
