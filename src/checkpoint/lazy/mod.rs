//! A lazy restore: the absent groups of a subtask are loaded when they are touched, and in the background by their heat.
//!
//! ```text
//! task: touch --request--> Board <--next-- lanes: fetch, verify, load on a blocking thread
//!       adopt <--loaded--- Board <--done--/
//! ```
//!
//! Invariants: groups share nothing, so damage of one stops that one alone; a group is read from the segments that the
//! chain lists when its load begins; who waits for a group always gets it or an error, also if the runtime drops the
//! lanes; dropping the restore ends the lanes.

mod board;
mod lane;
mod ready;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::load::Parts;
use super::load_order::loads_of;
use super::pipeline::{SharedChain, lock};
use super::restore::SegmentReader;
use super::restore_tracker::RestoreTracker;
use super::uses::GroupUses;
use crate::backend::{Arrived, GroupLoader, GroupSource, LazyBackend, StateBackend};
use crate::canary::{self, Canary};
use crate::error::{Error, Result};
use crate::id::{Attempt, TableId};
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::memory::MemoryBudget;
use crate::place::Store;
use crate::time::Timestamp;

use board::Board;
use lane::Lane;

pub use ready::{Ready, ReadyGuard};

/// Stored bytes that a lane loads at a time. Small, so that the order of the groups is kept and nobody waits long; large
/// enough that neighbours, which share blocks, are mostly loaded together.
const UNIT_BYTES: u64 = 4 << 20;

/// Lanes of the background.
const LANES_MAX: usize = 5;

/// Lanes that serve requests alone.
const URGENT_LANES_MAX: usize = 4;

/// What a lazy restore works with.
#[derive(Debug)]
pub(crate) struct LazyParts {
    pub(crate) store: Store,
    pub(crate) attempt: Attempt,
    pub(crate) chain: SharedChain,
    /// The segments of the restored checkpoint.
    pub(crate) reader: Arc<SegmentReader>,
    /// `None` if only the task can load groups.
    pub(crate) loader: Option<Arc<dyn GroupLoader>>,
    pub(crate) groups: KeyGroupSet,
    /// Recent uses of each group.
    pub(crate) uses: GroupUses,
    pub(crate) budget: MemoryBudget,
    /// Stored bytes of a part of a group that is loaded at a time.
    pub(crate) part_bytes: u64,
    pub(crate) tracker: Arc<RestoreTracker>,
}

/// A subtask's lazy restore.
#[derive(Debug)]
pub(crate) struct LazyRestore {
    shared: Arc<Shared>,
}

/// What the lanes share with the task.
#[derive(Debug)]
struct Shared {
    store: Store,
    attempt: Attempt,
    chain: SharedChain,
    reader: Arc<SegmentReader>,
    loader: Mutex<Option<Arc<dyn GroupLoader>>>,
    part_bytes: u64,
    budget: MemoryBudget,
    tracker: Arc<RestoreTracker>,
    uses: Mutex<GroupUses>,
    /// After so many rewrites of the chain, a reader of the groups that are absent, but for the evicted ones.
    rewritten: Mutex<Option<(u64, Arc<SegmentReader>)>>,
    /// Groups that are not as in `reader`: they were resident, and are absent again.
    evicted: Mutex<KeyGroupSet>,
    board: Mutex<Board>,
    changed: Condvar,
    /// Lanes of the background that have not ended.
    background: AtomicUsize,
}

impl LazyRestore {
    /// Starts loading in the background.
    pub(crate) fn start(parts: LazyParts) -> Self {
        let LazyParts { store, attempt, chain, reader, loader, groups, uses, budget, part_bytes, tracker } = parts;
        let loads = loads_of(&groups, reader.sizes(), &uses);
        let board = Board::new(&loads);
        // The first report comes before any of the lanes'.
        tracker.begin(loads);
        // Without a loader rows would only pile up.
        let lanes = if loader.is_some() && !groups.is_empty() { lanes() } else { 0 };
        let shared = Arc::new(Shared {
            store,
            attempt,
            chain,
            reader,
            loader: Mutex::new(loader),
            part_bytes,
            budget,
            tracker,
            uses: Mutex::new(uses),
            rewritten: Mutex::new(None),
            evicted: Mutex::new(KeyGroupSet::empty()),
            board: Mutex::new(board),
            changed: Condvar::new(),
            background: AtomicUsize::new(lanes),
        });
        (0..lanes).for_each(|_| Lane::spawn(&shared, false));
        Self { shared }
    }

    /// Returns a future that resolves once `groups` are loaded.
    pub(crate) fn ready(&self, groups: KeyGroupSet) -> Ready {
        Ready::new(Arc::clone(&self.shared), groups)
    }

    /// Returns whether the background is loading groups.
    pub(crate) fn is_loading(&self) -> bool {
        self.shared.background.load(Ordering::Relaxed) > 0
    }

    /// Returns the groups that are damaged, each with its error.
    pub(crate) fn damaged(&self) -> Vec<(KeyGroup, Error)> {
        self.shared.board().damaged()
    }

    /// Continues with these counts of uses.
    pub(crate) fn set_uses(&self, uses: &GroupUses) {
        self.shared.uses().clone_from(uses);
    }

    /// Evicts cold groups of `backend` while the memory budget is nearly spent.
    pub(crate) fn relieve<B: StateBackend>(&self, backend: &mut LazyBackend<B>) -> Result<()> {
        if !self.shared.is_crowded() {
            return Ok(());
        }
        let none = KeyGroupSet::empty();
        while self.shared.is_memory_short() && backend.evict_coldest(&none)? {}
        Ok(())
    }
}

/// Returns how many lanes the background has: one for each processor, and one more, as lanes also wait for the store.
fn lanes() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).saturating_add(1).min(LANES_MAX)
}

impl Drop for LazyRestore {
    fn drop(&mut self) {
        self.shared.board().drop_loaded();
        self.shared.end(Error::stopped("the task was dropped"));
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether so much of the memory budget is held that groups are loaded only on request, and evicted down to here:
    /// more than 3/4; with a disk below it, as in [`Shared::is_crowded`].
    fn is_memory_short(&self) -> bool {
        self.holds_more_than(4)
    }

    /// Returns whether so much is held that groups should be evicted: more than 7/8. With a disk below, cold records go there
    /// instead, and what is loaded goes there too. Then it is crowded half-way from where they begin to go to the limit: the
    /// disk is full, it fails, or what is held cannot go there.
    fn is_crowded(&self) -> bool {
        self.holds_more_than(8)
    }

    /// Returns whether more than the budget without `1 / share` of it is held; with a disk, whether it no longer helps.
    fn holds_more_than(&self, share: u64) -> bool {
        let limit = self.budget.limit_bytes();
        let most = match self.budget.disk() {
            None => limit - limit / share,
            Some(_) => self.budget.bytes_before_disk().midpoint(limit),
        };
        self.budget.held_bytes() > most
    }

    /// Ends all loading.
    fn end(&self, error: Error) {
        self.tracker.fail(error.kind());
        self.board().end(error);
        self.notify();
        self.tracker.report();
    }

    /// Wakes everybody who waits for a group.
    fn notify(&self) {
        let wakers = self.board().take_wakers();
        self.changed.notify_all();
        wakers.into_iter().for_each(std::task::Waker::wake);
    }

    fn request(self: &Arc<Self>, groups: &KeyGroupSet) {
        let mut board = self.board();
        board.request(groups);
        if board.has_requests() && board.urgent < URGENT_LANES_MAX {
            board.urgent += 1;
            drop(board);
            Lane::spawn(self, true);
        }
    }

    /// Returns how to read `groups`.
    async fn parts(&self, groups: &KeyGroupSet) -> Result<Parts> {
        let evicted = self.evicted().intersection(groups);
        let reader = if evicted.is_empty() || canary::on(Canary::LoadStale) {
            self.restored().await?
        } else {
            let segments = lock(&self.chain).stored_segments(groups);
            Arc::new(SegmentReader::open(&self.store, &segments).await?)
        };
        Ok(Parts::read(Arc::clone(self.store.runtime()), reader, groups, self.part_bytes))
    }

    /// Returns a reader of the groups that are as they were restored, wherever they were rewritten since.
    async fn restored(&self) -> Result<Arc<SegmentReader>> {
        let rewrites = lock(&self.chain).rewrites_of_absent();
        if rewrites == 0 {
            return Ok(Arc::clone(&self.reader));
        }
        if let Some((as_of, reader)) = &*self.rewritten()
            && *as_of == rewrites
        {
            return Ok(Arc::clone(reader));
        }
        let absent = self.board().absent();
        // A rewrite that ends here makes the reader newer than its number says; the next call opens another.
        let segments = lock(&self.chain).stored_segments(&absent);
        let reader = Arc::new(SegmentReader::open(&self.store, &segments).await?);
        *self.rewritten() = Some((rewrites, Arc::clone(&reader)));
        Ok(reader)
    }

    fn rewritten(&self) -> MutexGuard<'_, Option<(u64, Arc<SegmentReader>)>> {
        self.rewritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loader(&self) -> MutexGuard<'_, Option<Arc<dyn GroupLoader>>> {
        self.loader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uses(&self) -> MutexGuard<'_, GroupUses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn evicted(&self) -> MutexGuard<'_, KeyGroupSet> {
        self.evicted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until `group` is loaded.
    fn wait(&self, group: KeyGroup) -> Result<Arrived> {
        let taken = self.wait_until(|board| board.take(group));
        taken.unwrap_or_else(|| Err(Error::stopped("the runtime did not let a group be waited for")))
    }

    /// Blocks until `of` returns something of the board; `None` if the runtime does not let the thread wait.
    fn wait_until<T>(&self, mut of: impl FnMut(&mut Board) -> Option<T>) -> Option<T> {
        let mut found = None;
        self.store.runtime().block(&mut || {
            let mut board = self.board();
            found = loop {
                if let Some(found) = of(&mut board) {
                    break Some(found);
                }
                board = self.changed.wait(board).unwrap_or_else(PoisonError::into_inner);
            };
        });
        found
    }
}

impl GroupSource for LazyRestore {
    fn set_loader(&self, loader: Option<Arc<dyn GroupLoader>>) {
        *self.shared.loader() = loader;
    }

    fn request(&self, groups: &KeyGroupSet) {
        self.shared.request(groups);
    }

    fn wait(&self, group: KeyGroup) -> Result<Arrived> {
        let _held = ReadyGuard::new(Arc::clone(&self.shared), std::iter::once(group).collect());
        let taken = self.shared.board().take(group);
        if let Some(taken) = taken {
            return taken;
        }
        if !self.shared.store.runtime().can_block() {
            let error = Error::usage("group is absent, and its runtime has no other thread to load it on");
            return Err(error.with("group", group).with("remedy", "await Task::ready first, or restore eagerly"));
        }
        self.shared.wait(group)
    }

    fn is_crowded(&self) -> bool {
        self.shared.is_crowded()
    }

    fn wait_for_loads(&self) -> bool {
        let loading = self.shared.board().loads();
        loading > 0
            && self.shared.store.runtime().can_block()
            && self.shared.wait_until(|board| (board.loads() == 0).then_some(())).is_some()
    }

    fn take_loaded(&self) -> Vec<Arrived> {
        let is_free = self.shared.loader().as_ref().is_none_or(|loader| loader.is_adopted_freely());
        if is_free { self.shared.board().take_loaded() } else { Vec::new() }
    }

    fn coldest(&self, resident: &KeyGroupSet) -> Option<KeyGroup> {
        let stored = lock(&self.shared.chain).stored(resident);
        let (board, uses) = (self.shared.board(), self.shared.uses());
        let unused = stored.iter().filter(|group| !board.is_wanted(*group));
        unused.min_by(|a, b| uses.of(*a).total_cmp(&uses.of(*b)))
    }

    fn take_back(&self, groups: &KeyGroupSet) {
        let mut evicted = self.shared.evicted();
        *evicted = evicted.union(groups);
        drop(evicted);
        let wanted = self.shared.board().take_back(groups);
        if !wanted.is_empty() {
            self.shared.request(&wanted);
        }
    }

    fn forget(&self, groups: &KeyGroupSet) {
        self.shared.board().forget(groups);
        self.shared.tracker.forget(groups);
        self.shared.tracker.report();
    }

    fn earliest_timer(&self, table: TableId, group: KeyGroup) -> Option<Timestamp> {
        if self.shared.evicted().contains(group) {
            // Newer segments than the restored ones may have timers.
            return Some(Timestamp::MIN);
        }
        self.shared.reader.earliest_timer(table, group)
    }
}
