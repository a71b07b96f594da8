//! A map per key: one row per entry, so that each entry is read, written and expires alone.

use std::fmt::Debug;
use std::marker::PhantomData;

use crate::codec::typed::Codec;
use crate::error::{Error, Result};
use crate::key_group::CurrentKey;
use crate::manifest::StateKind;

use super::KeyedState;
use super::access::{Access, Keyed, Table, handle};
use super::options::TableOptions;
use super::tables::{KindSpec, Tables};
use super::value::{decode, update_stored};
use crate::backend::{ALL_SUBS, LazyBackend, RowRef, Scope, StateBackend, SubRange, Write};

impl Tables {
    /// Declares a table of one map per key. An entry is found by its encoded sub-key, so equal sub-keys must have equal
    /// bytes.
    ///
    /// # Errors
    /// As [`Tables::value`].
    pub fn map<K, V: 'static, KC: Codec<K>, VC: Codec<V>>(
        &mut self,
        options: impl Into<TableOptions>,
        sub_codec: KC,
        codec: VC,
    ) -> Result<MapState<K, V, KC, VC>> {
        self.declare_map(options.into(), sub_codec, codec, false)
    }

    pub(super) fn declare_map<K, V: 'static, KC: Codec<K>, VC: Codec<V>>(
        &mut self,
        options: TableOptions,
        sub_codec: KC,
        codec: VC,
        ordered: bool,
    ) -> Result<MapState<K, V, KC, VC>> {
        let wanted = KindSpec { sub: sub_codec.schema(), ordered, ..KindSpec::new(StateKind::Map, &codec) };
        let table = self.declare_kind(options, wanted)?;
        Ok(MapState { table, sub_codec, codec, entry: PhantomData })
    }
}

impl<B: StateBackend> KeyedState<B> {
    /// Declares a table of one map per key: see [`Tables::map`].
    ///
    /// # Errors
    /// As [`Tables::value`].
    pub fn map<K, V: 'static, KC: Codec<K>, VC: Codec<V>>(
        &mut self,
        options: impl Into<TableOptions>,
        sub_codec: KC,
        codec: VC,
    ) -> Result<MapState<K, V, KC, VC>> {
        self.with_tables(|tables| tables.map(options, sub_codec, codec))
    }
}

/// A handle to a table of one map per key, or per key and namespace.
///
/// Each entry is a row, so every key has a map, without rows if empty. Reading or writing an entry touches its row alone;
/// visiting a map costs its own entries, however many other keys have. An encoded sub-key has at most 65,535 bytes, an
/// encoded value at most [`MAX_VALUE_BYTES`](crate::backend::MAX_VALUE_BYTES).
///
/// ```
/// use alluvium::{Fixed, KeyedState, OverlayBackend, Schema, Tables, Utf8};
/// # use alluvium::{KeyGroupSet, MemoryBudget, Partitioner};
/// # fn main() -> alluvium::Result<()> {
/// # let backend = OverlayBackend::new(KeyGroupSet::all(8), MemoryBudget::new(1 << 30));
/// let mut state = KeyedState::new(backend, Partitioner::Range { seed: 1 }, 8, Tables::new(Schema::new("utf8")));
/// let stock = state.map("stock", Utf8, Fixed)?;
/// state.set_key(b"shop-1")?;
/// stock.put(&mut state, &"pears".to_owned(), &3u32)?;
/// stock.update(&mut state, &"plums".to_owned(), |n| *n = Some(n.unwrap_or(0) + 5))?;
/// stock.retain(&mut state, |_, n| {
///     *n -= 3;
///     *n > 0
/// })?;
/// assert_eq!(stock.entries(&mut state)?, [("plums".to_owned(), 2)]);
/// # Ok(())
/// # }
/// ```
pub struct MapState<K, V, KC, VC> {
    pub(super) table: Table,
    pub(super) sub_codec: KC,
    codec: VC,
    entry: PhantomData<fn() -> (K, V)>,
}

handle! { [K, V, KC: Clone, VC: Clone] [K, V, KC: Debug, VC: Debug] MapState<K, V, KC, VC> { sub_codec, codec } }

impl<K, V, KC: Codec<K>, VC: Codec<V>> MapState<K, V, KC, VC> {
    /// Returns the value under `sub`; `None` if there is none or it has expired.
    ///
    /// # Errors
    /// As [`StateBackend::read`]; `Corrupt` if the stored bytes do not decode; `Usage` if the sub-key has no encoding,
    /// no key is set, or the state is in a namespace and the table has none.
    pub fn read<S: Keyed>(&self, state: &mut S, sub: &K) -> Result<Option<V>> {
        self.with_entry(state, sub, |backend, row| self.read_at(backend, row))
    }

    /// Returns whether there is a value under `sub`. Renews the entry if the table's TTL is renewed by reads.
    ///
    /// # Errors
    /// As [`MapState::read`], except that the value is not decoded.
    pub fn contains<S: Keyed>(&self, state: &mut S, sub: &K) -> Result<bool> {
        self.with_entry(state, sub, |backend, row| backend.read(row, |stored| stored.is_some()))
    }

    /// Sets the value under `sub`, without reading the old one.
    ///
    /// # Errors
    /// As [`StateBackend::write`]: `Limit` if the encoded sub-key or value is too long or the memory budget is spent;
    /// `Usage` if one has no encoding, no key is set, or the state is in a namespace and the table has none. Nothing
    /// changes.
    pub fn put<S: Keyed>(&self, state: &mut S, sub: &K, value: &V) -> Result<()> {
        self.table.with_row(state, |Access { backend, row, buffer }| {
            let mut middle = 0;
            let bytes = buffer.fill(|out| {
                self.sub_codec.encode(sub, out)?;
                middle = out.len();
                self.codec.encode(value, out)
            })?;
            let (sub, value) = bytes.split_at_checked(middle).ok_or_else(truncated)?;
            backend.write(RowRef { sub, ..row }, Write::Put(value))
        })
    }

    /// Sets the values of several entries, in order.
    ///
    /// # Errors
    /// As [`MapState::put`]. If a sub-key or value has no encoding, nothing changes; if the backend refuses an entry, the
    /// entries before it are set.
    ///
    /// # Cost
    /// Memory for all encoded entries at once.
    pub fn put_all<'e, S: Keyed>(&self, state: &mut S, entries: impl IntoIterator<Item = (&'e K, &'e V)>) -> Result<()>
    where
        K: 'e,
        V: 'e,
    {
        self.table.with_row(state, |Access { backend, row, buffer }| {
            let mut ends = Vec::new();
            let bytes = buffer.fill(|out| {
                entries.into_iter().try_for_each(|(sub, value)| {
                    self.sub_codec.encode(sub, out)?;
                    let middle = out.len();
                    self.codec.encode(value, out)?;
                    ends.push((middle, out.len()));
                    Ok(())
                })
            })?;
            let mut start = 0;
            for (middle, end) in ends {
                let part = |from, to| bytes.get(from..to).ok_or_else(truncated);
                backend.write(RowRef { sub: part(start, middle)?, ..row }, Write::Put(part(middle, end)?))?;
                start = end;
            }
            Ok(())
        })
    }

    /// Calls `f` with the value under `sub`, which `f` may set, change or take, and stores the outcome: `None` removes the
    /// entry.
    ///
    /// # Errors
    /// As [`MapState::read`] and [`MapState::put`]. Nothing changes.
    pub fn update<S: Keyed, R>(&self, state: &mut S, sub: &K, f: impl FnOnce(&mut Option<V>) -> R) -> Result<R> {
        self.with_entry(state, sub, |backend, row| self.update_at(backend, row, f))
    }

    /// Removes the entry of `sub`, without reading it.
    ///
    /// # Errors
    /// As [`StateBackend::write`]; `Usage` as [`MapState::read`].
    pub fn remove<S: Keyed>(&self, state: &mut S, sub: &K) -> Result<()> {
        self.with_entry(state, sub, |backend, row| backend.write(row, Write::Delete))
    }

    /// Returns whether the map has no unexpired entry.
    ///
    /// # Errors
    /// As [`StateBackend::scan_key`]; `Usage` if no key is set, or the state is in a namespace and the table has none.
    pub fn is_empty<S: Keyed>(&self, state: &mut S) -> Result<bool> {
        let mut empty = true;
        self.table.with_row(state, |Access { backend, row, .. }| {
            backend.scan_key(row.table, row.key, row.namespace, ALL_SUBS, |_| {
                empty = false;
                false
            })
        })?;
        Ok(empty)
    }

    /// Calls `visit` with each entry: in the order of the sub-keys for an
    /// [`OrderedMapState`](super::OrderedMapState), in no particular order otherwise. Renews no entry.
    ///
    /// # Errors
    /// As [`StateBackend::scan_key`]; `Corrupt` if stored bytes do not decode, after `visit` has seen the entries before
    /// them; `Usage` as [`MapState::is_empty`].
    ///
    /// # Cost
    /// A step per entry of this map.
    pub fn for_each<S: Keyed>(&self, state: &mut S, mut visit: impl FnMut(K, V)) -> Result<()> {
        self.visit(state, |sub, value| {
            visit(sub, value);
            true
        })
    }

    /// Returns the entries, in the order of [`MapState::for_each`].
    ///
    /// # Errors
    /// As [`MapState::for_each`].
    pub fn entries<S: Keyed>(&self, state: &mut S) -> Result<Vec<(K, V)>> {
        let mut entries = Vec::new();
        self.for_each(state, |sub, value| entries.push((sub, value)))?;
        Ok(entries)
    }

    /// Returns the sub-keys, in the order of [`MapState::for_each`].
    ///
    /// # Errors
    /// As [`MapState::for_each`].
    pub fn keys<S: Keyed>(&self, state: &mut S) -> Result<Vec<K>> {
        let mut keys = Vec::new();
        self.for_each(state, |sub, _| keys.push(sub))?;
        Ok(keys)
    }

    /// Returns the values, in the order of [`MapState::for_each`].
    ///
    /// # Errors
    /// As [`MapState::for_each`].
    pub fn values<S: Keyed>(&self, state: &mut S) -> Result<Vec<V>> {
        let mut values = Vec::new();
        self.for_each(state, |_, value| values.push(value))?;
        Ok(values)
    }

    /// Calls `keep` with each entry, stores the values that `keep` changed, and removes the entries for which it returned
    /// false. Writing starts after `keep` has seen all entries, so a panic in `keep` changes nothing.
    ///
    /// # Errors
    /// As [`MapState::for_each`] and [`MapState::put`]. If bytes do not decode or a value has no encoding, nothing
    /// changes; if the backend refuses an entry, the entries before it are changed.
    ///
    /// # Cost
    /// A step per entry of this map, and memory for the changed entries.
    pub fn retain<S: Keyed>(&self, state: &mut S, mut keep: impl FnMut(&K, &mut V) -> bool) -> Result<()> {
        self.table.with_row(state, |Access { backend, row, .. }| {
            let mut changes: Vec<(Vec<u8>, Option<Vec<u8>>)> = Vec::new();
            let mut failed = Ok(());
            backend.scan_key(row.table, row.key, row.namespace, ALL_SUBS, |entry| {
                failed = self.decode(entry.sub, entry.value).and_then(|(sub, mut value)| {
                    if !keep(&sub, &mut value) {
                        changes.push((entry.sub.to_vec(), None));
                        return Ok(());
                    }
                    let mut encoded = Vec::new();
                    self.codec.encode(&value, &mut encoded)?;
                    if encoded != entry.value {
                        changes.push((entry.sub.to_vec(), Some(encoded)));
                    }
                    Ok(())
                });
                failed.is_ok()
            })?;
            failed?;
            changes.iter().try_for_each(|(sub, value)| {
                backend.write(RowRef { sub, ..row }, value.as_deref().map_or(Write::Delete, Write::Put))
            })
        })
    }

    /// Removes all entries.
    ///
    /// # Errors
    /// As [`StateBackend::clear`]; `Usage` as [`MapState::is_empty`].
    ///
    /// # Cost
    /// In memory a step per entry of this map; one row in the next delta, however many entries there were.
    pub fn clear<S: Keyed>(&self, state: &mut S) -> Result<()> {
        self.table.with_row(state, |Access { backend, row, .. }| {
            backend.clear(row.table, Scope::KeyNamespace(row.key, row.namespace))
        })
    }

    /// Calls `visit` with the index of each of `items` and the value under its key and sub-key, in order. The current key
    /// stays. Backends may look ahead, so one call is faster than a read per item.
    ///
    /// # Errors
    /// As [`MapState::read`], at the first item that fails.
    pub fn get_many<S: Keyed>(
        &self,
        state: &mut S,
        items: &[(CurrentKey<'_>, K)],
        mut visit: impl FnMut(usize, Option<V>),
    ) -> Result<()> {
        self.each_entry(state, items, |at, backend, row| self.read_at(backend, row).map(|value| visit(at, value)))
    }

    /// Updates the entry of each of `items`, in order, as [`MapState::update`] does; `f` also gets the item's index. The
    /// current key stays.
    ///
    /// # Errors
    /// As [`MapState::update`], at the first item that fails; the items before it are updated.
    pub fn update_many<S: Keyed>(
        &self,
        state: &mut S,
        items: &[(CurrentKey<'_>, K)],
        mut f: impl FnMut(usize, &mut Option<V>),
    ) -> Result<()> {
        self.each_entry(state, items, |at, backend, row| self.update_at(backend, row, |value| f(at, value)))
    }

    /// Calls `f` with the row of an entry of the current key.
    fn with_entry<S: Keyed, R>(
        &self,
        state: &mut S,
        sub: &K,
        f: impl FnOnce(&mut LazyBackend<S::Backend>, RowRef<'_>) -> Result<R>,
    ) -> Result<R> {
        self.table.with_row(state, |Access { backend, row, buffer }| {
            let sub = buffer.fill(|out| self.sub_codec.encode(sub, out))?;
            f(backend, RowRef { sub, ..row })
        })
    }

    /// Calls `f` with the index and the row of each item, in order, until `f` fails or a sub-key has no encoding.
    fn each_entry<S: Keyed>(
        &self,
        state: &mut S,
        items: &[(CurrentKey<'_>, K)],
        mut f: impl FnMut(usize, &mut LazyBackend<S::Backend>, RowRef<'_>) -> Result<()>,
    ) -> Result<()> {
        let sub = |(_, sub): &(_, K), out: &mut Vec<u8>| self.sub_codec.encode(sub, out);
        self.table.each(state, items, |(key, _)| key, sub, |at, _, Access { backend, row, .. }| f(at, backend, row))
    }

    fn read_at<B: StateBackend>(&self, backend: &mut B, row: RowRef<'_>) -> Result<Option<V>> {
        backend.read(row, |stored| decode(&self.codec, stored))?
    }

    fn update_at<B: StateBackend, R>(
        &self,
        backend: &mut B,
        row: RowRef<'_>,
        f: impl FnOnce(&mut Option<V>) -> R,
    ) -> Result<R> {
        backend.update_in_place(row, |stored, encoded| update_stored(&self.codec, stored, encoded, f))?
    }

    /// Visits the entries of the current key until `visit` returns false.
    pub(super) fn visit<S: Keyed>(&self, state: &mut S, visit: impl FnMut(K, V) -> bool) -> Result<()> {
        self.table.with_row(state, |Access { backend, row, .. }| self.visit_at(backend, row, ALL_SUBS, visit))
    }

    /// Visits the entries of `row`'s key and namespace with sub-keys in `range` until `visit` returns false.
    pub(super) fn visit_at<B: StateBackend>(
        &self,
        backend: &mut B,
        row: RowRef<'_>,
        range: SubRange<'_>,
        mut visit: impl FnMut(K, V) -> bool,
    ) -> Result<()> {
        let mut failed = None;
        backend.scan_key(row.table, row.key, row.namespace, range, |entry| {
            match self.decode(entry.sub, entry.value) {
                Ok((sub, value)) => visit(sub, value),
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn decode(&self, sub: &[u8], value: &[u8]) -> Result<(K, V)> {
        Ok((self.sub_codec.decode(sub)?, self.codec.decode(value)?))
    }
}

/// Returns the error about a codec that truncated the buffer it was to append to.
pub(super) fn truncated() -> Error {
    Error::usage("codec removed bytes that it did not write")
}
