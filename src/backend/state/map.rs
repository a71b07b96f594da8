//! A map per key: a row per entry, so that each is read, written and expires by itself.

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::ops::{Bound, Deref, RangeBounds};

use crate::codec::typed::{Codec, OrderedCodec};
use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::CurrentKey;
use crate::manifest::StateKind;

use super::tables::{TableOptions, Tables, Wanted};
use super::value::{change, decode};
use super::{Access, Keyed, KeyedState, Table};
use crate::backend::{ALL_SUBS, RowRef, Scope, StateBackend, SubRange, Write};

impl Tables {
    /// Declares a table of a map per key. Entries are found by the bytes that `sub_codec` makes of their sub-key.
    ///
    /// # Errors
    /// As [`Tables::value`].
    pub fn map<K, V: 'static, KC: Codec<K>, VC: Codec<V>>(
        &mut self,
        options: impl Into<TableOptions>,
        sub_codec: KC,
        codec: VC,
    ) -> Result<MapState<K, V, KC, VC>> {
        self.any_map(options.into(), sub_codec, codec, false)
    }

    /// Declares a table of a map per key whose entries are visited in the order of their sub-keys. A stored map can
    /// become ordered, and cease to be.
    ///
    /// # Errors
    /// As [`Tables::value`].
    pub fn ordered_map<K, V: 'static, KC: OrderedCodec<K>, VC: Codec<V>>(
        &mut self,
        options: impl Into<TableOptions>,
        sub_codec: KC,
        codec: VC,
    ) -> Result<OrderedMapState<K, V, KC, VC>> {
        self.any_map(options.into(), sub_codec, codec, true).map(OrderedMapState)
    }

    fn any_map<K, V: 'static, KC: Codec<K>, VC: Codec<V>>(
        &mut self,
        options: TableOptions,
        sub_codec: KC,
        codec: VC,
        ordered: bool,
    ) -> Result<MapState<K, V, KC, VC>> {
        let wanted = Wanted { sub: sub_codec.schema(), ordered, ..Wanted::new(StateKind::Map, &codec) };
        let table = self.declare_kind(options, wanted)?;
        Ok(MapState { table, sub_codec, codec, entry: PhantomData })
    }
}

impl<B: StateBackend> KeyedState<B> {
    /// Declares a table of a map per key: see [`Tables::map`].
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

    /// Declares a table of a map per key whose entries are visited in the order of their sub-keys: see
    /// [`Tables::ordered_map`]. To be declared before the state is loaded, or else the backend orders what it has.
    ///
    /// # Errors
    /// As [`Tables::value`].
    pub fn ordered_map<K, V: 'static, KC: OrderedCodec<K>, VC: Codec<V>>(
        &mut self,
        options: impl Into<TableOptions>,
        sub_codec: KC,
        codec: VC,
    ) -> Result<OrderedMapState<K, V, KC, VC>> {
        self.with_tables(|tables| tables.ordered_map(options, sub_codec, codec))
    }
}

/// A handle to a table of a map per key, or per key and namespace.
///
/// A map without entries is no row: it is there for every key. Visiting one costs its own entries, whatever other keys
/// have.
///
/// ```
/// use alluvium::backend::{KeyedState, OverlayBackend, Tables};
/// use alluvium::codec::{schema::Schema, typed::{Fixed, Utf8}};
/// # use alluvium::{key_group::{KeyGroupSet, Partitioner}, memory::MemoryBudget};
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
    table: Table,
    sub_codec: KC,
    codec: VC,
    entry: PhantomData<fn() -> (K, V)>,
}

/// A [`MapState`] whose entries are visited in the order of their sub-keys.
///
/// ```
/// use alluvium::backend::{KeyedState, OverlayBackend, Tables};
/// use alluvium::codec::{schema::Schema, typed::{Ordered, Utf8}};
/// # use alluvium::{key_group::{KeyGroupSet, Partitioner}, memory::MemoryBudget};
/// # fn main() -> alluvium::Result<()> {
/// # let backend = OverlayBackend::new(KeyGroupSet::all(8), MemoryBudget::new(1 << 30));
/// let mut state = KeyedState::new(backend, Partitioner::Range { seed: 1 }, 8, Tables::new(Schema::new("utf8")));
/// let events = state.ordered_map("events", Ordered, Utf8)?;
/// state.set_key(b"user-1")?;
/// for (time, event) in [(30i64, "out"), (-5, "born"), (10, "in")] {
///     events.put(&mut state, &time, &event.to_owned())?;
/// }
/// let mut seen = Vec::new();
/// events.range(&mut state, 0.., |time, event| {
///     seen.push((time, event));
///     true
/// })?;
/// assert_eq!(seen, [(10, "in".to_owned()), (30, "out".to_owned())]);
/// assert_eq!(events.first(&mut state)?, Some((-5, "born".to_owned())));
/// # Ok(())
/// # }
/// ```
pub struct OrderedMapState<K, V, KC, VC>(MapState<K, V, KC, VC>);

impl<K, V, KC: Clone, VC: Clone> Clone for MapState<K, V, KC, VC> {
    fn clone(&self) -> Self {
        let (sub_codec, codec) = (self.sub_codec.clone(), self.codec.clone());
        Self { table: self.table, sub_codec, codec, entry: PhantomData }
    }
}

impl<K, V, KC: Debug, VC: Debug> Debug for MapState<K, V, KC, VC> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, sub_codec, codec, entry: PhantomData } = self;
        let mut debug = f.debug_struct("MapState");
        debug.field("table", table).field("sub_codec", sub_codec).field("codec", codec).finish()
    }
}

impl<K, V, KC: Clone, VC: Clone> Clone for OrderedMapState<K, V, KC, VC> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V, KC: Debug, VC: Debug> Debug for OrderedMapState<K, V, KC, VC> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OrderedMapState").field(&self.0).finish()
    }
}

impl<K, V, KC, VC> Deref for OrderedMapState<K, V, KC, VC> {
    type Target = MapState<K, V, KC, VC>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<K, V, KC: OrderedCodec<K>, VC: Codec<V>> OrderedMapState<K, V, KC, VC> {
    /// Visits the entries with sub-keys in `range`, in their order, until `visit` returns false.
    ///
    /// # Errors
    /// As [`MapState::for_each`].
    pub fn range<S: Keyed>(
        &self,
        state: &mut S,
        range: impl RangeBounds<K>,
        visit: impl FnMut(K, V) -> bool,
    ) -> Result<()> {
        let (start, end) = (range.start_bound(), range.end_bound());
        self.0.table.with(state, |Access { backend, row, buffer }| {
            let mut middle = 0;
            let encode = |bound, out: &mut Vec<u8>| match bound {
                Bound::Included(sub) | Bound::Excluded(sub) => self.0.sub_codec.encode(sub, out),
                Bound::Unbounded => Ok(()),
            };
            let bytes = buffer.fill(|out| {
                encode(start, out)?;
                middle = out.len();
                encode(end, out)
            })?;
            let (first, last) = bytes.split_at_checked(middle).ok_or_else(shortened)?;
            self.0.visit_at(backend, row, (start.map(|_| first), end.map(|_| last)), visit)
        })
    }

    /// Returns the entry with the least sub-key.
    ///
    /// # Errors
    /// As [`MapState::for_each`].
    pub fn first<S: Keyed>(&self, state: &mut S) -> Result<Option<(K, V)>> {
        let mut first = None;
        self.0.visit(state, |sub, value| {
            first = Some((sub, value));
            false
        })?;
        Ok(first)
    }
}

impl<K, V, KC: Codec<K>, VC: Codec<V>> MapState<K, V, KC, VC> {
    /// Returns the table's id.
    #[must_use]
    pub fn table(&self) -> TableId {
        self.table.id
    }

    /// Returns the value under `sub`.
    ///
    /// # Errors
    /// As [`StateBackend::read`]; `Corrupt` if the stored bytes do not decode; `Usage` if the sub-key has no encoding,
    /// no key is set, or there is a namespace and the table has none.
    pub fn read<S: Keyed>(&self, state: &mut S, sub: &K) -> Result<Option<V>> {
        self.with_entry(state, sub, |backend, row| self.read_at(backend, row))
    }

    /// Returns whether there is a value under `sub`. It counts as reading it.
    ///
    /// # Errors
    /// As [`MapState::read`], but for values that do not decode.
    pub fn contains<S: Keyed>(&self, state: &mut S, sub: &K) -> Result<bool> {
        self.with_entry(state, sub, |backend, row| backend.read(row, |stored| stored.is_some()))
    }

    /// Sets the value under `sub`.
    ///
    /// # Errors
    /// As [`StateBackend::write`] and [`MapState::read`]; `Usage` if the value has no encoding. Nothing is changed.
    pub fn put<S: Keyed>(&self, state: &mut S, sub: &K, value: &V) -> Result<()> {
        self.table.with(state, |Access { backend, row, buffer }| {
            let mut middle = 0;
            let bytes = buffer.fill(|out| {
                self.sub_codec.encode(sub, out)?;
                middle = out.len();
                self.codec.encode(value, out)
            })?;
            let (sub, value) = bytes.split_at_checked(middle).ok_or_else(shortened)?;
            backend.write(RowRef { sub, ..row }, Write::Put(value))
        })
    }

    /// Sets values under several sub-keys.
    ///
    /// # Errors
    /// As [`MapState::put`]. If something has no encoding, nothing is changed; if the backend refuses an entry, those
    /// before it are set.
    pub fn put_all<'e, S: Keyed>(&self, state: &mut S, entries: impl IntoIterator<Item = (&'e K, &'e V)>) -> Result<()>
    where
        K: 'e,
        V: 'e,
    {
        self.table.with(state, |Access { backend, row, buffer }| {
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
                let part = |from, to| bytes.get(from..to).ok_or_else(shortened);
                backend.write(RowRef { sub: part(start, middle)?, ..row }, Write::Put(part(middle, end)?))?;
                start = end;
            }
            Ok(())
        })
    }

    /// Calls `f` with the value under `sub`, which it may set, change or take, and stores what is left.
    ///
    /// # Errors
    /// As [`MapState::read`] and [`MapState::put`]. Nothing is changed.
    pub fn update<S: Keyed, R>(&self, state: &mut S, sub: &K, f: impl FnOnce(&mut Option<V>) -> R) -> Result<R> {
        self.with_entry(state, sub, |backend, row| self.update_at(backend, row, f))
    }

    /// Removes the value under `sub`.
    ///
    /// # Errors
    /// As [`StateBackend::write`] and [`MapState::read`].
    pub fn remove<S: Keyed>(&self, state: &mut S, sub: &K) -> Result<()> {
        self.with_entry(state, sub, |backend, row| backend.write(row, Write::Delete))
    }

    /// Returns whether it has no entry.
    ///
    /// # Errors
    /// As [`StateBackend::scan_key`]; `Usage` as [`MapState::read`].
    pub fn is_empty<S: Keyed>(&self, state: &mut S) -> Result<bool> {
        let mut empty = true;
        self.table.with(state, |Access { backend, row, .. }| {
            backend.scan_key(row.table, row.key, row.namespace, ALL_SUBS, |_| {
                empty = false;
                false
            })
        })?;
        Ok(empty)
    }

    /// Calls `visit` with each entry; of an [`OrderedMapState`] in the order of the sub-keys.
    ///
    /// # Errors
    /// As [`StateBackend::scan_key`]; `Corrupt` if stored bytes do not decode, after the entries before it were visited;
    /// `Usage` as [`MapState::read`].
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

    /// Calls `keep` with each entry, stores the values that it changes and removes the entries for which it returns
    /// false; after it has seen all, so that a panic in it changes nothing.
    ///
    /// # Errors
    /// As [`MapState::for_each`] and [`MapState::put`]. If bytes do not decode or a value has no encoding, nothing is
    /// changed; if the backend refuses an entry, those before it are changed.
    pub fn retain<S: Keyed>(&self, state: &mut S, mut keep: impl FnMut(&K, &mut V) -> bool) -> Result<()> {
        self.table.with(state, |Access { backend, row, .. }| {
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

    /// Removes all entries: one row in the next delta, however many they were.
    ///
    /// # Errors
    /// As [`StateBackend::clear`]; `Usage` as [`MapState::read`].
    pub fn clear<S: Keyed>(&self, state: &mut S) -> Result<()> {
        self.table.with(state, |Access { backend, row, .. }| {
            backend.clear(row.table, Scope::KeyNamespace(row.key, row.namespace))
        })
    }

    /// Calls `visit` with the place of each item in `items`, and the value under its sub-key; in their order. The
    /// current key stays.
    ///
    /// # Errors
    /// As [`MapState::read`], at the first item that has one.
    pub fn get_many<S: Keyed>(
        &self,
        state: &mut S,
        items: &[(CurrentKey<'_>, K)],
        mut visit: impl FnMut(usize, Option<V>),
    ) -> Result<()> {
        self.each_entry(state, items, |at, backend, row| self.read_at(backend, row).map(|value| visit(at, value)))
    }

    /// Does as [`MapState::update`] for each of `items`, in their order; `f` also gets the item's place. The current
    /// key stays.
    ///
    /// # Errors
    /// As [`MapState::update`], at the first item that has one; those before it are updated.
    pub fn update_many<S: Keyed>(
        &self,
        state: &mut S,
        items: &[(CurrentKey<'_>, K)],
        mut f: impl FnMut(usize, &mut Option<V>),
    ) -> Result<()> {
        self.each_entry(state, items, |at, backend, row| self.update_at(backend, row, |value| f(at, value)))
    }

    /// Calls `f` with the row of the current key's entry.
    fn with_entry<S: Keyed, R>(
        &self,
        state: &mut S,
        sub: &K,
        f: impl FnOnce(&mut S::Backend, RowRef<'_>) -> Result<R>,
    ) -> Result<R> {
        self.table.with(state, |Access { backend, row, buffer }| {
            let sub = buffer.fill(|out| self.sub_codec.encode(sub, out))?;
            f(backend, RowRef { sub, ..row })
        })
    }

    fn each_entry<S: Keyed>(
        &self,
        state: &mut S,
        items: &[(CurrentKey<'_>, K)],
        mut f: impl FnMut(usize, &mut S::Backend, RowRef<'_>) -> Result<()>,
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
        backend.update(row, |stored, encoded| change(&self.codec, stored, encoded, f))?
    }

    /// Visits the entries of the current key until `visit` returns false.
    fn visit<S: Keyed>(&self, state: &mut S, visit: impl FnMut(K, V) -> bool) -> Result<()> {
        self.table.with(state, |Access { backend, row, .. }| self.visit_at(backend, row, ALL_SUBS, visit))
    }

    /// Visits the entries beside `row` with sub-keys in `range` until `visit` returns false.
    fn visit_at<B: StateBackend>(
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

/// Returns the error of a codec that took away what was written before.
fn shortened() -> Error {
    Error::usage("codec removed bytes that it did not write")
}
