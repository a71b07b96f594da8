//! Declared tables of timers.

use crate::codec::schema::Schema;
use crate::codec::typed::{Codec, Ordered};
use crate::error::Result;
use crate::id::TableId;
use crate::manifest::{StateKind, TableSchema};
use crate::row::TableRules;

use super::Timers;
use super::queue::Queue;
use super::waiting::Waiting;
use crate::backend::StateBackend;
use crate::backend::state::{KeyedState, Tables};

/// The time that timers are measured in. It is part of a table's type, and cannot change for a stored table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimeDomain {
    /// Event time: watermarks.
    Event,
    /// Processing time: the wall clock.
    Processing,
}

impl TimeDomain {
    /// Returns the value schema of a table of timers. Values are empty; the schema stores the domain.
    fn schema(self) -> Schema {
        Schema::new(match self {
            Self::Event => "timer:event",
            Self::Processing => "timer:processing",
        })
    }
}

impl Tables {
    /// Declares a table of timers. Once the rows are loaded, [`TimerTable::load`] returns the handle.
    ///
    /// * `domain`: the time that timers are measured in.
    /// * `namespace`: the type of the namespaces; [`Schema::unit`] for none.
    ///
    /// # Errors
    /// As [`Tables::declare`].
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
        // The queue finds each timer's row directly; no code visits the timers of one key.
        let id = self.declare_with(wanted, TableRules { by_key: false, ..TableRules::default() })?;
        Ok(TimerTable { id, domain, namespaced, restored: self.schemas().len() == known })
    }
}

impl<B: StateBackend> KeyedState<B> {
    /// Declares a table of timers, as [`Tables::timers`] does, and returns its loaded handle.
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

/// A declared table of timers, without its queue: [`TimerTable::load`] builds it once the rows are loaded.
#[derive(Debug, Clone, Copy)]
pub struct TimerTable {
    pub(super) id: TableId,
    pub(super) domain: TimeDomain,
    pub(super) namespaced: bool,
    /// Whether the restored checkpoint may hold rows of the table.
    restored: bool,
}

impl TimerTable {
    /// Returns the handle to the table in `state`, with all restored timers in its queue. The queue's memory is charged to
    /// the [state's budget](KeyedState::with_budget).
    ///
    /// # Errors
    /// As [`Timers::rebuild`].
    ///
    /// # Cost
    /// For a restored table, a step per row of the resident groups, rows of other tables included; else none. The timers of
    /// absent groups join the queue before they are due.
    pub fn load<B: StateBackend>(self, state: &mut KeyedState<B>) -> Result<Timers> {
        let groups = state.backend.groups().clone();
        let charge = state.budget.charge(0);
        let (waiting, queue) = (Waiting::default(), Queue::default());
        let mut timers = Timers { table: self, groups, waiting, queue, prefetched: 0, charge };
        if self.restored {
            let groups = timers.groups.clone();
            timers.rebuild(state, &groups)?;
        }
        Ok(timers)
    }
}
