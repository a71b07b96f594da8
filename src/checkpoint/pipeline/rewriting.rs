//! Rewriting the placed state of cold and absent groups: read, merged into one base, packed and uploaded. No task takes part.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{OpenPack, Pipeline};
use crate::backend::TableEntry;
use crate::checkpoint::restore::SegmentReader;
use crate::checkpoint::segment_chain::Rewriting;
use crate::control::coordinator::Participant;
use crate::error::Result;
use crate::id::{Epoch, ObjectId, SegmentId};
use crate::manifest::{ObjectRef, TableSchema};
use crate::row::{Rules, SealedPart, SegmentKind, TableRules};
use crate::runtime::run_blocking;
use crate::segment::{Encoder, SegmentRef};

/// Stored bytes of groups that are rewritten between two commits: about a pack.
const BYTES_MAX: u64 = 64 << 20;

/// Stored bytes that are read and encoded at a time.
const PART_BYTES: u64 = 8 << 20;

/// State that was written again, to be recorded in its chains.
#[derive(Debug, Default)]
pub(crate) struct Rewritten {
    chains: Vec<(Participant, Rewriting, Vec<SegmentRef>)>,
    objects: Vec<ObjectRef>,
}

/// The tables of each subtask.
pub(crate) type TablesOf = BTreeMap<Participant, Arc<[TableEntry]>>;

impl Pipeline {
    /// Has the groups that need one of `objects` rewritten: resident ones at their next seal.
    pub(crate) fn free(&self, objects: &[ObjectId]) {
        let objects: BTreeSet<_> = objects.iter().copied().collect();
        self.chains.keys().for_each(|participant| self.chain(*participant).free(&objects));
    }

    /// Returns groups to rewrite now, of a few chains.
    pub(crate) fn begin_rewrites(&self) -> Vec<(Participant, Rewriting)> {
        let (mut begun, mut left) = (Vec::new(), BYTES_MAX);
        for &participant in self.chains.keys() {
            let Some(rewriting) = self.chain(participant).begin_rewrite(left) else { continue };
            left = left.saturating_sub(rewriting.segments.iter().map(|segment| segment.length).sum());
            begun.push((participant, rewriting));
            if left == 0 {
                break;
            }
        }
        begun
    }

    /// Writes groups again. Nothing refers to the result before [`Pipeline::end_rewrites`]; if that is never called,
    /// a later attempt sweeps it.
    ///
    /// # Errors
    /// `Corrupt`, naming the object; `Unavailable`, `Denied` or `Limit` from the store or the encoder.
    ///
    /// # Cost
    /// Memory for 8 MiB of stored blocks, or a key group if that is larger, and for a pack.
    pub(crate) async fn rewrite(
        self: Arc<Self>,
        begun: Vec<(Participant, Rewriting)>,
        tables: TablesOf,
    ) -> Result<Rewritten> {
        let (mut rewritten, mut pack) = (Rewritten::default(), self.open_pack());
        for (participant, rewriting) in begun {
            let rules = tables
                .get(&participant)
                .map_or_else(Rules::none, |tables| timer_rules(tables.iter().map(|table| &table.schema)));
            let reader = SegmentReader::open(&self.store, &rewriting.segments).await?;
            let mut placed = Vec::new();
            for groups in reader.parts(&rewriting.groups, PART_BYTES) {
                let rows = reader.fetch(&groups).await?;
                let part = SealedPart { kind: SegmentKind::Base, groups, rows, rules: rules.clone() };
                self.encode_part(part, participant, &rewriting, &mut pack, &mut placed).await?;
                if pack.builder.len() >= self.settings.pack_bytes {
                    let full = std::mem::replace(&mut pack, self.open_pack());
                    rewritten.objects.push(self.put(full.id, full.builder).await?);
                }
            }
            rewritten.chains.push((participant, rewriting, placed));
        }
        if !pack.builder.is_empty() {
            rewritten.objects.push(self.put(pack.id, pack.builder).await?);
        }
        Ok(rewritten)
    }

    /// Adds the rows of `part` to a pack, in segments of bounded size, and these to `placed`.
    async fn encode_part(
        &self,
        part: SealedPart,
        (operator, subtask): Participant,
        rewriting: &Rewriting,
        pack: &mut OpenPack,
        placed: &mut Vec<SegmentRef>,
    ) -> Result<()> {
        let seals = rewriting.seals;
        let id = SegmentId { attempt: self.attempt, operator, subtask, epoch: seals.epoch, part: seals.part };
        let mut encoder = Encoder::new(part, self.encode_options(), self.settings.segment_bytes);
        loop {
            let encoded;
            let work = move || Ok((encoder.next_segment(|| {})?, encoder));
            (encoded, encoder) = run_blocking(&*self.runtime, work).await?;
            let Some(encoded) = encoded else { return Ok(()) };
            // Groups whose rows are all deleted need no segment.
            if encoded.records > 0 {
                let offset = pack.builder.add_segment(id, &encoded);
                placed.push(encoded.at(id, seals.first_epoch, pack.id, offset));
            }
        }
    }

    /// Records what was rewritten: the next checkpoints refer to it.
    pub(crate) fn end_rewrites(&self, newest: Epoch, rewritten: Rewritten) {
        rewritten.objects.into_iter().for_each(|object| self.catalog().add(newest, object));
        for (participant, rewriting, placed) in rewritten.chains {
            self.chain(participant).end_rewrite(rewriting, placed);
        }
    }
}

/// Returns rules that change no row, under which segments tell the earliest timers of `tables`.
pub(crate) fn timer_rules<'a>(tables: impl IntoIterator<Item = &'a TableSchema>) -> Rules {
    let mut rules = Rules::none();
    for table in tables.into_iter().filter(|table| table.holds_timers()) {
        rules.define(table.id, TableRules { version: table.value.version, timers: true, ..TableRules::default() });
    }
    rules
}
