//! Timers: times at which an operator wants to be called back under a key and namespace.
//!
//! ```text
//! row: table, key, namespace, sub-key = the time as `ordered:i64` -> no bytes
//! ```
//!
//! Invariants:
//! - the rows are the truth: a timer fires if its row is there, and firing removes the row, in the same epoch as what
//!   the operator does then. So each fires exactly once, across restore and rescale;
//! - the queue is an index of the rows and of nothing else: made of live rows when state was loaded, it never meets a
//!   tombstone, neither then nor when timers fire;
//! - a row that could not be written or removed leaves the queue as it was.

mod queue;
mod timer;

use std::fmt;

use crate::codec::schema::Schema;
use crate::codec::typed::{Codec, Ordered};
use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::{KeyGroup, KeyGroupSet, Partitioner};
use crate::manifest::{StateKind, TableSchema};
use crate::memory::Charge;
use crate::row::TableRules;
use crate::time::Timestamp;

use self::queue::Queue;
use self::timer::{Parts, Timer};
use super::super::{Change, Entry, RowRef, StateBackend};
use super::{KeyedState, Tables};

/// What timers are measured by. It is part of a table's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimeDomain {
    /// Watermarks.
    Event,
    /// The clock.
    Processing,
}

impl TimeDomain {
    /// Returns the schema that a table of timers has for its values, which are empty.
    fn schema(self) -> Schema {
        Schema::new(match self {
            Self::Event => "timer:event",
            Self::Processing => "timer:processing",
        })
    }
}

/// A timer that fired.
#[derive(Clone, PartialEq, Eq)]
pub struct Fired(Timer);

impl Fired {
    /// Returns the time that it was registered for; what it fired at may be later.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.0.at
    }

    /// Returns its encoded key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.0.parts().key
    }

    /// Returns the group of its key.
    #[must_use]
    pub fn group(&self) -> KeyGroup {
        self.0.group()
    }

    /// Returns its encoded namespace; empty if the table has none.
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

impl Tables {
    /// Declares a table of timers, which are measured by `domain` and have namespaces of type `namespace`
    /// (`unit` for none). Its handle is there once rows are: [`TimerTable::load`].
    ///
    /// # Errors
    /// As [`Tables::value`].
    pub fn timers(&mut self, name: &str, domain: TimeDomain, namespace: Schema) -> Result<TimerTable> {
        let namespaced = namespace != Schema::unit();
        let known = self.schemas().len();
        let wanted = TableSchema {
            id: TableId(0),
            name: name.to_owned(),
            kind: StateKind::Timers,
            key: self.key().clone(),
            namespace,
            sub: Codec::<i64>::schema(&Ordered),
            value: domain.schema(),
            ttl: None,
            merge_operator: None,
        };
        // The queue goes from timer to timer: nobody visits those of one key.
        let id = self.declare_with(wanted, TableRules { by_key: false, ..TableRules::default() })?;
        Ok(TimerTable { id, domain, namespaced, restored: self.schemas().len() == known })
    }
}

impl<B: StateBackend> KeyedState<B> {
    /// Declares a table of timers, as [`Tables::timers`] does, and loads it.
    ///
    /// # Errors
    /// As [`Tables::timers`] and [`TimerTable::load`].
    ///
    /// # Cost
    /// That of [`TimerTable::load`].
    pub fn timers(&mut self, name: &str, domain: TimeDomain, namespace: Schema) -> Result<Timers> {
        self.with_tables(|tables| tables.timers(name, domain, namespace))?.load(self)
    }
}

/// A declared table of timers, whose queue is made when its rows are there.
#[derive(Debug, Clone, Copy)]
pub struct TimerTable {
    id: TableId,
    domain: TimeDomain,
    namespaced: bool,
    /// Whether a checkpoint may have rows of it.
    restored: bool,
}

impl TimerTable {
    /// Returns the handle to the table in `state`; restored timers are in its queue, whose memory is charged to the
    /// [state's budget](KeyedState::with_budget).
    ///
    /// # Errors
    /// `Corrupt` if restored rows are not timers.
    ///
    /// # Cost
    /// If the table was restored, that of scanning it: a step per row of the groups owned, of other tables too.
    pub fn load<B: StateBackend>(self, state: &mut KeyedState<B>) -> Result<Timers> {
        let groups = state.backend.groups().clone();
        let charge = state.budget.charge(0);
        let mut timers = Timers { table: self, groups, queue: Queue::default(), sub: Vec::new(), charge };
        if self.restored {
            let groups = timers.groups.clone();
            timers.rebuild(state, &groups)?;
        }
        Ok(timers)
    }
}

/// A handle to a table of timers, and their queue.
///
/// A timer is one per key, namespace and time, whatever number of times it is registered. Timers fire when the operator
/// says that their time has come: those registered by then, also while others fire.
///
/// ```
/// # use alluvium::backend::{OverlayBackend, Tables};
/// # use alluvium::memory::MemoryBudget;
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
    /// The groups whose rows the queue has.
    groups: KeyGroupSet,
    queue: Queue,
    /// Reused for the sub-key of the row at hand.
    sub: Vec<u8>,
    charge: Charge,
}

impl Timers {
    /// Returns the table's id.
    #[must_use]
    pub fn table(&self) -> TableId {
        self.table.id
    }

    /// Returns what the timers are measured by.
    #[must_use]
    pub fn domain(&self) -> TimeDomain {
        self.table.domain
    }

    /// Returns how many timers are waiting; those whose rows were cleared past this handle count until they are due.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Returns whether no timer is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.len() == 0
    }

    /// Returns the time of the timer that fires next.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        self.queue.first().map(|timer| timer.at)
    }

    /// Returns the bytes of memory that the queue holds, at most. Where the budget that is charged for them is spent, it is
    /// the backend that refuses a timer's row.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.queue.held_bytes()
    }

    /// Registers a timer of the current key; false if it is registered already. One whose time is past fires with the
    /// next that are due.
    ///
    /// # Errors
    /// As [`StateBackend::update`]; `Usage` if no key is set, or if the table has no namespaces. Nothing is changed.
    pub fn register<B: StateBackend>(
        &mut self,
        state: &mut KeyedState<B>,
        namespace: &[u8],
        at: Timestamp,
    ) -> Result<bool> {
        let new = self.with_row(state, namespace, at, |backend, row| {
            backend.update(row, |stored, _| match stored {
                Some(_) => (Change::Keep, false),
                None => (Change::Put, true),
            })
        })?;
        if new {
            self.queue.insert(current(state, namespace, at));
            self.recharge();
        }
        Ok(new)
    }

    /// Removes a timer of the current key; false if there is none.
    ///
    /// # Errors
    /// As [`Timers::register`].
    pub fn delete<B: StateBackend>(
        &mut self,
        state: &mut KeyedState<B>,
        namespace: &[u8],
        at: Timestamp,
    ) -> Result<bool> {
        let found = self.with_row(state, namespace, at, remove)?;
        if found {
            self.queue.remove(&current(state, namespace, at));
            self.recharge();
        }
        Ok(found)
    }

    /// Takes the first timer whose time is `to` or earlier, makes its key the current key, and removes it; `None` if
    /// there is none (left). By time, then by group, key and namespace. It counts as fired from then on: an operator
    /// that fails on it goes back to a checkpoint, where it still waits.
    ///
    /// # Errors
    /// As [`StateBackend::update`]: the timer then waits on, and its key is current. `Usage` if groups were loaded or
    /// dropped since [`Timers::rebuild`].
    pub fn pop_due<B: StateBackend>(&mut self, state: &mut KeyedState<B>, to: Timestamp) -> Result<Option<Fired>> {
        if self.groups != *state.backend.groups() {
            return Err(Error::usage("groups were loaded or dropped: rebuild the timers")
                .with("owned", state.backend.groups())
                .with("known", &self.groups));
        }
        while let Some(first) = self.queue.first().filter(|first| first.at <= to) {
            let Parts { key, namespace, routing, .. } = first.parts();
            state.set_key_routed(key, routing.unwrap_or_default());
            encode(first.at, &mut self.sub)?;
            let there = with_row(state, self.table.id, namespace, &self.sub, remove)?;
            let timer = self.queue.pop();
            self.recharge();
            // A row that is gone was cleared past this handle.
            if let (true, Some(timer)) = (there, timer) {
                return Ok(Some(Fired(timer)));
            }
        }
        Ok(None)
    }

    /// Reads the timers of `changed` groups anew, after groups were loaded or dropped.
    ///
    /// # Errors
    /// `Corrupt` if their rows are not timers. The queue is then as it was.
    ///
    /// # Cost
    /// That of scanning those of `changed` that are owned (see [`TimerTable::load`]), and a step per timer waiting.
    pub fn rebuild<B: StateBackend>(&mut self, state: &mut KeyedState<B>, changed: &KeyGroupSet) -> Result<()> {
        let loaded = state.backend.groups().intersection(changed);
        let (partitioner, max_parallelism) = (state.partitioner, state.max_parallelism);
        let (mut queue, mut failed) = (Queue::default(), None);
        state.backend.scan(self.table.id, &loaded, &[], |entry| {
            match read(partitioner, max_parallelism, &entry) {
                Ok(timer) => queue.insert(timer),
                Err(error) => failed = Some(error.with("table", self.table.id).with("group", entry.group)),
            }
            failed.is_none()
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let others = std::mem::take(&mut self.queue).into_timers().filter(|timer| !changed.contains(timer.group()));
        others.for_each(|timer| queue.insert(timer));
        self.queue = queue;
        self.groups = self.groups.difference(changed).union(&loaded);
        self.recharge();
        Ok(())
    }

    /// Calls `f` with the row of the current key's timer.
    fn with_row<B: StateBackend, R>(
        &mut self,
        state: &mut KeyedState<B>,
        namespace: &[u8],
        at: Timestamp,
        f: impl FnOnce(&mut B, RowRef<'_>) -> Result<R>,
    ) -> Result<R> {
        if !self.table.namespaced && !namespace.is_empty() {
            return Err(Error::usage("table has no namespaces").with("table", self.table.id));
        }
        encode(at, &mut self.sub)?;
        with_row(state, self.table.id, namespace, &self.sub, f)
    }

    fn recharge(&mut self) {
        let held = self.queue.held_bytes();
        if self.charge.bytes() != held {
            self.charge.resize(held);
        }
    }
}

fn encode(at: Timestamp, sub: &mut Vec<u8>) -> Result<()> {
    sub.clear();
    Ordered.encode(&at.as_millis(), sub)
}

/// Calls `f` with a row of the current key.
fn with_row<B: StateBackend, R>(
    state: &mut KeyedState<B>,
    table: TableId,
    namespace: &[u8],
    sub: &[u8],
    f: impl FnOnce(&mut B, RowRef<'_>) -> Result<R>,
) -> Result<R> {
    let key = state.key.located()?;
    f(&mut state.backend, RowRef { table, key: &key, namespace, sub })
}

/// Removes a row; false if there is none.
fn remove<B: StateBackend>(backend: &mut B, row: RowRef<'_>) -> Result<bool> {
    backend.update(row, |stored, _| match stored {
        Some(_) => (Change::Delete, true),
        None => (Change::Keep, false),
    })
}

/// Returns a timer of the current key.
fn current<B>(state: &KeyedState<B>, namespace: &[u8], at: Timestamp) -> Timer {
    let key = &state.key;
    Timer::new(at, Parts { group: key.group, key: &key.bytes, namespace, routing: key.routing })
}

/// Returns the timer of a stored row.
fn read(partitioner: Partitioner, max_parallelism: u16, entry: &Entry<'_>) -> Result<Timer> {
    let at = Ordered.decode(entry.sub).map(Timestamp::from_millis)?;
    let Entry { group, key, namespace, routing, .. } = *entry;
    // Firing it must find the row again.
    let located = partitioner.locate(key, routing.unwrap_or_default(), max_parallelism);
    if (located.group, located.routing) != (group, routing) {
        return Err(Error::corrupt("partitioner does not lead to the group of a timer's row")
            .with("partitioner", partitioner.name())
            .with("routed", routing.is_some()));
    }
    Ok(Timer::new(at, Parts { group, key, namespace, routing }))
}
