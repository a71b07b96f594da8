//! A list per key, appended to without a read.
//!
//! A list's bytes are its elements in order, each after its length in LEB128: see `docs/format.md`.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::codec::bytes::{Reader, put_delimited};
use crate::codec::typed::Codec;
use crate::error::Result;
use crate::key_group::CurrentKey;
use crate::manifest::StateKind;
use crate::row::Append;

use super::KeyedState;
use super::access::{Access, Keyed, Table, handle};
use super::evolve::ListUpgrade;
use super::options::TableOptions;
use super::tables::{KindSpec, Tables};
use crate::backend::{StateBackend, Write};

impl Tables {
    /// Declares a table of one list per key. `codec` encodes an element.
    ///
    /// # Errors
    /// As [`Tables::value`].
    pub fn list<V: 'static, C: Codec<V>>(
        &mut self,
        options: impl Into<TableOptions>,
        codec: C,
    ) -> Result<ListState<V, C>> {
        let wanted = KindSpec {
            merge: Some(Arc::new(Append)),
            upgrade: Arc::new(ListUpgrade::new(codec.clone())),
            ..KindSpec::new(StateKind::List, &codec)
        };
        let table = self.declare_kind(options.into(), wanted)?;
        Ok(ListState { table, codec, value: PhantomData })
    }
}

impl<B: StateBackend> KeyedState<B> {
    /// Declares a table of one list per key. `codec` encodes an element.
    ///
    /// # Errors
    /// As [`Tables::value`].
    pub fn list<V: 'static, C: Codec<V>>(
        &mut self,
        options: impl Into<TableOptions>,
        codec: C,
    ) -> Result<ListState<V, C>> {
        self.with_tables(|tables| tables.list(options, codec))
    }
}

/// A handle to a table of one list per key, or per key and namespace. A key without a row has an empty list.
///
/// Adding costs the new elements, in time and in the next delta, however long the list is. Reading costs the list,
/// however many seals lie between its elements. A list holds at most
/// [`MAX_VALUE_BYTES`](crate::backend::MAX_VALUE_BYTES) of encoded, unexpired elements; adding beyond that fails.
///
/// ```
/// use alluvium::{KeyedState, OverlayBackend, Schema, Tables, Utf8};
/// # use alluvium::{KeyGroupSet, MemoryBudget, Partitioner};
/// # fn main() -> alluvium::Result<()> {
/// # let backend = OverlayBackend::new(KeyGroupSet::all(8), MemoryBudget::new(1 << 30));
/// let mut state = KeyedState::new(backend, Partitioner::Range { seed: 1 }, 8, Tables::new(Schema::new("utf8")));
/// let clicks = state.list("clicks", Utf8)?;
/// state.set_key(b"user-1")?;
/// clicks.add(&mut state, &"/home".to_owned())?;
/// clicks.add(&mut state, &"/cart".to_owned())?;
/// assert_eq!(clicks.read(&mut state)?, ["/home", "/cart"]);
/// clicks.update(&mut state, &[])?;
/// assert!(clicks.read(&mut state)?.is_empty());
/// # Ok(())
/// # }
/// ```
pub struct ListState<V, C> {
    table: Table,
    codec: C,
    value: PhantomData<fn() -> V>,
}

handle! { [V, C: Clone] [V, C: Debug] ListState<V, C> { codec } }

impl<V, C: Codec<V>> ListState<V, C> {
    /// Appends `value`, without reading the list.
    ///
    /// # Errors
    /// As [`StateBackend::write`]: `Limit` if the list would be too long or the memory budget is spent; `Usage` if the
    /// value has no encoding, no key is set, or the state is in a namespace and the table has none. Nothing changes.
    pub fn add<S: Keyed>(&self, state: &mut S, value: &V) -> Result<()> {
        self.add_all(state, [value])
    }

    /// Appends all of `values` or, on failure, none. No values leave the list as it is.
    ///
    /// # Errors
    /// As [`ListState::add`].
    pub fn add_all<'v, S: Keyed>(&self, state: &mut S, values: impl IntoIterator<Item = &'v V>) -> Result<()>
    where
        V: 'v,
    {
        self.table.with_row(state, |access| self.add_at(access, values))
    }

    /// Returns the unexpired elements, in the order they were added.
    ///
    /// # Errors
    /// As [`StateBackend::read`]; `Corrupt` if the stored bytes do not decode; `Usage` if no key is set, or the state is
    /// in a namespace and the table has none.
    pub fn read<S: Keyed>(&self, state: &mut S) -> Result<Vec<V>> {
        self.table.with_row(state, |access| self.read_at(access))
    }

    /// Calls `visit` with each unexpired element, in the order they were added.
    ///
    /// # Errors
    /// As [`ListState::read`]; `visit` has seen the elements before the one that failed.
    pub fn for_each<S: Keyed>(&self, state: &mut S, visit: impl FnMut(V)) -> Result<()> {
        self.table.with_row(state, |Access { backend, row, .. }| {
            backend.read(row, |stored| self.elements(stored.unwrap_or_default(), visit))?
        })
    }

    /// Replaces all elements by `values`; no values remove the list's row.
    ///
    /// # Errors
    /// As [`ListState::add`].
    pub fn update<S: Keyed>(&self, state: &mut S, values: &[V]) -> Result<()> {
        self.table.with_row(state, |Access { backend, row, buffer }| {
            let bytes = buffer.fill(|out| self.encode(values, out))?;
            backend.write(row, if bytes.is_empty() { Write::Delete } else { Write::Put(bytes) })
        })
    }

    /// Removes all elements.
    ///
    /// # Errors
    /// As [`ListState::add`].
    pub fn clear<S: Keyed>(&self, state: &mut S) -> Result<()> {
        self.table.with_row(state, |Access { backend, row, .. }| backend.write(row, Write::Delete))
    }

    /// Calls `visit` with the index and the list of each of `keys`, in order. The current key stays. Backends may look
    /// ahead, so one call is faster than a read per key.
    ///
    /// # Errors
    /// As [`ListState::read`], at the first key that fails.
    pub fn get_many<S: Keyed>(
        &self,
        state: &mut S,
        keys: &[CurrentKey<'_>],
        mut visit: impl FnMut(usize, Vec<V>),
    ) -> Result<()> {
        self.table.read_many(state, keys, |at, stored| {
            let mut values = Vec::new();
            self.elements(stored.unwrap_or_default(), |value| values.push(value))?;
            visit(at, values);
            Ok(())
        })
    }

    /// Appends each value to the list of its key, in order. The current key stays.
    ///
    /// # Errors
    /// As [`ListState::add`], at the first item that fails; the items before it are added.
    pub fn add_many<S: Keyed>(&self, state: &mut S, items: &[(CurrentKey<'_>, V)]) -> Result<()> {
        let add = |_, (_, value): &(_, V), access: Access<'_, _>| self.add_at(access, [value]);
        self.table.each(state, items, |(key, _)| key, |_, _| Ok(()), add)
    }

    fn add_at<'v, B: StateBackend>(
        &self,
        Access { backend, row, buffer }: Access<'_, B>,
        values: impl IntoIterator<Item = &'v V>,
    ) -> Result<()>
    where
        V: 'v,
    {
        let bytes = buffer.fill(|out| self.encode(values, out))?;
        // Each element has a length byte at least, so no bytes means no elements.
        if bytes.is_empty() { Ok(()) } else { backend.write(row, Write::Merge(bytes)) }
    }

    fn encode<'v>(&self, values: impl IntoIterator<Item = &'v V>, out: &mut Vec<u8>) -> Result<()>
    where
        V: 'v,
    {
        values.into_iter().try_for_each(|value| put_delimited(out, |out| self.codec.encode(value, out)))
    }

    fn read_at<B: StateBackend>(&self, Access { backend, row, .. }: Access<'_, B>) -> Result<Vec<V>> {
        let mut values = Vec::new();
        backend.read(row, |stored| self.elements(stored.unwrap_or_default(), |value| values.push(value)))??;
        Ok(values)
    }

    fn elements(&self, bytes: &[u8], mut visit: impl FnMut(V)) -> Result<()> {
        let mut reader = Reader::new(bytes);
        while reader.remaining() > 0 {
            visit(self.codec.decode(reader.length_delimited(bytes.len())?)?);
        }
        Ok(())
    }
}
