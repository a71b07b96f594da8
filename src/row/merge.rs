//! Merging: any number of rows of a key group, folded in batches of bounded size.
//!
//! The merge decodes sorted runs block by block. Each unfinished run is decoded up to some place; all places below the
//! least of these are complete. Their rows make a batch, oldest run first, folded as in [`RowBatch::fold`]. Unsorted rows
//! too many for one batch become sorted runs first.
//!
//! Invariants: the rows of one place are in one batch; batches ascend; a clear is kept while it can cover later rows.

use super::batch::RowBatch;
use super::fold::Fold;
use super::key::{RowKey, RowKeyBuf};
use super::op::Op;
use super::rules::Rules;
use super::run::{Run, SortedRun, Spare, Spill};
use super::source::RowSource;
use crate::error::Result;
use crate::key_group::KeyGroup;

/// Memory bounds of a fold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Sorted rows with more bytes than this are merged; smaller sets are appended and sorted, which is faster.
    pub(crate) appended_bytes: u64,
    /// Bytes of blocks decoded for one batch of a merge.
    pub(crate) decoded_bytes: usize,
    /// Unsorted rows with more bytes than this become several runs.
    pub(crate) batch_bytes: usize,
}

impl Bounds {
    pub(crate) const DEFAULT: Self = Self { appended_bytes: 64 << 20, decoded_bytes: 8 << 20, batch_bytes: 256 << 20 };
}

/// The rows of a key group, folded, in batches of bounded size.
///
/// # Cost
/// Up to 64 MiB of sorted rows are one batch; more cost memory for a few decoded blocks of each run, beside the runs.
/// Unsorted rows are one batch; the encoder compresses each 256 MiB of them into a run.
#[derive(Debug)]
pub struct FoldedGroup<'a> {
    rows: &'a dyn RowSource,
    group: KeyGroup,
    keep: Fold,
    rules: &'a Rules,
    stage: Stage,
    bounds: Bounds,
    spill: Option<Spill>,
}

#[derive(Debug)]
enum Stage {
    Unread,
    Merging(Merge<Run>),
    Done,
}

impl<'a> FoldedGroup<'a> {
    /// Returns the folded rows of `group`, not read yet, under the group's own rules.
    #[must_use]
    pub fn new(rows: &'a dyn RowSource, group: KeyGroup, keep: Fold, rules: &'a Rules) -> Self {
        Self::within(Bounds::DEFAULT, rows, group, keep, rules)
    }

    pub(crate) fn within(
        bounds: Bounds,
        rows: &'a dyn RowSource,
        group: KeyGroup,
        keep: Fold,
        rules: &'a Rules,
    ) -> Self {
        Self { rows, group, keep, rules: rules.of(group), stage: Stage::Unread, bounds, spill: None }
    }

    /// Spills unsorted rows too many for one batch into sorted runs.
    pub(crate) fn spilling(self, spill: Spill) -> Self {
        Self { spill: Some(spill), ..self }
    }

    /// Replaces the rows of `batch` with the next rows, in the order of their places. Returns false, and an empty batch,
    /// at the end.
    ///
    /// # Errors
    /// The errors of the source and the rules. Discard the rows returned before.
    pub fn next_batch(&mut self, batch: &mut RowBatch) -> Result<bool> {
        batch.clear();
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Unread => match self.read(batch)? {
                None => {
                    batch.fold(self.keep, self.rules)?;
                    Ok(!batch.is_empty())
                }
                Some(merge) => self.merge(merge, batch),
            },
            Stage::Merging(merge) => self.merge(merge, batch),
            Stage::Done => Ok(false),
        }
    }

    /// Reads the rows into `batch`, or returns a merge if they are too many.
    fn read(&self, batch: &mut RowBatch) -> Result<Option<Merge<Run>>> {
        let merge = |runs| Some(Merge::new(runs, self.bounds.decoded_bytes));
        if self.rows.sorted_bytes(self.group).is_some_and(|bytes| bytes > self.bounds.appended_bytes) {
            return Ok(merge(self.rows.runs(self.group)?));
        }
        let Some(spill) = self.spill else {
            self.rows.append_group(self.group, batch)?;
            return Ok(None);
        };
        batch.spill_at(self.bounds.batch_bytes, spill);
        self.rows.append_group(self.group, batch)?;
        let mut runs = batch.take_spilled();
        if runs.is_empty() {
            return Ok(None);
        }
        runs.push(batch.make_run(spill)?);
        batch.clear();
        Ok(merge(runs))
    }

    fn merge(&mut self, mut merge: Merge<Run>, batch: &mut RowBatch) -> Result<bool> {
        let rows = merge.step(self.keep, self.rules, batch)? == Step::Rows;
        self.stage = if rows { Stage::Merging(merge) } else { Stage::Done };
        Ok(rows)
    }
}

/// The result of one step of a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The batch has rows.
    Rows,
    /// The run with this index needs more blocks first.
    Starved(usize),
    /// No rows are left.
    End,
}

/// A merge of sorted runs of one key group.
#[derive(Debug)]
pub(crate) struct Merge<R> {
    /// Oldest first.
    runs: Vec<Source<R>>,
    decoded_bytes: usize,
    /// All places below this one were returned.
    done: Option<RowKeyBuf>,
    spare: Spare,
}

#[derive(Debug)]
struct Source<R> {
    run: R,
    /// Clears already taken that can cover later rows.
    clears: RowBatch,
}

/// The places with all their rows decoded.
enum Reach {
    All,
    Below(RowKeyBuf),
    Starved(usize),
}

impl<R: SortedRun> Merge<R> {
    /// Returns a merge of `runs`, oldest first, decoding about `decoded_bytes` of blocks for each batch.
    pub(crate) fn new(runs: Vec<R>, decoded_bytes: usize) -> Self {
        let runs = runs.into_iter().map(|run| Source { run, clears: RowBatch::new() }).collect();
        Self { runs, decoded_bytes, done: None, spare: Spare::default() }
    }

    /// Returns the run with this index.
    pub(crate) fn run(&mut self, at: usize) -> Option<&mut R> {
        self.runs.get_mut(at).map(|source| &mut source.run)
    }

    /// Replaces the rows of `batch` with the next rows, folded.
    ///
    /// # Errors
    /// `Corrupt` or `Version` for a bad block; the errors of the rules.
    pub(crate) fn step(&mut self, keep: Fold, rules: &Rules, batch: &mut RowBatch) -> Result<Step> {
        loop {
            batch.clear();
            let bound = match self.reach()? {
                Reach::Starved(at) => return Ok(Step::Starved(at)),
                Reach::All => None,
                Reach::Below(place) => Some(place),
            };
            self.collect(bound.as_ref(), batch)?;
            batch.fold(keep, rules)?;
            if let Some(done) = &self.done {
                // Clears carried over from earlier batches, already returned.
                batch.skip_below(&done.get());
            }
            match (batch.is_empty(), bound) {
                (true, None) => return Ok(Step::End),
                (empty, bound) => {
                    // Without a bound all rows are taken, and the next step ends.
                    self.done = bound;
                    if !empty {
                        return Ok(Step::Rows);
                    }
                }
            }
        }
    }

    /// Decodes blocks until a batch is full and returns the complete places.
    fn reach(&mut self) -> Result<Reach> {
        loop {
            let unfinished = self.runs.iter().enumerate().filter(|(_, source)| !source.run.is_decoded());
            let least = unfinished.min_by(|(_, a), (_, b)| a.run.last().cmp(&b.run.last()));
            let Some((at, Source { run, .. })) = least else { return Ok(Reach::All) };
            let complete = run.last().filter(|bound| self.has_rows_below(bound)).map(|bound| {
                let mut place = RowKeyBuf::default();
                place.set(&bound);
                place
            });
            let decoded: usize = self.runs.iter().map(|source| source.run.decoded_bytes()).sum();
            let Some(Source { run, .. }) = self.runs.get_mut(at) else { continue };
            match complete {
                Some(place) if decoded >= self.decoded_bytes => return Ok(Reach::Below(place)),
                complete => {
                    if !run.decode(&mut self.spare)? {
                        return Ok(complete.map_or(Reach::Starved(at), Reach::Below));
                    }
                }
            }
        }
    }

    fn has_rows_below(&self, bound: &RowKey<'_>) -> bool {
        self.runs.iter().any(|source| source.run.first().is_some_and(|first| first < *bound))
    }

    /// Takes the rows below `bound`, oldest run first, each run's rows after the clears carried over from it.
    fn collect(&mut self, bound: Option<&RowKeyBuf>, batch: &mut RowBatch) -> Result<()> {
        let bound = bound.map(RowKeyBuf::get);
        for Source { run, clears } in &mut self.runs {
            let start = batch.len();
            clears.iter().try_for_each(|clear| batch.push(&clear))?;
            run.take_below(bound.as_ref(), batch, &mut self.spare)?;
            clears.clear();
            if let Some(bound) = &bound {
                let taken = batch.iter_from(start).filter(|row| row.op == Op::Clear && can_cover(&row.key, bound));
                taken.into_iter().try_for_each(|row| clears.push(&row))?;
            }
        }
        Ok(())
    }
}

/// Returns whether a clear below `bound` can cover rows at or above `bound`.
fn can_cover(clear: &RowKey<'_>, bound: &RowKey<'_>) -> bool {
    let of_key = clear.key.is_none() || clear.key == bound.key;
    let of_namespace = clear.key.is_none() || clear.namespace.is_none() || clear.namespace == bound.namespace;
    clear.table == bound.table && of_key && of_namespace
}
