//! A value per key that values are reduced into, without being read.

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::sync::Arc;

use crate::codec::typed::Codec;
use crate::error::Result;
use crate::id::TableId;
use crate::key_group::CurrentKey;
use crate::manifest::StateKind;
use crate::row::MergeOperator;

use super::tables::{TableOptions, Tables, Wanted};
use super::value::decode;
use super::{Access, Keyed, KeyedState, Table};
use crate::backend::{StateBackend, Write};

impl Tables {
    /// Declares a table of one value per key, of which `reduce` makes one with each value that is added.
    ///
    /// * `name`: the function's, which checkpoints store; a table cannot go on with another.
    /// * `reduce`: makes one value of an older and a newer one. It must be associative, as values meet in any grouping
    ///   though in their order, and it must not fail: a panic comes back at each read.
    ///
    /// # Errors
    /// As [`Tables::value`]; `Config` if the restored table has another function.
    pub fn reducing<V: 'static, C: Codec<V>>(
        &mut self,
        options: impl Into<TableOptions>,
        codec: C,
        name: &str,
        reduce: impl Fn(V, V) -> V + Send + Sync + 'static,
    ) -> Result<ReducingState<V, C>> {
        let merge = Reduce { name: name.to_owned(), codec: codec.clone(), reduce, value: PhantomData };
        let wanted = Wanted { merge: Some(Arc::new(merge)), ..Wanted::new(StateKind::Reducing, &codec) };
        let table = self.declare_kind(options.into(), wanted)?;
        Ok(ReducingState { table, codec, value: PhantomData })
    }
}

impl<B: StateBackend> KeyedState<B> {
    /// Declares a table of one value per key, of which `reduce` makes one with each value that is added: see
    /// [`Tables::reducing`].
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

/// A function of the user's on the bytes of its values.
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

/// A handle to a table of one value per key, or per key and namespace, that values are reduced into.
///
/// ```
/// use alluvium::backend::{KeyedState, OverlayBackend, Tables};
/// use alluvium::codec::{schema::Schema, typed::Fixed};
/// # use alluvium::{key_group::{KeyGroupSet, Partitioner}, memory::MemoryBudget};
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

impl<V, C: Clone> Clone for ReducingState<V, C> {
    fn clone(&self) -> Self {
        Self { table: self.table, codec: self.codec.clone(), value: PhantomData }
    }
}

impl<V, C: Debug> Debug for ReducingState<V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReducingState").field("table", &self.table).field("codec", &self.codec).finish()
    }
}

impl<V, C: Codec<V>> ReducingState<V, C> {
    /// Returns the table's id.
    #[must_use]
    pub fn table(&self) -> TableId {
        self.table.id
    }

    /// Adds `value`: alone it is what the key has, else the function makes one of both.
    ///
    /// # Errors
    /// As [`StateBackend::write`]: `Limit` if what the key has would be too long; `Usage` if the value has no
    /// encoding, no key is set, or there is a namespace and the table has none. Nothing is changed.
    pub fn add<S: Keyed>(&self, state: &mut S, value: &V) -> Result<()> {
        self.table.with(state, |access| self.add_at(access, value))
    }

    /// Returns what was made of the values; `None` if none was added.
    ///
    /// # Errors
    /// As [`StateBackend::read`]; `Corrupt` if the stored bytes do not decode; `Usage` as [`ReducingState::add`].
    pub fn read<S: Keyed>(&self, state: &mut S) -> Result<Option<V>> {
        self.table.with(state, |access| self.read_at(access))
    }

    /// Removes what was made of the values.
    ///
    /// # Errors
    /// As [`ReducingState::add`].
    pub fn clear<S: Keyed>(&self, state: &mut S) -> Result<()> {
        self.table.with(state, |Access { backend, row, .. }| backend.write(row, Write::Delete))
    }

    /// Calls `visit` with the place of each key in `keys`, and what it has; in their order. The current key stays.
    ///
    /// # Errors
    /// As [`ReducingState::read`], at the first key that has one.
    pub fn get_many<S: Keyed>(
        &self,
        state: &mut S,
        keys: &[CurrentKey<'_>],
        mut visit: impl FnMut(usize, Option<V>),
    ) -> Result<()> {
        self.table.each_key(state, keys, |at, access| self.read_at(access).map(|value| visit(at, value)))
    }

    /// Adds each value to what its key has, in their order. The current key stays.
    ///
    /// # Errors
    /// As [`ReducingState::add`], at the first item that has one; those before it are added.
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
