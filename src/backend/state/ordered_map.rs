//! A map per key, visited in the order of its sub-keys.

use std::fmt::{self, Debug};
use std::ops::{Bound, Deref, RangeBounds};

use crate::codec::typed::{Codec, OrderedCodec};
use crate::error::Result;

use super::KeyedState;
use super::access::{Access, Keyed};
use super::map::{MapState, truncated};
use super::options::TableOptions;
use super::tables::Tables;
use crate::backend::StateBackend;

impl Tables {
    /// Declares a table of one map per key, visited in the order of the sub-keys. A stored table can change between this
    /// and [`Tables::map`]: the rows are the same.
    ///
    /// # Errors
    /// As [`Tables::value`].
    pub fn ordered_map<K, V: 'static, KC: OrderedCodec<K>, VC: Codec<V>>(
        &mut self,
        options: impl Into<TableOptions>,
        sub_codec: KC,
        codec: VC,
    ) -> Result<OrderedMapState<K, V, KC, VC>> {
        self.declare_map(options.into(), sub_codec, codec, true).map(OrderedMapState)
    }
}

impl<B: StateBackend> KeyedState<B> {
    /// Declares a table of one map per key, visited in the order of the sub-keys: see [`Tables::ordered_map`].
    ///
    /// # Errors
    /// As [`Tables::value`].
    ///
    /// # Cost
    /// None before the state is loaded; afterwards the backend sorts the rows it holds.
    pub fn ordered_map<K, V: 'static, KC: OrderedCodec<K>, VC: Codec<V>>(
        &mut self,
        options: impl Into<TableOptions>,
        sub_codec: KC,
        codec: VC,
    ) -> Result<OrderedMapState<K, V, KC, VC>> {
        self.with_tables(|tables| tables.ordered_map(options, sub_codec, codec))
    }
}

/// A [`MapState`] whose entries are visited in the order of their sub-keys, whole or in ranges.
///
/// ```
/// use alluvium::{KeyedState, Ordered, OverlayBackend, Schema, Tables, Utf8};
/// # use alluvium::{KeyGroupSet, MemoryBudget, Partitioner};
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
    /// Visits the entries with sub-keys in `range`, in order, until `visit` returns false. Renews no entry.
    ///
    /// # Errors
    /// As [`MapState::for_each`]; `Usage` if a bound has no encoding.
    ///
    /// # Cost
    /// A step per entry visited, and finding the first.
    pub fn range<S: Keyed>(
        &self,
        state: &mut S,
        range: impl RangeBounds<K>,
        visit: impl FnMut(K, V) -> bool,
    ) -> Result<()> {
        let (start, end) = (range.start_bound(), range.end_bound());
        self.0.table.with_row(state, |Access { backend, row, buffer }| {
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
            let (first, last) = bytes.split_at_checked(middle).ok_or_else(truncated)?;
            self.0.visit_at(backend, row, (start.map(|_| first), end.map(|_| last)), visit)
        })
    }

    /// Returns the entry with the least sub-key; `None` if the map is empty.
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
