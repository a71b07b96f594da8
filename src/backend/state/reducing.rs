//! A reduced value per key, added to without a read.

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::sync::Arc;

use crate::codec::typed::Codec;
use crate::error::Result;
use crate::key_group::CurrentKey;
use crate::manifest::StateKind;
use crate::row::MergeOperator;

use super::KeyedState;
use super::access::{Access, Keyed, Table, handle};
use super::options::TableOptions;
use super::tables::{KindSpec, Tables};
use super::value::decode;
use crate::backend::{StateBackend, Write};

impl Tables {
    /// Declares a table of one value per key, into which `reduce` combines each value added.
    ///
    /// * `name`: the function's name. Checkpoints store it, and a stored table cannot be declared with another name.
    /// * `reduce`: combines an older value with a newer one. Must be associative, because values are combined in order
    ///   but in any grouping. Must not fail: a panic recurs at each read of that key.
    ///
    /// # Errors
    /// As [`Tables::value`]; `Config` if the restored table has a function of another name.
    pub fn reducing<V: 'static, C: Codec<V>>(
        &mut self,
        options: impl Into<TableOptions>,
        codec: C,
        name: &str,
        reduce: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> Result<ReducingState<V, C>> {
        let merge = Reduce { name: name.to_owned(), codec: codec.clone(), reduce, value: PhantomData };
        let wanted = KindSpec { merge: Some(Arc::new(merge)), ..KindSpec::new(StateKind::Reducing, &codec) };
        let table = self.declare_kind(options.into(), wanted)?;
        Ok(ReducingState { table, codec, value: PhantomData })
    }
}

impl<B: StateBackend> KeyedState<B> {
    /// Declares a table of one value per key, into which `reduce` combines each value added: see [`Tables::reducing`].
    ///
    /// # Errors
    /// As [`Tables::reducing`].
    pub fn reducing<V: 'static, C: Codec<V>>(
        &mut self,
        options: impl Into<TableOptions>,
        codec: C,
        name: &str,
        reduce: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> Result<ReducingState<V, C>> {
        self.with_tables(|tables| tables.reducing(options, codec, name, reduce))
    }
}

/// A user's function as a merge operator on encoded values.
pub(super) struct Reduce<V, C, F> {
    pub(super) name: String,
    pub(super) codec: C,
    pub(super) reduce: F,
    pub(super) value: PhantomData<fn() -> V>,
}

impl<V, C: Debug, F> Debug for Reduce<V, C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reduce").field("name", &self.name).field("codec", &self.codec).finish_non_exhaustive()
    }
}

impl<V, C: Codec<V>, F: Fn(V, V) -> V + Send + Sync> MergeOperator for Reduce<V, C, F> {
    fn name(&self) -> &str {
        &self.name
    }

    fn merge(&self, older: &[u8], newer: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let (older, newer) = (self.codec.decode(older)?, self.codec.decode(newer)?);
        self.codec.encode(&(self.reduce)(older, newer), out)
    }
}

/// A handle to a table of one reduced value per key, or per key and namespace.
///
/// Adding combines a value at once with values since the last seal, and with older ones at a read or in the next base. An
/// encoded reduced value has at most [`MAX_VALUE_BYTES`](crate::backend::MAX_VALUE_BYTES); adding beyond that fails.
///
/// ```
/// use alluvium::{Fixed, KeyedState, OverlayBackend, Schema, Tables};
/// # use alluvium::{KeyGroupSet, MemoryBudget, Partitioner};
/// # fn main() -> alluvium::Result<()> {
/// # let backend = OverlayBackend::new(KeyGroupSet::all(8), MemoryBudget::new(1 << 30));
/// let mut state = KeyedState::new(backend, Partitioner::Range { seed: 1 }, 8, Tables::new(Schema::new("utf8")));
/// let highest = state.reducing("highest bid", Fixed, "max", |a: u64, b| a.max(b))?;
/// state.set_key(b"auction-1")?;
/// highest.add(&mut state, &700)?;
/// highest.add(&mut state, &650)?;
/// assert_eq!(highest.read(&mut state)?, Some(700));
/// # Ok(())
/// # }
/// ```
pub struct ReducingState<V, C> {
    table: Table,
    codec: C,
    value: PhantomData<fn() -> V>,
}

handle! { [V, C: Clone] [V, C: Debug] ReducingState<V, C> { codec } }

impl<V, C: Codec<V>> ReducingState<V, C> {
    /// Adds `value`. The first value is stored as it is; later ones are combined with the function.
    ///
    /// # Errors
    /// As [`StateBackend::write`]: `Limit` if the reduced value would be too long or the memory budget is spent; `Usage`
    /// if the value has no encoding, no key is set, or the state is in a namespace and the table has none. Nothing
    /// changes.
    pub fn add<S: Keyed>(&self, state: &mut S, value: &V) -> Result<()> {
        self.table.with_row(state, |access| self.add_at(access, value))
    }

    /// Returns the reduced value; `None` if nothing was added or the value has expired.
    ///
    /// # Errors
    /// As [`StateBackend::read`]; `Corrupt` if the stored bytes do not decode; `Usage` if no key is set, or the state is
    /// in a namespace and the table has none.
    pub fn read<S: Keyed>(&self, state: &mut S) -> Result<Option<V>> {
        self.table.with_row(state, |access| self.read_at(access))
    }

    /// Removes the reduced value.
    ///
    /// # Errors
    /// As [`ReducingState::add`].
    pub fn clear<S: Keyed>(&self, state: &mut S) -> Result<()> {
        self.table.with_row(state, |Access { backend, row, .. }| backend.write(row, Write::Delete))
    }

    /// Calls `visit` with the index and the reduced value of each of `keys`, in order. The current key stays. Backends
    /// may look ahead, so one call is faster than a read per key.
    ///
    /// # Errors
    /// As [`ReducingState::read`], at the first key that fails.
    pub fn get_many<S: Keyed>(
        &self,
        state: &mut S,
        keys: &[CurrentKey<'_>],
        mut visit: impl FnMut(usize, Option<V>),
    ) -> Result<()> {
        self.table.read_many(state, keys, |at, stored| decode(&self.codec, stored).map(|value| visit(at, value)))
    }

    /// Adds each value to the reduced value of its key, in order. The current key stays.
    ///
    /// # Errors
    /// As [`ReducingState::add`], at the first item that fails; the items before it are added.
    pub fn add_many<S: Keyed>(&self, state: &mut S, items: &[(CurrentKey<'_>, V)]) -> Result<()> {
        let add = |_, (_, value): &(_, V), access: Access<'_, _>| self.add_at(access, value);
        self.table.each(state, items, |(key, _)| key, |_, _| Ok(()), add)
    }

    fn add_at<B: StateBackend>(&self, Access { backend, row, buffer }: Access<'_, B>, value: &V) -> Result<()> {
        backend.write(row, Write::Merge(buffer.fill(|out| self.codec.encode(value, out))?))
    }

    fn read_at<B: StateBackend>(&self, Access { backend, row, .. }: Access<'_, B>) -> Result<Option<V>> {
        backend.read(row, |stored| decode(&self.codec, stored))?
    }
}
