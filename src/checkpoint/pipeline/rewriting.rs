//! Rewriting the placed state of cold and absent groups: read and merged into one base beside any epoch, and uploaded with the
//! next one. No task takes part.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError};

use super::{OpenPack, Pipeline, lock};
use crate::backend::TableEntry;
use crate::checkpoint::restore::SegmentReader;
use crate::checkpoint::segment_chain::Rewriting;
use crate::control::coordinator::Participant;
use crate::error::{ErrorKind, Result, broken};
use crate::id::{Epoch, ObjectId, SegmentId};
use crate::manifest::TableSchema;
use crate::memory::Charge;
use crate::row::{Rules, SealedPart, SegmentKind, TableRules};
use crate::runtime::run_blocking;
use crate::segment::{Encoder, SegmentRef, sum};

/// Stored bytes of groups that are rewritten between two commits. About as much is held in memory until the next epoch.
const BYTES_MAX: u64 = 32 << 20;

/// They have at most this part of the memory budget, unless one group is larger.
const MEMORY_PARTS: u64 = 16;

/// Stored bytes that are read and encoded at a time.
const PART_BYTES: u64 = 8 << 20;

/// State that was written again, to be uploaded and recorded in its chains.
#[derive(Debug)]
pub(crate) struct Rewritten {
    chains: Vec<(Participant, Rewriting, Vec<SegmentRef>)>,
    packs: Vec<OpenPack>,
    charge: Charge,
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
        let memory = self.chains.values().map(|chain| lock(chain).budget().limit_bytes()).min().unwrap_or(u64::MAX);
        let (mut begun, mut left) = (Vec::new(), BYTES_MAX.min(memory / MEMORY_PARTS));
        for &participant in self.chains.keys() {
            let Some(rewriting) = self.chain(participant).begin_rewrite(left) else { continue };
            left = left.saturating_sub(rewriting.bytes);
            begun.push((participant, rewriting));
            if left == 0 {
                break;
            }
        }
        begun
    }

    /// Reads the groups, and writes them again into packs, which the next epoch uploads. `None` if there are none.
    ///
    /// # Errors
    /// `Unavailable`, `Denied` or `Limit` from the store or the encoder. Damaged groups are left out.
    ///
    /// # Cost
    /// Memory for 8 MiB of stored blocks, or a key group if that is larger, and for the packs, charged to the budget.
    pub(crate) async fn rewrite(
        self: Arc<Self>,
        begun: Vec<(Participant, Rewriting)>,
        tables: TablesOf,
    ) -> Result<Option<Rewritten>> {
        let Some((_, first)) = begun.first() else { return Ok(None) };
        let budget = first.budget.clone();
        let (mut chains, mut packs) = (Vec::new(), Vec::new());
        for (participant, rewriting) in begun {
            match self.rewrite_chain(participant, &rewriting, tables.get(&participant), &mut packs).await {
                Ok(placed) => chains.push((participant, rewriting, placed)),
                // Others are rewritten nevertheless. What was packed of these before the damage is dead.
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Version) => {
                    tracing::warn!(error = error.chain(), "damaged key groups are not rewritten");
                    self.chain(participant).fail_rewrite(&rewriting.groups);
                }
                Err(error) => return Err(error),
            }
        }
        packs.retain(|pack: &OpenPack| !pack.builder.is_empty());
        let charge = budget.charge(sum(packs.iter().map(|pack| pack.builder.len())));
        Ok(Some(Rewritten { chains, packs, charge }))
    }

    /// Writes the groups of one chain again, and returns their segments.
    async fn rewrite_chain(
        &self,
        participant: Participant,
        rewriting: &Rewriting,
        tables: Option<&Arc<[TableEntry]>>,
        packs: &mut Vec<OpenPack>,
    ) -> Result<Vec<SegmentRef>> {
        let schemas = tables.into_iter().flat_map(|tables| tables.iter().map(|table| &table.schema));
        let rules = timer_rules(schemas);
        let reader = SegmentReader::open(&self.store, &rewriting.segments).await?;
        let mut placed = Vec::new();
        for groups in reader.parts(&rewriting.groups, PART_BYTES) {
            let rows = reader.fetch(&groups).await?;
            let part = SealedPart { kind: SegmentKind::Base, groups, rows, rules: rules.clone() };
            if packs.last().is_none_or(|pack| pack.builder.len() >= self.settings.pack_bytes) {
                packs.push(self.open_pack());
            }
            let Some(pack) = packs.last_mut() else { broken("a pack was opened") };
            self.encode_part(part, participant, rewriting, pack, &mut placed).await?;
        }
        Ok(placed)
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

    /// Hands over what the next epoch uploads.
    pub(crate) fn set_rewritten(&self, rewritten: Rewritten) {
        *self.rewritten() = Some(rewritten);
    }

    /// Uploads what was rewritten, unless newer bases have made it useless, and records it in the chains: the manifest of
    /// `epoch` lists it. Returns the number of uploads. An error fails no epoch: the state stays where it was, to be rewritten
    /// again, and packs that were uploaded are swept by a later attempt.
    pub(super) async fn place_rewritten(&self, epoch: Epoch) -> u64 {
        let rewritten = self.rewritten().take();
        let Some(rewritten) = rewritten else { return 0 };
        let uploads = rewritten.packs.len() as u64;
        match self.upload_rewritten(epoch, rewritten).await {
            Ok(true) => uploads,
            Ok(false) => 0,
            Err(error) => {
                tracing::warn!(error = error.chain(), "rewritten key groups were not uploaded");
                0
            }
        }
    }

    async fn upload_rewritten(&self, epoch: Epoch, rewritten: Rewritten) -> Result<bool> {
        let Rewritten { chains, packs, charge: _charge } = rewritten;
        let is_useful = |(participant, rewriting, _): &(Participant, Rewriting, Vec<SegmentRef>)| {
            !self.chain(*participant).rewritable(rewriting, epoch).is_empty()
        };
        if !chains.iter().any(is_useful) {
            return Ok(false);
        }
        for pack in packs {
            let object = self.put(pack.id, pack.builder).await?;
            self.catalog().add(epoch, object);
        }
        for (participant, rewriting, placed) in chains {
            self.chain(participant).end_rewrite(&rewriting, epoch, placed);
        }
        Ok(true)
    }

    /// Returns whether something waits for the next epoch.
    pub(crate) fn has_rewritten(&self) -> bool {
        self.rewritten().is_some()
    }

    fn rewritten(&self) -> MutexGuard<'_, Option<Rewritten>> {
        self.rewritten.lock().unwrap_or_else(PoisonError::into_inner)
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
