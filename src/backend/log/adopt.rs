//! Loading groups on other threads: a group shares nothing, so that its owner only takes it over.

use std::fmt;
use std::sync::Mutex;

use super::super::checks::check_unowned;
use super::super::lazy::{GroupLoader, Loaded};
use super::arena::Arena;
use super::group::{Group, has_families};
use super::load::Loader;
use super::table_slots::TableSlots;
use super::{LogBackend, group_cell};
use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::{KeyGroup, KeyGroupSet, Partitioner};
use crate::row::{RowBatch, RowSource, Rules};

/// Loads groups by the rules and the slots that the backend had.
pub(super) struct DetachedLoader {
    /// By table id, and by slot.
    rules: (Rules, Rules),
    table_slots: TableSlots,
    partitioner: Partitioner,
    arena: Arena,
}

/// Groups that a loader has loaded; none for a group without rows.
struct LoadedLogs {
    groups: Vec<(KeyGroup, Box<Group>)>,
    /// The rules that they were loaded by.
    rules: Rules,
}

impl fmt::Debug for DetachedLoader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DetachedLoader").finish_non_exhaustive()
    }
}

impl GroupLoader for DetachedLoader {
    fn load(&self, rows: &dyn RowSource, groups: &KeyGroupSet, so_far: Option<Loaded>) -> Result<Option<Loaded>> {
        let mut table_slots = self.table_slots.clone();
        let ((by_id, by_slot), partitioner) = (self.rules.clone(), self.partitioner);
        let slots = Mutex::new(&mut table_slots);
        let loader = Loader { rows, by_id, rules: &by_slot, table_slots: slots, partitioner, arena: &self.arena };
        let loaded = match so_far.map(|so_far| so_far.downcast::<LoadedLogs>()) {
            None => loader.load_all(groups, 1)?,
            Some(Ok(so_far)) => load_more(&loader, groups, so_far.groups)?,
            Some(Err(_)) => return Err(of_another()),
        };
        // The owner may have given the slot of a table that is new here to another one.
        let all_known = table_slots.len() == self.table_slots.len();
        Ok(all_known.then(|| Box::new(LoadedLogs { groups: loaded, rules: by_slot }) as Loaded))
    }
}

/// Adds rows to groups that have some already, or none so far.
fn load_more(
    loader: &Loader<'_>,
    groups: &KeyGroupSet,
    so_far: Vec<(KeyGroup, Box<Group>)>,
) -> Result<Vec<(KeyGroup, Box<Group>)>> {
    let mut so_far: std::collections::BTreeMap<_, _> = so_far.into_iter().collect();
    let (mut loaded, mut batch) = (Vec::new(), RowBatch::new());
    for id in groups.iter() {
        let mut group = so_far.remove(&id);
        loader.load(id, &mut group, &mut batch)?;
        loaded.extend(group.map(|group| (id, group)));
    }
    Ok(loaded)
}

impl LogBackend {
    /// Returns a loader that knows all of `tables`.
    pub(super) fn detached_loader(&mut self, tables: &[TableId]) -> DetachedLoader {
        for table in tables {
            let _known = self.table_slots.slot_of(*table);
        }
        let by_id = self.rules.renumbered(|slot| self.table_slots.table(slot));
        DetachedLoader {
            rules: (by_id, self.rules.clone()),
            table_slots: self.table_slots.clone(),
            partitioner: self.partitioner,
            arena: self.arena.clone(),
        }
    }

    /// Takes over loaded groups.
    pub(super) fn adopt_loaded(&mut self, loaded: Loaded, groups: &KeyGroupSet) -> Result<()> {
        check_unowned(&self.owned, groups)?;
        let loaded = loaded.downcast::<LoadedLogs>().map_err(|_| of_another())?;
        let LoadedLogs { groups: mut logs, rules } = *loaded;
        let changes = self.changes_since(&rules);
        for (_, group) in &mut logs {
            changes.iter().try_for_each(|change| change.apply(group, &self.rules))?;
        }
        self.add_groups(groups);
        for (id, group) in logs {
            *group_cell(&mut self.groups, id) = Some(group);
        }
        self.relieve();
        Ok(())
    }

    /// Returns what [`define`](crate::backend::StateBackend::define) would have changed in groups loaded by `before`.
    fn changes_since(&self, before: &Rules) -> Vec<Change> {
        if self.rules.has_tables_of(before) {
            return Vec::new();
        }
        let change = |table: TableId| {
            let is_ordered = |rules: &Rules| rules.table(table).is_some_and(|rules| rules.ordered);
            match (has_families(before, table), has_families(&self.rules, table)) {
                (was, is) if was != is => Some(Change::ByKey(table, is)),
                _ if is_ordered(&self.rules) && !is_ordered(before) => Some(Change::Ordered(table)),
                _ => None,
            }
        };
        self.rules.tables().filter_map(change).collect()
    }
}

/// How the rows of a table are kept otherwise than when they were loaded.
enum Change {
    ByKey(TableId, bool),
    Ordered(TableId),
}

impl Change {
    fn apply(&self, group: &mut Group, rules: &Rules) -> Result<()> {
        match *self {
            Self::ByKey(table, by_key) => group.group_by_key(table, by_key, rules),
            Self::Ordered(table) => group.order(table),
        }
    }
}

fn of_another() -> Error {
    Error::usage("groups were loaded for another backend")
}
