//! One value per key.

use std::fmt::{self, Debug};
use std::marker::PhantomData;

use crate::codec::typed::Codec;
use crate::error::Result;
use crate::id::TableId;
use crate::key_group::{CurrentKey, KeyGroupSet};
use crate::manifest::StateKind;

use super::tables::{TableOptions, Tables, Wanted};
use super::{Access, Keyed, KeyedState, Table};
use crate::backend::{Change, StateBackend, Write};

impl Tables {
    /// Declares a table of one value per key.
    ///
    /// # Errors
    /// `Usage` if the name is declared already or too long; `Config` if the restored table of that name has another
    /// type, or its rows expire in another time.
    pub fn value<V: 'static, C: Codec<V>>(
        &mut self,
        options: impl Into<TableOptions>,
        codec: C,
    ) -> Result<ValueState<V, C>> {
        let wanted = Wanted::new(StateKind::Value, &codec);
        let table = self.declare_kind(options.into(), wanted)?;
        Ok(ValueState { table, codec, value: PhantomData })
    }
}

impl<B: StateBackend> KeyedState<B> {
    /// Declares a table of one value per key.
    ///
    /// # Errors
    /// As [`Tables::value`].
    pub fn value<V: 'static, C: Codec<V>>(
        &mut self,
        options: impl Into<TableOptions>,
        codec: C,
    ) -> Result<ValueState<V, C>> {
        self.with_tables(|tables| tables.value(options, codec))
    }
}

/// A handle to a table of one value per key, or per key and namespace.
///
/// ```
/// use alluvium::backend::{KeyedState, OverlayBackend, TableOptions, Tables};
/// use alluvium::codec::{schema::Schema, typed::{Fixed, Utf8}};
/// # use alluvium::{key_group::{KeyGroupSet, Partitioner}, memory::MemoryBudget};
/// # fn main() -> alluvium::Result<()> {
/// # let backend = OverlayBackend::new(KeyGroupSet::all(8), MemoryBudget::new(1 << 30));
/// let mut state = KeyedState::new(backend, Partitioner::Range { seed: 1 }, 8, Tables::new(Schema::new("utf8")));
/// let count = state.value("count", Fixed)?;
/// let last = state.value(TableOptions::new("last").namespaced(Schema::new("utf8")), Utf8)?;
/// state.set_key(b"user-1")?;
/// count.update(&mut state, |n: &mut Option<u64>| *n = Some(n.unwrap_or(0) + 1))?;
/// assert_eq!(count.read(&mut state)?, Some(1));
/// last.put(&mut state.in_namespace(b"monday"), &"a click".to_owned())?;
/// assert_eq!(last.read(&mut state.in_namespace(b"tuesday"))?, None);
/// # Ok(())
/// # }
/// ```
pub struct ValueState<V, C> {
    table: Table,
    codec: C,
    value: PhantomData<fn() -> V>,
}

impl<V, C: Clone> Clone for ValueState<V, C> {
    fn clone(&self) -> Self {
        Self { table: self.table, codec: self.codec.clone(), value: PhantomData }
    }
}

impl<V, C: Debug> Debug for ValueState<V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValueState").field("table", &self.table).field("codec", &self.codec).finish()
    }
}

impl<V, C: Codec<V>> ValueState<V, C> {
    /// Returns the table's id.
    #[must_use]
    pub fn table(&self) -> TableId {
        self.table.id
    }

    /// Returns the value.
    ///
    /// # Errors
    /// As [`StateBackend::read`]; `Corrupt` if the stored bytes do not decode; `Usage` if no key is set, or there is
    /// a namespace and the table has none.
    pub fn read<S: Keyed>(&self, state: &mut S) -> Result<Option<V>> {
        self.table.with(state, |access| self.read_at(access))
    }

    /// Sets the value.
    ///
    /// # Errors
    /// As [`StateBackend::write`] and [`ValueState::read`]; `Usage` if the value has no encoding. Nothing is changed.
    pub fn put<S: Keyed>(&self, state: &mut S, value: &V) -> Result<()> {
        self.table.with(state, |Access { backend, row, buffer }| {
            backend.write(row, Write::Put(buffer.fill(|out| self.codec.encode(value, out))?))
        })
    }

    /// Calls `f` with the value, which it may set, change or take, and stores what is left.
    ///
    /// # Errors
    /// As [`ValueState::read`] and [`ValueState::put`]. Nothing is changed.
    pub fn update<S: Keyed, R>(&self, state: &mut S, f: impl FnOnce(&mut Option<V>) -> R) -> Result<R> {
        self.table.with(state, |access| self.update_at(access, f))
    }

    /// Removes the value.
    ///
    /// # Errors
    /// As [`StateBackend::write`] and [`ValueState::read`].
    pub fn clear<S: Keyed>(&self, state: &mut S) -> Result<()> {
        self.table.with(state, |Access { backend, row, .. }| backend.write(row, Write::Delete))
    }

    /// Calls `visit` with the place of each key in `keys`, and its value; in their order. The current key stays.
    ///
    /// # Errors
    /// As [`ValueState::read`], at the first key that has one.
    pub fn get_many<S: Keyed>(
        &self,
        state: &mut S,
        keys: &[CurrentKey<'_>],
        mut visit: impl FnMut(usize, Option<V>),
    ) -> Result<()> {
        self.table.each_key(state, keys, |at, access| self.read_at(access).map(|value| visit(at, value)))
    }

    /// Does as [`ValueState::update`] for each key in `keys`, in their order; `f` also gets the key's place in `keys`.
    /// The current key stays.
    ///
    /// # Errors
    /// As [`ValueState::update`], at the first key that has one; those before it are updated.
    pub fn update_many<S: Keyed>(
        &self,
        state: &mut S,
        keys: &[CurrentKey<'_>],
        mut f: impl FnMut(usize, &mut Option<V>),
    ) -> Result<()> {
        self.table.each_key(state, keys, |at, access| self.update_at(access, |value| f(at, value)))
    }

    /// Visits all values of `groups` with their key and namespace, group by group, until `visit` returns false.
    ///
    /// # Errors
    /// As [`StateBackend::scan`]; `Corrupt` if stored bytes do not decode.
    pub fn scan<B: StateBackend>(
        &self,
        state: &mut KeyedState<B>,
        groups: &KeyGroupSet,
        mut visit: impl FnMut(&[u8], &[u8], V) -> bool,
    ) -> Result<()> {
        let mut failed = None;
        state.backend.scan(self.table.id, groups, &[], |entry| match self.codec.decode(entry.value) {
            Ok(value) => visit(entry.key, entry.namespace, value),
            Err(error) => {
                failed = Some(error);
                false
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn read_at<B: StateBackend>(&self, Access { backend, row, .. }: Access<'_, B>) -> Result<Option<V>> {
        backend.read(row, |stored| decode(&self.codec, stored))?
    }

    fn update_at<B: StateBackend, R>(
        &self,
        Access { backend, row, .. }: Access<'_, B>,
        f: impl FnOnce(&mut Option<V>) -> R,
    ) -> Result<R> {
        backend.update(row, |stored, encoded| change(&self.codec, stored, encoded, f))?
    }
}

/// Returns the value of stored bytes.
pub(super) fn decode<V, C: Codec<V>>(codec: &C, stored: Option<&[u8]>) -> Result<Option<V>> {
    stored.map(|bytes| codec.decode(bytes)).transpose()
}

/// Lets `f` change a stored value; changes nothing on failure.
pub(super) fn change<V, C: Codec<V>, R>(
    codec: &C,
    stored: Option<&[u8]>,
    encoded: &mut Vec<u8>,
    f: impl FnOnce(&mut Option<V>) -> R,
) -> (Change, Result<R>) {
    let changed = decode(codec, stored).and_then(|mut value| {
        let result = f(&mut value);
        let Some(value) = value else { return Ok((Change::Delete, result)) };
        codec.encode(&value, encoded)?;
        Ok((Change::Put, result))
    });
    match changed {
        Ok((change, result)) => (change, Ok(result)),
        Err(error) => (Change::Keep, Err(error)),
    }
}
