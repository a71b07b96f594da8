//! Sorted runs: rows of one key group in order, decoded block by block.

use std::any::Any;
use std::fmt::Debug;

use super::batch::RowBatch;
use super::key::RowKey;
use crate::error::Result;

/// Turns a folded batch into a run that takes less memory.
pub(crate) type Spill = fn(&RowBatch) -> Result<Run>;

/// A sorted run: rows of one key group in the order of their places.
#[derive(Debug)]
pub struct Run(Box<dyn SortedRun>);

impl Run {
    pub(crate) fn new(run: impl SortedRun + 'static) -> Self {
        Self(Box::new(run))
    }
}

/// A sorted run, decoded block by block.
pub(crate) trait SortedRun: Debug + Send + Sync {
    /// Returns whether every row is decoded.
    fn is_decoded(&self) -> bool;

    /// Returns the bytes of decoded blocks with rows left.
    fn decoded_bytes(&self) -> usize;

    /// Returns the place of the last decoded row, taken or not.
    fn last(&self) -> Option<RowKey<'_>>;

    /// Returns the place of the first decoded row not yet taken.
    fn first(&self) -> Option<RowKey<'_>>;

    /// Decodes the next block into a buffer of `spare`. Returns false if no block is at hand.
    ///
    /// # Errors
    /// `Corrupt` or `Version` if the block is damaged or too new.
    fn decode(&mut self, spare: &mut Spare) -> Result<bool>;

    /// Appends the decoded rows below `bound`, or all, to `batch`.
    ///
    /// # Errors
    /// `Limit` as [`RowBatch::push`].
    fn take_below(&mut self, bound: Option<&RowKey<'_>>, batch: &mut RowBatch, spare: &mut Spare) -> Result<()>;
}

impl SortedRun for Run {
    fn is_decoded(&self) -> bool {
        self.0.is_decoded()
    }

    fn decoded_bytes(&self) -> usize {
        self.0.decoded_bytes()
    }

    fn last(&self) -> Option<RowKey<'_>> {
        self.0.last()
    }

    fn first(&self) -> Option<RowKey<'_>> {
        self.0.first()
    }

    fn decode(&mut self, spare: &mut Spare) -> Result<bool> {
        self.0.decode(spare)
    }

    fn take_below(&mut self, bound: Option<&RowKey<'_>>, batch: &mut RowBatch, spare: &mut Spare) -> Result<()> {
        self.0.take_below(bound, batch, spare)
    }
}

/// Decoding buffers shared and reused by the runs of one merge.
#[derive(Debug, Default)]
pub(crate) struct Spare(Vec<Box<dyn Any + Send + Sync>>);

impl Spare {
    /// Returns a used buffer, or a new one.
    pub(crate) fn take<T: Default + Send + Sync + 'static>(&mut self) -> Box<T> {
        let used = self.0.pop().and_then(|buffer| buffer.downcast().ok());
        used.unwrap_or_default()
    }

    pub(crate) fn give<T: Send + Sync + 'static>(&mut self, buffer: Box<T>) {
        self.0.push(buffer);
    }
}
