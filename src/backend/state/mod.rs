//! Typed state over a backend: the current key, the tables, and handles to values.
//!
//! Invariants:
//! - a record's key is hashed once, whatever number of tables it touches;
//! - a table's id is for life: restored ids are kept, also of tables that are not declared again;
//! - a codec or a closure that fails or panics changes nothing.

mod timers;

use std::fmt::{self, Debug};
use std::marker::PhantomData;

use crate::codec::schema::Schema;
use crate::codec::typed::Codec;
use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::{CurrentKey, KeyGroup, KeyGroupSet, Partitioner};
use crate::manifest::{StateKind, TableSchema};

use super::{Change, RowRef, StateBackend};

pub use timers::{Fired, TimeDomain, Timers};

/// The keyed state of one subtask: a backend, the key at hand, and the tables that were declared.
#[derive(Debug)]
pub struct KeyedState<B> {
    backend: B,
    partitioner: Partitioner,
    max_parallelism: u16,
    key_schema: Schema,
    key: Key,
    tables: Vec<TableSchema>,
    declared: Vec<TableId>,
}

/// The key at hand: the bytes and what was computed of them.
#[derive(Debug, Default)]
struct Key {
    bytes: Vec<u8>,
    hash: u64,
    group: KeyGroup,
    routing: Option<u64>,
    set: bool,
}

impl<B: StateBackend> KeyedState<B> {
    /// Returns the state over `backend`, for keys of type `key_schema`.
    ///
    /// * `partitioner`, `max_parallelism`: the job's, as its manifests store them.
    /// * `restored`: the tables of the checkpoint that the backend was loaded from; empty if there is none.
    #[must_use]
    pub fn new(
        backend: B,
        partitioner: Partitioner,
        max_parallelism: u16,
        key_schema: Schema,
        restored: Vec<TableSchema>,
    ) -> Self {
        let (key, declared) = (Key::default(), Vec::new());
        Self { backend, partitioner, max_parallelism, key_schema, key, tables: restored, declared }
    }

    /// Makes `key` the current key.
    ///
    /// # Errors
    /// `Usage` if the partitioner needs a routing hash.
    pub fn set_key(&mut self, key: &[u8]) -> Result<()> {
        if !matches!(self.partitioner, Partitioner::Range { .. }) {
            return Err(Error::usage("partitioner needs a routing hash").with("partitioner", self.partitioner.name()));
        }
        self.set_key_routed(key, 0);
        Ok(())
    }

    /// Makes `key` the current key, with what the engine routed it by: see [`Partitioner::locate`].
    pub fn set_key_routed(&mut self, key: &[u8], routing: u64) {
        let CurrentKey { hash, group, routing, .. } = self.partitioner.locate(key, routing, self.max_parallelism);
        self.key.bytes.clear();
        self.key.bytes.extend_from_slice(key);
        (self.key.hash, self.key.group, self.key.routing, self.key.set) = (hash, group, routing, true);
    }

    /// Declares a table of one value per key.
    ///
    /// # Errors
    /// `Usage` if the name is declared already; `Config` if the restored table of that name has another type.
    pub fn value<V, C: Codec<V>>(&mut self, name: &str, codec: C) -> Result<ValueState<V, C>> {
        self.value_by(name, Schema::unit(), codec)
    }

    /// Declares a table of one value per key and namespace, a window, say.
    ///
    /// # Errors
    /// As [`KeyedState::value`].
    pub fn value_by<V, C: Codec<V>>(&mut self, name: &str, namespace: Schema, codec: C) -> Result<ValueState<V, C>> {
        let namespaced = namespace != Schema::unit();
        let table = self.declare(TableSchema {
            id: TableId(0),
            name: name.to_owned(),
            kind: StateKind::Value,
            key: self.key_schema.clone(),
            namespace,
            sub: Schema::unit(),
            value: codec.schema(),
            ttl: None,
            merge_operator: None,
        })?;
        Ok(ValueState { table, namespaced, codec, value: PhantomData })
    }

    /// Returns the tables that a checkpoint of this state has: restored and declared ones.
    #[must_use]
    pub fn tables(&self) -> &[TableSchema] {
        &self.tables
    }

    /// Returns the backend.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Returns the backend, to seal, settle and load.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Declares a table of any kind, for engines that lay out their own rows, and returns its id: that of the restored
    /// table of its name, or else the next one. The id in `wanted` does not matter.
    ///
    /// # Errors
    /// As [`KeyedState::value`].
    pub fn declare(&mut self, wanted: TableSchema) -> Result<TableId> {
        let known = self.tables.iter().find(|table| table.name == wanted.name);
        let id = match known {
            Some(known) if self.declared.contains(&known.id) => {
                return Err(Error::usage("table is declared already").with("table", &wanted.name));
            }
            Some(known) if (TableSchema { id: known.id, ..wanted.clone() }) == *known => known.id,
            Some(known) => {
                return Err(Error::config("table was stored with another type")
                    .with("table", &wanted.name)
                    .with("stored", Types(known))
                    .with("declared", Types(&wanted)));
            }
            None => {
                let next = self.tables.iter().map(|table| table.id.0.checked_add(1)).max().unwrap_or(Some(0));
                let id = next.map(TableId).ok_or_else(|| Error::limit("table ids are used up"))?;
                self.tables.push(TableSchema { id, ..wanted });
                id
            }
        };
        self.declared.push(id);
        Ok(id)
    }

    /// Calls `f` with the backend and the current key's row in `table`.
    fn with_row<R>(
        &mut self,
        table: TableId,
        namespace: &[u8],
        f: impl FnOnce(&mut B, RowRef<'_>) -> Result<R>,
    ) -> Result<R> {
        let Key { bytes, hash, group, routing, set } = &self.key;
        if !set {
            return Err(Error::usage("no key is set"));
        }
        let key = CurrentKey { bytes, hash: *hash, group: *group, routing: *routing };
        f(&mut self.backend, RowRef { table, key: &key, namespace, sub: &[] })
    }
}

/// Prints a table's types in one word.
struct Types<'a>(&'a TableSchema);

impl fmt::Display for Types<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TableSchema { kind, key, namespace, sub, value, .. } = self.0;
        write!(f, "{kind:?}(")?;
        for (i, schema) in [key, namespace, sub, value].into_iter().enumerate() {
            write!(f, "{}{} v{}", if i == 0 { "" } else { ", " }, schema.name, schema.version)?;
        }
        f.write_str(")")
    }
}

/// A handle to a table of one value per key, or per key and namespace.
///
/// All methods act on the current key. Those ending in `_in` take the encoded namespace.
pub struct ValueState<V, C> {
    table: TableId,
    namespaced: bool,
    codec: C,
    value: PhantomData<fn() -> V>,
}

impl<V, C: Clone> Clone for ValueState<V, C> {
    fn clone(&self) -> Self {
        Self { table: self.table, namespaced: self.namespaced, codec: self.codec.clone(), value: PhantomData }
    }
}

impl<V, C: Debug> Debug for ValueState<V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, namespaced, codec, value: PhantomData } = self;
        f.debug_struct("ValueState")
            .field("table", table)
            .field("namespaced", namespaced)
            .field("codec", codec)
            .finish()
    }
}

impl<V, C: Codec<V>> ValueState<V, C> {
    /// Returns the table's id.
    #[must_use]
    pub fn table(&self) -> TableId {
        self.table
    }

    /// Returns the value.
    ///
    /// # Errors
    /// As [`StateBackend::read`]; `Corrupt` if the stored bytes do not decode.
    pub fn read<B: StateBackend>(&self, state: &mut KeyedState<B>) -> Result<Option<V>> {
        self.read_in(state, &[])
    }

    /// Returns the value under `namespace`.
    ///
    /// # Errors
    /// As [`ValueState::read`]; `Usage` if the table has no namespaces.
    pub fn read_in<B: StateBackend>(&self, state: &mut KeyedState<B>, namespace: &[u8]) -> Result<Option<V>> {
        self.check(namespace)?;
        state.with_row(self.table, namespace, |backend, row| backend.read(row, |stored| self.decode(stored))?)
    }

    /// Sets the value.
    ///
    /// # Errors
    /// As [`StateBackend::write`]; `Usage` if the value has no encoding. Nothing is changed.
    pub fn put<B: StateBackend>(&self, state: &mut KeyedState<B>, value: &V) -> Result<()> {
        self.put_in(state, &[], value)
    }

    /// Sets the value under `namespace`.
    ///
    /// # Errors
    /// As [`ValueState::put`]; `Usage` if the table has no namespaces.
    pub fn put_in<B: StateBackend>(&self, state: &mut KeyedState<B>, namespace: &[u8], value: &V) -> Result<()> {
        self.check(namespace)?;
        state.with_row(self.table, namespace, |backend, row| {
            backend.update(row, |_, encoded| outcome(self.codec.encode(value, encoded).map(|()| (Change::Put, ()))))?
        })
    }

    /// Calls `f` with the value, which it may set, change or take, and stores what is left.
    ///
    /// # Errors
    /// As [`ValueState::read`] and [`ValueState::put`]. Nothing is changed.
    pub fn update<B: StateBackend, R>(
        &self,
        state: &mut KeyedState<B>,
        f: impl FnOnce(&mut Option<V>) -> R,
    ) -> Result<R> {
        self.update_in(state, &[], f)
    }

    /// As [`ValueState::update`], under `namespace`.
    ///
    /// # Errors
    /// As [`ValueState::update`]; `Usage` if the table has no namespaces.
    pub fn update_in<B: StateBackend, R>(
        &self,
        state: &mut KeyedState<B>,
        namespace: &[u8],
        f: impl FnOnce(&mut Option<V>) -> R,
    ) -> Result<R> {
        self.check(namespace)?;
        state.with_row(self.table, namespace, |backend, row| {
            backend.update(row, |stored, encoded| {
                outcome(self.decode(stored).and_then(|mut value| {
                    let result = f(&mut value);
                    let Some(value) = value else { return Ok((Change::Delete, result)) };
                    self.codec.encode(&value, encoded)?;
                    Ok((Change::Put, result))
                }))
            })?
        })
    }

    /// Removes the value.
    ///
    /// # Errors
    /// As [`StateBackend::write`].
    pub fn clear<B: StateBackend>(&self, state: &mut KeyedState<B>) -> Result<()> {
        self.clear_in(state, &[])
    }

    /// Removes the value under `namespace`.
    ///
    /// # Errors
    /// As [`ValueState::clear`]; `Usage` if the table has no namespaces.
    pub fn clear_in<B: StateBackend>(&self, state: &mut KeyedState<B>, namespace: &[u8]) -> Result<()> {
        self.check(namespace)?;
        state.with_row(self.table, namespace, |backend, row| backend.write(row, super::Write::Delete))
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
        state.backend.scan(self.table, groups, &[], |entry| match self.codec.decode(entry.value) {
            Ok(value) => visit(entry.key, entry.namespace, value),
            Err(error) => {
                failed = Some(error);
                false
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn decode(&self, stored: Option<&[u8]>) -> Result<Option<V>> {
        stored.map(|bytes| self.codec.decode(bytes)).transpose()
    }

    fn check(&self, namespace: &[u8]) -> Result<()> {
        if self.namespaced || namespace.is_empty() {
            return Ok(());
        }
        Err(Error::usage("table has no namespaces").with("table", self.table))
    }
}

/// Turns a fallible change into one that changes nothing on failure.
fn outcome<R>(change: Result<(Change, R)>) -> (Change, Result<R>) {
    match change {
        Ok((change, result)) => (change, Ok(result)),
        Err(error) => (Change::Keep, Err(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::ErrorKind;
    use crate::backend::OverlayBackend;
    use crate::codec::typed::{Fixed, Utf8};
    use crate::memory::MemoryBudget;

    fn state(restored: Vec<TableSchema>) -> KeyedState<OverlayBackend> {
        let backend = OverlayBackend::new(KeyGroupSet::all(8), MemoryBudget::new(u64::MAX));
        KeyedState::new(backend, Partitioner::Range { seed: 1 }, 8, Schema::new("utf8"), restored)
    }

    #[test]
    fn values_live_under_key_and_namespace() {
        let mut state = state(vec![]);
        let count = state.value("count", Fixed).unwrap();
        let last = state.value_by("last", Schema::new("i64le"), Utf8).unwrap();
        assert_eq!(count.read(&mut state).unwrap_err().kind(), ErrorKind::Usage, "no key yet");
        for key in ["a", "b", "a"] {
            state.set_key(key.as_bytes()).unwrap();
            count.update(&mut state, |n: &mut Option<u64>| *n = Some(n.unwrap_or(0) + 1)).unwrap();
            last.put_in(&mut state, b"w1", &key.to_owned()).unwrap();
        }
        assert_eq!(count.read(&mut state).unwrap(), Some(2));
        assert_eq!(last.read_in(&mut state, b"w1").unwrap().as_deref(), Some("a"));
        assert_eq!(last.read_in(&mut state, b"w2").unwrap(), None);
        assert_eq!(count.read_in(&mut state, b"w1").unwrap_err().kind(), ErrorKind::Usage);
        count.clear(&mut state).unwrap();
        last.update_in(&mut state, b"w1", |value| value.take()).unwrap();
        let mut left = Vec::new();
        let all = KeyGroupSet::all(8);
        count
            .scan(&mut state, &all, |key, _, n| {
                left.push((key.to_vec(), n));
                true
            })
            .unwrap();
        assert_eq!(left, [(b"b".to_vec(), 1)]);
        assert_eq!(state.backend().stats().rows, 2);
    }

    #[test]
    fn failures_and_panics_change_nothing() {
        let mut state = state(vec![]);
        let short = state.value("t", Fixed).unwrap();
        state.set_key(b"k").unwrap();
        short.put(&mut state, &7u16).unwrap();
        let long = ValueState { table: short.table, namespaced: false, codec: Fixed, value: PhantomData };
        assert_eq!(long.update(&mut state, |n: &mut Option<u64>| *n = None).unwrap_err().kind(), ErrorKind::Corrupt);
        let update = || {
            short.update(&mut state, |n: &mut Option<u16>| {
                *n = None;
                panic!("in the closure")
            })
        };
        let panicked: std::thread::Result<Result<()>> = catch_unwind(AssertUnwindSafe(update));
        assert!(panicked.is_err());
        assert_eq!(short.read(&mut state).unwrap(), Some(7));
    }

    #[test]
    fn restored_ids_win_and_types_must_agree() {
        let mut first = state(vec![]);
        let _a = first.value::<u64, _>("a", Fixed).unwrap();
        let b = first.value("b", Utf8).unwrap();
        assert_eq!(first.value("a", Utf8).unwrap_err().kind(), ErrorKind::Usage, "twice");
        let mut second = state(first.tables().to_vec());
        let error = second.value("a", Utf8).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        for part in ["u64le", "utf8", "`a`"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        assert_eq!(second.value("b", Utf8).unwrap().table(), b.table());
        assert_eq!(second.value("c", Utf8).unwrap().table(), TableId(2), "ids of restored tables stay taken");
        assert_eq!(second.tables().len(), 3);
    }

    #[test]
    fn keys_without_a_routing_hash_are_refused_where_one_is_needed() {
        let backend = OverlayBackend::new(KeyGroupSet::all(8), MemoryBudget::new(u64::MAX));
        let mut state = KeyedState::new(backend, Partitioner::External, 8, Schema::new("bytes"), vec![]);
        assert_eq!(state.set_key(b"a").unwrap_err().kind(), ErrorKind::Usage);
        state.set_key_routed(b"a", u64::MAX);
        assert_eq!(state.key.group, KeyGroup(7));
    }
}
