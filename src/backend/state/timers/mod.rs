//! Timers: times at which to call an operator back under a key and namespace.
//!
//! ```text
//! row: table, key, namespace, sub-key = the time as `ordered:i64` -> empty value
//! ```
//!
//! Invariants:
//! - the rows are authoritative: a timer fires only if its row exists, and firing removes the row in the same epoch as
//!   the operator's reaction; so each timer fires exactly once, across restore and rescale;
//! - the queue is an in-memory index of the rows, built from live rows after a load; neither building it nor firing
//!   scans tombstones;
//! - no timer fires before the absent groups that may have earlier ones are loaded;
//! - a row that cannot be written or removed leaves the queue unchanged.

mod queue;
mod table;
mod timer;
mod waiting;

use std::fmt;

use crate::codec::typed::{Codec, Ordered};
use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::{KeyGroup, KeyGroupSet, Partitioner};
use crate::memory::Charge;
use crate::time::Timestamp;

use self::queue::Queue;
use self::timer::{Parts, Timer};
use self::waiting::Waiting;
use super::KeyedState;
use crate::backend::{Change, Entry, LazyBackend, RowRef, StateBackend};

pub use table::{TimeDomain, TimerTable};

/// Due timers whose rows are prefetched at a time: timers come in the order of time, which is not that of memory.
const PREFETCHED_TIMERS: usize = 32;

/// A timer that fired: see [`Timers::pop_due`].
#[derive(Clone, PartialEq, Eq)]
pub struct Fired(Timer);

impl Fired {
    /// Returns the time that the timer was registered for; it may have fired later.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.0.at
    }

    /// Returns the timer's encoded key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.0.parts().key
    }

    /// Returns the key group of the timer's key.
    #[must_use]
    pub fn group(&self) -> KeyGroup {
        self.0.group()
    }

    /// Returns the timer's encoded namespace; empty if the table has none.
    #[must_use]
    pub fn namespace(&self) -> &[u8] {
        self.0.parts().namespace
    }
}

impl fmt::Debug for Fired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { group, key, namespace, routing } = self.0.parts();
        let mut fired = f.debug_struct("Fired");
        fired.field("timestamp", &self.0.at).field("group", &group).field("key", &key);
        fired.field("namespace", &namespace).field("routing", &routing).finish()
    }
}

/// A handle to a table of timers, and their queue.
///
/// There is one timer per key, namespace and time, however often it is registered. Timers fire when the operator calls
/// [`Timers::pop_due`]; a timer that is registered while others fire, and is due, fires too.
///
/// ```
/// # use alluvium::{MemoryBudget, OverlayBackend, Tables};
/// use alluvium::prelude::*;
///
/// # fn main() -> alluvium::Result<()> {
/// # let backend = OverlayBackend::new(KeyGroupSet::all(8), MemoryBudget::new(1 << 20));
/// # let mut state = KeyedState::new(backend, Partitioner::Range { seed: 1 }, 8, Tables::new(Schema::new("utf8")));
/// let count = state.value("count", Fixed)?;
/// let mut timers = state.timers("ends", TimeDomain::Event, Schema::unit())?;
/// for key in ["a", "b", "a"] {
///     state.set_key(key.as_bytes())?;
///     count.update(&mut state, |n: &mut Option<u64>| *n = Some(n.unwrap_or(0) + 1))?;
///     timers.register(&mut state, &[], Timestamp::from_millis(1000))?;
/// }
/// let mut fired = Vec::new();
/// let watermark = Timestamp::from_millis(1500);
/// while let Some(timer) = timers.pop_due(&mut state, watermark)? {
///     // The timer's key is the current key.
///     fired.push((timer.timestamp().as_millis(), count.read(&mut state)?));
/// }
/// fired.sort();
/// assert_eq!(fired, [(1000, Some(1)), (1000, Some(2))]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Timers {
    table: TimerTable,
    /// The groups whose timers the queue holds, or will hold once they are no longer waiting.
    groups: KeyGroupSet,
    waiting: Waiting,
    queue: Queue,
    /// About how many of the first timers have a row that was prefetched.
    prefetched: usize,
    charge: Charge,
}

impl Timers {
    /// Returns the table's id.
    #[must_use]
    pub fn table(&self) -> TableId {
        self.table.id
    }

    /// Returns the time that the timers are measured in.
    #[must_use]
    pub fn domain(&self) -> TimeDomain {
        self.table.domain
    }

    /// Returns the number of waiting timers, without those of absent groups. A timer whose row was cleared by other means
    /// than this handle counts until it is due.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Returns whether no timer is waiting, by the count of [`Timers::len`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.len() == 0
    }

    /// Returns the time of the earliest waiting timer; `None` if there is none. While groups are absent, a lower bound.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        self.queue.first().map(|timer| timer.at).into_iter().chain(self.waiting.earliest()).min()
    }

    /// Returns the groups that may have timers due at `to`. [`Timers::pop_due`] waits for those that are absent;
    /// [`Task::ready_groups`](crate::Task::ready_groups) is the way not to wait on the thread.
    ///
    /// # Cost
    /// A step per due timer, and up to 255 more.
    #[must_use]
    pub fn due_groups(&self, to: Timestamp) -> KeyGroupSet {
        let queued: KeyGroupSet = self.queue.due(to).map(Timer::group).collect();
        queued.union(&self.waiting.due(to))
    }

    /// Returns an upper bound of the queue's memory in bytes. The state's budget is charged for it; once the budget is
    /// spent, the backend refuses new rows, and so new timers.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.queue.held_bytes()
    }

    /// Registers a timer of the current key; returns false if it is registered already. A timer in the past fires at the
    /// next [`Timers::pop_due`].
    ///
    /// # Errors
    /// As [`StateBackend::update`]: `Limit` if the memory budget is spent; `Usage` if no key is set, or `namespace` is not
    /// empty and the table has no namespaces. Nothing changes.
    ///
    /// # Cost
    /// One row, and a queue insert that is logarithmic in the number of waiting timers.
    pub fn register<B: StateBackend>(
        &mut self,
        state: &mut KeyedState<B>,
        namespace: &[u8],
        at: Timestamp,
    ) -> Result<bool> {
        self.settle_current(state)?;
        let new = self.with_row(state, namespace, at, |backend, row| {
            backend.update(row, |stored, _| match stored {
                Some(_) => (Change::Keep, false),
                None => (Change::Put, true),
            })
        })?;
        if new {
            self.queue.insert(current_timer(state, namespace, at));
            self.recharge();
        }
        Ok(new)
    }

    /// Removes a timer of the current key; returns false if there is none.
    ///
    /// # Errors
    /// As [`Timers::register`].
    ///
    /// # Cost
    /// That of [`Timers::register`], and a search of at most 256 timers.
    pub fn delete<B: StateBackend>(
        &mut self,
        state: &mut KeyedState<B>,
        namespace: &[u8],
        at: Timestamp,
    ) -> Result<bool> {
        self.settle_current(state)?;
        let found = self.with_row(state, namespace, at, remove_row)?;
        if found {
            self.queue.remove(&current_timer(state, namespace, at));
            self.recharge();
        }
        Ok(found)
    }

    /// Removes and returns the first timer due at `to` (its time is `to` or earlier), and makes its key the current key;
    /// `None` if no timer is due. Timers come by time, then by group, key and namespace.
    ///
    /// The timer has fired once this returns. If the operator fails to process it, restore a checkpoint: the timer is
    /// still in it.
    ///
    /// # Errors
    /// As [`StateBackend::update`]: the timer stays, and its key is current. `Usage` if groups were loaded or dropped
    /// since the last [`Timers::rebuild`]. The errors of loading an absent group that may have due timers; none fires then.
    pub fn pop_due<B: StateBackend>(&mut self, state: &mut KeyedState<B>, to: Timestamp) -> Result<Option<Fired>> {
        if self.groups != *state.backend.groups() {
            return Err(Error::usage("groups were loaded or dropped: rebuild the timers")
                .with("owned", state.backend.groups())
                .with("known", &self.groups));
        }
        if self.waiting.earliest().is_some_and(|bound| bound <= to) {
            let due = self.waiting.due(to);
            self.settle_waiting(state, &due)?;
        }
        while let Some(first) = self.queue.first().filter(|first| first.at <= to) {
            match self.prefetched.checked_sub(1) {
                Some(left) => self.prefetched = left,
                None => self.prefetched = prefetch_due(&self.queue, self.table.id, state, to),
            }
            let Parts { key, namespace, routing, .. } = first.parts();
            state.set_key_routed(key, routing.unwrap_or_default());
            let removed = with_row(state, self.table.id, namespace, &sub_key(first.at), remove_row)?;
            let timer = self.queue.pop();
            self.recharge();
            // Without a row the timer was cleared by other means than this handle: it does not fire.
            if let (true, Some(timer)) = (removed, timer) {
                return Ok(Some(Fired(timer)));
            }
        }
        Ok(None)
    }

    /// Rebuilds the queue for the `changed` groups, after groups were loaded or dropped. Absent groups stay absent.
    ///
    /// # Errors
    /// `Corrupt` if a row is no timer, or lies in another group than the partitioner gives its key; otherwise as
    /// [`StateBackend::scan`]. The queue stays as it was.
    ///
    /// # Cost
    /// A step per row of the owned groups in `changed`, rows of other tables included, and a step per waiting timer.
    pub fn rebuild<B: StateBackend>(&mut self, state: &mut KeyedState<B>, changed: &KeyGroupSet) -> Result<()> {
        let owned = state.backend.groups().intersection(changed);
        let absent = owned.intersection(&state.backend.absent());
        let mut queue = Queue::default();
        self.scan(state, &owned.difference(&absent), |timer| queue.insert(timer))?;
        let others = std::mem::take(&mut self.queue).into_timers().filter(|timer| !changed.contains(timer.group()));
        others.for_each(|timer| queue.insert(timer));
        self.queue = queue;
        self.groups = self.groups.difference(changed).union(&owned);
        self.waiting.remove(changed);
        self.waiting.add(&state.backend, self.table.id, &absent);
        self.recharge();
        Ok(())
    }

    /// Visits the timers of resident `groups`.
    fn scan<B: StateBackend>(
        &self,
        state: &mut KeyedState<B>,
        groups: &KeyGroupSet,
        mut visit: impl FnMut(Timer),
    ) -> Result<()> {
        let (partitioner, max_parallelism) = (state.partitioner, state.max_parallelism);
        let mut failed = None;
        state.backend.scan(self.table.id, groups, &[], |entry| {
            match decode_row(partitioner, max_parallelism, &entry) {
                Ok(timer) => visit(timer),
                Err(error) => failed = Some(error.with("table", self.table.id).with("group", entry.group)),
            }
            failed.is_none()
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Makes waiting groups resident and adds their timers to the queue.
    #[cold]
    fn settle_waiting<B: StateBackend>(&mut self, state: &mut KeyedState<B>, groups: &KeyGroupSet) -> Result<()> {
        state.backend.request(groups);
        // One after the other: memory may have no room for all.
        for group in groups.iter() {
            let group = std::iter::once(group).collect();
            let mut timers = Vec::new();
            self.scan(state, &group, |timer| timers.push(timer))?;
            timers.into_iter().for_each(|timer| self.queue.insert(timer));
            self.waiting.remove(&group);
            self.recharge();
        }
        Ok(())
    }

    /// Makes the current key's group no longer wait: its rows are about to change.
    fn settle_current<B: StateBackend>(&mut self, state: &mut KeyedState<B>) -> Result<()> {
        let group = state.key.group;
        if state.key.set && self.waiting.contains(group) {
            return self.settle_waiting(state, &std::iter::once(group).collect());
        }
        Ok(())
    }

    /// Calls `f` with the row of a timer of the current key.
    fn with_row<B: StateBackend, R>(
        &self,
        state: &mut KeyedState<B>,
        namespace: &[u8],
        at: Timestamp,
        f: impl FnOnce(&mut LazyBackend<B>, RowRef<'_>) -> Result<R>,
    ) -> Result<R> {
        if !self.table.namespaced && !namespace.is_empty() {
            return Err(Error::usage("table has no namespaces").with("table", self.table.id));
        }
        with_row(state, self.table.id, namespace, &sub_key(at), f)
    }

    fn recharge(&mut self) {
        let held = self.queue.held_bytes();
        if self.charge.bytes() != held {
            self.charge.resize(held);
        }
    }
}

/// Returns a timer's sub-key: its time as [`Ordered`] encodes it.
fn sub_key(at: Timestamp) -> [u8; 8] {
    Ordered::i64_bytes(at.as_millis())
}

/// Prefetches the rows of the first timers due at `to`, if there are several. Returns how many follow the first.
fn prefetch_due<B: StateBackend>(queue: &Queue, table: TableId, state: &mut KeyedState<B>, to: Timestamp) -> usize {
    let due = || queue.first_few().take_while(|timer| timer.at <= to).take(PREFETCHED_TIMERS);
    if due().nth(1).is_none() {
        return 0;
    }
    let due: Vec<_> = due().map(|timer| (timer.parts(), sub_key(timer.at))).collect();
    let keys = due.iter().map(|(parts, _)| state.locate_routed(parts.key, parts.routing.unwrap_or_default()));
    let keys: Vec<_> = keys.collect();
    let rows = due.iter().zip(&keys);
    let rows = rows.map(|((parts, sub), key)| RowRef { table, key, namespace: parts.namespace, sub });
    let rows: Vec<_> = rows.collect();
    state.backend.prefetch(&rows);
    rows.len() - 1
}

/// Calls `f` with a row of the current key.
fn with_row<B: StateBackend, R>(
    state: &mut KeyedState<B>,
    table: TableId,
    namespace: &[u8],
    sub: &[u8],
    f: impl FnOnce(&mut LazyBackend<B>, RowRef<'_>) -> Result<R>,
) -> Result<R> {
    let key = state.key.located()?;
    f(&mut state.backend, RowRef { table, key: &key, namespace, sub })
}

/// Removes a row; returns false if there is none.
fn remove_row<B: StateBackend>(backend: &mut B, row: RowRef<'_>) -> Result<bool> {
    backend.update(row, |stored, _| match stored {
        Some(_) => (Change::Delete, true),
        None => (Change::Keep, false),
    })
}

/// Returns the timer of the current key.
fn current_timer<B>(state: &KeyedState<B>, namespace: &[u8], at: Timestamp) -> Timer {
    let key = &state.key;
    Timer::new(at, Parts { group: key.group, key: &key.bytes, namespace, routing: key.routing })
}

/// Returns the timer of a stored row.
///
/// # Errors
/// `Corrupt` if the sub-key is no time, or the partitioner gives the key another group or routing hash.
fn decode_row(partitioner: Partitioner, max_parallelism: u16, entry: &Entry<'_>) -> Result<Timer> {
    let at = Ordered.decode(entry.sub).map(Timestamp::from_millis)?;
    let Entry { group, key, namespace, routing, .. } = *entry;
    // Firing locates the row by its key: with another location it would not find the row.
    let located = partitioner.locate(key, routing.unwrap_or_default(), max_parallelism);
    if (located.group, located.routing) != (group, routing) {
        return Err(Error::corrupt("partitioner does not map the key of a timer's row to its group")
            .with("partitioner", partitioner.name())
            .with("routed", routing.is_some()));
    }
    Ok(Timer::new(at, Parts { group, key, namespace, routing }))
}
