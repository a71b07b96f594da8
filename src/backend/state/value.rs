//! One value per key.

use std::fmt::Debug;
use std::marker::PhantomData;

use crate::codec::typed::Codec;
use crate::error::Result;
use crate::key_group::{CurrentKey, KeyGroupSet};
use crate::manifest::StateKind;

use super::KeyedState;
use super::access::{Access, Keyed, Table, handle};
use super::options::TableOptions;
use super::tables::{KindSpec, Tables};
use crate::backend::{Change, StateBackend, Stored, Write};

impl Tables {
    /// Declares a table of one value per key.
    ///
    /// # Errors
    /// `Usage` if the name is declared already, or longer than [`MAX_NAME_BYTES`](crate::manifest::MAX_NAME_BYTES);
    /// `Config` if the restored table of that name has another type, if its TTL counts in another time, if the TTL is out
    /// of range, or if the hash that is a new table's id collides with another table's.
    pub fn value<V: 'static, C: Codec<V>>(
        &mut self,
        options: impl Into<TableOptions>,
        codec: C,
    ) -> Result<ValueState<V, C>> {
        let wanted = KindSpec::new(StateKind::Value, &codec);
        let table = self.declare_kind(options.into(), wanted)?;
        Ok(ValueState { table, codec, value: PhantomData })
    }
}

impl<B: StateBackend> KeyedState<B> {
    /// Declares a table of one value per key: see [`Tables::value`].
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
/// A read or write touches one row, however many rows the table has.
///
/// ```
/// use alluvium::{Fixed, KeyedState, OverlayBackend, Schema, TableOptions, Tables, Utf8};
/// # use alluvium::{KeyGroupSet, MemoryBudget, Partitioner};
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

handle! { [V, C: Clone] [V, C: Debug] ValueState<V, C> { codec } }

impl<V, C: Codec<V>> ValueState<V, C> {
    /// Returns the value; `None` if there is none or it has expired.
    ///
    /// # Errors
    /// As [`StateBackend::read`]; `Corrupt` if the stored bytes do not decode; `Usage` if no key is set, or the state is
    /// in a namespace and the table has none.
    #[inline]
    pub fn read<S: Keyed>(&self, state: &mut S) -> Result<Option<V>> {
        self.table.with_row(state, |access| self.read_at(access))
    }

    /// Sets the value, without reading the old one.
    ///
    /// # Errors
    /// As [`StateBackend::write`]: `Limit` if the encoded value exceeds
    /// [`MAX_VALUE_BYTES`](crate::backend::MAX_VALUE_BYTES) or the memory budget is spent; `Usage` if the value has no
    /// encoding, no key is set, or the state is in a namespace and the table has none. Nothing changes.
    #[inline]
    pub fn put<S: Keyed>(&self, state: &mut S, value: &V) -> Result<()> {
        self.table.with_row(state, |Access { backend, row, buffer }| {
            backend.write(row, Write::Put(buffer.fill(|out| self.codec.encode(value, out))?))
        })
    }

    /// Calls `f` with the value, which `f` may set, change or take, and stores the outcome: `None` removes the value.
    ///
    /// # Errors
    /// As [`ValueState::read`] and [`ValueState::put`]. Nothing changes.
    #[inline]
    pub fn update<S: Keyed, R>(&self, state: &mut S, f: impl FnOnce(&mut Option<V>) -> R) -> Result<R> {
        self.table.with_row(state, |access| self.update_at(access, f))
    }

    /// Removes the value, without reading it.
    ///
    /// # Errors
    /// As [`StateBackend::write`]; `Usage` as [`ValueState::read`].
    pub fn clear<S: Keyed>(&self, state: &mut S) -> Result<()> {
        self.table.with_row(state, |Access { backend, row, .. }| backend.write(row, Write::Delete))
    }

    /// Calls `visit` with the index and the value of each of `keys`, in order. The current key stays. Backends may look
    /// ahead, so one call is faster than a read per key.
    ///
    /// # Errors
    /// As [`ValueState::read`], at the first key that fails.
    pub fn get_many<S: Keyed>(
        &self,
        state: &mut S,
        keys: &[CurrentKey<'_>],
        mut visit: impl FnMut(usize, Option<V>),
    ) -> Result<()> {
        self.table.read_many(state, keys, |at, stored| decode(&self.codec, stored).map(|value| visit(at, value)))
    }

    /// Updates the value of each of `keys`, in order, as [`ValueState::update`] does; `f` also gets the key's index. The
    /// current key stays.
    ///
    /// # Errors
    /// As [`ValueState::update`], at the first key that fails; the keys before it are updated.
    pub fn update_many<S: Keyed>(
        &self,
        state: &mut S,
        keys: &[CurrentKey<'_>],
        mut f: impl FnMut(usize, &mut Option<V>),
    ) -> Result<()> {
        let (state, namespace) = state.parts();
        self.table.check_namespace(namespace)?;
        state.backend.update_many(self.table.id, namespace, keys, |at, stored, encoded| {
            update_stored(&self.codec, stored, encoded, |value| f(at, value))
        })
    }

    /// Calls `visit` with the key, namespace and value of each row in `groups`, group by group, until `visit` returns
    /// false. Order within a group is unspecified.
    ///
    /// # Errors
    /// As [`StateBackend::scan`]; `Corrupt` if stored bytes do not decode.
    ///
    /// # Cost
    /// A step per row of `groups`, rows of other tables included.
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

    #[inline(always)]
    fn read_at<B: StateBackend>(&self, Access { backend, row, .. }: Access<'_, B>) -> Result<Option<V>> {
        backend.read(row, |stored| decode(&self.codec, stored))?
    }

    #[inline(always)]
    fn update_at<B: StateBackend, R>(
        &self,
        Access { backend, row, .. }: Access<'_, B>,
        f: impl FnOnce(&mut Option<V>) -> R,
    ) -> Result<R> {
        backend.update_in_place(row, |stored, encoded| update_stored(&self.codec, stored, encoded, f))?
    }
}

/// Decodes a stored value, if there is one.
#[inline(always)]
pub(super) fn decode<V, C: Codec<V>>(codec: &C, stored: Option<&[u8]>) -> Result<Option<V>> {
    stored.map(|bytes| codec.decode(bytes)).transpose()
}

/// Lets `f` change a stored value, and encodes the outcome in place where it fits, else into `encoded`. On failure, and
/// if `f` panics, the row is kept.
#[inline(always)]
pub(super) fn update_stored<V, C: Codec<V>, R>(
    codec: &C,
    stored: Stored<'_>,
    encoded: &mut Vec<u8>,
    f: impl FnOnce(&mut Option<V>) -> R,
) -> (Option<Change>, Result<R>) {
    let mut value = match decode(codec, stored.bytes()) {
        Ok(value) => value,
        Err(error) => return (Some(Change::Keep), Err(error)),
    };
    let result = f(&mut value);
    let Some(value) = value else { return (Some(Change::Delete), Ok(result)) };
    if let Stored::InPlace(bytes) = stored
        && codec.encode_over(&value, bytes)
    {
        return (None, Ok(result));
    }
    match codec.encode(&value, encoded) {
        Ok(()) => (Some(Change::Put), Ok(result)),
        Err(error) => (Some(Change::Keep), Err(error)),
    }
}
