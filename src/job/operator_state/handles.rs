//! Handles to lists and broadcast states.
//!
//! Invariant: a codec that fails or panics changes nothing.

use std::fmt::{self, Debug};
use std::marker::PhantomData;

use super::OperatorState;
use super::content::{Entries, Items};
use crate::codec::typed::Codec;
use crate::error::Result;

/// A handle to a list: see [`OperatorState::list`] and [`OperatorState::union_list`] for what a restore does with it.
///
/// ```
/// use alluvium::Subtask;
/// use alluvium::prelude::*;
///
/// # fn main() -> alluvium::Result<()> {
/// let mut state = OperatorState::new(Subtask(0));
/// let files = state.union_list("files", Utf8)?;
/// files.add(&mut state, &"a.csv".to_owned())?;
/// assert_eq!((files.len(&state)?, files.get(&state)?), (1, vec!["a.csv".to_owned()]));
/// files.clear(&mut state)?;
/// assert!(files.is_empty(&state)?);
/// # Ok(())
/// # }
/// ```
pub struct OperatorList<V, C> {
    slot: usize,
    codec: C,
    value: PhantomData<fn() -> V>,
}

impl<V, C: Clone> Clone for OperatorList<V, C> {
    fn clone(&self) -> Self {
        Self { slot: self.slot, codec: self.codec.clone(), value: PhantomData }
    }
}

impl<V, C: Debug> Debug for OperatorList<V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slot, codec, value: PhantomData } = self;
        f.debug_struct("OperatorList").field("slot", slot).field("codec", codec).finish()
    }
}

impl<V, C: Codec<V>> OperatorList<V, C> {
    pub(super) fn new(slot: usize, codec: C) -> Self {
        Self { slot, codec, value: PhantomData }
    }

    /// Returns all items, decoded, in order.
    ///
    /// # Errors
    /// `Corrupt` if stored bytes do not decode; `Usage` if the handle belongs to another operator state.
    pub fn get(&self, state: &OperatorState) -> Result<Vec<V>> {
        state.items(self.slot)?.iter().map(|item| self.codec.decode(item)).collect()
    }

    /// Returns the number of items.
    ///
    /// # Errors
    /// `Usage` if the handle belongs to another operator state.
    pub fn len(&self, state: &OperatorState) -> Result<usize> {
        state.items(self.slot).map(Items::len)
    }

    /// Returns whether the list has no items.
    ///
    /// # Errors
    /// As [`OperatorList::len`].
    pub fn is_empty(&self, state: &OperatorState) -> Result<bool> {
        self.len(state).map(|len| len == 0)
    }

    /// Appends an item.
    ///
    /// # Errors
    /// `Usage` if the value has no encoding, or the handle belongs to another operator state. Nothing changes.
    pub fn add(&self, state: &mut OperatorState, value: &V) -> Result<()> {
        let item = encoded(&self.codec, value)?;
        state.items_mut(self.slot)?.push(&item);
        Ok(())
    }

    /// Replaces all items by `values`.
    ///
    /// # Errors
    /// As [`OperatorList::add`].
    pub fn update<'a>(&self, state: &mut OperatorState, values: impl IntoIterator<Item = &'a V>) -> Result<()>
    where
        V: 'a,
    {
        let mut items = Items::default();
        for value in values {
            items.push(&encoded(&self.codec, value)?);
        }
        *state.items_mut(self.slot)? = items;
        Ok(())
    }

    /// Removes all items.
    ///
    /// # Errors
    /// As [`OperatorList::len`].
    pub fn clear(&self, state: &mut OperatorState) -> Result<()> {
        *state.items_mut(self.slot)? = Items::default();
        Ok(())
    }
}

/// A handle to a map that is equal in every subtask: see [`OperatorState::broadcast`].
///
/// Reads borrow the state shared, writes exclusively: code that only looks up needs a shared reference. Keys are found by
/// their encoded bytes, in time logarithmic in their number.
///
/// ```
/// use alluvium::Subtask;
/// use alluvium::prelude::*;
///
/// # fn main() -> alluvium::Result<()> {
/// let mut state = OperatorState::new(Subtask(0));
/// let limits = state.broadcast("limits", Ordered, Fixed)?;
/// for (user, limit) in [(300u32, 7u64), (2, 8)] {
///     limits.put(&mut state, &user, &limit)?;
/// }
/// let all: Vec<(u32, u64)> = limits.iter(&state)?.collect::<Result<_, _>>()?;
/// assert_eq!(all, [(2, 8), (300, 7)]);
/// limits.remove(&mut state, &2)?;
/// assert!(!limits.contains(&state, &2)?);
/// # Ok(())
/// # }
/// ```
pub struct BroadcastState<K, V, KC, VC> {
    slot: usize,
    key: KC,
    value: VC,
    entry: PhantomData<fn() -> (K, V)>,
}

impl<K, V, KC: Clone, VC: Clone> Clone for BroadcastState<K, V, KC, VC> {
    fn clone(&self) -> Self {
        Self { slot: self.slot, key: self.key.clone(), value: self.value.clone(), entry: PhantomData }
    }
}

impl<K, V, KC: Debug, VC: Debug> Debug for BroadcastState<K, V, KC, VC> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slot, key, value, entry: PhantomData } = self;
        f.debug_struct("BroadcastState").field("slot", slot).field("key", key).field("value", value).finish()
    }
}

impl<K, V, KC: Codec<K>, VC: Codec<V>> BroadcastState<K, V, KC, VC> {
    pub(super) fn new(slot: usize, key: KC, value: VC) -> Self {
        Self { slot, key, value, entry: PhantomData }
    }

    /// Returns the value of `key`; `None` if there is none.
    ///
    /// # Errors
    /// `Corrupt` if stored bytes do not decode; `Usage` if the key has no encoding, or the handle belongs to another
    /// operator state.
    pub fn get(&self, state: &OperatorState, key: &K) -> Result<Option<V>> {
        let value = state.entries(self.slot)?.get(&encoded(&self.key, key)?);
        value.map(|value| self.value.decode(value)).transpose()
    }

    /// Returns whether `key` has a value.
    ///
    /// # Errors
    /// `Usage` if the key has no encoding, or the handle belongs to another operator state.
    pub fn contains(&self, state: &OperatorState, key: &K) -> Result<bool> {
        Ok(state.entries(self.slot)?.contains_key(&encoded(&self.key, key)?))
    }

    /// Returns the number of keys.
    ///
    /// # Errors
    /// `Usage` if the handle belongs to another operator state.
    pub fn len(&self, state: &OperatorState) -> Result<usize> {
        state.entries(self.slot).map(Entries::len)
    }

    /// Returns whether the map has no keys.
    ///
    /// # Errors
    /// As [`BroadcastState::len`].
    pub fn is_empty(&self, state: &OperatorState) -> Result<bool> {
        self.len(state).map(|len| len == 0)
    }

    /// Returns an iterator over all keys and values, in the order of the encoded keys. It decodes as it goes.
    ///
    /// # Errors
    /// `Usage` if the handle belongs to another operator state. The iterator yields `Corrupt` for an entry that does not
    /// decode.
    pub fn iter<'a>(&'a self, state: &'a OperatorState) -> Result<impl Iterator<Item = Result<(K, V)>> + 'a> {
        let entries = state.entries(self.slot)?.iter();
        Ok(entries.map(|(key, value)| Ok((self.key.decode(key)?, self.value.decode(value)?))))
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// `Usage` if key or value has no encoding, or the handle belongs to another operator state. Nothing changes.
    pub fn put(&self, state: &mut OperatorState, key: &K, value: &V) -> Result<()> {
        let (key, value) = (encoded(&self.key, key)?, encoded(&self.value, value)?);
        state.entries_mut(self.slot)?.insert(key, value);
        Ok(())
    }

    /// Removes `key`.
    ///
    /// # Errors
    /// As [`BroadcastState::contains`]. Nothing changes.
    pub fn remove(&self, state: &mut OperatorState, key: &K) -> Result<()> {
        let key = encoded(&self.key, key)?;
        state.entries_mut(self.slot)?.remove(&key);
        Ok(())
    }

    /// Removes all keys.
    ///
    /// # Errors
    /// As [`BroadcastState::len`].
    pub fn clear(&self, state: &mut OperatorState) -> Result<()> {
        state.entries_mut(self.slot)?.clear();
        Ok(())
    }
}

fn encoded<V>(codec: &impl Codec<V>, value: &V) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    codec.encode(value, &mut bytes)?;
    Ok(bytes)
}
