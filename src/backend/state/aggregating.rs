//! An accumulator per key that values are added to, without being read.

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::sync::Arc;

use crate::codec::typed::Codec;
use crate::error::Result;
use crate::id::TableId;
use crate::key_group::CurrentKey;
use crate::manifest::StateKind;

use super::reducing::Reduce;
use super::tables::{TableOptions, Tables, Wanted};
use super::value::decode;
use super::{Access, Keyed, KeyedState, Table};
use crate::backend::{StateBackend, Write};

/// How values are aggregated. A function that cannot merge accumulators is a [`ValueState::update`].
///
/// Nothing here may fail: what was added cannot be refused later, and a panic comes back at each read.
///
/// [`ValueState::update`]: super::ValueState::update
pub trait Aggregate: Debug + Send + Sync + 'static {
    /// What is added.
    type Input;
    /// What is stored.
    type Accumulator: 'static;
    /// What is read.
    type Output;

    /// Returns its name, which checkpoints store; a table cannot go on with another.
    fn name(&self) -> &str;

    /// Returns the accumulator of no values.
    fn create(&self) -> Self::Accumulator;

    /// Adds a value.
    fn add(&self, accumulator: &mut Self::Accumulator, input: &Self::Input);

    /// Makes one of two: it must be associative, and adding must be merging what one value makes.
    fn merge(&self, older: Self::Accumulator, newer: Self::Accumulator) -> Self::Accumulator;

    /// Returns what an accumulator comes to.
    fn result(&self, accumulator: &Self::Accumulator) -> Self::Output;
}

impl Tables {
    /// Declares a table of one accumulator per key. `codec` is that of the accumulator.
    ///
    /// # Errors
    /// As [`Tables::value`]; `Config` if the restored table has another function.
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
        let wanted = Wanted { merge: Some(Arc::new(merge)), ..Wanted::new(StateKind::Aggregating, &codec) };
        let table = self.declare_kind(options.into(), wanted)?;
        Ok(AggregatingState { table, codec, aggregate })
    }
}

impl<B: StateBackend> KeyedState<B> {
    /// Declares a table of one accumulator per key. `codec` is that of the accumulator.
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
/// ```
/// use alluvium::backend::{Aggregate, KeyedState, OverlayBackend, Tables};
/// use alluvium::codec::{schema::Schema, typed::Fixed};
/// # use alluvium::{key_group::{KeyGroupSet, Partitioner}, memory::MemoryBudget};
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

impl<A, C: Clone> Clone for AggregatingState<A, C> {
    fn clone(&self) -> Self {
        Self { table: self.table, codec: self.codec.clone(), aggregate: Arc::clone(&self.aggregate) }
    }
}

impl<A: Debug, C: Debug> Debug for AggregatingState<A, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, codec, aggregate } = self;
        let mut debug = f.debug_struct("AggregatingState");
        debug.field("table", table).field("codec", codec).field("aggregate", aggregate).finish()
    }
}

impl<A: Aggregate, C: Codec<A::Accumulator>> AggregatingState<A, C> {
    /// Returns the table's id.
    #[must_use]
    pub fn table(&self) -> TableId {
        self.table.id
    }

    /// Adds `input`.
    ///
    /// # Errors
    /// As [`StateBackend::write`]: `Limit` if what the key has would be too long; `Usage` if the accumulator has
    /// no encoding, no key is set, or there is a namespace and the table has none. Nothing is changed.
    pub fn add<S: Keyed>(&self, state: &mut S, input: &A::Input) -> Result<()> {
        self.table.with(state, |access| self.add_at(access, input))
    }

    /// Returns what the accumulator comes to; `None` if nothing was added.
    ///
    /// # Errors
    /// As [`StateBackend::read`]; `Corrupt` if the stored bytes do not decode; `Usage` as [`AggregatingState::add`].
    pub fn read<S: Keyed>(&self, state: &mut S) -> Result<Option<A::Output>> {
        self.table.with(state, |access| self.read_at(access))
    }

    /// Removes the accumulator.
    ///
    /// # Errors
    /// As [`AggregatingState::add`].
    pub fn clear<S: Keyed>(&self, state: &mut S) -> Result<()> {
        self.table.with(state, |Access { backend, row, .. }| backend.write(row, Write::Delete))
    }

    /// Calls `visit` with the place of each key in `keys`, and what its accumulator comes to; in their order. The
    /// current key stays.
    ///
    /// # Errors
    /// As [`AggregatingState::read`], at the first key that has one.
    pub fn get_many<S: Keyed>(
        &self,
        state: &mut S,
        keys: &[CurrentKey<'_>],
        mut visit: impl FnMut(usize, Option<A::Output>),
    ) -> Result<()> {
        self.table.each_key(state, keys, |at, access| self.read_at(access).map(|result| visit(at, result)))
    }

    /// Adds each input to the accumulator of its key, in their order. The current key stays.
    ///
    /// # Errors
    /// As [`AggregatingState::add`], at the first item that has one; those before it are added.
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
        let accumulator = backend.read(row, |stored| decode(&self.codec, stored))??;
        Ok(accumulator.map(|accumulator| self.aggregate.result(&accumulator)))
    }
}
