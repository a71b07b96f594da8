//! Restoring a checkpoint into another place, at another parallelism or in part: its rows are read, folded and
//! rewritten.

use std::sync::Arc;

use super::copy::refuse_occupied;
use super::fold::{PART_BYTES, narrowed};
use super::opaques::joined;
use super::rescale::scaled;
use super::{ReportProgress, reader};
use crate::checkpoint::found::found;
use crate::checkpoint::manifest_log::{ManifestLog, StoredManifest};
use crate::checkpoint::pipeline::timer_rules;
use crate::checkpoint::reading::under;
use crate::checkpoint::restore::SegmentReader;
use crate::error::{Error, Result};
use crate::id::{ManifestId, ObjectId, Part, SegmentId, Seq};
use crate::job::WRITER;
use crate::key_group::KeyGroupSet;
use crate::manifest::rescale::{OperatorPlan, Share};
use crate::manifest::{
    DurabilityLevel, INLINE_OPAQUE_BYTES, Manifest, ManifestKind, ObjectRef, Opaque, OpaqueContent, OperatorManifest,
    Redistribution, SubtaskEntry, SubtaskManifest,
};
use crate::place::pack::{PACK_BYTES, PackBuilder};
use crate::place::{DataObjects, Store};
use crate::row::{SealedPart, SegmentKind};
use crate::runtime::run_blocking;
use crate::segment::{EncodeOptions, Encoded, Encoder, SegmentRef, sum};

/// What to restore.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// Subtasks of each operator with keyed state. Default: unchanged.
    pub parallelism: Option<u32>,
    /// Key groups whose rows are restored; the other groups are empty. Default: all.
    pub groups: Option<KeyGroupSet>,
}

/// Restores a checkpoint into `to`, with a new base per subtask, and commits it there.
///
/// * `manifest`: the checkpoint, resolved.
///
/// # Errors
/// `Config` if `to` is not empty or the parallelism is out of range; `NotFound` if the checkpoint was dropped before it
/// was read; `Corrupt` or `Version` from the stored bytes; `Denied` or `Unavailable` from the stores.
///
/// # Cost
/// Memory for twice 64 MiB of stored blocks, or twice a key group if that is larger, and for a pack.
pub async fn restore(
    from: &Store,
    manifest: &Manifest,
    to: &Store,
    options: &RestoreOptions,
    progress: ReportProgress<'_>,
) -> Result<ManifestId> {
    refuse_occupied(to).await?;
    under(from, manifest.seq, write(from, manifest, to, options, progress)).await
}

/// As [`restore`], for the checkpoint with this id or, without an id, the newest. If the newest is dropped before it is
/// read, restores a newer one; packs of the dropped one stay at `to` until a job there sweeps them. Returns the
/// checkpoint that was read, and the one that was written.
///
/// # Errors
/// As [`restore`].
pub async fn restore_of(
    from: &Store,
    chain: &mut ManifestLog,
    id: Option<Seq>,
    to: &Store,
    options: &RestoreOptions,
    progress: ReportProgress<'_>,
) -> Result<(Seq, ManifestId)> {
    refuse_occupied(to).await?;
    let mut reader = reader(from, chain, id);
    loop {
        let StoredManifest { id, manifest, .. } = reader.resolved().await?;
        match write(from, &manifest, to, options, progress).await {
            Ok(restored) => return Ok((id.seq, restored)),
            Err(error) => reader.follow(error).await?,
        }
    }
}

async fn write(
    from: &Store,
    manifest: &Manifest,
    to: &Store,
    options: &RestoreOptions,
    progress: ReportProgress<'_>,
) -> Result<ManifestId> {
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
            subtasks.push(SubtaskEntry::Inline(packs.rebuild(from, old, share, &wanted).await?));
        }
        operators.push(OperatorManifest { parallelism: parallelism(old), subtasks, ..old.clone() });
    }
    progress(done, total);
    packs.upload().await?;
    let mut manifest = Manifest {
        kind: ManifestKind::Checkpoint,
        created_at: to.runtime().now(),
        writer: WRITER.to_owned(),
        objects: packs.objects,
        level: DurabilityLevel::ObjectStore,
        operators,
        ..manifest.clone()
    };
    manifest.mark_copied()?;
    found(to, manifest).await
}

fn stored_bytes(share: &Share) -> u64 {
    sum(share.segments.iter().map(|segment| segment.length))
}

/// New objects at the target: an open pack, and those already uploaded.
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

    /// Writes the state of a new subtask.
    async fn rebuild(
        &mut self,
        from: &Store,
        operator: &OperatorManifest,
        share: Share,
        wanted: &KeyGroupSet,
    ) -> Result<SubtaskManifest> {
        let Share { subtask, groups, watermark, times, segments, mut opaques, heat } = share;
        let (attempt, epoch) = (self.manifest.attempt, self.manifest.epoch);
        let id = SegmentId { attempt, operator: operator.id, subtask, epoch, part: Part(0) };
        let rules = timer_rules(&operator.tables);
        let reader = SegmentReader::open(from, &narrowed(&segments, wanted)).await?;
        let mut segments = Vec::new();
        for groups in reader.parts(&groups, PART_BYTES) {
            let rows = reader.fetch(&groups).await?;
            let part = SealedPart { kind: SegmentKind::Base, groups, rows, rules: rules.clone() };
            self.encode(id, part, &mut segments).await?;
        }
        if subtask.0 > 0 {
            // Every subtask has all items of these opaques. Writing them for each would multiply them at the next
            // restore.
            opaques.retain(|opaque| opaque.redistribution != Redistribution::Union);
        }
        let opaques = joined(opaques)?.into_iter().map(|opaque| opaque.of_groups(wanted));
        let mut opaques = opaques.collect::<Result<Vec<_>>>()?;
        for opaque in &mut opaques {
            self.store_large(id, opaque).await?;
        }
        Ok(SubtaskManifest { subtask, groups, watermark, segments, opaques, times, heat })
    }

    /// Writes the rows of `part` in segments of bounded size, and adds these to `segments`.
    async fn encode(&mut self, id: SegmentId, part: SealedPart, segments: &mut Vec<SegmentRef>) -> Result<()> {
        let runtime = Arc::clone(self.to.runtime());
        let mut encoder = Encoder::new(part, EncodeOptions::default(), PACK_BYTES);
        loop {
            let encoded;
            let work = move || Ok((encoder.next_segment(|| {})?, encoder));
            (encoded, encoder) = run_blocking(&*runtime, work).await?;
            let Some(encoded) = encoded else { return Ok(()) };
            if encoded.records > 0 {
                segments.push(self.add(id, &encoded).await?);
            }
        }
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
        let with = |(_, pack): &(_, PackBuilder)| pack.len().saturating_add(encoded.bytes.len() as u64);
        if self.open.as_ref().is_some_and(|open| with(open) > PACK_BYTES) {
            self.upload().await?;
        }
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

    /// Finishes and uploads the open pack.
    async fn upload(&mut self) -> Result<()> {
        let Some((_, pack)) = self.open.take() else { return Ok(()) };
        let pack = pack.finish()?;
        let name = DataObjects::name(pack.id);
        let Some(object) = self.to.data().put(pack).await? else {
            return Err(Error::config("another process writes to the target").with("object", name));
        };
        self.objects.push(object);
        Ok(())
    }
}
