//! An accumulator per key, added to without a read.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::codec::typed::Codec;
use crate::error::Result;
use crate::key_group::CurrentKey;
use crate::manifest::StateKind;

use super::KeyedState;
use super::access::{Access, Keyed, Table, handle};
use super::options::TableOptions;
use super::reducing::Reduce;
use super::tables::{KindSpec, Tables};
use super::value::decode;
use crate::backend::{StateBackend, Write};

/// How values are aggregated. If accumulators cannot be merged, use [`ValueState::update`] instead.
///
/// No method may fail, because an added value cannot be refused later. A panic in [`Aggregate::merge`] or
/// [`Aggregate::result`] recurs at each read of that key.
///
/// [`ValueState::update`]: super::ValueState::update
pub trait Aggregate: Debug + Send + Sync + 'static {
    /// The type of the values added.
    type Input;
    /// The type of the stored accumulator.
    type Accumulator: 'static;
    /// The type of the result.
    type Output;

    /// Returns the function's name. Checkpoints store it, and a stored table cannot be declared with another name.
    fn name(&self) -> &str;

    /// Returns an empty accumulator.
    fn create(&self) -> Self::Accumulator;

    /// Adds a value to an accumulator.
    fn add(&self, accumulator: &mut Self::Accumulator, input: &Self::Input);

    /// Merges two accumulators, older values first. Must be associative, and merging an accumulator of one value must
    /// equal adding that value.
    fn merge(&self, older: Self::Accumulator, newer: Self::Accumulator) -> Self::Accumulator;

    /// Returns the result of an accumulator.
    fn result(&self, accumulator: &Self::Accumulator) -> Self::Output;
}

impl Tables {
    /// Declares a table of one accumulator per key. `codec` encodes the accumulator.
    ///
    /// # Errors
    /// As [`Tables::value`]; `Config` if the restored table has an aggregate of another name.
    pub fn aggregating<A: Aggregate, C: Codec<A::Accumulator>>(
        &mut self,
        options: impl Into<TableOptions>,
        codec: C,
        aggregate: A,
    ) -> Result<AggregatingState<A, C>> {
        let aggregate = Arc::new(aggregate);
        let merging = Arc::clone(&aggregate);
        let merge = Reduce {
            name: aggregate.name().to_owned(),
            codec: codec.clone(),
            reduce: move |older, newer| merging.merge(older, newer),
            value: PhantomData,
        };
        let wanted = KindSpec { merge: Some(Arc::new(merge)), ..KindSpec::new(StateKind::Aggregating, &codec) };
        let table = self.declare_kind(options.into(), wanted)?;
        Ok(AggregatingState { table, codec, aggregate })
    }
}

impl<B: StateBackend> KeyedState<B> {
    /// Declares a table of one accumulator per key: see [`Tables::aggregating`].
    ///
    /// # Errors
    /// As [`Tables::aggregating`].
    pub fn aggregating<A: Aggregate, C: Codec<A::Accumulator>>(
        &mut self,
        options: impl Into<TableOptions>,
        codec: C,
        aggregate: A,
    ) -> Result<AggregatingState<A, C>> {
        self.with_tables(|tables| tables.aggregating(options, codec, aggregate))
    }
}

/// A handle to a table of one accumulator per key, or per key and namespace.
///
/// Adding writes an accumulator of one value: it merges at once with values since the last seal, and with older ones at a
/// read or in the next base. An encoded accumulator has at most
/// [`MAX_VALUE_BYTES`](crate::backend::MAX_VALUE_BYTES); adding beyond that fails.
///
/// ```
/// use alluvium::{Aggregate, Fixed, KeyedState, OverlayBackend, Schema, Tables};
/// # use alluvium::{KeyGroupSet, MemoryBudget, Partitioner};
///
/// #[derive(Debug)]
/// struct Mean;
///
/// impl Aggregate for Mean {
///     type Input = u32;
///     type Accumulator = (u64, u64);
///     type Output = f64;
///
///     fn name(&self) -> &str {
///         "mean"
///     }
///
///     fn create(&self) -> (u64, u64) {
///         (0, 0)
///     }
///
///     fn add(&self, (count, sum): &mut (u64, u64), input: &u32) {
///         *count += 1;
///         *sum += u64::from(*input);
///     }
///
///     fn merge(&self, older: (u64, u64), newer: (u64, u64)) -> (u64, u64) {
///         (older.0 + newer.0, older.1 + newer.1)
///     }
///
///     fn result(&self, (count, sum): &(u64, u64)) -> f64 {
///         *sum as f64 / *count as f64
///     }
/// }
///
/// # fn main() -> alluvium::Result<()> {
/// # let backend = OverlayBackend::new(KeyGroupSet::all(8), MemoryBudget::new(1 << 30));
/// let mut state = KeyedState::new(backend, Partitioner::Range { seed: 1 }, 8, Tables::new(Schema::new("utf8")));
/// let mean = state.aggregating("mean bid", (Fixed, Fixed), Mean)?;
/// state.set_key(b"auction-1")?;
/// mean.add(&mut state, &7)?;
/// mean.add(&mut state, &8)?;
/// assert_eq!(mean.read(&mut state)?, Some(7.5));
/// # Ok(())
/// # }
/// ```
pub struct AggregatingState<A, C> {
    table: Table,
    codec: C,
    aggregate: Arc<A>,
}

handle! { [A, C: Clone] [A: Debug, C: Debug] AggregatingState<A, C> { codec, aggregate } }

impl<A: Aggregate, C: Codec<A::Accumulator>> AggregatingState<A, C> {
    /// Adds `input` to the accumulator.
    ///
    /// # Errors
    /// As [`StateBackend::write`]: `Limit` if the accumulator would be too long or the memory budget is spent; `Usage` if
    /// the accumulator has no encoding, no key is set, or the state is in a namespace and the table has none. Nothing
    /// changes.
    pub fn add<S: Keyed>(&self, state: &mut S, input: &A::Input) -> Result<()> {
        self.table.with_row(state, |access| self.add_at(access, input))
    }

    /// Returns the accumulator's result; `None` if nothing was added or the accumulator has expired.
    ///
    /// # Errors
    /// As [`StateBackend::read`]; `Corrupt` if the stored bytes do not decode; `Usage` if no key is set, or the state is
    /// in a namespace and the table has none.
    pub fn read<S: Keyed>(&self, state: &mut S) -> Result<Option<A::Output>> {
        self.table.with_row(state, |access| self.read_at(access))
    }

    /// Removes the accumulator.
    ///
    /// # Errors
    /// As [`AggregatingState::add`].
    pub fn clear<S: Keyed>(&self, state: &mut S) -> Result<()> {
        self.table.with_row(state, |Access { backend, row, .. }| backend.write(row, Write::Delete))
    }

    /// Calls `visit` with the index and the result of each of `keys`, in order. The current key stays. Backends may look
    /// ahead, so one call is faster than a read per key.
    ///
    /// # Errors
    /// As [`AggregatingState::read`], at the first key that fails.
    pub fn get_many<S: Keyed>(
        &self,
        state: &mut S,
        keys: &[CurrentKey<'_>],
        mut visit: impl FnMut(usize, Option<A::Output>),
    ) -> Result<()> {
        self.table.read_many(state, keys, |at, stored| self.result(stored).map(|result| visit(at, result)))
    }

    /// Adds each input to the accumulator of its key, in order. The current key stays.
    ///
    /// # Errors
    /// As [`AggregatingState::add`], at the first item that fails; the items before it are added.
    pub fn add_many<S: Keyed>(&self, state: &mut S, items: &[(CurrentKey<'_>, A::Input)]) -> Result<()> {
        let add = |_, (_, input): &(_, A::Input), access: Access<'_, _>| self.add_at(access, input);
        self.table.each(state, items, |(key, _)| key, |_, _| Ok(()), add)
    }

    fn add_at<B: StateBackend>(&self, Access { backend, row, buffer }: Access<'_, B>, input: &A::Input) -> Result<()> {
        let mut accumulator = self.aggregate.create();
        self.aggregate.add(&mut accumulator, input);
        backend.write(row, Write::Merge(buffer.fill(|out| self.codec.encode(&accumulator, out))?))
    }

    fn read_at<B: StateBackend>(&self, Access { backend, row, .. }: Access<'_, B>) -> Result<Option<A::Output>> {
        backend.read(row, |stored| self.result(stored))?
    }

    fn result(&self, stored: Option<&[u8]>) -> Result<Option<A::Output>> {
        let accumulator = decode(&self.codec, stored)?;
        Ok(accumulator.map(|accumulator| self.aggregate.result(&accumulator)))
    }
}
