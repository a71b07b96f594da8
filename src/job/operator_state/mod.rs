//! Operator state: a subtask's lists and maps without a key, in the same checkpoints as keyed state.
//!
//! | declared by | state | after a restore |
//! |---|---|---|
//! | [`OperatorState::list`] | a list of this subtask: source partitions, say | items are dealt out in turn |
//! | [`OperatorState::union_list`] | a list of this subtask | each subtask gets the items of all |
//! | [`OperatorState::broadcast`] | a map that is equal in every subtask: rules, say | each subtask gets subtask 0's |
//!
//! Keep it small: each checkpoint uploads all of it, and no memory budget is charged for it.
//!
//! Invariants:
//! - restored state is never lost: later checkpoints carry states that are not declared again;
//! - checkpoints store the types of empty states too, and declaring a state with other types is refused;
//! - a barrier encodes nothing, because contents are kept encoded, and copies only states that changed.

mod content;
mod handles;
mod label;

use std::collections::BTreeMap;

use crate::codec::schema::Schema;
use crate::codec::typed::Codec;
use crate::error::{Error, Result};
use crate::id::Subtask;
use crate::manifest::{MAX_NAME_BYTES, Opaque, OpaqueRole};

use content::{Content, Entries, Items, Slot, opaque};
use label::{LABELS, Label, OperatorStateKind, PREFIX};

pub use handles::{BroadcastState, OperatorList};

/// The operator state of one subtask.
///
/// All subtasks declare the same states before the first record, and work on them through handles. Reads and writes are
/// synchronous, in memory, and cost their items.
///
/// ```
/// use alluvium::Subtask;
/// use alluvium::prelude::*;
///
/// # fn main() -> alluvium::Result<()> {
/// let mut state = OperatorState::new(Subtask(0)); // a task has one: `Task::operator_state`
/// let offsets = state.list("offsets", Fixed)?;
/// let rules = state.broadcast("rules", Utf8, Fixed)?;
///
/// offsets.update(&mut state, &[7u64, 300])?;
/// offsets.add(&mut state, &8)?;
/// assert_eq!(offsets.get(&state)?, [7, 300, 8]);
///
/// rules.put(&mut state, &"limit".to_owned(), &100u32)?;
/// assert_eq!(rules.get(&state, &"limit".to_owned())?, Some(100));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct OperatorState {
    subtask: Subtask,
    /// By handle.
    declared: Vec<Slot>,
    /// Restored states that are not declared, by label.
    restored: BTreeMap<String, Slot>,
}

impl OperatorState {
    /// Returns the empty state of a new subtask.
    #[must_use]
    pub fn new(subtask: Subtask) -> Self {
        Self { subtask, declared: Vec::new(), restored: BTreeMap::new() }
    }

    /// Restores the state from `opaques`, the subtask's share of the checkpoint.
    ///
    /// # Errors
    /// `Corrupt` if an opaque is damaged; `Version` if a newer version of this crate wrote it.
    pub(super) fn restore(subtask: Subtask, opaques: &[Opaque]) -> Result<Self> {
        let mut state = Self::new(subtask);
        for opaque in opaques {
            state.restore_one(opaque).map_err(|error| error.with("opaque", &opaque.name))?;
        }
        Ok(state)
    }

    fn restore_one(&mut self, opaque: &Opaque) -> Result<()> {
        if opaque.name != LABELS {
            return self.restored_slot(Label::parse(&opaque.name)?).restore(opaque);
        }
        for label in opaque.items()? {
            let label = std::str::from_utf8(&label)
                .map_err(|source| Error::corrupt("label is not text").with_source(source))
                .and_then(Label::parse)?;
            self.restored_slot(label);
        }
        Ok(())
    }

    fn restored_slot(&mut self, label: Label) -> &mut Slot {
        self.restored.entry(label.to_string()).or_insert_with(|| Slot::new(label))
    }

    /// Declares a list of this subtask. A restore at another parallelism deals the items of all subtasks out in turn.
    ///
    /// # Errors
    /// `Usage` if the name is declared already, or if name and types together exceed [`MAX_NAME_BYTES`]; `Config` if the
    /// restored state of that name has another type.
    pub fn list<V, C: Codec<V>>(&mut self, name: &str, codec: C) -> Result<OperatorList<V, C>> {
        let slot = self.declare(OperatorStateKind::List, vec![codec.schema()], name)?;
        Ok(OperatorList::new(slot, codec))
    }

    /// Declares a list that every subtask restores whole: the items of subtask 0, then those of subtask 1, and so on.
    ///
    /// A checkpoint stores each subtask's list as of the barrier. After a restore, each subtask must therefore reduce the
    /// list to its own part with [`OperatorList::update`], or clear it; if all subtasks keep the whole list, the next
    /// restore returns each item once per subtask.
    ///
    /// # Errors
    /// As [`OperatorState::list`].
    pub fn union_list<V, C: Codec<V>>(&mut self, name: &str, codec: C) -> Result<OperatorList<V, C>> {
        let slot = self.declare(OperatorStateKind::UnionList, vec![codec.schema()], name)?;
        Ok(OperatorList::new(slot, codec))
    }

    /// Declares a map that is equal in every subtask, including subtasks that a higher parallelism adds.
    ///
    /// The operator must keep the maps equal: all subtasks make the same changes in each epoch. Checkpoints store the map
    /// of subtask 0 alone.
    ///
    /// # Errors
    /// As [`OperatorState::list`].
    pub fn broadcast<K, V, KC: Codec<K>, VC: Codec<V>>(
        &mut self,
        name: &str,
        key: KC,
        value: VC,
    ) -> Result<BroadcastState<K, V, KC, VC>> {
        let slot = self.declare(OperatorStateKind::Broadcast, vec![key.schema(), value.schema()], name)?;
        Ok(BroadcastState::new(slot, key, value))
    }

    fn declare(&mut self, kind: OperatorStateKind, schemas: Vec<Schema>, name: &str) -> Result<usize> {
        if self.declared.iter().any(|slot| slot.label.name == name) {
            return Err(Error::usage("operator state is declared already").with("name", name));
        }
        let label = Label { kind, schemas, name: name.to_owned() };
        let text = label.to_string();
        if text.len() > MAX_NAME_BYTES {
            let error = Error::usage("name and types of an operator state are too long").with("name", name);
            return Err(error.with("bytes", text.len()).with("limit", MAX_NAME_BYTES));
        }
        let mut stored = self.restored.values().filter(|slot| slot.label.name == name);
        if let Some(other) = stored.find(|slot| slot.label != label) {
            return Err(Error::config("operator state was stored with another type")
                .with("name", name)
                .with("stored", other.label.types())
                .with("declared", label.types()));
        }
        self.declared.push(self.restored.remove(&text).unwrap_or_else(|| Slot::new(label)));
        Ok(self.declared.len() - 1)
    }

    /// Appends the opaques that carry this state to the engine's opaques of a barrier.
    ///
    /// # Errors
    /// `Usage` if an opaque of the engine has a name reserved for operator state.
    pub(super) fn add_to(&mut self, mut opaques: Vec<Opaque>) -> Result<Vec<Opaque>> {
        if let Some(foreign) = opaques.iter().find(|opaque| carries_operator_state(opaque)) {
            let error = Error::usage("opaque has a name that is reserved for operator state");
            return Err(error.with("name", &foreign.name));
        }
        let first = self.subtask == Subtask(0);
        let declared = self.declared.iter_mut().filter(|slot| first || slot.label.kind != OperatorStateKind::Broadcast);
        // Each subtask restored the whole of an undeclared union list, so subtask 0 alone carries it on.
        let restored = self.restored.values_mut().filter(|slot| first || slot.label.kind == OperatorStateKind::List);
        opaques.extend(declared.chain(restored).filter_map(Slot::opaque));
        if first {
            opaques.extend(self.labels());
        }
        Ok(opaques)
    }

    /// Returns the opaque that lists all labels, which stores the types of empty states; `None` without any state.
    fn labels(&self) -> Option<Opaque> {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for slot in self.declared.iter().chain(self.restored.values()) {
            starts.push(bytes.len() as u64);
            bytes.extend_from_slice(slot.label.to_string().as_bytes());
        }
        (!starts.is_empty()).then(|| opaque(OperatorStateKind::Broadcast, LABELS.to_owned(), bytes, starts))
    }

    fn items(&self, slot: usize) -> Result<&Items> {
        match self.declared.get(slot).map(Slot::content) {
            Some(Content::Items(items)) => Ok(items),
            _ => Err(foreign_handle()),
        }
    }

    fn items_mut(&mut self, slot: usize) -> Result<&mut Items> {
        match self.declared.get_mut(slot).map(Slot::content_mut) {
            Some(Content::Items(items)) => Ok(items),
            _ => Err(foreign_handle()),
        }
    }

    fn entries(&self, slot: usize) -> Result<&Entries> {
        match self.declared.get(slot).map(Slot::content) {
            Some(Content::Entries(entries)) => Ok(entries),
            _ => Err(foreign_handle()),
        }
    }

    fn entries_mut(&mut self, slot: usize) -> Result<&mut Entries> {
        match self.declared.get_mut(slot).map(Slot::content_mut) {
            Some(Content::Entries(entries)) => Ok(entries),
            _ => Err(foreign_handle()),
        }
    }
}

/// Returns whether an opaque carries operator state, and is not the engine's.
pub(super) fn carries_operator_state(opaque: &Opaque) -> bool {
    opaque.role == OpaqueRole::Operator && opaque.name.starts_with(PREFIX)
}

fn foreign_handle() -> Error {
    Error::usage("handle was declared in another operator's state")
}

#[cfg(test)]
mod tests;
