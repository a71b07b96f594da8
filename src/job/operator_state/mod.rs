//! Operator state: lists and maps of a subtask that have no key, beside keyed state in the same checkpoints.
//!
//! | declared by | it is | another parallelism |
//! |---|---|---|
//! | [`OperatorState::list`] | a list of this subtask, of source partitions, say | items are dealt out in turn |
//! | [`OperatorState::union_list`] | a list of which every subtask restores all parts | each gets all items of all |
//! | [`OperatorState::broadcast`] | a map that is the same in every subtask, of rules, say | each gets that of subtask 0 |
//!
//! It is meant to be small: each checkpoint uploads it as a whole, and no memory budget is charged for it.
//!
//! Invariants:
//! - restored state is never lost: what is not declared again travels on;
//! - a state's types are stored even while it is empty, and other types are refused when it is declared;
//! - a barrier encodes nothing: items are kept as they are stored. What did not change is not even copied.

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
use label::{Kind, LABELS, Label, PREFIX};

pub use handles::{BroadcastState, OperatorList};

/// The operator state of one subtask.
///
/// A subtask declares its states before the first record, all subtasks the same ones, and works on them through the
/// handles that it gets.
///
/// ```
/// use alluvium::id::Subtask;
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
    /// What is not declared, yet or any more, by label.
    restored: BTreeMap<String, Slot>,
}

impl OperatorState {
    /// Returns the state of a subtask that has none yet.
    #[must_use]
    pub fn new(subtask: Subtask) -> Self {
        Self { subtask, declared: Vec::new(), restored: BTreeMap::new() }
    }

    /// Returns the state that `opaques`, a share's own, carry.
    ///
    /// # Errors
    /// `Corrupt` if they are damaged; `Version` if a newer version wrote them.
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

    /// Declares a list of this subtask's own. At another parallelism the items of all subtasks are dealt out in turn.
    ///
    /// # Errors
    /// `Usage` if the name is declared already, or too long; `Config` if the restored state of that name has another
    /// type.
    pub fn list<V, C: Codec<V>>(&mut self, name: &str, codec: C) -> Result<OperatorList<V, C>> {
        let slot = self.declare(Kind::List, vec![codec.schema()], name)?;
        Ok(OperatorList::new(slot, codec))
    }

    /// Declares a list that every subtask restores whole: the items of subtask 0, then those of subtask 1, and so on.
    ///
    /// A checkpoint holds what each subtask's list holds at the barrier. So a subtask that restored narrows the list
    /// to its own part by [`OperatorList::update`], or clears it; where all keep all, the next restore finds each item
    /// as many times as there were subtasks.
    ///
    /// # Errors
    /// As [`OperatorState::list`].
    pub fn union_list<V, C: Codec<V>>(&mut self, name: &str, codec: C) -> Result<OperatorList<V, C>> {
        let slot = self.declare(Kind::UnionList, vec![codec.schema()], name)?;
        Ok(OperatorList::new(slot, codec))
    }

    /// Declares a map that is the same in every subtask, also in those that a higher parallelism adds.
    ///
    /// That it is the same is up to the operator: all subtasks make the same changes in each epoch. Subtask 0's is
    /// the one that checkpoints hold.
    ///
    /// # Errors
    /// As [`OperatorState::list`].
    pub fn broadcast<K, V, KC: Codec<K>, VC: Codec<V>>(
        &mut self,
        name: &str,
        key: KC,
        value: VC,
    ) -> Result<BroadcastState<K, V, KC, VC>> {
        let slot = self.declare(Kind::Broadcast, vec![key.schema(), value.schema()], name)?;
        Ok(BroadcastState::new(slot, key, value))
    }

    fn declare(&mut self, kind: Kind, schemas: Vec<Schema>, name: &str) -> Result<usize> {
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

    /// Adds what carries this state to the opaques that the engine passes to a barrier.
    ///
    /// # Errors
    /// `Usage` if one of those has a name of operator state.
    pub(super) fn add_to(&mut self, mut opaques: Vec<Opaque>) -> Result<Vec<Opaque>> {
        if let Some(foreign) = opaques.iter().find(|opaque| is_own(opaque)) {
            let error = Error::usage("opaque has a name that is kept for operator state");
            return Err(error.with("name", &foreign.name));
        }
        let first = self.subtask == Subtask(0);
        let declared = self.declared.iter_mut().filter(|slot| first || slot.label.kind != Kind::Broadcast);
        // Every subtask has all of a union list: if it is declared nowhere, one of them keeps it.
        let restored = self.restored.values_mut().filter(|slot| first || slot.label.kind == Kind::List);
        opaques.extend(declared.chain(restored).filter_map(Slot::opaque));
        if first {
            opaques.extend(self.labels());
        }
        Ok(opaques)
    }

    /// Returns the opaque that lists all labels, so that the types of empty states are known too.
    fn labels(&self) -> Option<Opaque> {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for slot in self.declared.iter().chain(self.restored.values()) {
            starts.push(bytes.len() as u64);
            bytes.extend_from_slice(slot.label.to_string().as_bytes());
        }
        (!starts.is_empty()).then(|| opaque(Kind::Broadcast, LABELS.to_owned(), bytes, starts))
    }

    fn items(&self, slot: usize) -> Result<&Items> {
        match self.declared.get(slot).map(Slot::content) {
            Some(Content::Items(items)) => Ok(items),
            _ => Err(stray()),
        }
    }

    fn items_mut(&mut self, slot: usize) -> Result<&mut Items> {
        match self.declared.get_mut(slot).map(Slot::content_mut) {
            Some(Content::Items(items)) => Ok(items),
            _ => Err(stray()),
        }
    }

    fn entries(&self, slot: usize) -> Result<&Entries> {
        match self.declared.get(slot).map(Slot::content) {
            Some(Content::Entries(entries)) => Ok(entries),
            _ => Err(stray()),
        }
    }

    fn entries_mut(&mut self, slot: usize) -> Result<&mut Entries> {
        match self.declared.get_mut(slot).map(Slot::content_mut) {
            Some(Content::Entries(entries)) => Ok(entries),
            _ => Err(stray()),
        }
    }
}

/// Returns whether an opaque carries operator state, and so is none of the engine's.
pub(super) fn is_own(opaque: &Opaque) -> bool {
    opaque.role == OpaqueRole::Operator && opaque.name.starts_with(PREFIX)
}

fn stray() -> Error {
    Error::usage("handle was declared in another operator's state")
}

#[cfg(test)]
mod tests;
