//! Loading groups: sorted runs newest first, anything else folded.
//!
//! Newest first, a row that a newer run has is skipped where it is met: shadowed rows are neither sorted nor copied, and
//! every other row goes from its block straight into its record. This needs runs of puts and deletes that a fold would
//! keep as they are; groups with merges, clears, expiring rows or values to upgrade are folded first.
//!
//! Invariant: groups share nothing, so threads load them side by side.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::error::{ErrorKind, Result};
use crate::id::TableId;
use crate::key_group::{KeyGroup, KeyGroupSet, Partitioner};
use crate::row::span::{RowSpan, RowSpans};
use crate::row::{FIRST_VERSION, Fold, FoldedGroup, RowBatch, RowSource, Rules, SortedRows, shape};

use super::super::checks::budget_spent;
use super::arena::Arena;
use super::group::{Group, draft_of};
use super::index::Address;
use super::record::{Draft, Place, RowHead, ValueMeta};
use super::region::{REGION_BYTES, REGION_BYTES_MIN};
use super::table_slots::TableSlots;

/// Stored bytes that keep one more thread busy for longer than it takes to start it.
const BYTES_PER_THREAD: u64 = 1 << 20;

/// The most threads that a load uses unless told otherwise.
const DEFAULT_THREADS_MAX: usize = 4;

/// Runs of groups that each thread takes, on average: threads end together, and neighbours in one block stay together.
const TURNS: usize = 8;

/// Returns how many threads a load uses unless told otherwise.
pub(super) fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get).min(DEFAULT_THREADS_MAX)
}

/// Loads rows into new groups, or more rows into groups.
pub(super) struct Loader<'a> {
    pub(super) rows: &'a dyn RowSource,
    /// By table id, as in `rows`.
    pub(super) by_id: Rules,
    /// By slot.
    pub(super) rules: &'a Rules,
    pub(super) table_slots: Mutex<&'a mut TableSlots>,
    pub(super) partitioner: Partitioner,
    pub(super) arena: &'a Arena,
}

impl Loader<'_> {
    /// Returns new groups with the rows of `groups`; none for a group without rows.
    pub(super) fn load_all(&self, groups: &KeyGroupSet, threads: usize) -> Result<Vec<(KeyGroup, Box<Group>)>> {
        let ids: Vec<_> = groups.iter().collect();
        let busy = usize::try_from(self.rows.held_bytes() / BYTES_PER_THREAD).unwrap_or(usize::MAX);
        let threads = threads.min(busy).clamp(1, ids.len().max(1));
        let (turns, next) = (ids.chunks(ids.len().div_ceil(threads * TURNS).max(1)), AtomicUsize::new(0));
        let work = || -> Result<Vec<_>> {
            let (mut loaded, mut batch) = (Vec::new(), RowBatch::new());
            while let Some(turn) = turns.clone().nth(next.fetch_add(1, Ordering::Relaxed)) {
                for &id in turn {
                    loaded.extend(self.load_patiently(id, &mut batch)?.map(|group| (id, group)));
                }
            }
            Ok(loaded)
        };
        thread::scope(|scope| {
            let start = |_| thread::Builder::new().name("alluvium-load".into()).spawn_scoped(scope, work);
            // Without another thread, this one does all the work.
            let others: Vec<_> = (1..threads).map_while(|other| start(other).ok()).collect();
            let mut loaded = work();
            for other in others {
                let of_other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                loaded = loaded.and_then(|loaded| Ok([loaded, of_other?].into_iter().flatten().collect()));
            }
            loaded
        })
    }

    /// Returns a new group with the rows of `id`. While memory is short, waits for other owners of the budget.
    fn load_patiently(&self, id: KeyGroup, batch: &mut RowBatch) -> Result<Option<Box<Group>>> {
        let budget = self.arena.budget();
        loop {
            let (mut group, released) = (None, budget.released_by_others());
            match self.load(id, &mut group, batch) {
                Err(refused) if refused.kind() == ErrorKind::Limit => {
                    drop(group);
                    if !budget.wait_for_others(released) {
                        return Err(refused);
                    }
                }
                done => return done.map(|()| group),
            }
        }
    }

    /// Adds the rows of `id` to `group`, creating it with the first.
    pub(super) fn load(&self, id: KeyGroup, group: &mut Option<Box<Group>>, batch: &mut RowBatch) -> Result<()> {
        if group.is_none()
            && let Some(runs) = self.rows.sorted_rows(id)?
            && self.load_sorted(id, &runs, group)?
        {
            return Ok(());
        }
        let mut folded = FoldedGroup::new(self.rows, id, Fold::Base, &self.by_id);
        while folded.next_batch(batch)? {
            batch.renumber(|table| self.slot_of(table));
            group.get_or_insert_with(|| self.new_group()).load(batch, self.rules.of(id), self.arena)?;
        }
        Ok(())
    }

    /// Loads runs, oldest first, as a new group. Returns false, and no group, if the rows must be folded.
    fn load_sorted(&self, id: KeyGroup, runs: &[SortedRows<'_>], group: &mut Option<Box<Group>>) -> Result<bool> {
        let mut load = SortedLoad {
            loader: self,
            rules: (self.by_id.of(id), self.rules.of(id)),
            group: self.new_group(),
            rows: runs.iter().map(|run| run.rows).max().unwrap_or(0),
            any: false,
            shadowing: false,
            left: 0,
            tombstones: Tombstones::default(),
        };
        for run in runs.iter().rev() {
            load.left = run.bytes;
            if !run.visit(&mut |rows| load.add(&rows))? {
                return Ok(false);
            }
            load.shadowing = load.any;
        }
        *group = load.end();
        Ok(true)
    }

    fn new_group(&self) -> Box<Group> {
        Box::new(Group::new(self.partitioner, self.arena))
    }

    fn slot_of(&self, table: TableId) -> TableId {
        // A poisoned lock is harmless: a slot is added whole.
        self.table_slots.lock().unwrap_or_else(PoisonError::into_inner).slot_of(table)
    }
}

/// A new group and what is known of its runs so far.
struct SortedLoad<'a, 'l> {
    loader: &'a Loader<'l>,
    /// The group's rules by table id and by slot.
    rules: (&'a Rules, &'a Rules),
    group: Box<Group>,
    /// About how many rows the group will have.
    rows: usize,
    /// Whether any row was added, tombstones included.
    any: bool,
    /// Whether newer runs have rows: any of them may shadow a row of this run.
    shadowing: bool,
    /// About how many bytes of this run are not loaded.
    left: usize,
    tombstones: Tombstones,
}

impl SortedLoad<'_, '_> {
    /// Adds the rows of a block. Returns false if rows must be folded.
    fn add(&mut self, rows: &RowSpans<'_>) -> Result<bool> {
        let (by_id, _) = self.rules;
        if !rows.tables().all(|of_table| is_kept_by_fold(by_id, of_table, rows)) {
            return Ok(false);
        }
        if !self.any {
            self.presize()?;
        }
        for of_table in rows.tables() {
            let Some(first) = of_table.first() else { continue };
            let slot = self.loader.slot_of(first.table);
            for span in of_table {
                match span.plain_put(rows.parts, rows.payloads) {
                    Some((key, value)) => {
                        self.add_put(&Draft::exact(Place::without_sub(slot.0, key, &[]), value, ValueMeta::PLAIN))?
                    }
                    None => self.add_row(slot, span, rows)?,
                }
            }
        }
        self.any = true;
        Ok(true)
    }

    /// Makes room for about all rows in the index.
    fn presize(&mut self) -> Result<()> {
        let budget = self.loader.arena.budget();
        if !budget.has_room(self.group.index.presized_bytes(self.rows)) {
            return Err(budget_spent(budget));
        }
        self.group.index.presize(self.rows);
        Ok(())
    }

    /// Adds a row of any form.
    fn add_row(&mut self, slot: TableId, span: &RowSpan, rows: &RowSpans<'_>) -> Result<()> {
        let Some(row) = span.row(rows.parts, rows.payloads, rows.columns) else { no_row() };
        let mut place = Place::of_stored(&row);
        place.table = slot;
        if span.op() == shape::PUT {
            return self.add_put(&Draft { place, ..draft_of(&row)? });
        }
        let hash = self.group.hash(&place);
        if !self.is_shadowed(hash, &place)? {
            self.tombstones.add(&mut self.group, hash, &place)?;
        }
        Ok(())
    }

    #[inline]
    fn add_put(&mut self, draft: &Draft<'_>) -> Result<()> {
        let hash = self.group.hash(&draft.place);
        if self.is_shadowed(hash, &draft.place)? {
            // What is not loaded needs no room.
            self.left = self.left.saturating_sub(draft.len());
            return Ok(());
        }
        let address = self.group.regions.load(draft, &mut self.left)?;
        self.group.index.insert(hash, address);
        let bytes = (draft.place.bytes() + draft.capacity) as u64;
        self.group.count_row(hash, &draft.place, None, Some(bytes), self.rules.1);
        Ok(())
    }

    /// Returns whether a newer run has the row.
    #[inline]
    fn is_shadowed(&self, hash: u32, place: &Place<'_>) -> Result<bool> {
        if !self.shadowing {
            return Ok(false);
        }
        let is_plain = place.namespace.is_empty() && place.sub.is_empty() && place.routing.is_none();
        let head = if is_plain { RowHead::new(place.table.0, place.key.len(), false) } else { None };
        let has = head.and_then(|head| self.group.has_plain(hash, head, place.key));
        match has {
            Some(has) => Ok(has),
            None => {
                let fetched = self.group.fetch([hash])?;
                Ok(self.group.find(hash, place, &fetched).is_some())
            }
        }
    }

    fn end(mut self) -> Option<Box<Group>> {
        self.tombstones.remove(&mut self.group);
        self.group.index.trim();
        self.group.regions.end_load();
        (self.group.rows > 0).then_some(self.group)
    }
}

/// Returns whether a fold keeps these rows of one table as they are.
fn is_kept_by_fold(rules: &Rules, of_table: &[RowSpan], rows: &RowSpans<'_>) -> bool {
    let rules = of_table.first().and_then(|first| rules.table(first.table));
    if rules.is_some_and(|rules| rules.ttl.is_some()) {
        return false;
    }
    let upgraded_from = rules.filter(|rules| rules.upgrade.is_some()).map(|rules| rules.version);
    of_table.iter().all(|span| {
        let version = || rows.columns_of(span).schema.unwrap_or(FIRST_VERSION);
        matches!(span.op(), shape::PUT | shape::DELETE) && upgraded_from.is_none_or(|current| version() == current)
    })
}

/// Deleted rows, in the group for as long as older runs are loaded.
#[derive(Default)]
struct Tombstones {
    /// Regions of their own, the last with room for more.
    regions: Vec<u32>,
    entries: Vec<(u32, Address)>,
}

impl Tombstones {
    fn add(&mut self, group: &mut Group, hash: u32, place: &Place<'_>) -> Result<()> {
        let draft = Draft::without_value(*place, false);
        let id = match self.regions.last() {
            Some(&open) if group.regions.has_room(open, draft.len()) => open,
            _ => self.open(group, draft.len())?,
        };
        let address = group.regions.append_tombstone(id, &draft);
        group.index.insert(hash, address);
        self.entries.push((hash, address));
        Ok(())
    }

    /// Opens a region, larger than the ones before, for records of at least `bytes`.
    fn open(&mut self, group: &mut Group, bytes: usize) -> Result<u32> {
        let capacity = (REGION_BYTES_MIN << self.regions.len().min(8)).min(REGION_BYTES).max(bytes);
        let budget = group.regions.budget();
        if !budget.has_room(capacity as u64) {
            return Err(budget_spent(budget));
        }
        let id = group.regions.begin_joined(capacity);
        self.regions.push(id);
        Ok(id)
    }

    fn remove(self, group: &mut Group) {
        for (hash, address) in self.entries {
            let found = group.index.find(hash, |other| other == address);
            found.into_iter().for_each(|(bucket, _)| group.index.remove(bucket));
        }
        self.regions.into_iter().for_each(|id| group.regions.drop_joined(id));
    }
}

#[cold]
fn no_row() -> ! {
    crate::error::broken("a span lies within its block")
}
